//! What is refused although every word of it could be read.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Fault;
use super::{Config, ConfigError, Origin};
use crate::bridge::PORTS_MAX;
use crate::frame::VlanId;
use crate::port::SOCKET_PATH_MAX;

/// The longest name of a switch or a port, in bytes.
pub const NAME_LEN_MAX: usize = 32;

/// What sums over ports are called where ports are: those of deleted ones, and of all.
const SUMS: [&str; 2] = ["retired", "total"];

/// What of a configuration is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    /// A key of `[switch]`.
    Key(&'static str),
    /// The n-th port.
    Port(usize),
    /// The n-th static entry.
    Static(usize),
}

impl Config {
    /// Whether this can be a switch at all.
    ///
    /// # Errors
    /// The first thing that cannot be, with its fix.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.fault().map_or(Ok(()), |(_, fault)| Err(fault.at(Origin::Request)))
    }

    /// The first thing that cannot be.
    pub(super) fn fault(&self) -> Option<(Subject, Fault)> {
        self.switch_fault().or_else(|| self.port_fault()).or_else(|| self.static_fault())
    }

    fn switch_fault(&self) -> Option<(Subject, Fault)> {
        let key = |key, fault| Some((Subject::Key(key), fault));
        if let Some(fault) = name_fault(&self.name, "a switch") {
            return key("name", fault);
        }
        let control = self.control.as_os_str().as_encoded_bytes();
        if control.is_empty() || control.contains(&0) {
            let path = self.control.display().to_string();
            return key(
                "control",
                Fault::new(
                    format!("`control` cannot be `{}`", path.escape_debug()),
                    "write the path of a unix socket",
                ),
            );
        }
        if control.len() > SOCKET_PATH_MAX {
            let message =
                format!("the control socket's path has {} bytes: {}", control.len(), self.control.display());
            return key(
                "control",
                Fault::new(
                    message,
                    format!(
                        "a unix socket's path has at most {SOCKET_PATH_MAX} bytes: choose a shorter `control`"
                    ),
                ),
            );
        }
        if self.recorder_trigger.is_some() {
            let (what, fix) = if self.recorder == 0 {
                ("no recorder", "give it one: `recorder` of 64M")
            } else if self.recorder_write.is_none() {
                ("nowhere to write", "say where: `recorder_write`, a directory")
            } else {
                ("", "")
            };
            if !what.is_empty() {
                return key("recorder_trigger", Fault::new(format!("`recorder_trigger` has {what}"), fix));
            }
        }
        if !(1..=1_048_575).contains(&self.settings.fdb_size) {
            let message = format!("`fdb_size` cannot be `{}`", self.settings.fdb_size);
            return key("fdb_size", Fault::new(message, "write a number from 1 to 1048575"));
        }
        None
    }

    fn port_fault(&self) -> Option<(Subject, Fault)> {
        let mut names = BTreeSet::new();
        let mut targets = BTreeMap::new();
        for (index, port) in self.ports.iter().enumerate() {
            let fault = if index >= PORTS_MAX {
                Some(Fault::new(
                    format!("port `{}` is one too many", port.name.escape_debug()),
                    format!("a switch has at most {PORTS_MAX} ports: take one away, or run a second switch"),
                ))
            } else if let Some(fault) = name_fault(&port.name, "a port") {
                Some(fault)
            } else if SUMS.contains(&port.name.as_str()) {
                Some(Fault::new(
                    format!("a port cannot be called `{}`: `stats` and metrics name a sum so", port.name),
                    "give it another name, as name=uplink",
                ))
            } else if !names.insert(port.name.as_str()) {
                Some(Fault::new(
                    format!("two ports are called `{}`", port.name),
                    "give one of them another name, as name=uplink",
                ))
            } else if let Some(other) = targets.insert(&port.spec.target, &port.name) {
                Some(Fault::new(
                    format!("ports `{other}` and `{}` both take {}", port.name, port.spec.target),
                    "it is one port: take one of them away",
                ))
            } else if port.mtu.is_some_and(|mtu| !(68..=65_535).contains(&mtu)) {
                Some(Fault::new(
                    format!("the mtu of port `{}` is out of range", port.name),
                    "write a number from 68 to 65535",
                ))
            } else {
                None
            };
            if let Some(fault) = fault {
                return Some((Subject::Port(index), fault));
            }
        }
        None
    }

    fn static_fault(&self) -> Option<(Subject, Fault)> {
        let mut places = BTreeSet::new();
        for (index, entry) in self.fdb.iter().enumerate() {
            let mac = entry.mac;
            let fault = if !mac.is_valid_source() {
                Some(Fault::new(
                    format!("{mac} cannot be a static address"),
                    "write a unicast address, neither all-zero nor a group",
                ))
            } else if entry.vid != VlanId::UNAWARE {
                Some(Fault::new(
                    format!("{mac} cannot be in VLAN {}", entry.vid),
                    "this switch is VLAN-unaware: leave vid out",
                ))
            } else if !places.insert((entry.vid, mac)) {
                Some(Fault::new(
                    format!("{mac} is bound twice"),
                    "an address has one port: take one of them away",
                ))
            } else if self.port(&entry.port).is_none() {
                Some(self.no_port(&entry.port))
            } else if u32::try_from(index).is_ok_and(|index| index >= self.settings.fdb_size) {
                Some(Fault::new(
                    format!("{mac} does not fit: fdb_size is {}", self.settings.fdb_size),
                    "raise fdb_size, or take an entry away",
                ))
            } else {
                None
            };
            if let Some(fault) = fault {
                return Some((Subject::Static(index), fault));
            }
        }
        None
    }

    /// There is no port called `name`; says which there are.
    pub(super) fn no_port(&self, name: &str) -> Fault {
        let names: Vec<&str> = self.ports.iter().map(|port| port.name.as_str()).collect();
        let fix = match names.as_slice() {
            [] => "the switch has no ports: add one with vswitch port add SPEC".to_owned(),
            // 256 names help nobody.
            [first @ .., last] if names.len() > 16 => format!("ports: {}, … {last}", first[..15].join(", ")),
            names => format!("ports: {}", names.join(", ")),
        };
        Fault::new(format!("there is no port `{}`", name.escape_debug()), fix)
    }
}

/// Names become file names, words of a table and parts of an interface's
/// alias, so they are plain.
fn name_fault(name: &str, what: &str) -> Option<Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // A leading dot would hide the socket or leave the directory, a leading
    // dash would be a flag.
    let starts_plain = !name.starts_with(['.', '-']);
    if (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(plain) && starts_plain {
        return None;
    }
    Some(Fault::new(
        format!("`{}` cannot name {what}", name.escape_debug()),
        format!("use 1 to {NAME_LEN_MAX} letters, digits, `.`, `_` or `-`, first a letter, digit or `_`"),
    ))
}
