//! Counters whose sums always hold:
//! `rx = forwarded + sum(drops)` for each ingress port, and
//! `copies = tx + sum(refused)` for each egress port (pairs of frame and port).
//!
//! Deliberately absent: losses that others report later (a TAP's `tx_dropped`,
//! `rx_missed` of PACKET_STATISTICS); they stand outside the law, in `port`.

use super::{DropReason, PORTS_MAX, PortId, Refusal};

/// Counters of one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortCounters {
    /// Frames received.
    pub rx: u64,
    /// Bytes received, without FCS and virtio-net headers.
    pub rx_bytes: u64,
    /// Received frames that were sent on to at least one port.
    pub forwarded: u64,
    /// Received frames that were not, by [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
    /// Reserved frames dropped, by the address's last octet, 00 … 0F.
    pub reserved: [u64; 16],
    /// Times this port was chosen as an egress.
    pub copies: u64,
    /// Copies sent.
    pub tx: u64,
    /// Bytes of the copies sent.
    pub tx_bytes: u64,
    /// Copies not sent, by [`Refusal::index`].
    pub refused: [u64; Refusal::COUNT],
    /// Frames made here out of super-frames, for want of the peer's help.
    pub segments: u64,
    /// Of the frames received, those that the kernel's fast path forwarded.
    pub rx_fast: u64,
    /// Of the copies sent, those that the kernel's fast path sent.
    pub tx_fast: u64,
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that came here from another port.
    pub moved: u64,
    /// Sources not learned: the port's or the table's limit.
    pub not_learned: u64,
    /// Frames whose source is a static or sticky address of another port.
    pub spoofed: u64,
}

impl PortCounters {
    /// All zero.
    pub const ZERO: PortCounters = PortCounters {
        rx: 0,
        rx_bytes: 0,
        forwarded: 0,
        drops: [0; DropReason::COUNT],
        reserved: [0; 16],
        copies: 0,
        tx: 0,
        tx_bytes: 0,
        refused: [0; Refusal::COUNT],
        segments: 0,
        rx_fast: 0,
        tx_fast: 0,
        learned: 0,
        moved: 0,
        not_learned: 0,
        spoofed: 0,
    };

    /// Received frames that ended here, whatever the reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Copies that were not sent, whatever the reason.
    pub fn refused(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Whether the sums hold.
    pub fn balance(&self) -> bool {
        self.rx == self.forwarded + self.dropped() && self.copies == self.tx + self.refused()
    }

    /// Adds `other`, so that totals survive a deleted port.
    pub fn add(&mut self, other: &PortCounters) {
        let PortCounters {
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
        add_each(&mut self.drops, drops);
        add_each(&mut self.reserved, reserved);
        add_each(&mut self.refused, refused);
    }
}

fn add_each(sums: &mut [u64], more: &[u64]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

/// Counters of all ports, and of those that are gone.
#[derive(Debug)]
pub struct Counters {
    ports: Box<[PortCounters; PORTS_MAX]>,
    /// Sums of the ports deleted since the start.
    pub retired: PortCounters,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { ports: Box::new([PortCounters::ZERO; PORTS_MAX]), retired: PortCounters::ZERO }
    }
}

impl Counters {
    /// The counters of `port`; all zero if it never was.
    #[inline]
    pub fn port(&self, port: PortId) -> &PortCounters {
        &self.ports[port.index()]
    }

    /// Counts frames that somebody else forwarded from one port to another in
    /// the bridge's name; a port that is gone counts among the retired.
    pub fn count_passed(&mut self, from: Option<PortId>, to: Option<PortId>, frames: u64, bytes: u64) {
        let Counters { ports, retired } = self;
        let mut of = |port: Option<PortId>, count: &dyn Fn(&mut PortCounters)| {
            count(port.map_or(&mut *retired, |port| &mut ports[port.index()]));
        };
        of(from, &|counters| {
            counters.rx += frames;
            counters.rx_bytes += bytes;
            counters.forwarded += frames;
            counters.rx_fast += frames;
        });
        of(to, &|counters| {
            counters.copies += frames;
            counters.tx += frames;
            counters.tx_bytes += bytes;
            counters.tx_fast += frames;
        });
    }

    /// The counters of `port`, to count in.
    #[inline]
    pub fn port_mut(&mut self, port: PortId) -> &mut PortCounters {
        &mut self.ports[port.index()]
    }

    /// Adds the counters of `port` to those of the deleted ports and clears
    /// them, so that its number can be given again.
    pub fn retire(&mut self, port: PortId) {
        let gone = std::mem::replace(&mut self.ports[port.index()], PortCounters::ZERO);
        self.retired.add(&gone);
    }
}
