//! The fast path: frames between two stations that the bridge knows are sent on
//! by the kernel, without a wake-up, a copy or a system call of ours.
//!
//! The engine *installs* a station once the bridge has forwarded to and from
//! it, and *withdraws* it before anything that the bridge changes of it can be
//! seen. So the kernel only repeats what the bridge would decide, and whatever
//! is not that plain (a flood, a new or moved station, a frame that does not
//! fit) still comes to the engine. Everything vanishes with the process, even a
//! killed one.
//!
//! Read in this order: `shared` (what both sides read and write, and how frames
//! stay in order), `program` (what the kernel runs), then [`FastPath`] (the
//! control thread's half), [`FastTable`] (the data thread's) and [`FastPort`]
//! (a port's).
//!
//! Deliberately absent: any decision of its own about a frame; and kernels
//! without TCX (before 6.6), on which every frame goes through the engine.

mod program;
mod shared;
mod table;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shared::{DONE, DRAINING, FLAGS, MISSED, SLOW, Shared};

pub use table::{FastFace, FastTable, Passed};

/// Ports that can use the fast path at a time: as many as a switch has. Their
/// pairs are counted in squares of this side.
pub(super) const SLOTS: u16 = 256;
const _: () = assert!(SLOTS as usize == crate::bridge::PORTS_MAX);

/// Stations that the kernel may know at a time. What they cost is a look at each
/// of them between two passes of the ageing, and some 100 bytes of the kernel's.
const STATIONS_MAX: u32 = 1 << 16;

/// A port's number on the fast path, below [`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Slot(u16);

impl Slot {
    const FIRST: Slot = Slot(0);
    /// One behind the last.
    const END: Slot = Slot(SLOTS);

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    fn all() -> impl Iterator<Item = Slot> {
        (0..SLOTS).map(Slot)
    }
}

/// The control thread's half: gives ports their slots and programs.
#[derive(Clone, Debug)]
pub struct FastPath {
    shared: Arc<Shared>,
    taken: Arc<Taken>,
}

/// Whether a port has the slot, for each.
type Taken = [AtomicBool; SLOTS as usize];

impl FastPath {
    /// A fast path for at most `stations` (and 65,536), and its other half for the
    /// engine.
    ///
    /// # Errors
    /// EPERM without CAP_BPF; ENOMEM; anything else a kernel without it says.
    pub fn new(stations: u32) -> io::Result<(FastPath, FastTable)> {
        if cfg!(target_endian = "big") {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let stations = stations.clamp(1, STATIONS_MAX);
        let shared = Arc::new(Shared::new(stations)?);
        let table = FastTable::new(Arc::clone(&shared), stations);
        let taken = Arc::new([const { AtomicBool::new(false) }; SLOTS as usize]);
        Ok((FastPath { shared, taken }, table))
    }

    /// A slot and the programs of a port; `None` if every slot is taken.
    ///
    /// # Errors
    /// The kernel does not take the programs.
    pub(super) fn add_port(&self) -> io::Result<Option<FastPort>> {
        let is_free = |slot: &Slot| !self.taken[slot.index()].swap(true, Ordering::Acquire);
        let Some(slot) = Slot::all().find(is_free) else { return Ok(None) };
        // From here on a failure gives the slot back.
        let mut port = FastPort {
            slot,
            shared: Arc::clone(&self.shared),
            taken: Arc::clone(&self.taken),
            programs: None,
            bursts_until_drain: 0,
            bursts_left: 0,
            missed_before: 0,
            behind: None,
            received: 0,
            dropped: [Dropped::default(); 2],
        };
        let word = |field| port.shared.word(Some(slot), field);
        port.shared.word32(Some(slot), FLAGS).store(0, Ordering::Relaxed);
        port.shared.word32(Some(slot), DRAINING).store(0, Ordering::Relaxed);
        for field in [SLOW, DONE, MISSED] {
            word(field).store(0, Ordering::Relaxed);
        }
        self.shared.map_pairs(slot)?;
        port.programs = Some(Programs {
            filter: program::load_filter(slot, &self.shared)?,
            sender: program::load_sender(slot, &self.shared)?,
        });
        Ok(Some(port))
    }
}

/// What is to be attached to a port's socket and interface.
#[derive(Debug)]
pub(super) struct Programs {
    /// For the packet socket, before it is bound.
    pub filter: OwnedFd,
    /// For the TCX ingress, in place of the isolation's.
    pub sender: OwnedFd,
}

/// A port's share: its slot, and how far its slow way has got.
#[derive(Debug)]
pub(super) struct FastPort {
    slot: Slot,
    shared: Arc<Shared>,
    taken: Arc<Taken>,
    programs: Option<Programs>,
    /// Bursts until draining may begin again.
    bursts_until_drain: u32,
    /// Bursts until draining ends in any case.
    bursts_left: u32,
    /// What the filter had dropped when it began.
    missed_before: u64,
    /// How far the filter had got a second ago, if we were behind.
    behind: Option<u64>,
    /// Frames that came out of the socket.
    received: u64,
    /// Frames that found it full, behind others that still wait there: those that
    /// are through first, and the rest.
    dropped: [Dropped; 2],
}

/// Frames that found the socket full. Some waited there before them, so they are
/// done with only when those are.
#[derive(Clone, Copy, Default, Debug)]
struct Dropped {
    frames: u64,
    /// How many have then come out of the socket since its beginning.
    until: u64,
}

/// Draining ends after so many bursts even if frames still wait: a full receive
/// buffer (some 20,000 small frames) is read in 320.
const DRAIN_BURSTS: u32 = 512;

/// After a drain, so many times its bursts go by before the next: at most a ninth of
/// the time is spent dropping, and a drain that came before most flows were known to the
/// kernel is soon followed by another.
const DRAIN_PAUSE: u32 = 8;

impl FastPort {
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The programs, once.
    pub fn take_programs(&mut self) -> Option<Programs> {
        self.programs.take()
    }

