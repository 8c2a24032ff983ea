//! The seam by which the data thread tells the capture thread of frames.
//!
//! Off, it costs a branch a turn. On, each burst is copied once, at most
//! `snaplen` bytes a frame, after its copies have left and before its memory is
//! given back, into a [`Block`] that was allocated beforehand. Blocks travel by a
//! bounded channel and come back empty by a ring. When none is empty, frames
//! are counted as lost to the capture, by port and direction, and forwarded all
//! the same, as if nobody looked: for each port, recorded + lost = counted.
//!
//! What else changes the bridge while somebody looks goes the same way, in order
//! with the frames: settings, links, entries ([`Change`]), and the instants at
//! which a capture begins and ends ([`Mark`]).
//!
//! Deliberately absent: filters, formats and files (`capture`), and any waiting
//! for whoever reads.

mod block;
mod fates;
mod witness;

pub use block::{Block, Copies, Lost, Seen, Turn};
pub(super) use witness::Witness;

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender};
use mio::Waker;
use rtrb::{Consumer, Producer, RingBuffer};

use super::{Snapshot, Tuning};
use crate::bridge::{
    Account, BURST, EntryKind, FdbEntry, FlushScope, PORTS_MAX, PortCounters, PortId, PortSet, PortSettings,
    Refusal, Settings, Story, Time, Verdict,
};
use crate::frame::{Frame, MacAddr, VlanId};
use block::{COPIES_OF_BURST, REFUSALS_OF_BURST, Record};

/// Blocks of a switch. At 5 million 60-byte frames a second they are full after
/// 13 ms, which is longer than the capture thread sleeps.
pub const BLOCKS: usize = 32;

/// Changes that may be on their way, beside every block; more are counted.
const CHANGES: usize = 1024;

/// Marks and parts of the FDB that may be on their way, beside all that. A capture
/// without its mark would neither begin nor end: each has two, and one part that
/// it waits for, and those that were over before their marks came are in between.
const MARKS: usize = 128;

/// A block leaves after this long, full or not.
const PATIENCE: Duration = Duration::from_millis(1);

/// What one capture wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Turns in which one of these ports has a part.
    pub ports: PortSet,
    /// Bytes of each frame.
    pub snaplen: u32,
    /// All that explains each verdict.
    pub accounts: bool,
}

impl Want {
    const NOTHING: Want = Want { ports: PortSet::EMPTY, snaplen: 0, accounts: false };

    fn and(self, other: Want) -> Want {
        Want {
            ports: self.ports | other.ports,
            snaplen: self.snaplen.max(other.snaplen),
            accounts: self.accounts || other.accounts,
        }
    }
}

/// What the data thread tells, in the order in which it happened.
#[derive(Debug)]
pub enum Told {
    /// Frames.
    Block(Block),
    /// A capture begins or ends here.
    Mark(Box<Mark>),
    /// Something else changed the bridge.
    Change {
        /// When.
        time: Time,
        /// What.
        change: Change,
    },
    /// More of the FDB, as it is at this point.
    Fdb {
        /// The capture that asked.
        id: u64,
        /// When.
        time: Time,
        /// Live entries.
        entries: Vec<FdbEntry>,
        /// Where to go on.
        next: Option<u32>,
    },
}

/// An instant between two turns, with everything that holds there.
#[derive(Debug)]
pub struct Mark {
    /// The capture.
    pub id: u64,
    /// Which end of it.
    pub edge: Edge,
    /// Nanoseconds since 1970 at the switch's start: added to a [`Time`], they
    /// make a date.
    pub epoch_ns: u64,
    /// Every counter, what the kernel's fast path forwarded included.
    pub snapshot: Snapshot,
    /// Settings of the bridge.
    pub settings: Settings,
    /// Whether short frames are padded, and more of that kind.
    pub tuning: Tuning,
    /// Settings of each port.
    pub ports: Vec<(PortId, PortSettings)>,
    /// At the start: the first part of the FDB.
    pub fdb: Vec<FdbEntry>,
    /// Where the next part begins.
    pub fdb_next: Option<u32>,
    /// What was not recorded since the last block.
    pub lost: Vec<(PortId, Lost)>,
    /// Changes that were not told since the last block.
    pub untold: u64,
}

/// The two ends of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// What comes after the mark belongs to the capture.
    Start,
    /// What comes after the mark does not.
    End,
}

/// What changes the bridge besides frames.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A port was added, its link down.
    PortAdded {
        /// Its number.
        id: PortId,
        /// Its settings.
        settings: PortSettings,
    },
    /// A port was removed.
    PortRemoved {
        /// Its number.
        id: PortId,
        /// What it had counted.
        counters: Box<PortCounters>,
        /// What of that was not recorded since the last block.
        lost: Lost,
    },
    /// A port's settings are others.
    PortSet {
        /// Its number.
        id: PortId,
        /// Its settings.
        settings: PortSettings,
    },
    /// A port's link is up, or is not.
    Link {
        /// Its number.
        id: PortId,
        /// Whether it is up.
        up: bool,
    },
    /// The switch's settings are others.
    Configured(Settings),
    /// An address was bound.
    EntrySet {
        /// Its VLAN.
        vid: VlanId,
        /// The address.
        mac: MacAddr,
        /// Its port.
        port: PortId,
        /// Static or sticky.
        kind: EntryKind,
    },
    /// An entry was deleted.
    EntryDeleted {
        /// Its VLAN.
        vid: VlanId,
        /// The address.
        mac: MacAddr,
    },
    /// Entries were flushed.
    Flushed(FlushScope),
    /// Entries that had aged were taken out.
    Swept,
}

