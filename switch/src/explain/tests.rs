//! The words for each way a frame can end, from a bridge that ended it so.

use arrayvec::ArrayVec;

use super::*;
use crate::bridge::{Bridge, DropReason, EntryKind, PortSettings, Refusal, Settings, Story, Time, Verdict};
use crate::frame::{Frame, MacAddr, VlanId};
use crate::offload::VnetHeader;

const NAMES: [&str; 4] = ["tap0", "tap1", "vm2", "eth3"];

fn port(number: u8) -> PortId {
    PortId::new(number)
}

fn bridge(settings: Settings, change: impl Fn(u8, &mut PortSettings)) -> Bridge {
    let mut bridge = Bridge::new(settings, [1, 2]);
    for number in 0..3 {
        let mut settings = PortSettings::default();
        change(number, &mut settings);
        bridge.add_port(port(number), settings);
        bridge.set_link(port(number), true);
    }
    bridge
}

fn plain() -> Bridge {
    bridge(Settings::default(), |_, _| {})
}

fn bytes(dst: u64, src: u64) -> [u8; 60] {
    let mut bytes = [0; 60];
    bytes[..6].copy_from_slice(&MacAddr::from_u64(dst).octets());
    bytes[6..12].copy_from_slice(&MacAddr::from_u64(src).octets());
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes
}

const ALL: u64 = 0xffff_ffff_ffff;
const A: u64 = 0x0200_0000_000a;
const B: u64 = 0x0200_0000_000b;

/// What is said of a frame, in one line, and in steps as `step: text` without
/// those that say that all is well.
fn said(bridge: &mut Bridge, ingress: u8, frame: &Frame<'_>) -> (String, Vec<String>) {
    let account = bridge.trace(Time::START, port(ingress), frame);
    let steps = steps(&account, port(ingress), frame.head(), &NAMES.as_slice());
    let (mut verdicts, mut stories) = (ArrayVec::new(), ArrayVec::<Story, 64>::new());
    bridge.forward_burst_told(
        Time::START,
        port(ingress),
        std::slice::from_ref(frame),
        &mut verdicts,
        &mut stories,
    );
    assert_eq!(stories[0], account.story);
    let comment =
        Comment { story: &stories[0], ingress: port(ingress), names: &NAMES.as_slice() }.to_string();
    let well = ["port: tap0 is up", "frame: well-formed", "vlan: untagged"];
    let steps = steps.into_iter().map(|step| format!("{}: {}", step.step, step.text));
    (
        comment,
        steps.filter(|line| !well.contains(&line.as_str()) && !line.ends_with("may be a source")).collect(),
    )
}

fn sent(bridge: &mut Bridge, ingress: u8, src: u64, dst: u64) -> (String, Vec<String>) {
    said(bridge, ingress, &Frame::new(&bytes(dst, src), &[], VnetHeader::PLAIN))
}

/// Checks the line, and the steps one by one.
#[track_caller]
fn check(said: (String, Vec<String>), comment: &str, steps: &[&str]) {
    assert_eq!(said.0, comment);
    assert_eq!(said.1, steps);
}

#[test]
fn the_story_of_a_conversation() {
    let mut bridge = plain();
    check(
        sent(&mut bridge, 0, A, ALL),
        "learned tap0; flooded to tap1 vm2",
        &[
            "learn: 02:00:00:00:00:0a is new: it is learned on tap0",
            "destination: broadcast",
            "verdict: flooded to tap1 vm2",
        ],
    );
    check(
        sent(&mut bridge, 1, B, A),
        "learned tap1; forwarded to tap0",
        &[
            "port: tap1 is up",
            "learn: 02:00:00:00:00:0b is new: it is learned on tap1",
            "destination: 02:00:00:00:00:0a is on tap0",
            "verdict: forwarded to tap0",
        ],
    );
    check(
        sent(&mut bridge, 0, A, 0x0200_0000_0077),
        "flooded to tap1 vm2",
        &[
            "learn: 02:00:00:00:00:0a is known on tap0; its age starts anew",
            "destination: 02:00:00:00:00:77 is not in the FDB",
            "verdict: flooded to tap1 vm2",
        ],
    );
    check(
        sent(&mut bridge, 0, B, A),
        "moved from tap1 to tap0; dropped: filtered",
        &[
            "learn: 02:00:00:00:00:0b moves from tap1 to tap0",
            "destination: 02:00:00:00:00:0a is on tap0, where the frame came from",
            "verdict: dropped: filtered",
        ],
    );
    check(
        sent(&mut bridge, 0, A, A),
        "dropped: filtered",
        &[
            "learn: 02:00:00:00:00:0a is known on tap0; its age starts anew",
            "destination: 02:00:00:00:00:0a is the frame's own source",
            "verdict: dropped: filtered",
        ],
    );
}

