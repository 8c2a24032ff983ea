//! What user space and the programs of the fast path both read and write.
//!
//! Three maps. *Stations*, a hash: where a station is, since when it may be
//! taken, and when it was last heard. *Words*, mapped into our memory: the
//! state of each port. *Pairs*, mapped too: how many frames went from each port
//! to each other, in a few squares of counters among which the processors are
//! divided.
//!
//! **Order.** A frame must not overtake an earlier one of the same source and
//! destination that waits in the packet socket. Each port therefore numbers
//! the frames that it gives to its socket (`SLOW`), and the engine says how many
//! it is done with (`DONE`). A station's `gated` is the number of the last frame
//! from there that went the slow way although both stations are known: it did not
//! fit the fast path, or would have overtaken another. A frame is taken if `DONE`
//! is well past its source's `gated`; and as long as an entry is young (above
//! `SETTLED`), when frames from before it may still be waiting, only if `DONE`
//! has reached `SLOW`: nothing waits at all. (One number for a whole port would do
//! too; but on a busy port each new station would close the fast path for all.)
//! Two things are left to chance: frames of one source on two processors at a time,
//! which may set `gated` back by the few frames between them, and a processor that is
//! halted for long between a look at the maps, numbering a frame, and giving it to the
//! socket.
//!
//! A sender that is always faster than the slow way would never find it empty.
//! Once its socket loses frames, or is about to, `DRAINING` makes the filter drop (and
//! count, `MISSED`) what would have to wait, until the rest is through.
//!
//! Deliberately absent: locks. Each word has one writer, or is only added to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{SLOTS, Slot};
use crate::port::bpf::{self, MapType};

/// A station, as the stations map holds it. Its key is the address's six bytes
/// and two of zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(super) struct Station {
    /// Slot of the port that it is on.
    pub slot: u32,
    pub padding: u32,
    /// Number of its installation.
    pub generation: u64,
    /// When it last sent a frame, in ns of CLOCK_MONOTONIC_COARSE; written by
    /// the filter.
    pub seen: u64,
    /// Number of its last frame behind which others must wait, among the slow ones
    /// of its port; written by the filter.
    pub gated: u64,
}

impl Station {
    pub const SLOT: i16 = 0;
    pub const GENERATION: i16 = 8;
    pub const SEEN: i16 = 16;
    pub const GATED: i16 = 24;
}

/// Words of the whole switch, in bytes from the beginning: 64 bits.
pub(super) const SETTLED: i16 = 0;
/// The shortest frame that is taken, in bytes: 32 bits.
pub(super) const SHORTEST: i16 = 8;

/// Bytes of a port's words; the switch's come first and have as many.
pub(super) const PORT_LEN: usize = 64;

// Words of a port, in bytes from where they begin.
/// 32 bits of flags.
pub(super) const FLAGS: i16 = 0;
/// 32 bits.
pub(super) const IFINDEX: i16 = 4;
/// Longest frame that may leave here in bytes, its customer tag aside: 32 bits.
pub(super) const LONGEST: i16 = 8;
/// 32 bits: not zero while what would have to wait is dropped.
pub(super) const DRAINING: i16 = 12;
/// 64 bits; written by the filter.
pub(super) const SLOW: i16 = 16;
/// 64 bits; written by us.
pub(super) const DONE: i16 = 24;
/// 64 bits; written by the filter.
pub(super) const MISSED: i16 = 32;

/// Flag: the fast path may be used from and to this port.
pub(super) const ENABLED: i32 = 1;
/// Flag: not to another port that has it too.
pub(super) const ISOLATED: i32 = 2;

/// Where the words of the port in `slot` begin.
pub(super) fn port_at(slot: Slot) -> i16 {
    // 256 slots of 64 bytes.
    (slot.get().cast_signed() + 1) * 64
}

const WORDS_LEN: usize = PORT_LEN * (1 + SLOTS as usize);

/// Bytes of a pair's counters: frames, then bytes.
pub(super) const PAIR_LEN: usize = 16;
/// Bytes of the pairs with one ingress.
const ROW_LEN: usize = PAIR_LEN * SLOTS as usize;

/// Bytes of a square of pairs.
pub(super) const SQUARE_LEN: usize = PAIR_LEN * SLOTS as usize * SLOTS as usize;

/// Squares at most: the kernel keeps memory for all of each. Of more processors,
/// several share one, and add to it as one step.
const SQUARES_MAX: usize = 8;

/// Where in a square the pairs begin whose ingress is `slot`.
pub(super) fn pairs_from(slot: Slot) -> i32 {
    i32::from(slot.get()) * i32::from(SLOTS) * 16
}

/// The maps.
#[derive(Debug)]
pub(super) struct Shared {
    stations: OwnedFd,
    words: Mapping,
    pairs: Mapping,
    squares: usize,
    /// Slots whose pairs are in our memory: those below.
    mapped: AtomicU16,
    /// Whether more than one processor may add to a pair at a time.
    is_crowded: bool,
}

