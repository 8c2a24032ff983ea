//! What a switch says of itself, counters apart. Field names are stable.

use serde::{Deserialize, Serialize};

use crate::config::Keys;
use crate::frame::MacAddr;

/// Identity, state, totals: `vswitch show`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Show {
    /// The switch's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// The version of the program.
    pub version: String,
    /// The control socket.
    pub control: String,
    /// Uid of its owner.
    pub owner: u32,
    /// With its unit: `300s`.
    pub ageing: String,
    /// FDB entries now.
    pub fdb_len: u32,
    /// The most there can be.
    pub fdb_size: u32,
    /// Whether reserved addresses pass on every port.
    pub transparent: bool,
    /// Whether short frames are padded.
    pub pad_runts: bool,
    /// With its unit: `50us`.
    pub busy_poll: String,
    /// Whether the kernel may forward between known stations.
    pub fast_path: bool,
    /// In the order of their creation.
    pub ports: Vec<PortLine>,
    /// What its user should know: duplicate MACs, losses, missing rights.
    pub warnings: Vec<String>,
}

/// One port in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortLine {
    /// Its name.
    pub name: String,
    /// `netdev`, `tap`.
    pub kind: String,
    /// Whether it carries frames.
    pub state: PortState,
    /// Why it does not, or what is odd; may be empty.
    pub note: String,
    /// Bytes.
    pub mtu: u32,
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Frames received here and dropped, and copies refused here.
    pub drops: u64,
    /// Who is at the other end, as `qemu-system-x86 4242`; empty if unknown.
    pub peer: String,
    /// How the port is kept apart from the host's stack: `tcx`, `clsact`,
    /// `none`; empty for kinds that need nothing.
    pub isolation: String,
    /// Whether the kernel may forward its frames to other such ports, and back.
    pub fast_path: bool,
}

/// Whether a port carries frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// It does.
    Up,
    /// Its device is down, or nobody is at the other end.
    Down,
    /// Its device is gone, or failed.
    Fault,
}

impl PortState {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            PortState::Up => "up",
            PortState::Down => "down",
            PortState::Fault => "fault",
        }
    }
}

/// Ports with their settings: `vswitch port show`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// In the order of their creation.
    pub ports: Vec<PortDetail>,
}

/// One port with its settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortDetail {
    /// What `show` says of it.
    #[serde(flatten)]
    pub line: PortLine,
    /// The specification with every option that is set.
    pub spec: String,
    /// Every key that `port set` knows, with its value.
    pub keys: Keys,
    /// Addresses learned and bound here.
    pub macs: u32,
    /// Offloads that the other end takes, as `csum tso4 tso6`.
    pub offloads: String,
}

/// A page of the FDB: `vswitch fdb show`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fdb {
    /// Entries that match.
    pub entries: Vec<FdbLine>,
    /// Where the next page starts; absent after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

impl Fdb {
    /// The most entries of a page: a reply of about 400 KiB.
    pub const PAGE_LEN: usize = 4096;
}

/// One FDB entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FdbLine {
    /// Its address.
    pub mac: MacAddr,
    /// Its VLAN; 0 on a VLAN-unaware switch.
    pub vid: u16,
    /// The port's name.
    pub port: String,
    /// Whether it was bound by hand and never ages.
    pub is_static: bool,
    /// Whether no frame can move it.
    pub sticky: bool,
    /// Milliseconds since a frame from it was last seen; absent for static ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// Why a request was refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What is wrong.
    pub error: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// One reply of each shape, for the tests of this directory and of the tables.
#[cfg(test)]
pub(crate) fn examples() -> (Show, super::Stats, Ports, Fdb) {
    use super::{PortStats, Stats};
    use crate::bridge::{DropReason, PortCounters};
    use crate::port::Losses;

    let line = |name: &str, rx, tx, drops| PortLine {
        name: name.to_owned(),
        kind: "netdev".to_owned(),
        state: PortState::Up,
        note: String::new(),
        mtu: 1500,
        rx,
        tx,
        drops,
        peer: "qemu-system-x86 4242".to_owned(),
        isolation: "tcx".to_owned(),
        fast_path: true,
    };
    let show = Show {
        name: "default".to_owned(),
        pid: 4200,
        uptime_ms: 125_000,
        version: "0.1.0".to_owned(),
        control: "/run/vswitch/default.sock".to_owned(),
        owner: 1000,
        ageing: "300s".to_owned(),
        fdb_len: 1,
        fdb_size: 8192,
        transparent: false,
        pad_runts: false,
        busy_poll: "50us".to_owned(),
        fast_path: true,
        ports: vec![line("tap0", 412, 398, 0), line("tap1", 399, 411, 0)],
        warnings: vec!["52:54:00:12:34:57 moved between tap0 and tap1 38 times".to_owned()],
    };
    let mut counters = PortCounters { rx: 10, rx_bytes: 1000, forwarded: 7, ..PortCounters::ZERO };
    counters.drops[DropReason::Filtered.index()] = 2;
    counters.drops[DropReason::Reserved.index()] = 1;
    counters.reserved[0x0e] = 1;
    let retired = PortCounters { copies: 7, tx: 6, tx_bytes: 600, ..PortCounters::ZERO };
    let mut retired = PortStats::new("retired", &retired, Losses::default());
    retired.refused.insert("full".to_owned(), 1);
    let losses = Losses { rx_missed: 3, tx_lost: 4 };
    let stats =
        Stats::new("default".to_owned(), 125_000, vec![PortStats::new("tap0", &counters, losses)], retired);
    let keys = [("isolated".to_owned(), crate::config::Value::Bool(false))].into();
    let detail = PortDetail {
        line: line("tap0", 412, 398, 0),
        spec: "tap0".to_owned(),
        keys,
        macs: 1,
        offloads: "csum tso4".to_owned(),
    };
    let entry = FdbLine {
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        vid: 0,
        port: "tap0".to_owned(),
        is_static: false,
        sticky: false,
        age_ms: Some(1500),
    };
    (show, stats, Ports { ports: vec![detail] }, Fdb { entries: vec![entry], next: Some(4096) })
}