#[test]
fn sources_that_are_not_learned() {
    let mut limited = bridge(Settings { fdb_size: 2, ..Settings::default() }, |number, settings| {
        settings.max_macs = (number == 0).then_some(1);
    });
    sent(&mut limited, 0, A, ALL);
    check(
        sent(&mut limited, 0, B, A),
        "not learned: max_macs; dropped: filtered",
        &[
            "learn: 02:00:00:00:00:0b is not learned on tap0: max_macs is reached",
            "destination: 02:00:00:00:00:0a is on tap0, where the frame came from",
            "verdict: dropped: filtered",
        ],
    );
    sent(&mut limited, 1, B, ALL);
    let (comment, _) = sent(&mut limited, 1, B + 1, ALL);
    assert_eq!(comment, "not learned: fdb_size; flooded to tap0 vm2");
    check(
        sent(&mut limited, 2, 0x0200_0000_0099, ALL),
        "learned vm2; flooded to tap0 tap1",
        &[
            "port: vm2 is up",
            "learn: 02:00:00:00:00:99 is new: it is learned on vm2, in the place of 02:00:00:00:00:0a",
            "destination: broadcast",
            "verdict: flooded to tap0 tap1",
        ],
    );

    let mut bound = bridge(Settings::default(), |number, settings| settings.learning = number != 1);
    bound.fdb_add(Time::START, VlanId::UNAWARE, MacAddr::from_u64(A), port(2), EntryKind::Sticky).unwrap();
    let foreign = "learn: 02:00:00:00:00:0a is bound to vm2: counted as spoofed";
    let (comment, steps) = sent(&mut bound, 0, A, ALL);
    assert_eq!(
        (comment.as_str(), steps[0].as_str()),
        ("spoofed: bound to vm2; flooded to tap1 vm2", foreign)
    );
    let (comment, steps) = sent(&mut bound, 1, A, ALL);
    assert_eq!(comment, "spoofed: bound to vm2; flooded to tap0 vm2");
    assert_eq!(steps[1], "learn: tap1 does not learn; 02:00:00:00:00:0a is bound to vm2: counted as spoofed");

    let hub = Settings { ageing: std::time::Duration::ZERO, ..Settings::default() };
    let (comment, steps) = sent(&mut bridge(hub, |_, _| {}), 0, A, ALL);
    assert_eq!(
        (comment.as_str(), steps[0].as_str()),
        ("flooded to tap1 vm2", "learn: ageing is 0s: nothing is learned")
    );
}

#[test]
fn ports_that_are_no_egress() {
    let mut mixed = bridge(Settings::default(), |number, settings| {
        settings.bcast_flood = number != 1;
        settings.isolated = number != 1;
    });
    let closed = "egress: not tap1: bcast_flood=false";
    let isolated = "egress: not vm2: isolated, as the ingress is";
    let (comment, steps) = sent(&mut mixed, 0, A, ALL);
    assert_eq!(comment, "learned tap0; dropped: no_egress");
    assert_eq!(steps[2..], [closed, isolated, "verdict: dropped: no_egress"]);
    mixed.set_link(port(2), false);
    let (_, steps) = sent(&mut mixed, 0, A, ALL);
    assert_eq!(steps[2..], ["egress: not vm2: down", closed, "verdict: dropped: no_egress"]);
    mixed.fdb_add(Time::START, VlanId::UNAWARE, MacAddr::from_u64(B), port(2), EntryKind::Static).unwrap();
    let (_, steps) = sent(&mut mixed, 0, A, B);
    assert_eq!(steps[2..], ["egress: not vm2: down", "verdict: dropped: no_egress"]);
    mixed.set_link(port(2), true);
    let (_, steps) = sent(&mut mixed, 0, A, B);
    assert_eq!(steps[2..], [isolated, "verdict: dropped: no_egress"]);
}

#[test]
fn what_ends_before_it_is_looked_up() {
    let mut bridge = bridge(Settings::default(), |number, settings| settings.locked = number == 2);
    check(
        sent(&mut bridge, 0, ALL, B),
        "dropped: bad_source",
        &[
            "source: ff:ff:ff:ff:ff:ff is a group address, which no station sends from",
            "verdict: dropped: bad_source",
        ],
    );
    let (_, steps) = sent(&mut bridge, 0, 0, B);
    assert_eq!(steps[0], "source: 00:00:00:00:00:00 is no station's address");
    let (comment, steps) = sent(&mut bridge, 2, A, B);
    assert_eq!(comment, "dropped: locked");
    assert_eq!(steps[1], "lock: vm2 is locked, and 02:00:00:00:00:0a is not in the FDB");
    sent(&mut bridge, 0, A, B);
    let (_, steps) = sent(&mut bridge, 2, A, B);
    assert_eq!(steps[1], "lock: vm2 is locked, and 02:00:00:00:00:0a belongs to tap0");
    check(
        sent(&mut bridge, 0, A, 0x0180_c200_000e),
        "dropped: reserved",
        &[
            "learn: 02:00:00:00:00:0a is known on tap0; its age starts anew",
            "destination: 01:80:c2:00:00:0e is reserved (802.1Q table 8-1), and not opened here",
            "verdict: dropped: reserved",
        ],
    );
    check(
        sent(&mut bridge, 3, A, B),
        "dropped: port_down",
        &["port: eth3 is down", "verdict: dropped: port_down"],
    );
    let short = bytes(B, A);
    for (reason, words) in [
        (DropReason::Truncated, "longer than any buffer"),
        (DropReason::BadOffload, "virtio-net header"),
        (DropReason::TunnelGso, "tunnelled"),
    ] {
        let (comment, steps) = said(&mut bridge, 0, &Frame::broken(&short, reason));
        assert_eq!(comment, format!("dropped: {reason}"));
        assert!(steps[0].starts_with("frame: ") && steps[0].contains(words), "{steps:?}");
    }
    let (comment, steps) = said(&mut bridge, 0, &Frame::new(&short[..13], &[], VnetHeader::PLAIN));
    assert_eq!(comment, "dropped: runt");
    assert_eq!(steps[0], "frame: shorter than an Ethernet header (14 bytes)");
}

#[test]
fn every_drop_reason_is_said_by_its_name() {
    for &reason in DropReason::ALL {
        let story = Story {
            verdict: Verdict::Drop(reason),
            ..plain().trace(Time::START, port(3), &Frame::broken(&[], reason)).story
        };
        let comment = Comment { story: &story, ingress: port(0), names: &NAMES.as_slice() }.to_string();
        assert_eq!(comment, format!("dropped: {}", reason.name()));
    }
    for &reason in Refusal::ALL {
        assert_eq!(refused(reason).to_string(), format!("refused: {}", reason.name()));
    }
}
