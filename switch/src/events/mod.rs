//! Events: what happened to the switch, in order, with numbers and times.
//!
//! Read in this order: this file (what can happen), `journal` (what is kept, and
//! how much of it), `flaps` (when an address that moves is worth a word), `text`
//! (for people).
//!
//! Deliberately absent: frames, which end in counters; clocks, sockets and
//! threads. Whoever writes something down says what time it is.
#![forbid(unsafe_code)]

mod flaps;
mod journal;
mod text;

pub use flaps::Flaps;
pub use journal::{HISTORY_LEN, Journal, KIND_RATE, Stamp};
pub use text::{line, utc};

use serde::{Deserialize, Serialize};

use crate::frame::MacAddr;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Numbered from 1 since the switch started; each is one more than the last.
    pub seq: u64,
    /// When, by the wall's clock in UTC: `2026-11-25T02:50:16.123Z`.
    pub time: String,
    /// When, in milliseconds since the switch started.
    pub uptime_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// Declares what can happen once: the variants with their fields, and the names
/// that users see.
macro_rules! happenings {
    ($($(#[$doc:meta])* $variant:ident = $name:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }),+ $(,)?) => {
        /// What can happen.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[serde(tag = "event")]
        pub enum Happening {
            $($(#[$doc])* #[serde(rename = $name)] $variant { $($(#[$field_doc])* $field: $type),* }),+
        }

        /// What can happen, without the particulars.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $name)] $variant),+
        }

        impl Kind {
            /// Every kind, in the order of their indices.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),+];

            /// The word for it.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name),+ }
            }
        }

        impl Happening {
            /// What kind it is of.
            pub const fn kind(&self) -> Kind {
                match self { $(Happening::$variant { .. } => Kind::$variant),+ }
            }
        }
    };
}

happenings! {
    /// A port was opened.
    PortAdded = "port_added" {
        /// Its name.
        port: String,
        /// Its specification.
        spec: String,
    },
    /// A port was closed.
    PortRemoved = "port_removed" {
        /// Its name.
        port: String,
    },
    /// A port carries frames from now on.
    PortUp = "port_up" {
        /// Its name.
        port: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// Who is at the other end, as `qemu-system-x86 4242`; empty if unknown.
        peer: String,
    },
    /// A port carries no frames from now on.
    PortDown = "port_down" {
        /// Its name.
        port: String,
        /// Why, if that is known.
        why: String,
    },
    /// Somebody connected to a port's socket.
    PeerCame = "peer_came" {
        /// The port.
        port: String,
        /// Who.
        peer: String,
    },
    /// Somebody left a port's socket.
    PeerGone = "peer_gone" {
        /// The port.
        port: String,
        /// Who, and how.
        why: String,
    },
    /// A port's device failed or is gone.
    DeviceFault = "device_fault" {
        /// The port.
        port: String,
        /// What is wrong with it.
        fault: String,
    },
    /// An address spoke for the first time.
    MacLearned = "mac_learned" {
        /// The address.
        mac: MacAddr,
        /// Its VLAN; 0 on a VLAN-unaware switch.
        vid: u16,
        /// Where it is.
        port: String,
    },
    /// An address spoke from another port than before.
    MacMoved = "mac_moved" {
        /// The address.
        mac: MacAddr,
        /// Its VLAN.
        vid: u16,
        /// Where it was.
        from: String,
        /// Where it is.
        port: String,
    },
    /// An address was not heard for the ageing time.
    MacAged = "mac_aged" {
        /// The address.
        mac: MacAddr,
        /// Its VLAN.
        vid: u16,
        /// Where it was.
        port: String,
    },
    /// An address goes to and fro: two guests share it.
    MacFlapping = "mac_flapping" {
        /// The address.
        mac: MacAddr,
        /// Its VLAN.
        vid: u16,
        /// Where it was last.
        from: String,
        /// Where it is.
        port: String,
        /// How often it moved lately, at least.
        moves: u64,
    },
    /// A port has as many addresses as it may: this one was not learned.
    PortFull = "port_full" {
        /// The port.
        port: String,
        /// The address.
        mac: MacAddr,
        /// Its VLAN.
        vid: u16,
    },
    /// The FDB has no place for a port's newcomer: this one was not learned.
    TableFull = "table_full" {
        /// The port.
        port: String,
        /// The address.
        mac: MacAddr,
        /// Its VLAN.
        vid: u16,
    },
    /// The configuration was changed by a client.
    ConfigChanged = "config_changed" {
        /// One line a change.
        changes: Vec<String>,
    },
    /// The configuration file was read again.
    ConfigReloaded = "config_reloaded" {
        /// The file.
        file: String,
        /// One line a change; none if it says what is in force.
        changes: Vec<String>,
    },
    /// The configuration file was read again, and refused.
    ReloadRefused = "reload_refused" {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: String,
    },
    /// Frames are recorded from now on.
    CaptureStarted = "capture_started" {
        /// Whose capture, or where it goes.
        capture: String,
    },
    /// Frames are not recorded any more.
    CaptureStopped = "capture_stopped" {
        /// Whose capture, or where it went.
        capture: String,
        /// Why: asked for, disk full, reader gone.
        why: String,
        /// Frames recorded.
        frames: u64,
        /// Frames that it should have recorded and did not.
        lost: u64,
    },
    /// A capture cannot keep up.
    CaptureLost = "capture_lost" {
        /// Whose capture, or where it goes.
        capture: String,
        /// Frames that it should have recorded and did not, until now.
        lost: u64,
    },
    /// So much happened of one kind that not all of it was written down.
    Suppressed = "suppressed" {
        /// Which kind.
        of: Kind,
        /// How many more there were within a second.
        count: u64,
    },
}

impl Kind {
    /// Position in arrays of counts.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Kind, String> {
        let found = Kind::ALL.iter().find(|kind| kind.name() == word);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("write one of {}", names.join(", "))
        })
    }
}
