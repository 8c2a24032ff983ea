//! What a switch says of changes: what happened, and what a reload changed.
//! Field names are stable.

use serde::{Deserialize, Serialize};

use crate::events::{Event, Journal};

/// What happened: `vswitch events`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Milliseconds since the switch's start, now.
    pub uptime_ms: u64,
    /// Oldest first.
    pub events: Vec<Event>,
    /// The number to ask for events after, the next time.
    pub next: u64,
    /// Events between the number asked for and `next` that are not kept any more.
    pub missed: u64,
}

impl Events {
    /// At most `max` of the events after number `after` that `journal` has.
    pub fn of(journal: &Journal, after: u64, max: usize, uptime_ms: u64) -> Events {
        // A number of an earlier run of the switch.
        let after = after.min(journal.last());
        let events: Vec<Event> = journal.after(after).take(max).cloned().collect();
        let next =
            if events.len() < max { journal.last() } else { events.last().map_or(after, |event| event.seq) };
        let missed = next - after - events.len() as u64;
        Events { uptime_ms, events, next, missed }
    }
}

/// What a reload changed: `vswitch reload`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// The file that was read.
    pub file: String,
    /// One line a change; none if the file says what was in force.
    pub changes: Vec<String>,
    /// What to know about it: what was created or left.
    pub notes: Vec<String>,
}
