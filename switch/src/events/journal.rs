//! The record of what happened: bounded in length, and in how fast it fills.
//!
//! Two bounds, each fair among kinds. Of one kind at most [`KIND_RATE`] events a
//! second are written down; how many more there were follows as one event when
//! the second is over. And when [`HISTORY_LEN`] events are kept, a new one takes
//! the place of the oldest of the kind that has the most: a flood of addresses
//! does not wash out the port that went down before it.
//!
//! A reader keeps a number, that of the last event it saw, and nothing is kept
//! for it here: however slow it is, it costs no memory, and learns how many
//! events it has missed.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Event, Happening, Kind, utc};
use crate::bridge::Time;

/// Events that are kept.
pub const HISTORY_LEN: usize = 1024;

/// Events of one kind that are written down in one second.
pub const KIND_RATE: u64 = 64;

/// Over which events of a kind are counted.
const WINDOW_MS: u64 = 1000;

/// A moment, by both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Since the switch started.
    pub uptime: Time,
    /// Since 1970.
    pub wall: Duration,
}

impl Stamp {
    /// The same moment `uptime`, which was earlier or is the same.
    #[must_use]
    pub fn back_at(self, uptime: Time) -> Stamp {
        let ago = Duration::from_nanos(self.uptime.as_nanos().saturating_sub(uptime.as_nanos()));
        Stamp { uptime, wall: self.wall.saturating_sub(ago) }
    }
}

/// How much of one kind happened lately.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// When it began, in milliseconds of uptime.
    start: u64,
    written: u64,
    suppressed: u64,
    /// Events of the kind in the history.
    kept: usize,
}

/// What happened lately.
#[derive(Debug)]
pub struct Journal {
    history: VecDeque<Event>,
    windows: Vec<Window>,
    last: u64,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            history: VecDeque::with_capacity(HISTORY_LEN),
            windows: vec![Window::default(); Kind::ALL.len()],
            last: 0,
        }
    }
}

