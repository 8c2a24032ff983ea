//! Memory in which frames and what became of them go from the data thread to the
//! capture thread, and come back empty.
//!
//! A block holds whole turns: the frames of a burst once each, with the first
//! bytes of each, the story of its verdict, and for every egress a bit mask of the frames
//! that were chosen for it. The copies of a frame are not stored again: the bytes
//! that were judged are the bytes that are sent. Nor is a story that is that of the
//! frame before, as most are: each line that is written here comes from the core
//! that read it last. If somebody asks for it, there is all that explains each verdict
//! as well.
//!
//! Deliberately absent: allocation after [`Block::new`], and text.

use crate::bridge::{Account, BURST, PORTS_MAX, PortId, Refusal, Story, Time};
use crate::frame::{Frame, Wire};
use crate::offload::VnetHeader;
use crate::port::gather;

/// Bytes of frames in a block. The longest burst has room: 512 KiB, and the
/// frame that went beyond.
const BYTES: usize = 1 << 20;

/// A block that holds so many bytes leaves.
const BYTES_FULL: usize = 512 << 10;

/// Frames in a block. Of short ones few bytes make it full, so that the blocks in
/// use stay in the processor's cache.
const FRAMES: usize = 2048;

/// Copies and refusals of one burst at most: a mask, or 64 of them, for each port.
pub(super) const COPIES_OF_BURST: usize = PORTS_MAX;
pub(super) const REFUSALS_OF_BURST: usize = PORTS_MAX * BURST;

/// One frame that came in, and what was decided.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'b> {
    /// What became of it, and why.
    pub story: &'b Story,
    /// What was unfinished in it.
    pub vnet: &'b VnetHeader,
    /// Bytes as it crossed.
    pub len: u32,
    /// Those of them that are here: the first.
    pub bytes: &'b [u8],
    /// Frames of a turn with the same number here have the same story and header.
    pub sort: u16,
}

/// A frame as it is kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    len: u32,
    captured_len: u32,
    /// Where its bytes are.
    start: u32,
    /// Which of the block's sorts it is.
    sort: u16,
}

/// What frames that follow each other have in common, mostly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sort {
    story: Story,
    vnet: VnetHeader,
}

/// What one egress did with the frames of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// The port.
    pub egress: PortId,
    /// Frames chosen for it, by their position in the turn.
    pub chosen: u64,
    /// Of them, those that it padded.
    pub padded: u64,
    /// And those whose checksum it completed, or which it cut into segments.
    pub finished: u64,
    /// Its MTU then.
    pub mtu: u32,
    /// Of the turn's refusals, so many are this port's, in the order of ports.
    pub refused_len: u16,
}

#[derive(Clone, Copy, Debug)]
struct TurnLens {
    time: Time,
    ingress: PortId,
    first_id: u64,
    frames_len: u16,
    accounts_len: u16,
    copies_len: u16,
    refusals_len: u16,
}

/// Frames that were counted and not recorded, for want of an empty block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Frames that came in and were forwarded.
    pub forwarded: u64,
    /// Frames that came in and were dropped.
    pub dropped: u64,
    /// Copies sent.
    pub sent: u64,
    /// Copies refused.
    pub refused: u64,
}

/// Turns of the data thread, in order.
#[derive(Debug)]
pub struct Block {
    turns: Vec<TurnLens>,
    frames: Vec<Kept>,
    sorts: Vec<Sort>,
    /// Of each frame of some turns, and of none of the others.
    accounts: Vec<Account>,
    copies: Vec<Copies>,
    /// Position in its turn and reason.
    refusals: Vec<(u8, Refusal)>,
    /// Filled up to `used`.
    bytes: Vec<u8>,
    used: usize,
    /// What was not recorded since the block before.
    pub lost: Vec<(PortId, Lost)>,
    /// Changes that were not told since the block before.
    pub untold: u64,
}

