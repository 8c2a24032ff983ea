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
mod decide;
mod fdb;
mod moves;
mod notes;
mod port_set;
mod ports;
mod restore;
mod settings;
mod story;
#[cfg(test)]
mod story_tests;
#[cfg(test)]
mod tests;
mod time;
mod verdict;
mod vlan;
mod witness;

pub use counters::{Counters, PortCounters};
pub use fdb::{
    AGEING_MAX, EntryKind, FDB_SIZE_MAX, FdbEntry, FdbError, FlushKinds, FlushScope, Learned, Lent, Limit,
    Spread, Station,
};
pub use moves::{MOVES_MAX, Move};
pub use notes::{NOTES_MAX, Note, NoteKind, Notes, Taken};
pub use port_set::{PORTS_MAX, PortId, PortSet};
pub use settings::{PortSettings, Settings};
pub use story::{Account, Learning, LookUp, Story};
pub use time::Time;
pub use verdict::{DropReason, Refusal, Verdict};
pub use witness::Withheld;

use arrayvec::ArrayVec;

use crate::frame::Frame;
use decide::{Decision, Read, Settled, read};
use fdb::{Fdb, Trial};
use moves::Moves;
use ports::Ports;
use witness::{Ledger, Witness};

/// The most frames of one burst.
pub const BURST: usize = 64;

/// The core of the switch. Owned by one thread; no call blocks.
#[derive(Debug)]
pub struct Bridge {
    settings: Settings,
    ports: Ports,
    fdb: Fdb,
    counters: Counters,
    moves: Moves,
    notes: Notes,
}

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
            notes: Notes::default(),
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
        self.decide(now, ingress, frame.len(), &read, &mut None, &mut ())
    }

    /// What [`forward`](Self::forward) would make of a frame now, and why.
    /// Changes nothing: no entry, age or counter.
    pub fn trace(&self, now: Time, ingress: PortId, frame: &Frame<'_>) -> Account {
        let read = self.read(ingress, frame);
        let Bridge { settings, ports, fdb, .. } = self;
        let (table, witness) = (Trial::new(fdb), Account::UNTOLD);
        let mut decision = Decision { settings, ports, table, witness, settled: None, now, ingress };
        decision.decide(&read);
        decision.witness
    }

    /// Clears `verdicts`, and judges `frames` as that many calls of
    /// [`forward`](Self::forward) would, one verdict each.
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
        self.burst(now, ingress, frames, verdicts, (), |()| {});
    }

    /// As [`forward_burst`](Self::forward_burst), and tells of each frame how
    /// its verdict came about.
    ///
    /// # Panics
    /// If there are more than [`BURST`] frames.
    pub fn forward_burst_told(
        &mut self,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
        stories: &mut ArrayVec<Story, BURST>,
    ) {
        stories.clear();
        self.burst(now, ingress, frames, verdicts, Story::UNTOLD, |story| stories.push(story));
    }

    /// As [`forward_burst_told`](Self::forward_burst_told), and gives `each` everything
    /// that explains a verdict, in their order.
    ///
    /// # Panics
    /// If there are more than [`BURST`] frames.
    pub fn forward_burst_explained(
        &mut self,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
        each: impl FnMut(Account),
    ) {
        self.burst(now, ingress, frames, verdicts, Account::UNTOLD, each);
    }

    /// Three passes: the first reads the headers and hashes; the second loads
    /// the lines of the FDB that will be wanted, all of them at once instead of
    /// one after the other; the third learns and looks up in order of arrival,
    /// so that each frame teaches the next. Each frame begins with a witness
    /// like `untold`, and `each` gets it back.
    ///
    /// Most frames of a burst are of the same conversation as the one before.
    /// Whoever has the same addresses needs no hash, and if nothing was changed by
    /// the one before, no look-up either.
    #[inline(always)]
    fn burst<W: Witness + Copy>(
        &mut self,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
        untold: W,
        mut each: impl FnMut(W),
    ) {
        verdicts.clear();
        let mut reads: ArrayVec<Read, BURST> = ArrayVec::new();
        // Bits of those that are read as the one before.
        let mut alike = 0u64;
        let mut before: Option<&Frame<'_>> = None;
        for (number, frame) in frames.iter().enumerate() {
            let read = match (before, reads.last()) {
                (Some(before), Some(read @ Ok(_))) if decide::is_alike(before, frame) => {
                    alike |= 1 << number;
                    *read
                }
                _ => self.read(ingress, frame),
            };
            reads.push(read);
            before = Some(frame);
        }
        // Nothing but loads, so that as many as the processor can bear are on
        // their way at a time: with a million stations a frame took 59 ns, and
        // 98 with these loads in the loop above.
        for (number, read) in reads.iter().enumerate() {
            if let Ok(addresses) = read
                && alike >> number & 1 == 0
            {
                self.fdb.touch(addresses.src);
                self.fdb.touch(addresses.dst);
            }
        }
        if self.fdb.is_reordering() {
            self.touch_order(now, &reads, alike);
        }
        let mut settled = None;
        for (number, (frame, read)) in frames.iter().zip(&reads).enumerate() {
            let mut told = untold;
            if alike >> number & 1 == 0 {
                settled = None;
            }
            let verdict = self.decide(now, ingress, frame.len(), read, &mut settled, &mut told);
            verdicts.push(verdict);
            each(told);
        }
    }

    /// Loads what a burst of sources that were not heard in this tick will write to
    /// in the order of ages: their nodes, then the nodes' neighbours. Each is three
    /// cache lines, any of which may be anywhere: of a million stations such a frame
    /// took 285 ns, and 145 with this.
    #[cold]
    #[inline(never)]
    fn touch_order(&self, now: Time, reads: &[Read], alike: u64) {
        let mut nodes: ArrayVec<u32, BURST> = ArrayVec::new();
        for (number, read) in reads.iter().enumerate() {
            if let Ok(addresses) = read
                && alike >> number & 1 == 0
                && let Some(node) = self.fdb.touch_order(addresses.src, now.as_millis())
            {
                nodes.push(node);
            }
        }
        for node in nodes {
            self.fdb.touch_neighbours(node);
        }
    }

    #[inline(always)]
    fn read(&self, ingress: PortId, frame: &Frame<'_>) -> Read {
        read(&self.ports, |vid, mac| self.fdb.key(vid, mac), ingress, frame)
    }

    /// Judges, counts, and tells `then`; as in `settled`, if the frame before had
    /// the same addresses and came to that.
    #[inline(always)]
    fn decide<W: Witness>(
        &mut self,
        now: Time,
        ingress: PortId,
        len: u32,
        read: &Read,
        settled: &mut Option<Settled>,
        then: &mut W,
    ) -> Verdict {
        let Bridge { settings, ports, fdb, counters, moves, notes } = self;
        let witness = Ledger { counters, moves, notes, now, ingress, len, then };
        let mut decision = Decision { settings, ports, table: fdb, witness, settled: *settled, now, ingress };
        let verdict = decision.decide(read);
        *settled = decision.settled;
        verdict
    }
}
