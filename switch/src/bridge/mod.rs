//! The switch's core: takes a frame and a time, returns a verdict.
//!
//! Read first: IEEE 802.1Q-2022 clause 8.6 (the forwarding process) and 8.8
//! (the filtering database). The order of decisions is the design; it is
//! written out at [`Bridge::forward`]. Then [`Settings`] and [`PortSettings`]
//! (what can be told), `fdb` (what is learned), [`Counters`] (what is counted).
//!
//! Deliberately absent: input and output, clocks, threads, `unsafe`, formatting
//! of text. Time is an argument and randomness a seed, so that a million frames
//! and five minutes of ageing are a test without root.
#![forbid(unsafe_code)]

mod admin;
mod counters;
mod fdb;
mod moves;
mod port_set;
mod ports;
mod settings;
#[cfg(test)]
mod tests;
mod time;
mod verdict;
mod vlan;

pub use counters::{Counters, PortCounters};
pub use fdb::{
    AGEING_MAX, EntryKind, FDB_SIZE_MAX, FdbEntry, FdbError, FlushKinds, FlushScope, Lent, Spread, Station,
};
pub use moves::{MOVES_MAX, Move};
pub use port_set::{PORTS_MAX, PortId, PortSet};
pub use settings::{PortSettings, Settings};
pub use time::Time;
pub use verdict::{DropReason, Refusal, Verdict};

use arrayvec::ArrayVec;

use crate::frame::{EtherHeader, Frame, VlanId};
use fdb::{Fdb, Key, Learned};
use moves::Moves;
use ports::{Flood, Ports};

/// The most frames of one burst.
pub const BURST: usize = 64;

/// Last octet of the one reserved address that nothing opens: MAC control
/// (PAUSE), which must not leave the link it was sent on.
const RESERVED_PAUSE: u8 = 0x01;

/// The core of the switch. Owned by one thread; no call blocks.
#[derive(Debug)]
pub struct Bridge {
    settings: Settings,
    ports: Ports,
    fdb: Fdb,
    counters: Counters,
    moves: Moves,
}

/// A frame's addresses in its VLAN, as the FDB wants them.
#[derive(Clone, Copy)]
struct Addresses {
    src: Key,
    dst: Key,
}

/// The addresses, or why nobody looks them up.
type Read = Result<Addresses, DropReason>;

impl Bridge {
    /// A bridge without ports. `secret` keys the FDB's hash: random at each
    /// start, so that nobody can choose addresses that collide.
    pub fn new(settings: Settings, secret: [u64; 2]) -> Bridge {
        Bridge {
            settings,
            ports: Ports::new(),
            fdb: Fdb::new(settings.fdb_size, settings.ageing, secret),
            counters: Counters::default(),
            moves: Moves::default(),
        }
    }

    /// What of one frame that came in by `ingress` becomes.
    ///
    /// The order of decisions: port known and up, frame well-formed, VLAN
    /// admitted, source valid, source bound (on a locked port), **learn**,
    /// reserved destination, look-up, unicast or flood, then minus the ingress,
    /// minus the isolated, minus what is down.
    pub fn forward(&mut self, now: Time, ingress: PortId, frame: &Frame<'_>) -> Verdict {
        let read = self.read(ingress, frame);
        self.decide(now, ingress, frame.len(), &read)
    }

    /// Clears `verdicts`, and judges `frames` as that many calls of
    /// [`forward`](Self::forward) would, one verdict each.
    ///
    /// Three passes: the first reads the headers and hashes; the second loads
    /// the lines of the FDB that will be wanted, all of them at once instead of
    /// one after the other; the third learns and looks up in order of arrival,
    /// so that each frame teaches the next.
    ///
    /// # Panics
    /// If there are more than [`BURST`] frames.
    pub fn forward_burst(
        &mut self,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        verdicts.clear();
        let mut reads: ArrayVec<Read, BURST> = ArrayVec::new();
        for frame in frames {
            reads.push(self.read(ingress, frame));
        }
        // Nothing but loads, so that as many as the processor can bear are on
        // their way at a time: with a million stations a frame took 59 ns, and
        // 98 with these loads in the loop above.
        for addresses in reads.iter().flatten() {
            self.fdb.touch(addresses.src);
            self.fdb.touch(addresses.dst);
        }
        for (frame, read) in frames.iter().zip(&reads) {
            verdicts.push(self.decide(now, ingress, frame.len(), read));
        }
    }

