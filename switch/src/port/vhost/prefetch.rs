//! Hints to the processor: these bytes will be read, or written, soon.
//!
//! A guest's buffers are in the cache of the core that filled or freed them.
//! Fetched one after the other they cost more than everything else that a frame
//! needs; asked for early, 64 of them come at a time.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// `len` bytes at `ptr` will be read.
#[inline(always)]
pub(super) fn read(ptr: *const u8, len: usize) {
    let mut at = 0;
    while at < len {
        line(ptr.wrapping_add(at));
        at += LINE;
    }
}

/// `len` bytes at `ptr` will be written: nobody else needs to keep them.
#[inline(always)]
pub(super) fn write(ptr: *const u8, len: usize) {
    let mut at = 0;
    while at < len {
        line_for_writing(ptr.wrapping_add(at));
        at += LINE;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(ptr: *const u8) {
    // SAFETY: a hint; it reads nothing and never faults.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ptr.cast()) };
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line_for_writing(ptr: *const u8) {
    // SAFETY: a hint; it reads nothing and never faults. Processors that do not
    // know it take it for a NOP.
    unsafe { std::arch::asm!("prefetchw [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly)) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn line(_ptr: *const u8) {}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn line_for_writing(_ptr: *const u8) {}
