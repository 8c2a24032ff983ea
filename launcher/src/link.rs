//! How a NIC is joined to its switch: by a TAP, which somebody privileged has to
//! make, or by a unix socket, which nobody has to.
//!
//! Pure but for [`taps`], which asks whether this machine lets us have TAPs;
//! each attachment gives the switch's port and QEMU's arguments for one and the
//! same socket, so that the two cannot differ.

use std::path::{Path, PathBuf};

use vswitch::port::PortSpec;

use crate::command::option;
use crate::guest::Qemu;
use crate::lab::{Guest, Lab, Link, Model, Network, Nic};
use crate::names;
use crate::places::{Drop, User};
use crate::plan::{Facts, PlanError};

/// QEMU tries so often to find its switch again, in ms.
const RECONNECT_MS: u32 = 500;

/// CAP_NET_ADMIN in a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;

/// A NIC's link, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// The TAP that the switch makes.
    Tap(String),
    /// The switch's socket, and shared memory.
    VhostUser {
        /// The socket.
        path: PathBuf,
        /// Pairs of queues.
        queues: u32,
    },
    /// The switch's socket.
    Stream(PathBuf),
    /// The switch's socket; QEMU's own is beside it.
    Dgram(PathBuf),
}

impl Attachment {
    /// How `nic` of `guest` is joined.
    pub fn of(lab: &Lab, guest: &Guest, nic: &Nic, facts: &Facts) -> Attachment {
        let network = lab.networks.iter().find(|network| network.name == nic.network);
        let said = network.map_or(Link::Auto, |network| network.link);
        let link = match said {
            // Nothing else has so many.
            Link::Auto if nic.queues > 1 => Link::VhostUser,
            // Only a TAP can have the name that was asked for.
            Link::Auto => automatic(nic.model, facts.no_taps.is_none() || nic.ifname.is_some()),
            Link::Tap | Link::VhostUser | Link::Stream | Link::Dgram => said,
        };
        let socket = || facts.places.port(&names::numbered(&guest.name, nic.index), &nic.network);
        match link {
            Link::Tap | Link::Auto => Attachment::Tap(nic.interface(facts.user.uid, &lab.name, &guest.name)),
            Link::VhostUser => Attachment::VhostUser { path: socket(), queues: nic.queues },
            Link::Stream => Attachment::Stream(socket()),
            Link::Dgram => Attachment::Dgram(socket()),
        }
    }

    /// The word in `lab.toml`.
    pub const fn name(&self) -> &'static str {
        match self {
            Attachment::Tap(_) => "tap",
            Attachment::VhostUser { .. } => "vhost-user",
            Attachment::Stream(_) => "stream",
            Attachment::Dgram(_) => "dgram",
        }
    }

    /// The TAP, or the path of the switch's socket.
    pub fn place(&self) -> String {
        match self {
            Attachment::Tap(interface) => interface.clone(),
            Attachment::VhostUser { path, .. } | Attachment::Stream(path) | Attachment::Dgram(path) => {
                path.display().to_string()
            }
        }
    }

    /// The switch's port, for a lab of `user`'s.
    pub fn spec(&self, user: &User) -> String {
        let mut spec = match self {
            Attachment::Tap(interface) => return interface.clone(),
            Attachment::VhostUser { path, queues: 1 } | Attachment::Stream(path) => {
                format!("{}:{}", self.name(), path.display())
            }
            Attachment::VhostUser { path, queues } => {
                format!("vhost-user:{},queues={queues}", path.display())
            }
            // Named, it need not speak first: what is sent to a guest that is
            // silent reaches it also after the switch was started again.
            Attachment::Dgram(path) => {
                format!("dgram:{},peer={}", path.display(), own(path).display())
            }
        };
        if user.drop == Drop::Nobody {
            // QEMU is nobody by the time of its first datagram, and whenever it
            // connects again.
            spec.push_str(",owner=nobody");
        }
        spec
    }

    /// The sockets that QEMU and the switch make.
    pub fn sockets(&self) -> Vec<PathBuf> {
        match self {
            Attachment::Tap(_) => Vec::new(),
            Attachment::VhostUser { path, .. } | Attachment::Stream(path) => vec![path.clone()],
            Attachment::Dgram(path) => vec![path.clone(), own(path)],
        }
    }

    /// Whether the guest's memory must be shared with the switch.
    pub const fn shares_memory(&self) -> bool {
        matches!(self, Attachment::VhostUser { .. })
    }

    /// Pairs of queues.
    pub const fn queues(&self) -> u32 {
        match self {
            Attachment::VhostUser { queues, .. } => *queues,
            Attachment::Tap(_) | Attachment::Stream(_) | Attachment::Dgram(_) => 1,
        }
    }

    /// QEMU's arguments for the network device's other half, called `id`.
    pub fn arguments(&self, id: &str, qemu: &Qemu) -> Vec<(&'static str, String)> {
        match self {
            Attachment::Tap(interface) => {
                vec![("-netdev", format!("tap,id={id},ifname={interface},script=no,downscript=no"))]
            }
            Attachment::VhostUser { path, queues } => {
                let queues = if *queues > 1 { format!(",queues={queues}") } else { String::new() };
                vec![
                    ("-chardev", format!("socket,id={id}c,path={}{}", option(path), reconnect(qemu, (2, 2)))),
                    ("-netdev", format!("vhost-user,id={id},chardev={id}c{queues}")),
                ]
            }
            Attachment::Stream(path) => vec![(
                "-netdev",
                format!(
                    "stream,id={id},server=off,addr.type=unix,addr.path={}{}",
                    option(path),
                    reconnect(qemu, (8, 0))
                ),
            )],
            Attachment::Dgram(path) => vec![(
                "-netdev",
                format!(
                    "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    option(own(path)),
                    option(path)
                ),
            )],
        }
    }

    /// Whether this QEMU knows it.
    pub(crate) fn check(&self, qemu: &Qemu) -> Result<(), PlanError> {
        let needs = match self {
            Attachment::Tap(_) | Attachment::VhostUser { .. } => return Ok(()),
            Attachment::Stream(_) | Attachment::Dgram(_) => (7, 2),
        };
        if qemu.version < needs {
            return Err(PlanError::OldQemu { link: self.name(), needs, has: qemu.version });
        }
        Ok(())
    }
}

