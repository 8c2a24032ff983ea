//! Looks through what the recorder keeps for what is worth a file.
//!
//! Once that was passed on, it looks away for [`HOLD_OFF`]: of a storm one file is
//! enough, and a file takes its time.
//!
//! Deliberately absent: files, and events, which are no frames.

use super::bpf::Program;
use super::session::HOLD_OFF;
use crate::bridge::{DropReason, Refusal, Time, Verdict};
use crate::engine::observe::{Block, Turn};

/// What is looked for.
#[derive(Debug)]
pub enum Worth {
    /// A frame dropped for that reason.
    Drop(DropReason),
    /// A copy refused for that reason.
    Refused(Refusal),
    /// A frame that came in and is accepted.
    Accepted(Program),
}

/// Who looks.
#[derive(Debug)]
pub(super) struct Watch {
    worth: Worth,
    /// What was before this is none of its business.
    next: Time,
}

impl Watch {
    pub fn new(worth: Worth) -> Watch {
        Watch { worth, next: Time::START }
    }

    /// When there was what is worth a file, if `block` has that.
    pub fn sees(&self, block: &Block) -> Option<Time> {
        if block.last_time().is_none_or(|last| last < self.next) {
            return None;
        }
        let found = block.turns().find(|turn| turn.time >= self.next && self.worth.is_in(turn));
        Some(found?.time)
    }

    /// Somebody knows of what it has `seen`.
    pub fn look_away(&mut self, seen: Time) {
        self.next = seen.after(HOLD_OFF);
    }
}

impl Worth {
    fn is_in(&self, turn: &Turn<'_>) -> bool {
        match self {
            Worth::Drop(reason) => turn.frames().any(|seen| seen.story.verdict == Verdict::Drop(*reason)),
            Worth::Refused(reason) => turn.refusals.iter().any(|(_, refusal)| refusal == reason),
            Worth::Accepted(program) => turn.frames().any(|seen| program.accepts(seen.bytes, seen.len)),
        }
    }
}
