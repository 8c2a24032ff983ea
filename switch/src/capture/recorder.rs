//! The flight recorder: the last frames with their verdicts, kept in memory as they
//! came from the data thread, the oldest giving way.
//!
//! What is kept is not formatted: that is done when somebody asks for it, for the
//! ports, the filter and the time that are asked for. Who asks has a [`Cursor`] and
//! no share in the memory: what is forgotten before it was taken is missing from
//! that capture, and counted there. So the bound holds whoever reads, or does not.
//!
//! Deliberately absent: files. What is recalled is a capture like any other, and
//! whoever reads it writes it.

use std::collections::VecDeque;

use super::session::{Label, Labels, Progress, Session};
use crate::bridge::{PortId, Time};
use crate::engine::observe::{Block, Lost};

/// What an item takes beside its content: its place in a queue that grows by
/// doubling, and the allocator's own words for each of its vectors.
const ITEM_OVERHEAD: usize = 768;
const _: () = assert!(3 * size_of::<Item>() + 8 * 16 <= ITEM_OVERHEAD);

/// Something that is kept, in the order in which it was told.
#[derive(Debug)]
pub(super) enum Item {
    /// Frames.
    Frames(Block),
    /// Frames that were not recorded, and are told without any that were.
    Lost(Time, Vec<(PortId, Lost)>),
    /// A port was added under this number.
    Named(PortId, Label),
}

impl Item {
    /// Bytes that it takes, all told.
    fn memory(&self) -> usize {
        ITEM_OVERHEAD
            + match self {
                Item::Frames(block) => block.memory(),
                Item::Lost(_, lost) => size_of_val(lost.as_slice()),
                Item::Named(_, label) => label_memory(label),
            }
    }
}

fn label_memory(label: &Label) -> usize {
    label.name.len() + label.description.len()
}

/// What a capture takes of what is kept, and how far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cursor {
    /// The item that comes next, and of that the turn.
    next: u64,
    turn: usize,
    /// What is kept from here on came after it was ordered.
    end: u64,
}

impl Cursor {
    /// Lets `session` know of item `number`, which is forgotten.
    pub fn miss(&mut self, number: u64, item: &Item, session: &mut Session) {
        if number != self.next || number >= self.end {
            return;
        }
        match item {
            Item::Frames(block) => session.miss(block, self.turn),
            Item::Lost(time, lost) => session.recall_lost(*time, lost),
            Item::Named(id, label) => session.name_port(*id, label),
        }
        (self.next, self.turn) = (number + 1, 0);
    }
}

/// The last frames.
#[derive(Debug)]
pub(super) struct Recorder {
    limit: usize,
    memory: usize,
    items: VecDeque<Item>,
    /// The number of the oldest item.
    first: u64,
    /// What ports were called before that.
    labels: Labels,
}

impl Recorder {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Recorder {
        Recorder { limit, memory: 0, items: VecDeque::new(), first: 0, labels: Labels::new() }
    }

    /// Keeps a copy of `block`; what has to give way is told to `forgotten` with its
    /// number.
    pub fn push_frames(&mut self, block: &Block, forgotten: impl FnMut(u64, &Item)) {
        if self.make_room(ITEM_OVERHEAD + block.memory(), forgotten) {
            self.items.push_back(Item::Frames(block.to_kept()));
        }
    }

    /// Keeps that frames were lost, at `time` or shortly before.
    pub fn push_lost(&mut self, time: Time, lost: &[(PortId, Lost)], forgotten: impl FnMut(u64, &Item)) {
        let item = Item::Lost(time, lost.to_vec());
        if !lost.is_empty() && self.make_room(item.memory(), forgotten) {
            self.items.push_back(item);
        }
    }

    /// Keeps what a new port is called.
    pub fn push_name(&mut self, id: PortId, label: &Label, forgotten: impl FnMut(u64, &Item)) {
        let item = Item::Named(id, label.clone());
        if self.make_room(item.memory(), forgotten) {
            self.items.push_back(item);
        } else {
            self.set_label(id, label.clone());
        }
    }

    /// Makes room for an item and counts it; false if it has none in all of the
    /// recorder, which is empty then.
    fn make_room(&mut self, memory: usize, mut forgotten: impl FnMut(u64, &Item)) -> bool {
        while self.memory + memory > self.limit {
            let Some(oldest) = self.items.pop_front() else { return false };
            forgotten(self.first, &oldest);
            self.first += 1;
            self.memory -= oldest.memory();
            if let Item::Named(id, label) = oldest {
                self.set_label(id, label);
            }
        }
        self.memory += memory;
        true
    }

    fn set_label(&mut self, id: PortId, label: Label) {
        self.memory += label_memory(&label) + ITEM_OVERHEAD;
        if let Some(was) = self.labels.insert(id, label) {
            self.memory -= label_memory(&was) + ITEM_OVERHEAD;
        }
    }

    /// Begins to recall what is kept now.
    pub fn begin(&self, session: &mut Session) -> Cursor {
        for (id, label) in &self.labels {
            session.name_port(*id, label);
        }
        Cursor { next: self.first, turn: 0, end: self.first + self.items.len() as u64 }
    }