    fn word(&self, field: i16) -> &AtomicU64 {
        self.shared.word(Some(self.slot), field)
    }

    /// So many frames that came out of the socket have been sent on, or are lost.
    pub fn done(&mut self, frames: u64) {
        self.received += frames;
        let mut through = frames;
        while self.dropped[0].frames > 0 && self.dropped[0].until <= self.received {
            through += self.dropped[0].frames;
            self.dropped = [self.dropped[1], Dropped::default()];
        }
        self.add_done(through);
        self.bursts_until_drain = self.bursts_until_drain.saturating_sub(1);
        if self.is_draining() {
            self.bursts_left -= 1;
            if self.bursts_left == 0 || !self.is_behind() {
                self.stop_draining();
            }
        }
    }

    /// So many more frames have found the socket full. Where among those that wait
    /// they were is not known: they count as done once all of these are.
    pub fn dropped(&mut self, frames: u64) {
        let [first, second] = self.dropped;
        let all = first.frames + second.frames + frames;
        // The drops were asked for before this is read: what came between counts as
        // waiting, and all that can happen is that the wait is too long.
        let (slow, done) = (self.word(SLOW).load(Ordering::Relaxed), self.word(DONE).load(Ordering::Relaxed));
        let waiting = slow.saturating_sub(done + all);
        let until = self.received + waiting;
        if waiting == 0 {
            self.dropped = [Dropped::default(); 2];
            self.add_done(all);
            if self.is_draining() {
                self.stop_draining();
            }
        } else if first.frames == 0 {
            self.dropped[0] = Dropped { frames, until };
        } else {
            self.dropped[1] = Dropped { frames: second.frames + frames, until };
        }
    }

    fn add_done(&self, frames: u64) {
        let done = self.word(DONE);
        let frames = done.load(Ordering::Relaxed) + frames;
        // More than were given to the socket, if some were given up for lost that came
        // late.
        let frames = frames.min(self.word(SLOW).load(Ordering::Relaxed));
        // One writer: no frame may be taken before its forerunners are sent.
        done.store(frames, Ordering::Release);
    }

    /// Whether frames wait for us, as far as the filter's count tells.
    pub fn is_behind(&self) -> bool {
        self.has_more_than(0)
    }

    /// Whether more frames than `arrived`, which are not counted yet, were given to the
    /// socket.
    pub fn has_more_than(&self, arrived: u64) -> bool {
        self.word(DONE).load(Ordering::Relaxed) + arrived < self.word(SLOW).load(Ordering::Relaxed)
    }

    /// The socket loses frames, or soon will, so nothing is to be gained by letting more
    /// of them wait there: the filter drops them until the rest is through.
    pub fn drain(&mut self) {
        if self.bursts_until_drain == 0 && !self.is_draining() && self.is_behind() {
            self.missed_before = self.missed();
            self.bursts_left = DRAIN_BURSTS;
            self.shared.word32(Some(self.slot), DRAINING).store(1, Ordering::Relaxed);
        }
    }

    fn is_draining(&self) -> bool {
        self.bursts_left > 0
    }

    fn stop_draining(&mut self) {
        // What dropped nothing does not count: there may be something the next time.
        if self.missed() != self.missed_before {
            self.bursts_until_drain = DRAIN_PAUSE * (DRAIN_BURSTS - self.bursts_left);
        }
        self.bursts_left = 0;
        self.shared.word32(Some(self.slot), DRAINING).store(0, Ordering::Relaxed);
    }

    /// Once a second, when the socket was found empty: frames that the filter
    /// gave to it a second ago and that never came are lost for good. Without
    /// this one of them would close the fast path for ever.
    pub fn forget_lost(&mut self) {
        let (slow, done) = (self.word(SLOW).load(Ordering::Relaxed), self.word(DONE).load(Ordering::Relaxed));
        if let Some(then) = self.behind.take()
            && done < then
        {
            self.word(DONE).store(then, Ordering::Release);
            self.dropped = [Dropped::default(); 2];
        }
        if done < slow {
            self.behind = Some(slow);
        }
    }

    /// Frames that the filter dropped, so that earlier ones could get through.
    pub fn missed(&self) -> u64 {
        self.word(MISSED).load(Ordering::Relaxed)
    }
}

impl Drop for FastPort {
    fn drop(&mut self) {
        self.shared.word32(Some(self.slot), FLAGS).store(0, Ordering::Relaxed);
        // What still waited is lost with the socket: nobody need wait for it.
        let slow = self.word(SLOW).load(Ordering::Relaxed);
        self.word(DONE).store(slow, Ordering::Relaxed);
        self.taken[self.slot.index()].store(false, Ordering::Release);
    }
}
