//! What the bridge noticed of stations, for whoever keeps a record: learned,
//! moved, aged out, not learned for want of room.
//!
//! Room for it is asked for once, a share for each kind; what finds its share
//! full is counted and forgotten. So a flood of a million sources costs one
//! comparison each, and neither memory nor the notes of another kind.
//!
//! Deliberately absent: refreshes. A frame from a known station leaves no note
//! and does not come by here.

use super::{PortId, Time};
use crate::frame::{MacAddr, VlanId};

/// Notes of one kind between two calls of [`Notes::take`].
pub const NOTES_MAX: usize = 64;

/// What was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NoteKind {
    /// A station spoke for the first time.
    Learned,
    /// A station spoke from another port than before.
    Moved,
    /// A station was not heard for the ageing time.
    Aged,
    /// A station was not learned: its port has `max_macs` already.
    PortFull,
    /// A station was not learned: the table has no place for its port.
    TableFull,
}

impl NoteKind {
    /// Every kind, in the order of their indices.
    pub const ALL: [NoteKind; 5] =
        [NoteKind::Learned, NoteKind::Moved, NoteKind::Aged, NoteKind::PortFull, NoteKind::TableFull];

    /// Position in arrays of counts.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One thing noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// What.
    pub kind: NoteKind,
    /// When.
    pub at: Time,
    /// VLAN of the station.
    pub vid: VlanId,
    /// Address of the station.
    pub mac: MacAddr,
    /// Port it was before; the same as `port` unless it moved.
    pub from: PortId,
    /// Port it is on, was on, or wanted to be on.
    pub port: PortId,
}

/// Notes in order, and how many of each kind found no room.
#[derive(Debug)]
pub struct Notes {
    queue: Vec<Note>,
    lens: [usize; NoteKind::ALL.len()],
    missed: [u64; NoteKind::ALL.len()],
}

impl Default for Notes {
    fn default() -> Notes {
        let queue = Vec::with_capacity(NOTES_MAX * NoteKind::ALL.len());
        Notes { queue, lens: [0; NoteKind::ALL.len()], missed: [0; NoteKind::ALL.len()] }
    }
}

impl Notes {
    /// Writes down `note`, or counts it.
    pub fn push(&mut self, note: Note) {
        let kind = note.kind.index();
        if self.lens[kind] < NOTES_MAX {
            self.lens[kind] += 1;
            self.queue.push(note);
        } else {
            self.missed[kind] += 1;
        }
    }

    /// Whether nothing was noticed since the last [`take`](Self::take).
    #[inline]
    pub fn is_empty(&self) -> bool {
        // What is missed is missed behind something that is here.
        self.queue.is_empty()
    }

    /// The notes, oldest first, and how many of each kind there was no room for;
    /// `keep` takes them one by one and says whether it could. What it could not
    /// counts as missed the next time.
    pub fn take(&mut self, mut keep: impl FnMut(Taken) -> bool) {
        let mut missed = std::mem::take(&mut self.missed);
        self.lens = [0; NoteKind::ALL.len()];
        for note in self.queue.drain(..) {
            if !keep(Taken::Note(note)) {
                missed[note.kind.index()] += 1;
            }
        }
        for kind in NoteKind::ALL {
            let count = missed[kind.index()];
            if count != 0 && !keep(Taken::Missed { kind, count }) {
                self.missed[kind.index()] += count;
            }
        }
    }
}

/// What is taken out of [`Notes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// A note.
    Note(Note),
    /// So many more, that were not written down.
    Missed {
        /// Of this kind.
        kind: NoteKind,
        /// Their number.
        count: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: NoteKind, mac: u64) -> Note {
        let port = PortId::new(1);
        Note { kind, at: Time::START, vid: VlanId::UNAWARE, mac: MacAddr::from_u64(mac), from: port, port }
    }

    fn taken(notes: &mut Notes) -> Vec<Taken> {
        let mut all = Vec::new();
        notes.take(|taken| {
            all.push(taken);
            true
        });
        all
    }

    #[test]
    fn a_flood_of_one_kind_takes_no_room_from_another_and_is_counted() {
        let mut notes = Notes::default();
        let room = notes.queue.capacity();
        for mac in 0..1_000_000 {
            notes.push(note(NoteKind::Learned, mac));
        }
        notes.push(note(NoteKind::Moved, 7));
        assert_eq!(notes.queue.capacity(), room, "no more memory was asked for");
        let all = taken(&mut notes);
        assert_eq!(all.len(), NOTES_MAX + 2);
        assert_eq!(all[0], Taken::Note(note(NoteKind::Learned, 0)));
        assert_eq!(all[NOTES_MAX], Taken::Note(note(NoteKind::Moved, 7)));
        let missed = 1_000_000 - NOTES_MAX as u64;
        assert_eq!(all[NOTES_MAX + 1], Taken::Missed { kind: NoteKind::Learned, count: missed });
        assert!(notes.is_empty() && taken(&mut notes).is_empty());
    }

    #[test]
    fn what_is_not_kept_counts_the_next_time() {
        let mut notes = Notes::default();
        notes.push(note(NoteKind::Aged, 1));
        notes.push(note(NoteKind::Aged, 2));
        notes.take(|taken| taken == Taken::Note(note(NoteKind::Aged, 1)));
        assert_eq!(taken(&mut notes), [Taken::Missed { kind: NoteKind::Aged, count: 1 }]);
    }
}