/// One turn in a block.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'b> {
    /// When it was judged.
    pub time: Time,
    /// The port that its frames came in by.
    pub ingress: PortId,
    /// The number of its first frame; the others follow.
    pub first_id: u64,
    frames: &'b [Kept],
    sorts: &'b [Sort],
    /// All that explains the verdict on each; empty if nobody asked for it.
    pub accounts: &'b [Account],
    /// What left by each egress.
    pub copies: &'b [Copies],
    /// Copies refused: the frame's position in the turn, and why.
    pub refusals: &'b [(u8, Refusal)],
    bytes: &'b [u8],
}

impl<'b> Turn<'b> {
    /// Its frames, 64 at most.
    pub fn frames(&self) -> impl Iterator<Item = Seen<'b>> {
        let Turn { frames, sorts, bytes, .. } = *self;
        frames.iter().map(move |kept| kept.seen(sorts, bytes))
    }

    /// Frame number `index`.
    pub fn frame(&self, index: u8) -> Option<Seen<'b>> {
        Some(self.frames.get(usize::from(index))?.seen(self.sorts, self.bytes))
    }
}

impl Kept {
    fn seen<'b>(&self, sorts: &'b [Sort], bytes: &'b [u8]) -> Seen<'b> {
        let Kept { len, captured_len, start, sort } = *self;
        let Sort { story, vnet } = &sorts[usize::from(sort)];
        let start = start as usize;
        Seen { story, vnet, len, bytes: &bytes[start..start + captured_len as usize], sort }
    }
}

/// What of a burst is recorded: all of it that needs room.
pub(super) struct Record<'r> {
    pub time: Time,
    pub ingress: PortId,
    pub first_id: u64,
    pub frames: &'r [Frame<'r>],
    pub stories: &'r [Story],
    /// Of each frame, or none.
    pub accounts: &'r [Account],
    pub copies: &'r [Copies],
    pub refusals: &'r [(u8, Refusal)],
    pub snaplen: u32,
}

impl Record<'_> {
    fn bytes_len(&self) -> usize {
        self.frames.iter().map(|frame| frame.len().min(self.snaplen) as usize).sum()
    }
}

impl Default for Block {
    fn default() -> Block {
        Block::new()
    }
}

impl Block {
    /// An empty block; its memory is only touched as far as it is filled.
    pub fn new() -> Block {
        Block {
            turns: Vec::with_capacity(FRAMES),
            frames: Vec::with_capacity(FRAMES),
            sorts: Vec::with_capacity(FRAMES),
            accounts: Vec::with_capacity(FRAMES),
            copies: Vec::with_capacity(2 * FRAMES),
            refusals: Vec::with_capacity(REFUSALS_OF_BURST),
            bytes: vec![0; BYTES],
            used: 0,
            lost: Vec::with_capacity(PORTS_MAX),
            untold: 0,
        }
    }

    /// One turn of one frame that left by no port.
    #[cfg(test)]
    pub(crate) fn of_one(time: Time, ingress: PortId, story: Story, frame: &Frame<'_>) -> Block {
        let mut block = Block::new();
        let (frames, stories) = (&[*frame][..], &[story][..]);
        let (copies, refusals) = (&[][..], &[][..]);
        let (accounts, snaplen) = (&[][..], u32::MAX);
        let record =
            Record { time, ingress, first_id: 0, frames, stories, accounts, copies, refusals, snaplen };
        assert!(block.push(&record));
        block
    }