impl Journal {
    /// Writes `what` down, unless there was too much of its kind already.
    /// Returns the event if it was written.
    pub fn record(&mut self, at: Stamp, what: Happening) -> Option<&Event> {
        let kind = what.kind();
        self.turn_over(at, kind);
        let window = &mut self.windows[kind.index()];
        if window.written >= KIND_RATE {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        self.write(at, what);
        self.history.back()
    }

    /// Notes that `count` more of `kind` happened, of which no more is known.
    pub fn miss(&mut self, at: Stamp, kind: Kind, count: u64) {
        self.turn_over(at, kind);
        self.windows[kind.index()].suppressed += count;
    }

    /// Says of each kind whose second is over how much was not written down.
    pub fn settle(&mut self, at: Stamp) {
        for kind in Kind::ALL {
            self.turn_over(at, *kind);
        }
    }

    /// How long from `now` until [`settle`](Self::settle) has something to say.
    pub fn timeout(&self, now: Time) -> Option<Duration> {
        let ends = self.windows.iter().filter(|window| window.suppressed != 0);
        let first = ends.map(|window| window.start + WINDOW_MS).min()?;
        Some(Duration::from_millis(first.saturating_sub(now.as_millis())))
    }

    /// The number of the last event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The events after number `after` that are still kept, oldest first.
    pub fn after(&self, after: u64) -> impl ExactSizeIterator<Item = &Event> {
        let start = self.history.partition_point(|event| event.seq <= after);
        self.history.range(start..)
    }

    /// Begins another second for `kind` if the last one is over.
    fn turn_over(&mut self, at: Stamp, kind: Kind) {
        let now = at.uptime.as_millis();
        let window = &mut self.windows[kind.index()];
        if now < window.start + WINDOW_MS {
            return;
        }
        let count = window.suppressed;
        *window = Window { start: now, kept: window.kept, ..Window::default() };
        if count != 0 {
            self.write(at, Happening::Suppressed { of: kind, count });
        }
    }

    fn write(&mut self, at: Stamp, what: Happening) {
        if self.history.len() == HISTORY_LEN {
            self.forget();
        }
        self.windows[what.kind().index()].kept += 1;
        self.last += 1;
        let uptime_ms = at.uptime.as_millis();
        self.history.push_back(Event { seq: self.last, time: utc(at.wall), uptime_ms, what });
    }

    /// Forgets the oldest event of the kind that has the most.
    fn forget(&mut self) {
        let most = Kind::ALL.iter().copied().max_by_key(|kind| self.windows[kind.index()].kept);
        let oldest = self.history.iter().position(|event| Some(event.what.kind()) == most);
        if let Some(event) = oldest.and_then(|at| self.history.remove(at)) {
            self.windows[event.what.kind().index()].kept -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MacAddr;

    fn at(ms: u64) -> Stamp {
        let wall = Duration::from_secs(1_800_000_000) + Duration::from_millis(ms);
        Stamp { uptime: Time::from_nanos(ms * 1_000_000), wall }
    }

    fn learned(mac: u64) -> Happening {
        Happening::MacLearned { mac: MacAddr::from_u64(mac), vid: 0, port: "a".to_owned() }
    }

    fn removed(n: u64) -> Happening {
        Happening::PortRemoved { port: n.to_string() }
    }

    /// Kinds and numbers, as `mac_learned 1`.
    fn words(journal: &Journal, after: u64) -> Vec<String> {
        let word = |event: &Event| {
            if let Happening::Suppressed { of, count } = &event.what {
                format!("{}: {count} {of}", event.seq)
            } else {
                format!("{}: {}", event.seq, event.what.kind())
            }
        };
        journal.after(after).map(word).collect()
    }

    #[test]
    fn events_have_numbers_and_both_times() {
        let mut journal = Journal::default();
        assert_eq!((journal.last(), journal.after(0).len()), (0, 0));
        let event = journal.record(at(1500), removed(1)).unwrap();
        assert_eq!((event.seq, event.uptime_ms, event.time.as_str()), (1, 1500, "2027-01-15T08:00:01.500Z"));
        journal.record(at(1600).back_at(Time::from_nanos(1_550_000_000)), learned(1));
        let event = journal.after(1).next().unwrap();
        assert_eq!((event.seq, event.uptime_ms, event.time.as_str()), (2, 1550, "2027-01-15T08:00:01.550Z"));
        assert_eq!((journal.last(), journal.after(2).len(), journal.after(99).len()), (2, 0, 0));
    }

    #[test]
    fn too_much_of_a_kind_is_counted_and_said_once_a_second() {
        let mut journal = Journal::default();
        for n in 0..1000 {
            journal.record(at(1000), learned(n));
        }
        journal.miss(at(1001), Kind::MacLearned, 5000);
        journal.record(at(1002), removed(1));
        assert_eq!(journal.last(), KIND_RATE + 1, "another kind is not hindered");
        assert_eq!(journal.timeout(Time::from_nanos(1_200_000_000)), Some(Duration::from_millis(800)));
        journal.settle(at(1999));
        assert_eq!(journal.last(), KIND_RATE + 1);
        journal.settle(at(2000));
        let suppressed = 1000 - KIND_RATE + 5000;
        assert_eq!(words(&journal, 65), [format!("66: {suppressed} mac_learned")]);
        assert_eq!(journal.timeout(Time::from_secs(2)), None);
        journal.record(at(2001), learned(1));
        assert_eq!(journal.last(), 67, "the next second has room again");
    }

    #[test]
    fn a_flood_does_not_wash_out_what_is_rare() {
        let mut journal = Journal::default();
        journal.record(at(0), removed(1));
        for second in 1..1000 {
            for n in 0..100 {
                journal.record(at(second * 1000), learned(n));
            }
        }
        assert_eq!(journal.after(0).len(), HISTORY_LEN);
        assert_eq!(words(&journal, 0)[0], "1: port_removed");
        let kept = journal.after(0).filter(|event| event.what.kind() == Kind::MacLearned).count();
        assert!(kept >= HISTORY_LEN / 3, "{kept}");
        let numbers: Vec<u64> = journal.after(0).map(|event| event.seq).collect();
        assert!(numbers.is_sorted(), "in order");
        assert_eq!(numbers.last(), Some(&journal.last()));
        assert_eq!(journal.history.capacity(), HISTORY_LEN);
    }
}
