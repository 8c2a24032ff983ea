//! Guest memory that is cut short under us: its owner truncates the file, and
//! the next touch of a page behind the new end raises SIGBUS.
//!
//! The handler puts anonymous pages in the place of the whole region and flags
//! it; the interrupted access then goes on, reads zeroes, and the port finds
//! the flag and takes itself down. Nothing unwinds, and no other port notices.
//!
//! Deliberately absent: any other SIGBUS. One outside the regions goes to the
//! handler that was there before (Rust's own, which tells of stack overflows).

use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::memory::REGIONS_MAX;
use crate::bridge::PORTS_MAX;

/// Enough for every port's regions, old and new ones while they are exchanged.
const SLOTS_LEN: usize = 2 * REGIONS_MAX * PORTS_MAX;

/// One guarded region, in addresses of this process; free if `start` is 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    is_hit: AtomicBool,
}

/// What the handler reads: static, since it may run in any thread at any time.
static SLOTS: [Slot; SLOTS_LEN] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), is_hit: AtomicBool::new(false) } };
        SLOTS_LEN];

/// Slots from here on were never used: the handler need not look at them.
static USED: AtomicUsize = AtomicUsize::new(0);

/// How often a region was cut, in the whole process.
static HITS: AtomicU32 = AtomicU32::new(0);

/// The handler that was there before ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// How often any region was cut since the start. While it stays the same, no
/// flag needs to be looked at.
#[inline]
pub(super) fn hits() -> u32 {
    HITS.load(Ordering::Relaxed)
}

/// Guards one mapping until it is dropped, which must be before it is unmapped.
#[derive(Debug)]
pub(super) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards `len` bytes, whole pages of a mapping, at `start`; `None` if more
    /// regions are guarded than all ports together may have.
    pub fn new(start: usize, len: usize) -> Option<Guard> {
        install();
        let slot = SLOTS.iter().position(|slot| {
            // 1 is no page's address: a slot that is being filled.
            slot.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        SLOTS[slot].is_hit.store(false, Ordering::Relaxed);
        SLOTS[slot].end.store(start + len, Ordering::Release);
        SLOTS[slot].start.store(start, Ordering::Release);
        USED.fetch_max(slot + 1, Ordering::AcqRel);
        Some(Guard { slot })
    }

    /// Whether the region was cut.
    pub fn is_hit(&self) -> bool {
        SLOTS[self.slot].is_hit.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        SLOTS[self.slot].end.store(0, Ordering::Release);
        SLOTS[self.slot].start.store(0, Ordering::Release);
    }
}

/// Installs the handler, once in a process.
fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: all-zero is a valid `sigaction`; both point to live values,
        // and the handler has the signature that SA_SIGINFO promises.
        unsafe {
            let mut old: libc::sigaction = mem::zeroed();
            let mut new: libc::sigaction = mem::zeroed();
            new.sa_sigaction = on_sigbus as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut new.sa_mask);
            // It cannot fail: the signal exists and may be caught.
            libc::sigaction(libc::SIGBUS, &raw const new, &raw mut old);
            old
        }
    });
}

/// Runs in the thread that touched the page. Only loads and stores of atomics
/// and mmap(2) happen here, all of which a signal handler may do.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, of a fault: it has an address.
    let at = unsafe { (*info).si_addr() } as usize;
    for slot in &SLOTS[..USED.load(Ordering::Acquire)] {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        // Another thread may give the slot to another region meanwhile: its end goes with
        // its own start only.
        let is_one = slot.start.load(Ordering::Acquire) == start;
        if start > 1 && is_one && (start..end).contains(&at) && replace(start, end - start) {
            slot.is_hit.store(true, Ordering::Release);
            HITS.fetch_add(1, Ordering::Release);
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Puts anonymous pages in the place of a mapping.
fn replace(start: usize, len: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is a mapping of ours, whole pages, that is only ever
    // accessed by raw copies: other bytes in it break nobody's assumption.
    let at = unsafe {
        libc::mmap(ptr::without_provenance_mut(start), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    at != libc::MAP_FAILED
}

/// Not ours: to the handler before us, or to the signal's own end.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let handler = PREVIOUS.get().map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    let with_info = PREVIOUS.get().is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN || !with_info {
        // SAFETY: a plain call; the access is repeated on return, and then ends
        // the process as it would have without us.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the kernel was given this address as such a handler.
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
        unsafe { mem::transmute(handler) };
    handler(signal, info, context);
}