    /// Makes it empty again.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.frames.clear();
        self.sorts.clear();
        self.accounts.clear();
        self.copies.clear();
        self.refusals.clear();
        self.lost.clear();
        self.untold = 0;
        self.used = 0;
    }

    /// Whether nothing was recorded in it, nor missed before it.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.lost.is_empty()
    }

    /// Frames recorded in it.
    pub fn frames_len(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of memory that [a copy](Self::to_kept) takes.
    pub fn memory(&self) -> usize {
        self.used
            + self.turns.len() * size_of::<TurnLens>()
            + self.frames.len() * size_of::<Kept>()
            + self.sorts.len() * size_of::<Sort>()
            + self.copies.len() * size_of::<Copies>()
            + self.refusals.len() * size_of::<(u8, Refusal)>()
            + self.lost.len() * size_of::<(PortId, Lost)>()
    }

    /// When its last turn was.
    pub fn last_time(&self) -> Option<Time> {
        Some(self.turns.last()?.time)
    }

    /// A copy that takes no more memory than it must, to be kept: accounts, which
    /// are for who looks on, are not.
    #[must_use]
    pub fn to_kept(&self) -> Block {
        let bare = |turn: &TurnLens| TurnLens { accounts_len: 0, ..*turn };
        Block {
            turns: self.turns.iter().map(bare).collect(),
            frames: self.frames.clone(),
            sorts: self.sorts.clone(),
            accounts: Vec::new(),
            copies: self.copies.clone(),
            refusals: self.refusals.clone(),
            bytes: self.bytes[..self.used].to_vec(),
            used: self.used,
            lost: self.lost.clone(),
            untold: self.untold,
        }
    }

    /// The turns, in order.
    pub fn turns(&self) -> impl Iterator<Item = Turn<'_>> {
        let (mut frames, mut copies) = (self.frames.as_slice(), self.copies.as_slice());
        let (mut accounts, mut refusals) = (self.accounts.as_slice(), self.refusals.as_slice());
        self.turns.iter().map(move |turn| {
            let (these, rest) = frames.split_at(turn.frames_len.into());
            frames = rest;
            let (explained, rest) = accounts.split_at(turn.accounts_len.into());
            accounts = rest;
            let (left_by, rest) = copies.split_at(turn.copies_len.into());
            copies = rest;
            let (refused, rest) = refusals.split_at(turn.refusals_len.into());
            refusals = rest;
            Turn {
                time: turn.time,
                ingress: turn.ingress,
                first_id: turn.first_id,
                frames: these,
                sorts: &self.sorts,
                accounts: explained,
                copies: left_by,
                refusals: refused,
                bytes: &self.bytes,
            }
        })
    }

    /// Whether it should leave before it takes more.
    pub(super) fn is_full(&self) -> bool {
        self.used >= BYTES_FULL || self.frames.len() + BURST > FRAMES
    }

    /// Whether there is room for `record`.
    fn has_room(&self, record: &Record<'_>) -> bool {
        let fits = |len: usize, more: usize, capacity: usize| len + more <= capacity;
        fits(self.turns.len(), 1, self.turns.capacity())
            && fits(self.frames.len(), record.frames.len(), self.frames.capacity())
            && fits(self.accounts.len(), record.accounts.len(), self.accounts.capacity())
            && fits(self.copies.len(), record.copies.len(), self.copies.capacity())
            && fits(self.refusals.len(), record.refusals.len(), self.refusals.capacity())
            && fits(self.used, record.bytes_len(), self.bytes.len())
    }

    /// Takes `record`; false, and nothing is changed, if there is no room.
    pub(super) fn push(&mut self, record: &Record<'_>) -> bool {
        if !self.has_room(record) {
            return false;
        }
        for (frame, story) in record.frames.iter().zip(record.stories) {
            let captured_len = frame.len().min(record.snaplen);
            let end = self.used + captured_len as usize;
            copy(frame, &mut self.bytes[self.used..end]);
            let sort = Sort { story: *story, vnet: *frame.vnet() };
            if self.sorts.last() != Some(&sort) {
                self.sorts.push(sort);
            }
            self.frames.push(Kept {
                len: frame.len(),
                captured_len,
                // A block has far less than 4 GiB.
                start: u32::try_from(self.used).unwrap_or(u32::MAX),
                // And at most `FRAMES` sorts.
                sort: u16::try_from(self.sorts.len() - 1).unwrap_or(u16::MAX),
            });
            self.used = end;
        }
        self.accounts.extend_from_slice(record.accounts);
        self.copies.extend_from_slice(record.copies);
        self.refusals.extend_from_slice(record.refusals);
        // None is longer than a burst allows: 64 frames, 256 ports, 16,384 of both.
        let len = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        self.turns.push(TurnLens {
            time: record.time,
            ingress: record.ingress,
            first_id: record.first_id,
            frames_len: len(record.frames.len()),
            accounts_len: len(record.accounts.len()),
            copies_len: len(record.copies.len()),
            refusals_len: len(record.refusals.len()),
        });
        true
    }
}