    /// Has `session` write some more; says why it ends, once it has all it wants.
    pub fn recall(&self, cursor: &mut Cursor, session: &mut Session) -> Option<&'static str> {
        while cursor.next < cursor.end {
            // What is forgotten, the cursor has been moved behind.
            let at = usize::try_from(cursor.next - self.first).unwrap_or(usize::MAX);
            match self.items.get(at) {
                Some(Item::Frames(block)) => match session.recall(block, cursor.turn) {
                    Progress::Whole => {}
                    Progress::Before(turn) => {
                        cursor.turn = turn;
                        return None;
                    }
                    Progress::Enough => return Some("count"),
                },
                Some(Item::Lost(time, lost)) => session.recall_lost(*time, lost),
                Some(Item::Named(id, label)) => session.name_port(*id, label),
                None => break,
            }
            (cursor.next, cursor.turn) = (cursor.next + 1, 0);
        }
        Some("recorded")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capture::session::Spec;

    fn session() -> Session {
        Session::new(spec())
    }

    fn spec() -> Spec {
        Spec { snaplen: 64, last: Some(Duration::MAX), ..Spec::everything("", "") }
    }

    fn label(name: &str) -> Label {
        Label { name: name.to_owned(), description: "vswitch port".to_owned() }
    }

    fn lost(dropped: u64) -> [(PortId, Lost); 1] {
        [(PortId::new(1), Lost { dropped, ..Lost::default() })]
    }

    fn lose(recorder: &mut Recorder, dropped: u64, forgotten: impl FnMut(u64, &Item)) {
        recorder.push_lost(Time::START, &lost(dropped), forgotten);
    }

    /// The memory of what is kept, counted anew.
    fn memory(recorder: &Recorder) -> usize {
        let labels = recorder.labels.values().map(|label| label_memory(label) + ITEM_OVERHEAD);
        recorder.items.iter().map(Item::memory).chain(labels).sum()
    }

    #[test]
    fn the_oldest_give_way_and_the_bound_holds() {
        let mut recorder = Recorder::new(10 * ITEM_OVERHEAD);
        let mut forgotten = Vec::new();
        for n in 0..100u64 {
            if n % 2 == 0 {
                recorder.push_frames(&Block::new(), |number, _| forgotten.push(number));
            } else {
                let name = label(&format!("p{n}"));
                recorder.push_name(PortId::new(u8::try_from(n % 4).unwrap()), &name, |number, _| {
                    forgotten.push(number);
                });
            }
            assert!(recorder.memory <= recorder.limit);
            assert_eq!(recorder.memory, memory(&recorder));
        }
        let kept = recorder.items.len() as u64;
        assert!((6..10).contains(&kept), "{kept}");
        assert_eq!(forgotten, (0..100 - kept).collect::<Vec<_>>());
        assert_eq!(recorder.labels.len(), 2, "the last names of ports 1 and 3");
    }

    #[test]
    fn what_has_no_room_at_all_is_not_kept() {
        let mut recorder = Recorder::new(10);
        recorder.push_frames(&Block::new(), |_, _| panic!("nothing was kept"));
        assert_eq!((recorder.items.len(), recorder.memory), (0, 0));
        assert_eq!(recorder.recall(&mut recorder.begin(&mut session()), &mut session()), Some("recorded"));
    }

    #[test]
    fn what_was_lost_before_the_time_that_is_wanted_is_not_missing_from_it() {
        let mut recorder = Recorder::new(10 * ITEM_OVERHEAD);
        recorder.push_name(PortId::new(1), &label("p1"), |_, _| {});
        for (secs, dropped) in [(4, 1), (5, 10), (9, 100)] {
            recorder.push_lost(Time::from_secs(secs), &lost(dropped), |_, _| {});
        }
        let mut last = Session::new(Spec { last: Some(Duration::from_secs(5)), ..spec() });
        last.begins(Time::from_secs(10));
        let mut cursor = recorder.begin(&mut last);
        assert_eq!(recorder.recall(&mut cursor, &mut last), Some("recorded"));
        assert_eq!(last.missed(), 110);
    }

    #[test]
    fn what_is_forgotten_before_it_was_taken_is_counted_once() {
        let mut recorder = Recorder::new(6 * ITEM_OVERHEAD);
        recorder.push_name(PortId::new(1), &label("p1"), |_, _| {});
        lose(&mut recorder, 1, |_, _| {});
        lose(&mut recorder, 10, |_, _| {});
        let mut late = session();
        let mut cursor = recorder.begin(&mut late);
        // What comes after the order belongs to no capture of the past.
        for _ in 0..3 {
            lose(&mut recorder, 100, |number, item| cursor.miss(number, item, &mut late));
        }
        assert!(recorder.first >= 2, "the name and a part are forgotten");
        assert_eq!(late.missed(), 1);
        assert_eq!(recorder.recall(&mut cursor, &mut late), Some("recorded"));
        assert_eq!(late.missed(), 11);
        // Nor is it told of twice.
        lose(&mut recorder, 100, |number, item| cursor.miss(number, item, &mut late));
        assert_eq!(late.missed(), 11);

        let mut other = session();
        let mut cursor = recorder.begin(&mut other);
        assert_eq!(recorder.recall(&mut cursor, &mut other), Some("recorded"));
        assert!(other.missed().is_multiple_of(100) && other.missed() > 0, "the port has its name still");
    }
}