/// Whether this switch has vhost-user ports.
pub fn has_vhost_user() -> bool {
    "vhost-user:/s".parse::<PortSpec>().is_ok()
}

fn automatic(model: Model, may_have_taps: bool) -> Link {
    match model {
        _ if may_have_taps => Link::Tap,
        Model::Virtio if has_vhost_user() => Link::VhostUser,
        Model::Virtio | Model::E1000 | Model::E1000e | Model::Rtl8139 => Link::Stream,
    }
}

/// QEMU's own socket beside the switch's.
fn own(path: &Path) -> PathBuf {
    let mut own = path.as_os_str().to_owned();
    own.push(".g");
    own.into()
}

/// Without this, a guest is alone for good when its switch is started again. `since`: the
/// first QEMU that connects this again.
fn reconnect(qemu: &Qemu, since: (u32, u32)) -> String {
    match qemu.version {
        version if version >= (9, 2) => format!(",reconnect-ms={RECONNECT_MS}"),
        // Seconds are its unit.
        version if version >= since => ",reconnect=1".to_owned(),
        _ => String::new(),
    }
}

/// What `auto` came to for each network that leaves it to us, and why.
pub fn choices(lab: &Lab, facts: &Facts) -> Vec<String> {
    let chosen = |network: &&Network| {
        let words = words(lab, network, facts);
        let why = match &facts.no_taps {
            None => "this user may have TAPs made".to_owned(),
            Some(why) => format!("no TAPs: {why}"),
        };
        (!words.is_empty()).then(|| format!("{}: link {}, {why}", network.name, words.join(" and ")))
    };
    lab.networks.iter().filter(|network| network.link == Link::Auto).filter_map(|it| chosen(&it)).collect()
}

/// The kinds of link on `network`, each once, in the order of its guests.
pub fn words(lab: &Lab, network: &Network, facts: &Facts) -> Vec<&'static str> {
    let mut words = Vec::new();
    for guest in &lab.guests {
        for nic in guest.nics.iter().filter(|nic| nic.network == network.name) {
            let word = Attachment::of(lab, guest, nic, facts).name();
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    words
}

/// Why `user`'s switch cannot have TAPs; `None`: it can.
pub fn taps(user: &User, vswitch: &Path) -> Option<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or(0)
    };
    // Root's children have what root has; a user's only what is ambient.
    let own = if user.drop == Drop::Nothing { set("CapAmb:") } else { set("CapPrm:") };
    if own & NET_ADMIN == 0 && !program_has_net_admin(vswitch) {
        return Some(format!(
            "{} lacks cap_net_admin (once: sudo setcap cap_net_admin,cap_net_raw,cap_bpf+ep {0})",
            vswitch.display()
        ));
    }
    let tun = "/dev/net/tun";
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(tun);
    opened.err().map(|error| format!("{tun}: {error}"))
}