/// Lets the data thread wake the capture thread, if it sleeps.
#[derive(Debug, Default)]
pub struct Sleeper {
    asleep: AtomicBool,
    waker: OnceLock<Arc<Waker>>,
}

impl Sleeper {
    /// What ends the sleep; only the first one given counts.
    pub fn set_waker(&self, waker: Arc<Waker>) {
        // Whoever comes second never sleeps.
        let _ = self.waker.set(waker);
    }

    /// Says that its owner goes to sleep; it looks once more before it does.
    pub fn doze(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Says that its owner is awake.
    pub fn rise(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Wakes the owner if it sleeps.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(waker) = self.waker.get()
        {
            // An eventfd takes this as long as it is open.
            let _ = waker.wake();
        }
    }
}

/// The capture thread's end of the seam.
#[derive(Debug)]
pub struct Observation {
    /// What is told.
    pub told: Receiver<Told>,
    /// Takes empty blocks: [`BLOCKS`] of them at the start, and each that was read. No
    /// channel: the data thread would spin while the capture thread, which is nicer, is
    /// stopped in the middle of giving one back.
    pub empty: Producer<Block>,
    /// How the data thread wakes the reader.
    pub sleeper: Arc<Sleeper>,
}

/// The data thread's end.
#[derive(Debug)]
pub(super) struct Observer {
    wants: Vec<(u64, Want)>,
    /// All of them together.
    want: Want,
    told: Sender<Told>,
    empty: Consumer<Block>,
    sleeper: Arc<Sleeper>,
    /// Blocks to be used next; the last is the one that came back last, which is
    /// in the cache.
    spare: ArrayVec<Block, BLOCKS>,
    filling: Option<Block>,
    /// When its first turn was.
    since: Time,
    lost: Box<[Lost; PORTS_MAX]>,
    lost_ports: PortSet,
    /// Changes that found no room.
    untold: u64,
    next_id: u64,
    /// The turn at hand: how many of its frames were forwarded and dropped, if there
    /// is no block for it.
    misses: Option<[u64; 2]>,
    stories: ArrayVec<Story, BURST>,
    /// Of each frame, if they are wanted.
    accounts: Vec<Account>,
    copies: Vec<Copies>,
    refusals: Vec<(u8, Refusal)>,
}

/// Both ends.
pub(super) fn seam() -> (Observer, Observation) {
    let (told_in, told) = crossbeam_channel::bounded(BLOCKS + CHANGES + MARKS);
    let (empty, empty_out) = RingBuffer::new(BLOCKS);
    let sleeper = Arc::new(Sleeper::default());
    let observer = Observer {
        wants: Vec::new(),
        want: Want::NOTHING,
        told: told_in,
        empty: empty_out,
        sleeper: Arc::clone(&sleeper),
        spare: ArrayVec::new(),
        filling: None,
        since: Time::START,
        lost: Box::new([Lost::default(); PORTS_MAX]),
        lost_ports: PortSet::EMPTY,
        untold: 0,
        next_id: 0,
        misses: None,
        stories: ArrayVec::new(),
        accounts: Vec::with_capacity(BURST),
        copies: Vec::with_capacity(COPIES_OF_BURST),
        refusals: Vec::with_capacity(REFUSALS_OF_BURST),
    };
    (observer, Observation { told, empty, sleeper })
}

impl Observer {
    /// Adds what capture `id` wants, or forgets it.
    pub fn set_want(&mut self, id: u64, want: Option<Want>) {
        self.wants.retain(|(other, _)| *other != id);
        self.wants.extend(want.map(|want| (id, want)));
        self.add_wants();
    }

    /// Capture `id`, if it is under way, wants the frames of `port`, or does not.
    pub fn set_port(&mut self, id: u64, port: PortId, is_wanted: bool) {
        let Some((_, want)) = self.wants.iter_mut().find(|(other, _)| *other == id) else { return };
        if is_wanted {
            want.ports.insert(port);
        } else {
            want.ports.remove(port);
        }
        self.add_wants();
    }

    fn add_wants(&mut self) {
        self.want = self.wants.iter().fold(Want::NOTHING, |all, (_, want)| all.and(*want));
    }

    /// Whether anybody wants anything.
    pub fn is_wanted(&self) -> bool {
        !self.wants.is_empty()
    }

    /// The captures that are under way.
    pub fn captures(&self) -> Vec<u64> {
        self.wants.iter().map(|(id, _)| *id).collect()
    }