    /// The steps that no earlier frame can change.
    #[inline(always)]
    fn read(&self, ingress: PortId, frame: &Frame<'_>) -> Read {
        if !self.ports.is_up(ingress) {
            return Err(DropReason::PortDown);
        }
        if let Some(reason) = frame.fault() {
            return Err(reason);
        }
        let EtherHeader { dst, src, tag, .. } = EtherHeader::parse(frame.head())?;
        let vid = vlan::admit(tag)?;
        if !src.is_valid_source() {
            return Err(DropReason::BadSource);
        }
        Ok(Addresses { src: self.fdb.key(vid, src), dst: self.fdb.key(vid, dst) })
    }

    /// Judges and counts.
    #[inline(always)]
    fn decide(&mut self, now: Time, ingress: PortId, len: u32, read: &Read) -> Verdict {
        let verdict = match read {
            Ok(addresses) => self.judge(now, ingress, *addresses),
            Err(reason) => Verdict::Drop(*reason),
        };
        let counters = self.counters.port_mut(ingress);
        counters.rx += 1;
        counters.rx_bytes += u64::from(len);
        match verdict {
            Verdict::Forward { .. } => counters.forwarded += 1,
            Verdict::Drop(reason) => counters.drops[reason.index()] += 1,
        }
        verdict
    }

    #[inline(always)]
    fn judge(&mut self, now: Time, ingress: PortId, Addresses { src, dst }: Addresses) -> Verdict {
        let settings = self.ports.settings(ingress);
        let is_open = settings.transparent || self.settings.transparent;
        if settings.locked && self.fdb.look_up(src, now.as_millis()) != Some(ingress) {
            self.count_spoofed(ingress, src);
            return Verdict::Drop(DropReason::Locked);
        }
        self.learn(now, ingress, src);
        let vid = dst.vid();
        if dst.mac().is_group() {
            if let Some(last) = dst.mac().reserved()
                && (!is_open || last == RESERVED_PAUSE)
            {
                self.counters.port_mut(ingress).reserved[usize::from(last)] += 1;
                return Verdict::Drop(DropReason::Reserved);
            }
            let kind = if dst.mac().is_broadcast() { Flood::Broadcast } else { Flood::Multicast };
            return self.flood(kind, ingress, vid);
        }
        if dst.is(src) {
            return Verdict::Drop(DropReason::Filtered);
        }
        match self.fdb.look_up(dst, now.as_millis()) {
            Some(egress) => self.unicast(ingress, egress, vid),
            None => self.flood(Flood::Unicast, ingress, vid),
        }
    }

    #[inline(always)]
    fn learn(&mut self, now: Time, ingress: PortId, src: Key) {
        let settings = self.ports.settings(ingress);
        if !settings.learning || self.fdb.is_hub() {
            return self.count_spoofed(ingress, src);
        }
        let limit = settings.max_macs.unwrap_or(u32::MAX);
        match self.fdb.learn(src, ingress, limit, now.as_millis()) {
            Learned::Known => {}
            Learned::New => self.counters.port_mut(ingress).learned += 1,
            Learned::Moved(from) => {
                self.counters.port_mut(ingress).moved += 1;
                self.moves.record(now, src.vid(), src.mac(), from, ingress);
            }
            Learned::Refused => self.counters.port_mut(ingress).not_learned += 1,
            Learned::Foreign => self.counters.port_mut(ingress).spoofed += 1,
        }
    }

    /// Counts a source that the operator bound to another port.
    fn count_spoofed(&mut self, ingress: PortId, src: Key) {
        if self.fdb.fixed_on(src).is_some_and(|port| port != ingress) {
            self.counters.port_mut(ingress).spoofed += 1;
        }
    }

    #[inline(always)]
    fn unicast(&mut self, ingress: PortId, egress: PortId, vid: VlanId) -> Verdict {
        if egress == ingress {
            return Verdict::Drop(DropReason::Filtered);
        }
        if !self.ports.may_pass(ingress, egress) {
            return Verdict::Drop(DropReason::NoEgress);
        }
        self.counters.port_mut(egress).copies += 1;
        Verdict::Forward { to: PortSet::one(egress), copies: 1, vid }
    }

    fn flood(&mut self, kind: Flood, ingress: PortId, vid: VlanId) -> Verdict {
        let to = self.ports.flood(kind, ingress);
        let mut copies = 0;
        for egress in to.iter() {
            self.counters.port_mut(egress).copies += 1;
            copies += 1;
        }
        if copies == 0 {
            return Verdict::Drop(DropReason::NoEgress);
        }
        Verdict::Forward { to, copies, vid }
    }
}
