//! Who is told what a decision comes to, while it is made.
//!
//! The counters are one witness, and so always there; a [`Story`] and an
//! [`Account`] are others, for those who want to know more of one frame. Nobody,
//! `()`, costs nothing: every call is inlined, and does nothing.
//!
//! Deliberately absent: influence. No call returns anything.

use super::counters::Counters;
use super::fdb::Key;
use super::moves::Moves;
use super::story::{Account, Learning, LookUp, Story};
use super::{DropReason, Learned, Limit, Note, NoteKind, Notes, PortId, PortSet, Time, Verdict};
use crate::frame::{MacAddr, VlanId};

super::verdict::reasons! {
    /// Why a port that could have been an egress is none.
    Withheld {
        /// It is down.
        Down = "down",
        /// Its flag keeps this kind of flood from leaving (`flood`,
        /// `mcast_flood`, `bcast_flood`).
        Closed = "closed",
        /// It is isolated, as the ingress is.
        Isolated = "isolated",
    }
}

/// Is told of one decision, in the order of its steps.
pub(super) trait Witness {
    /// The frame travels in this VLAN.
    #[inline(always)]
    fn admitted(&mut self, _vid: VlanId) {}

    /// The port is locked, and the FDB has the source on this one.
    #[inline(always)]
    fn unbound(&mut self, _source: Option<PortId>) {}

    /// This came of learning `src`.
    #[inline(always)]
    fn learned(&mut self, _src: Key, _learning: Learning) {}

    /// This entry gave its place to the source; asked for only by those who want to
    /// know.
    #[inline(always)]
    fn displaced(&mut self, _victim: impl FnOnce() -> Option<(VlanId, MacAddr)>) {}

    /// The operator bound the source to another port.
    #[inline(always)]
    fn spoofed(&mut self, _bound: PortId) {}

    /// The destination is this.
    #[inline(always)]
    fn looked_up(&mut self, _found: LookUp) {}

    /// A copy is for this port.
    #[inline(always)]
    fn chose(&mut self, _egress: PortId) {}

    /// These ports get none; asked for only by those who want to know.
    #[inline(always)]
    fn withheld(&mut self, _why: Withheld, _ports: impl FnOnce() -> PortSet) {}

    /// How it ended.
    #[inline(always)]
    fn decided(&mut self, _verdict: &Verdict) {}
}

impl Witness for () {}

impl Story {
    /// Before the first step.
    pub(super) const UNTOLD: Story = Story {
        learning: Learning::NotReached,
        bound: None,
        look_up: LookUp::NotReached,
        verdict: Verdict::Drop(DropReason::PortDown),
    };
}

impl Witness for Story {
    #[inline(always)]
    fn learned(&mut self, _src: Key, learning: Learning) {
        self.learning = learning;
    }

    #[inline(always)]
    fn spoofed(&mut self, bound: PortId) {
        self.bound = Some(bound);
    }

    #[inline(always)]
    fn looked_up(&mut self, found: LookUp) {
        self.look_up = found;
    }

    #[inline(always)]
    fn decided(&mut self, verdict: &Verdict) {
        self.verdict = *verdict;
    }
}

impl Account {
    /// Before the first step.
    pub(super) const UNTOLD: Account = Account {
        story: Story::UNTOLD,
        vid: None,
        source: None,
        victim: None,
        withheld: [PortSet::EMPTY; Withheld::COUNT],
    };
}

impl Witness for Account {
    fn admitted(&mut self, vid: VlanId) {
        self.vid = Some(vid);
    }

    fn unbound(&mut self, source: Option<PortId>) {
        self.source = source;
    }

    fn learned(&mut self, src: Key, learning: Learning) {
        self.story.learned(src, learning);
    }

    fn displaced(&mut self, victim: impl FnOnce() -> Option<(VlanId, MacAddr)>) {
        self.victim = victim();
    }

    fn spoofed(&mut self, bound: PortId) {
        self.story.spoofed(bound);
    }