/// Copies the first bytes of `frame`. Most are short, where a call of memcpy(3) costs
/// more than the bytes do: up to 128 are copied as two runs of half the length that
/// may overlap.
#[inline(always)]
fn copy(frame: &Frame<'_>, out: &mut [u8]) {
    let wire = Wire::of(frame);
    match out.len() {
        len @ 64..=128 if len <= wire.head.len() => ends::<64>(wire.head, out),
        len @ 32..64 if len <= wire.head.len() => ends::<32>(wire.head, out),
        _ => {
            gather(&wire, out);
        }
    }
}

/// The first `N` and the last `N` bytes that `out` has room for.
#[inline(always)]
fn ends<const N: usize>(head: &[u8], out: &mut [u8]) {
    let last = out.len() - N;
    out[..N].copy_from_slice(&head[..N]);
    out[last..].copy_from_slice(&head[last..last + N]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::{DropReason, Learning, LookUp, Verdict};
    use crate::frame::Piece;
    use crate::offload::DATA_VALID;

    fn story(reason: DropReason) -> Story {
        let (learning, look_up) = (Learning::NotReached, LookUp::NotReached);
        Story { learning, bound: None, look_up, verdict: Verdict::Drop(reason) }
    }

    #[test]
    fn bytes_of_all_lengths_are_whole_wherever_they_are_cut() {
        let bytes: Vec<u8> = (0..=255).collect();
        for (head_len, snaplen) in (0..200).flat_map(|len| [(len, 0), (len, 33), (len, 100), (len, 300)]) {
            let (head, rest) = bytes.split_at(head_len);
            let rest = [Piece::from_slice(rest)];
            let frame = Frame::new(head, &rest, VnetHeader::PLAIN);
            let len = bytes.len().min(snaplen);
            let mut out = [0xaa; 300];
            copy(&frame, &mut out[..len]);
            assert_eq!(out[..len], bytes[..len], "{head_len} in the head, {snaplen} captured");
            assert!(out[len..].iter().all(|byte| *byte == 0xaa));
        }
    }

    #[test]
    fn each_frame_has_its_own_story_and_header_however_they_follow() {
        let unfinished = VnetHeader { flags: DATA_VALID, ..VnetHeader::PLAIN };
        let [a, b] = [DropReason::Runt, DropReason::Filtered].map(story);
        let stories = [a, a, b, a, a];
        let vnets = [VnetHeader::PLAIN, VnetHeader::PLAIN, VnetHeader::PLAIN, VnetHeader::PLAIN, unfinished];
        let bytes = [1u8, 2, 3, 4, 5].map(|n| vec![n; 50 + usize::from(n)]);
        let frames: Vec<_> =
            bytes.iter().zip(vnets).map(|(bytes, vnet)| Frame::new(bytes, &[], vnet)).collect();
        let mut block = Block::new();
        for (first_id, len) in [(0, 5), (5, 3)] {
            let (frames, stories) = (&frames[..len], &stories[..len]);
            let (accounts, copies, refusals) = (&[][..], &[][..], &[][..]);
            let (time, ingress, snaplen) = (Time::START, PortId::new(1), 52);
            let record =
                Record { time, ingress, first_id, frames, stories, accounts, copies, refusals, snaplen };
            assert!(block.push(&record));
        }
        for block in [block.to_kept(), block] {
            let turns: Vec<_> = block.turns().collect();
            assert_eq!(turns.iter().map(|turn| turn.frames().count()).collect::<Vec<_>>(), [5, 3]);
            for turn in turns {
                let mut last = None;
                for (n, seen) in turn.frames().enumerate() {
                    assert_eq!((*seen.story, *seen.vnet), (stories[n], vnets[n]), "frame {n}");
                    assert_eq!(
                        (seen.len as usize, seen.bytes),
                        (bytes[n].len(), &bytes[n][..seen.bytes.len()])
                    );
                    assert_eq!(seen.bytes.len(), bytes[n].len().min(52));
                    let same = n > 0 && (stories[n], vnets[n]) == (stories[n - 1], vnets[n - 1]);
                    assert_eq!(last == Some(seen.sort), same, "frame {n}");
                    last = Some(seen.sort);
                }
            }
        }
    }
}
