//! Counters as they travel: by the names of [`DropReason`] and [`Refusal`], so
//! that invariant 3 can be checked from outside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bridge::{DropReason, PortCounters, Refusal};
use crate::port::Losses;

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
    /// Of `rx`, frames that the kernel's fast path forwarded.
    pub rx_fast: u64,
    /// Of `tx`, copies that the kernel's fast path sent.
    pub tx_fast: u64,
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
            rx_fast: counters.rx_fast,
            tx_fast: counters.tx_fast,
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
    pub fn numbers(&self) -> [(&'static str, u64); 15] {
        [
            ("rx", self.rx),
            ("rx_bytes", self.rx_bytes),
            ("forwarded", self.forwarded),
            ("copies", self.copies),
            ("tx", self.tx),
            ("tx_bytes", self.tx_bytes),
            ("segments", self.segments),
            ("rx_fast", self.rx_fast),
            ("tx_fast", self.tx_fast),
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
            rx_fast,
            tx_fast,
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
        self.rx_fast += rx_fast;
        self.tx_fast += tx_fast;
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

#[cfg(test)]
mod tests {
    use super::super::reply::examples;
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
            rx_fast: 11,
            tx_fast: 12,
            learned: 13,
            moved: 14,
            not_learned: 15,
            spoofed: 16,
        };
        let mut stats = PortStats::new("a", &all_one, Losses { rx_missed: 17, tx_lost: 18 });
        stats.add(&stats.clone());
        let numbers = stats.numbers().map(|(_, number)| number);
        assert_eq!(numbers, [2, 4, 6, 12, 14, 16, 20, 22, 24, 26, 28, 30, 32, 34, 36]);
        assert!(stats.drops.values().all(|n| *n == 8) && stats.drops.contains_key("bad_source"));
        assert!(stats.refused.values().all(|n| *n == 18) && stats.refused.contains_key("oversize"));
        assert!(stats.reserved.values().all(|n| *n == 10) && stats.reserved.len() == 16);
    }
}