    fn looked_up(&mut self, found: LookUp) {
        self.story.looked_up(found);
    }

    fn withheld(&mut self, why: Withheld, ports: impl FnOnce() -> PortSet) {
        self.withheld[why.index()] = ports();
    }

    fn decided(&mut self, verdict: &Verdict) {
        self.story.decided(verdict);
    }
}

/// Counts what one frame from `ingress` comes to, and tells `then` as well.
pub(super) struct Ledger<'a, W> {
    pub counters: &'a mut Counters,
    pub moves: &'a mut Moves,
    pub notes: &'a mut Notes,
    pub now: Time,
    pub ingress: PortId,
    /// The frame's length in bytes.
    pub len: u32,
    pub then: &'a mut W,
}

/// Writes down what is seldom: a known station never comes here. It takes what it
/// needs and not the ledger, which would have to be in memory for it: 20
/// instructions a frame.
#[cold]
#[inline(never)]
fn note(notes: &mut Notes, at: Time, kind: NoteKind, src: Key, [from, port]: [PortId; 2]) {
    let (vid, mac) = (src.vid(), src.mac());
    notes.push(Note { kind, at, vid, mac, from, port });
}

impl<W: Witness> Witness for Ledger<'_, W> {
    #[inline(always)]
    fn admitted(&mut self, vid: VlanId) {
        self.then.admitted(vid);
    }

    #[inline(always)]
    fn unbound(&mut self, source: Option<PortId>) {
        self.then.unbound(source);
    }

    #[inline(always)]
    fn displaced(&mut self, victim: impl FnOnce() -> Option<(VlanId, MacAddr)>) {
        self.then.displaced(victim);
    }

    #[inline(always)]
    fn withheld(&mut self, why: Withheld, ports: impl FnOnce() -> PortSet) {
        self.then.withheld(why, ports);
    }

    #[inline(always)]
    fn learned(&mut self, src: Key, learning: Learning) {
        let ingress = self.ingress;
        if let Learning::Told(learned) = learning {
            match learned {
                Learned::Known => {}
                Learned::New => {
                    self.counters.port_mut(ingress).learned += 1;
                    note(self.notes, self.now, NoteKind::Learned, src, [ingress, ingress]);
                }
                Learned::Moved(from) => {
                    self.counters.port_mut(ingress).moved += 1;
                    self.moves.record(self.now, src.vid(), src.mac(), from, ingress);
                    note(self.notes, self.now, NoteKind::Moved, src, [from, ingress]);
                }
                Learned::Refused(limit) => {
                    self.counters.port_mut(ingress).not_learned += 1;
                    let kind = match limit {
                        Limit::Port => NoteKind::PortFull,
                        Limit::Table => NoteKind::TableFull,
                    };
                    note(self.notes, self.now, kind, src, [ingress, ingress]);
                }
                // `spoofed` follows.
                Learned::Foreign(_) => {}
            }
        }
        self.then.learned(src, learning);
    }

    #[inline(always)]
    fn spoofed(&mut self, bound: PortId) {
        self.counters.port_mut(self.ingress).spoofed += 1;
        self.then.spoofed(bound);
    }

    #[inline(always)]
    fn looked_up(&mut self, found: LookUp) {
        if let LookUp::Reserved(last) = found {
            self.counters.port_mut(self.ingress).reserved[usize::from(last)] += 1;
        }
        self.then.looked_up(found);
    }

    #[inline(always)]
    fn chose(&mut self, egress: PortId) {
        self.counters.port_mut(egress).copies += 1;
        self.then.chose(egress);
    }

    #[inline(always)]
    fn decided(&mut self, verdict: &Verdict) {
        let counters = self.counters.port_mut(self.ingress);
        counters.rx += 1;
        counters.rx_bytes += u64::from(self.len);
        match verdict {
            Verdict::Forward { .. } => counters.forwarded += 1,
            Verdict::Drop(reason) => counters.drops[reason.index()] += 1,
        }
        self.then.decided(verdict);
    }
}
