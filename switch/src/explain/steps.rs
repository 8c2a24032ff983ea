//! A decision step by step, in the order in which it is made. A step that was
//! not reached is not there.

use super::{Names, comment::limit_key, list};
use crate::bridge::{
    Account, DropReason, Learned, Learning, LookUp, PortId, PortSet, Story, Verdict, Withheld,
};
use crate::frame::{EtherHeader, MacAddr};

/// One step of a decision.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// What is decided: `port`, `frame`, `vlan`, `source`, `lock`, `learn`,
    /// `destination`, `egress`, `verdict`.
    pub step: String,
    /// How.
    pub text: String,
}

fn step(step: &str, text: impl Into<String>) -> Step {
    Step { step: step.to_owned(), text: text.into() }
}

/// The steps of the decision on a frame that begins with `head` and came in by
/// `ingress`.
pub fn steps(account: &Account, ingress: PortId, head: &[u8], names: &dyn Names) -> Vec<Step> {
    let story = &account.story;
    let port = names.name(ingress);
    let mut steps = Vec::new();
    match (story.verdict, EtherHeader::parse(head)) {
        (Verdict::Drop(reason @ DropReason::PortDown), _) if account.vid.is_none() => {
            steps.push(step("port", format!("{port} is down")));
            steps.push(step("verdict", format!("dropped: {reason}")));
        }
        (Verdict::Drop(reason), parsed) if account.vid.is_none() => {
            steps.push(step("port", format!("{port} is up")));
            if let (DropReason::BadSource, Ok(header)) = (reason, parsed) {
                steps.push(step("frame", "well-formed"));
                steps.push(step("source", bad_source(header.src)));
            } else {
                steps.push(step("frame", fault(reason)));
            }
            steps.push(step("verdict", format!("dropped: {reason}")));
        }
        (_, parsed) => {
            steps.push(step("port", format!("{port} is up")));
            steps.push(step("frame", "well-formed"));
            if let Ok(header) = parsed {
                judged(&mut steps, account, ingress, &header, names);
            }
            steps.push(step("verdict", verdict(story, names)));
        }
    }
    steps
}

/// The steps behind a valid header.
fn judged(
    steps: &mut Vec<Step>,
    account: &Account,
    ingress: PortId,
    header: &EtherHeader,
    names: &dyn Names,
) {
    let (story, port) = (&account.story, names.name(ingress));
    steps.push(step(
        "vlan",
        match header.tag {
            Some(tag) => format!(
                "tag {:04x} VID {} passes untouched: the switch is VLAN-unaware",
                tag.tpid,
                tag.vid().get()
            ),
            None => "untagged".to_owned(),
        },
    ));
    steps.push(step("source", format!("{} may be a source", header.src)));
    if story.verdict == Verdict::Drop(DropReason::Locked) {
        steps.push(step(
            "lock",
            match account.source {
                Some(other) => {
                    format!("{port} is locked, and {} belongs to {}", header.src, names.name(other))
                }
                None => format!("{port} is locked, and {} is not in the FDB", header.src),
            },
        ));
    }
    if let Some(text) = learning(account, ingress, header.src, names) {
        steps.push(step("learn", text));
    }
    if let Some(text) = destination(story.look_up, ingress, header.dst, names) {
        steps.push(step("destination", text));
    }
    egress(steps, account, names);
}

fn learning(account: &Account, ingress: PortId, src: MacAddr, names: &dyn Names) -> Option<String> {
    let port = names.name(ingress);
    let mut text = match account.story.learning {
        Learning::NotReached => return account.story.bound.map(|on| spoofed(src, on, names)),
        Learning::Off => format!("{port} does not learn"),
        Learning::Hub => "ageing is 0s: nothing is learned".to_owned(),
        Learning::Told(learned) => match learned {
            Learned::Known => format!("{src} is known on {port}; its age starts anew"),
            Learned::New => format!("{src} is new: it is learned on {port}"),
            Learned::Moved(from) => format!("{src} moves from {} to {port}", names.name(from)),
            Learned::Refused(limit) => {
                format!("{src} is not learned on {port}: {} is reached", limit_key(limit))
            }
            Learned::Foreign(on) => spoofed(src, on, names),
        },
    };
    if let Some((_, mac)) = account.victim {
        text.push_str(&format!(", in the place of {mac}"));
    }
    if let (Learning::Off | Learning::Hub, Some(on)) = (account.story.learning, account.story.bound) {
        text.push_str("; ");
        text.push_str(&spoofed(src, on, names));
    }
    Some(text)
}

fn spoofed(src: MacAddr, on: PortId, names: &dyn Names) -> String {
    format!("{src} is bound to {}: counted as spoofed", names.name(on))
}

fn destination(found: LookUp, ingress: PortId, dst: MacAddr, names: &dyn Names) -> Option<String> {
    Some(match found {
        LookUp::NotReached => return None,
        LookUp::Reserved(_) => format!("{dst} is reserved (802.1Q table 8-1), and not opened here"),
        LookUp::Broadcast => "broadcast".to_owned(),
        LookUp::Multicast if dst.reserved().is_some() => format!("{dst} is reserved, and opened here"),
        LookUp::Multicast => format!("{dst} is a group"),
        LookUp::Source => format!("{dst} is the frame's own source"),
        LookUp::Unknown => format!("{dst} is not in the FDB"),
        LookUp::Known(on) if on == ingress => {
            format!("{dst} is on {}, where the frame came from", names.name(on))
        }
        LookUp::Known(on) => format!("{dst} is on {}", names.name(on)),
    })
}

fn egress(steps: &mut Vec<Step>, account: &Account, names: &dyn Names) {
    let flag = match account.story.look_up {
        LookUp::Broadcast => "bcast_flood=false",
        LookUp::Multicast => "mcast_flood=false",
        LookUp::NotReached | LookUp::Reserved(_) | LookUp::Source | LookUp::Unknown | LookUp::Known(_) => {
            "flood=false"
        }
    };
    for &why in Withheld::ALL {
        let ports = account.withheld(why);
        let because = match why {
            Withheld::Down => "down",
            Withheld::Closed => flag,
            Withheld::Isolated => "isolated, as the ingress is",
        };
        if ports != PortSet::EMPTY {
            steps.push(step("egress", format!("not {}: {because}", list(ports, names))));
        }
    }
}

fn verdict(story: &Story, names: &dyn Names) -> String {
    match (story.verdict, story.look_up) {
        (Verdict::Drop(reason), _) => format!("dropped: {reason}"),
        (Verdict::Forward { to, .. }, LookUp::Known(_)) => format!("forwarded to {}", list(to, names)),
        (Verdict::Forward { to, .. }, _) => format!("flooded to {}", list(to, names)),
    }
}

fn bad_source(src: MacAddr) -> String {
    if src == MacAddr::ZERO {
        format!("{src} is no station's address")
    } else {
        format!("{src} is a group address, which no station sends from")
    }
}

/// What is wrong with a frame that ended before its addresses were looked at.
fn fault(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Runt => "shorter than an Ethernet header (14 bytes)",
        DropReason::Truncated => "longer than any buffer: it arrived cut",
        DropReason::MalformedTag => "it announces a VLAN tag, and ends inside it",
        DropReason::BadOffload => "its virtio-net header contradicts it",
        DropReason::TunnelGso => "a tunnelled super-frame that cannot be segmented here",
        DropReason::PortDown
        | DropReason::BadSource
        | DropReason::Locked
        | DropReason::Reserved
        | DropReason::Filtered
        | DropReason::NoEgress => "well-formed",
    }
}
