//! What a switch says of itself. Field names are stable; counters are given by
//! the names of [`DropReason`] and [`Refusal`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bridge::{DropReason, PortCounters, Refusal};
use crate::config::Keys;
use crate::frame::MacAddr;
use crate::port::Losses;

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

/// Every counter, read at one instant: `vswitch stats`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// The switch's name.
    pub name: String,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// In the order of their creation.
    pub ports: Vec<PortStats>,
    /// Sums of the ports deleted since the start.
    pub retired: PortStats,
    /// Sums of all ports, deleted ones included.
    pub total: PortStats,
}

impl Stats {
    /// `ports` and `retired` with their sums.
    pub fn new(name: String, uptime_ms: u64, ports: Vec<PortStats>, retired: PortStats) -> Stats {
        let mut total = PortStats { name: "total".to_owned(), ..retired.clone() };
        for port in &ports {
            total.add(port);
        }
        Stats { name, uptime_ms, ports, retired, total }
    }
}

/// Counters of one port. `rx = forwarded + sum(drops)` and
/// `copies = tx + sum(refused)`, at every instant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortStats {
    /// The port's name; `retired` and `total` for sums.
    pub name: String,
    /// Frames received.
    pub rx: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received frames that were sent on to at least one port.
    pub forwarded: u64,
    /// Received frames that were not, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Reserved frames dropped, by the last octet of the address, `00` … `0f`.
    pub reserved: BTreeMap<String, u64>,
    /// Times the port was chosen as an egress.
    pub copies: u64,
    /// Copies sent.
    pub tx: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Copies not sent, by reason; every reason is there.
    pub refused: BTreeMap<String, u64>,
    /// Frames made out of super-frames.
    pub segments: u64,
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that came here from another port.
    pub moved: u64,
    /// Sources not learned for want of room.
    pub not_learned: u64,
    /// Frames whose source is bound to another port.
    pub spoofed: u64,
    /// Outside the sums: frames that found the receive buffer full.
    pub rx_missed: u64,
    /// Outside the sums: frames sent that the device dropped later.
    pub tx_lost: u64,
}

impl PortStats {
    /// The counters of the port called `name`.
    pub fn new(name: impl Into<String>, counters: &PortCounters, losses: Losses) -> PortStats {
        let drops = DropReason::ALL.iter().map(|r| (r.name().to_owned(), counters.drops[r.index()]));
        let refused = Refusal::ALL.iter().map(|r| (r.name().to_owned(), counters.refused[r.index()]));
        let reserved = counters.reserved.iter().enumerate();
        PortStats {
            name: name.into(),
            rx: counters.rx,
            rx_bytes: counters.rx_bytes,
            forwarded: counters.forwarded,
            drops: drops.collect(),
            reserved: reserved.map(|(last, count)| (format!("{last:02x}"), *count)).collect(),
            copies: counters.copies,
            tx: counters.tx,
            tx_bytes: counters.tx_bytes,
            refused: refused.collect(),
            segments: counters.segments,
            learned: counters.learned,
            moved: counters.moved,
            not_learned: counters.not_learned,
            spoofed: counters.spoofed,
            rx_missed: losses.rx_missed,
            tx_lost: losses.tx_lost,
        }
    }

    /// Received frames that ended here, whatever the reason.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// Copies that were not sent, whatever the reason.
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether the sums hold.
    pub fn balance(&self) -> bool {
        self.rx == self.forwarded + self.dropped() && self.copies == self.tx + self.refused()
    }

    /// Counters with one number each, by name, in the order of tables.
    pub fn numbers(&self) -> [(&'static str, u64); 13] {
        [
            ("rx", self.rx),
            ("rx_bytes", self.rx_bytes),
            ("forwarded", self.forwarded),
            ("copies", self.copies),
            ("tx", self.tx),
            ("tx_bytes", self.tx_bytes),
            ("segments", self.segments),
            ("learned", self.learned),
            ("moved", self.moved),
            ("not_learned", self.not_learned),
            ("spoofed", self.spoofed),
            ("rx_missed", self.rx_missed),
            ("tx_lost", self.tx_lost),
        ]
    }

    /// Adds the counters of `other`.
    pub fn add(&mut self, other: &PortStats) {
        let PortStats {
            name: _,
            rx,
            rx_bytes,
            forwarded,
            drops,
            reserved,
            copies,
            tx,
            tx_bytes,
            refused,
            segments,
            learned,
            moved,
            not_learned,
            spoofed,
            rx_missed,
            tx_lost,
        } = other;
        self.rx += rx;
        self.rx_bytes += rx_bytes;
        self.forwarded += forwarded;
        self.copies += copies;
        self.tx += tx;
        self.tx_bytes += tx_bytes;
        self.segments += segments;
        self.learned += learned;
        self.moved += moved;
        self.not_learned += not_learned;
        self.spoofed += spoofed;
        self.rx_missed += rx_missed;
        self.tx_lost += tx_lost;
        add_each(&mut self.drops, drops);
        add_each(&mut self.reserved, reserved);
        add_each(&mut self.refused, refused);
    }
}

fn add_each(sums: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (name, count) in more {
        *sums.entry(name.clone()).or_default() += count;
    }
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
pub(crate) fn examples() -> (Show, Stats, Ports, Fdb) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_include_deleted_ports_and_balance() {
        let (_, stats, _, _) = examples();
        assert!(stats.ports[0].balance() && stats.retired.balance() && stats.total.balance());
        let total = &stats.total;
        assert_eq!((total.rx, total.copies, total.dropped(), total.refused()), (10, 7, 3, 1));
        assert_eq!((total.reserved["0e"], total.rx_missed, total.tx_lost), (1, 3, 4));
        assert_eq!((total.drops.len(), total.refused.len()), (DropReason::COUNT, Refusal::COUNT));
        let mut broken = total.clone();
        broken.forwarded += 1;
        assert!(!broken.balance());
    }

    #[test]
    fn every_counter_is_carried() {
        let all_one = PortCounters {
            rx: 1,
            rx_bytes: 2,
            forwarded: 3,
            drops: [4; DropReason::COUNT],
            reserved: [5; 16],
            copies: 6,
            tx: 7,
            tx_bytes: 8,
            refused: [9; Refusal::COUNT],
            segments: 10,
            learned: 11,
            moved: 12,
            not_learned: 13,
            spoofed: 14,
        };
        let mut stats = PortStats::new("a", &all_one, Losses { rx_missed: 15, tx_lost: 16 });
        stats.add(&stats.clone());
        let numbers = stats.numbers().map(|(_, number)| number);
        assert_eq!(numbers, [2, 4, 6, 12, 14, 16, 20, 22, 24, 26, 28, 30, 32]);
        assert!(stats.drops.values().all(|n| *n == 8) && stats.drops.contains_key("bad_source"));
        assert!(stats.refused.values().all(|n| *n == 18) && stats.refused.contains_key("oversize"));
        assert!(stats.reserved.values().all(|n| *n == 10) && stats.reserved.len() == 16);
    }
}
