//! What the bridge must be told of a port, and of the whole switch: passive
//! values, the same at start-up and for a live change.

use std::time::Duration;

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