impl Shared {
    /// Empty maps with room for `stations`.
    ///
    /// # Errors
    /// EPERM without CAP_BPF; ENOMEM.
    pub fn new(stations: u32) -> io::Result<Shared> {
        let processors = processors();
        let squares = processors.next_power_of_two().min(SQUARES_MAX);
        Ok(Shared {
            stations: bpf::map(MapType::Hash, size_of::<u64>(), size_of::<Station>(), stations)?,
            words: Mapping::new(WORDS_LEN)?,
            pairs: Mapping::reserved(SQUARE_LEN * squares)?,
            squares,
            mapped: AtomicU16::new(0),
            is_crowded: processors > squares,
        })
    }

    pub fn stations(&self) -> &OwnedFd {
        &self.stations
    }

    pub fn words(&self) -> &OwnedFd {
        &self.words.fd
    }

    pub fn pairs(&self) -> &OwnedFd {
        &self.pairs.fd
    }

    /// The bits of a processor's number that say which square of `pairs` it has.
    pub fn square_mask(&self) -> i32 {
        i32::try_from(self.squares - 1).unwrap_or(0)
    }

    /// Whether more than one processor may add to a pair at a time.
    pub fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// A 32-bit word of the switch, or of a port.
    pub fn word32(&self, slot: Option<Slot>, field: i16) -> &AtomicU32 {
        self.words.word32(at(slot, field))
    }

    /// A 64-bit word of the switch, or of a port.
    pub fn word(&self, slot: Option<Slot>, field: i16) -> &AtomicU64 {
        self.words.word(at(slot, field))
    }

    /// Brings the pairs whose ingress is `slot` into our memory. Slots are taken from
    /// the first on; all of them at once would be most of what the switch needs.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn map_pairs(&self, slot: Slot) -> io::Result<()> {
        if self.mapped.load(Ordering::Relaxed) > slot.get() {
            return Ok(());
        }
        for square in 0..self.squares {
            let from = square * SQUARE_LEN + slot.index() * ROW_LEN;
            self.pairs.fill(from, ROW_LEN)?;
        }
        self.mapped.store(slot.get() + 1, Ordering::Release);
        Ok(())
    }

    /// How many slots have their pairs in our memory, from the first on.
    pub fn mapped(&self) -> u16 {
        self.mapped.load(Ordering::Acquire)
    }

    /// Frames and bytes that went from `from`, which is mapped, to `to`, on the
    /// processors together.
    pub fn pair(&self, from: Slot, to: Slot) -> (u64, u64) {
        let place = usize::from(from.get()) * usize::from(SLOTS) + usize::from(to.get());
        (0..self.squares).fold((0, 0), |(frames, bytes), square| {
            let at = square * SQUARE_LEN + place * PAIR_LEN;
            let load = |at| self.pairs.word(at).load(std::sync::atomic::Ordering::Relaxed);
            (frames + load(at), bytes + load(at + 8))
        })
    }
}

fn at(slot: Option<Slot>, field: i16) -> usize {
    usize::try_from(slot.map_or(0, port_at) + field).unwrap_or(0)
}

/// One more than the highest number that a processor can have.
fn processors() -> usize {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok();
    let last = listed.as_deref().and_then(|text| text.trim().rsplit([',', '-']).next()?.parse().ok());
    let last: usize = last.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from) - 1);
    last.min(4095) + 1
}

/// An array map of one value, in our memory.
#[derive(Debug)]
struct Mapping {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is only reached through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// All of it.
    fn new(len: usize) -> io::Result<Mapping> {
        let mapping = Mapping::reserved(len)?;
        mapping.fill(0, len)?;
        Ok(mapping)
    }

    /// Addresses for it, of which none may be used before `fill` has been there: the
    /// kernel puts every page of such a map into memory that is mapped.
    fn reserved(len: usize) -> io::Result<Mapping> {
        let fd = bpf::map(MapType::Array, size_of::<u32>(), len, 1)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Mapping { fd, base, len })
    }

    /// Brings the pages that hold `len` bytes at `from` into memory.
    fn fill(&self, from: usize, len: usize) -> io::Result<()> {
        let page = rustix::param::page_size();
        let (start, end) = (from / page * page, (from + len).next_multiple_of(page));
        let offset =
            libc::off_t::try_from(start).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: the pages lie in the addresses that were reserved, rounded up to
        // pages as the kernel does; only atomics that stay valid are there already,
        // on the same memory of the map.
        let at = unsafe {
            let to = self.base.as_ptr().add(start).cast();
            libc::mmap(to, end - start, access, flags, self.fd.as_raw_fd(), offset)
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn word32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len, "a word at {at} of {}", self.len);
        // SAFETY: inside the mapping, which lives as long as `self`, and
        // aligned, since the mapping begins a page; others write it atomically.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len, "a word at {at} of {}", self.len);
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made here, and no reference into it outlives
        // `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
