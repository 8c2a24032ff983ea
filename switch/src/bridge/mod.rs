//! The switch's core: takes a frame and a time, returns a verdict.
//!
//! Read first: IEEE 802.1Q-2022 clause 8.6 (the forwarding process) and 8.8
//! (the filtering database). The order of decisions is the design; it is
//! written out at [`Bridge::forward`].
//!
//! Deliberately absent: input and output, clocks, threads, `unsafe`, formatting
//! of text. Time is an argument and randomness a seed, so that a million frames
//! and five minutes of ageing are a test without root.
#![forbid(unsafe_code)]

mod counters;
mod port_set;
mod verdict;

pub use counters::{Counters, PortCounters};
pub use port_set::{PORTS_MAX, PortId, PortSet};
pub use verdict::{DropReason, Refusal, Verdict};

use std::time::Duration;

/// Nanoseconds since the switch started: the only clock the core knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// The switch's start.
    pub const START: Time = Time(0);

    /// `nanos` nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// `secs` seconds after the start.
    pub const fn from_secs(secs: u64) -> Time {
        Time(secs * 1_000_000_000)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This time and `duration` more; stops at the end of time, 584 years on.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What of a port the bridge must know (the port flags of `bridge link set`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortSettings {
    /// Learn source addresses seen here.
    pub learning: bool,
    /// Let unknown unicast leave by this port.
    pub flood: bool,
    /// Let multicast leave by this port.
    pub mcast_flood: bool,
    /// Let broadcast leave by this port.
    pub bcast_flood: bool,
    /// Never exchange frames with another isolated port.
    pub isolated: bool,
    /// Take frames only from sources that the FDB already binds to this port.
    pub locked: bool,
    /// Forward frames to reserved addresses that come in here (01 excepted).
    pub transparent: bool,
    /// The most addresses learned here at a time; `None`: the table's size.
    pub max_macs: Option<u32>,
}

impl Default for PortSettings {
    fn default() -> PortSettings {
        PortSettings {
            learning: true,
            flood: true,
            mcast_flood: true,
            bcast_flood: true,
            isolated: false,
            locked: false,
            transparent: false,
            max_macs: None,
        }
    }
}

/// What of the whole switch the bridge must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Dynamic entries not refreshed for this long are gone; zero makes the
    /// switch a hub (nothing is learned). 802.1Q table 8-6: default 300 s.
    pub ageing: Duration,
    /// The most FDB entries, static ones included: 1 … 1,048,575.
    pub fdb_size: u32,
    /// Forward reserved addresses on every port (01, PAUSE, excepted).
    pub transparent: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { ageing: Duration::from_secs(300), fdb_size: 8192, transparent: false }
    }
}