    /// Records a turn whose copies have left.
    pub fn record(&mut self, time: Time, ingress: PortId, frames: &[Frame<'_>]) {
        let wanted = self.want.ports;
        let mut touches = wanted.contains(ingress);
        for copies in &self.copies {
            touches |= wanted.contains(copies.egress);
        }
        if touches {
            let (stories, accounts) = (self.stories.take(), std::mem::take(&mut self.accounts));
            let (copies, refusals) = (std::mem::take(&mut self.copies), std::mem::take(&mut self.refusals));
            let record = Record {
                time,
                ingress,
                first_id: self.next_id,
                frames,
                stories: &stories,
                accounts: &accounts,
                copies: &copies,
                refusals: &refusals,
                snaplen: self.want.snaplen,
            };
            if let Some(misses) = self.misses {
                self.lose(ingress, misses, &copies);
            } else if !self.push(&record) {
                self.lose(ingress, count(stories.iter().map(|story| &story.verdict)), &copies);
            }
            (self.accounts, self.copies, self.refusals) = (accounts, copies, refusals);
        }
        self.next_id += frames.len() as u64;
        self.accounts.clear();
        self.copies.clear();
        self.refusals.clear();
    }

    fn push(&mut self, record: &Record<'_>) -> bool {
        if let Some(block) = self.filling.as_mut() {
            if !block.is_full() && block.push(record) {
                return true;
            }
            self.flush();
        }
        let Some(mut block) = self.empty_block() else { return false };
        // An empty block has room for any burst but one of a port that breaks
        // the bounds on bursts.
        let pushed = block.push(record);
        self.since = record.time;
        self.filling = Some(block);
        pushed
    }

    fn empty_block(&mut self) -> Option<Block> {
        while !self.spare.is_full()
            && let Ok(block) = self.empty.pop()
        {
            self.spare.push(block);
        }
        self.spare.pop()
    }

    /// Whether the next turn has a block.
    fn has_block(&mut self) -> bool {
        if self.filling.as_ref().is_some_and(|block| !block.is_full()) {
            return true;
        }
        self.flush();
        if self.spare.is_empty() {
            self.spare.extend(self.empty.pop());
        }
        !self.spare.is_empty()
    }

    fn lose(&mut self, ingress: PortId, [forwarded, dropped]: [u64; 2], copies: &[Copies]) {
        let lost = &mut self.lost[ingress.index()];
        lost.forwarded += forwarded;
        lost.dropped += dropped;
        self.lost_ports.insert(ingress);
        for copies in copies {
            let lost = &mut self.lost[copies.egress.index()];
            lost.refused += u64::from(copies.refused_len);
            lost.sent += u64::from(copies.chosen.count_ones()) - u64::from(copies.refused_len);
            self.lost_ports.insert(copies.egress);
        }
    }

    /// What was lost since the last call.
    fn take_lost(&mut self, into: &mut Vec<(PortId, Lost)>) {
        for id in std::mem::take(&mut self.lost_ports).iter() {
            into.push((id, std::mem::take(&mut self.lost[id.index()])));
        }
    }

    /// Hands over what is recorded, if it has waited long enough, or the data
    /// thread is about to sleep.
    #[inline]
    pub fn settle(&mut self, now: Time, sleeps: bool) {
        if self.filling.is_some() && (sleeps || now >= self.since.after(PATIENCE)) {
            self.flush();
        }
    }

    /// Hands over what is recorded.
    fn flush(&mut self) {
        let Some(mut block) = self.filling.take() else { return };
        self.take_lost(&mut block.lost);
        block.untold = std::mem::take(&mut self.untold);
        // There is room for every block there is. Without a reader, nobody
        // misses it.
        let _ = self.told.try_send(Told::Block(block));
        self.sleeper.wake();
    }

    /// Tells of a change, behind the frames before it. One that finds no room is
    /// counted, which the next block or mark says.
    pub fn tell_change(&mut self, time: Time, change: Change) {
        self.flush();
        if self.told.len() >= CHANGES || self.told.try_send(Told::Change { time, change }).is_err() {
            self.untold += 1;
        }
        self.sleeper.wake();
    }

    /// Tells what a capture waits for, behind all before it.
    pub fn tell(&mut self, told: Told) {
        self.flush();
        // There is room; without a reader, nobody misses it.
        let _ = self.told.try_send(told);
        self.sleeper.wake();
    }

    /// What was lost and has not been said yet, and the changes that were not told,
    /// for a mark.
    pub fn lost_so_far(&mut self) -> (Vec<(PortId, Lost)>, u64) {
        self.flush();
        let mut lost = Vec::new();
        self.take_lost(&mut lost);
        (lost, std::mem::take(&mut self.untold))
    }

    /// What one port lost and has not been said yet: its number may be another's
    /// when the next block is.
    pub fn lost_of(&mut self, id: PortId) -> Lost {
        self.flush();
        self.lost_ports.remove(id);
        std::mem::take(&mut self.lost[id.index()])
    }
}

/// How many are forwarded, and dropped.
fn count<'v>(verdicts: impl Iterator<Item = &'v Verdict>) -> [u64; 2] {
    let mut sums = [0; 2];
    for verdict in verdicts {
        sums[usize::from(matches!(verdict, Verdict::Drop(_)))] += 1;
    }
    sums
}
