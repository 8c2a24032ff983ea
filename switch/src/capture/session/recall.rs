//! A capture of the past: blocks that the recorder has kept, instead of those that
//! come.
//!
//! It takes part of a block at a time, as much as its reader is about to take, so
//! that nothing is lost to the bound on what waits. What the recorder had to forget
//! meanwhile counts as what the reader was too slow for.
//!
//! Deliberately absent: what is kept, and for how long (`recorder`).

use super::{Blame, Label, Session};
use crate::bridge::{PortCounters, PortId, Time};
use crate::engine::observe::{Block, Lost};

/// Bytes that are made before the reader takes them.
const AHEAD: usize = 1 << 20;

/// How much of a block was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::capture) enum Progress {
    /// All of it.
    Whole,
    /// The turns before this one; the reader must take something first.
    Before(usize),
    /// As much as was to be counted.
    Enough,
}

impl Session {
    /// Whether it is of the past.
    pub(in crate::capture) fn recalls(&self) -> bool {
        self.spec.last.is_some()
    }

    /// When it begins, if it is ordered `now`.
    pub(in crate::capture) fn begins(&mut self, now: Time) -> Time {
        let Some(last) = self.spec.last else { return now };
        let last_ns = u64::try_from(last.as_nanos()).unwrap_or(u64::MAX);
        self.since = Time::from_nanos(now.as_nanos().saturating_sub(last_ns));
        self.since
    }

    /// The port of that number is another from here on.
    pub(in crate::capture) fn name_port(&mut self, id: PortId, label: &Label) {
        self.by_port[id.index()] = None;
        self.add_interface(id, PortCounters::ZERO, Some(label));
    }

    /// Takes the turns of `block`, from number `from` on.
    pub(in crate::capture) fn recall(&mut self, block: &Block, from: usize) -> Progress {
        if block.last_time().is_none_or(|last| last < self.since) {
            return Progress::Whole;
        }
        if from == 0 {
            self.lose(&block.lost, block.untold, Blame::Switch);
        }
        let since = self.since;
        for (index, turn) in block.turns().enumerate().skip(from) {
            if turn.time < since {
                continue;
            }
            if self.sink.len() >= AHEAD && !self.is_late {
                return Progress::Before(index);
            }
            if !self.turn(&turn) {
                return Progress::Enough;
            }
        }
        Progress::Whole
    }

    /// Notes frames that were not recorded, and that no block tells of.
    pub(in crate::capture) fn recall_lost(&mut self, time: Time, lost: &[(PortId, Lost)]) {
        if time >= self.since {
            self.lose(lost, 0, Blame::Switch);
        }
    }

    /// Notes that the turns of `block` were forgotten, from number `from` on.
    pub(in crate::capture) fn miss(&mut self, block: &Block, from: usize) {
        self.is_late = true;
        // Nothing is written of it, so it cannot be the last to be counted.
        self.recall(block, from);
        self.is_late = false;
    }
}