/// Whether setcap(8) gave `program` the right to make interfaces: the file's
/// attribute is a magic number and the low half of what is permitted.
fn program_has_net_admin(program: &Path) -> bool {
    let mut attribute = [0u8; 24];
    let got = rustix::fs::getxattr(program, "security.capability", &mut attribute[..]);
    got.is_ok_and(|len| len >= 8) && {
        let [_, _, _, _, a, b, c, d, ..] = attribute;
        u64::from(u32::from_le_bytes([a, b, c, d])) & NET_ADMIN != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: User = User { uid: 1000, drop: Drop::Nothing };
    const QEMU: Qemu = Qemu { program: PathBuf::new(), version: (10, 0) };

    fn arguments(attachment: &Attachment, version: (u32, u32)) -> String {
        let qemu = Qemu { version, ..QEMU };
        let pairs = attachment.arguments("lab0", &qemu).into_iter();
        pairs.map(|(flag, value)| format!("{flag} {value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_two_ends_of_a_link_name_one_place() {
        let path = || PathBuf::from("/r/zero,lan");
        for (attachment, spec, qemu) in [
            (
                Attachment::Tap("tap0".to_owned()),
                "tap0",
                "-netdev tap,id=lab0,ifname=tap0,script=no,downscript=no",
            ),
            (
                Attachment::VhostUser { path: path(), queues: 1 },
                "vhost-user:/r/zero,lan",
                "-chardev socket,id=lab0c,path=/r/zero,,lan,reconnect-ms=500 \
                 -netdev vhost-user,id=lab0,chardev=lab0c",
            ),
            (
                Attachment::VhostUser { path: path(), queues: 4 },
                "vhost-user:/r/zero,lan,queues=4",
                "-chardev socket,id=lab0c,path=/r/zero,,lan,reconnect-ms=500 \
                 -netdev vhost-user,id=lab0,chardev=lab0c,queues=4",
            ),
            (
                Attachment::Stream(path()),
                "stream:/r/zero,lan",
                "-netdev stream,id=lab0,server=off,addr.type=unix,addr.path=/r/zero,,lan,reconnect-ms=500",
            ),
            (
                Attachment::Dgram(path()),
                "dgram:/r/zero,lan,peer=/r/zero,lan.g",
                "-netdev dgram,id=lab0,local.type=unix,local.path=/r/zero,,lan.g,\
                 remote.type=unix,remote.path=/r/zero,,lan",
            ),
        ] {
            assert_eq!(attachment.spec(&USER), spec);
            assert_eq!(arguments(&attachment, (10, 0)), qemu);
        }
    }

    #[test]
    fn older_qemus_reconnect_in_their_own_words() {
        let stream = Attachment::Stream("/s".into());
        for (version, end) in [
            ((9, 2), "addr.path=/s,reconnect-ms=500"),
            ((9, 1), "addr.path=/s,reconnect=1"),
            ((8, 0), "addr.path=/s,reconnect=1"),
            ((7, 2), "addr.path=/s"),
        ] {
            assert!(arguments(&stream, version).ends_with(end), "{version:?}");
        }
        let queues = Attachment::VhostUser { path: "/s".into(), queues: 1 };
        for (version, part) in [((9, 2), "path=/s,reconnect-ms=500 "), ((7, 2), "path=/s,reconnect=1 ")] {
            assert!(arguments(&queues, version).contains(part), "{version:?}");
        }
        assert_eq!(stream.check(&QEMU), Ok(()));
        let old = stream.check(&Qemu { version: (7, 0), ..QEMU }).unwrap_err();
        assert!(old.to_string().starts_with("link stream needs QEMU 7.2, and this is 7.0"), "{old}");
    }

    #[test]
    fn sockets_of_roots_labs_are_qemus_own() {
        let root = User { uid: 0, drop: Drop::Nobody };
        for (attachment, spec) in [
            (Attachment::Tap("vl-zero".into()), "vl-zero"),
            (Attachment::Stream("/s".into()), "stream:/s,owner=nobody"),
            (Attachment::Dgram("/s".into()), "dgram:/s,peer=/s.g,owner=nobody"),
            (Attachment::VhostUser { path: "/s".into(), queues: 2 }, "vhost-user:/s,queues=2,owner=nobody"),
        ] {
            assert_eq!(attachment.spec(&root), spec);
        }
    }

    #[test]
    fn auto_is_tap_where_it_can_be() {
        for model in [Model::Virtio, Model::E1000, Model::E1000e, Model::Rtl8139] {
            assert_eq!(automatic(model, true), Link::Tap);
        }
        assert_eq!(automatic(Model::E1000, false), Link::Stream);
        let virtio = if has_vhost_user() { Link::VhostUser } else { Link::Stream };
        assert_eq!(automatic(Model::Virtio, false), virtio);
    }
}
