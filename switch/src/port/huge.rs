//! Huge pages for memory that is read at random: a processor remembers where some
//! thousands of pages lie, which is 12 MiB of the smallest and less than the FDB of
//! a million stations.
//!
//! Read first: madvise(2), `MADV_COLLAPSE`; Documentation/admin-guide/mm/transhuge.rst.
//!
//! Deliberately absent: errors. Memory in small pages works as well, more slowly.

use std::ops::Range;
use std::ptr;

/// Bytes of a huge page. Where it is another size, the kernel rounds inwards by itself.
const HUGE: usize = 2 << 20;

/// Asks the kernel to put what lies in whole huge pages of each piece of `memory` into
/// them: what was written to at once, the rest when it is. Contents stay. The largest
/// FDB is copied in 8 to 90 ms, so it is for a start, not for when frames wait.
pub fn ask_for_huge_pages(memory: impl IntoIterator<Item = Range<*const u8>>) {
    for piece in memory {
        let start = piece.start.expose_provenance().next_multiple_of(HUGE);
        let end = piece.end.addr() / HUGE * HUGE;
        if start >= end {
            continue;
        }
        // Before Linux 6.1 the second is unknown, and pages are joined in time.
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
            // SAFETY: neither advice changes contents, nor what may be done with the
            // memory, whoever it belongs to.
            let _ = unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), end - start, advice) };
        }
    }
}

/// Whether the kernel was asked for huge pages at `address`, which is mapped; none if it
/// has none.
#[cfg(test)]
pub(crate) fn is_advised(address: *const u8) -> Option<bool> {
    std::fs::metadata("/sys/kernel/mm/transparent_hugepage").ok()?;
    let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let mut is_here = false;
    for line in maps.lines() {
        let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = bounds.and_then(|(start, end)| Some((bound(start)?, bound(end)?))) {
            is_here = (start..end).contains(&address.addr());
        } else if is_here && line.starts_with("VmFlags:") {
            return Some(line.split(' ').any(|flag| flag == "hg"));
        }
    }
    panic!("{address:?} is in no mapping that tells its flags");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of its own: an allocator's may have been somebody else's before.
    struct Mapped(*mut libc::c_void);

    const LEN: usize = 4 * HUGE;

    impl Mapped {
        fn new() -> Mapped {
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping at an address that the kernel chooses.
            let address = unsafe { libc::mmap(ptr::null_mut(), LEN, access, flags, -1, 0) };
            assert_ne!(address, libc::MAP_FAILED);
            Mapped(address)
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: the mapping is ours alone, of that length, and zero at first.
            unsafe { std::slice::from_raw_parts_mut(self.0.cast(), LEN) }
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: mapped by `new`, and nobody has it any more.
            unsafe { libc::munmap(self.0, LEN) };
        }
    }

    #[test]
    fn whole_huge_pages_are_asked_for_and_contents_stay() {
        let mut mapped = Mapped::new();
        let bytes = mapped.bytes();
        let pattern = || (0u8..251).cycle();
        bytes.iter_mut().zip(pattern()).for_each(|(byte, value)| *byte = value);
        if is_advised(&bytes[2 * HUGE]).is_none() {
            return crate::skip("port::huge", "transparent huge pages");
        }
        assert_eq!(is_advised(&bytes[2 * HUGE]), Some(false), "not by itself");
        ask_for_huge_pages([bytes.as_ptr_range()]);
        assert_eq!(is_advised(&bytes[2 * HUGE]), Some(true));
        assert!(bytes.iter().copied().eq(pattern().take(LEN)));
    }

    #[test]
    fn what_is_less_than_a_huge_page_is_left_alone() {
        let mut mapped = Mapped::new();
        let bytes = mapped.bytes();
        let whole = bytes.as_ptr().align_offset(HUGE);
        for (from, len) in [(whole, HUGE - 1), (whole + 1, HUGE), (whole, 0)] {
            ask_for_huge_pages([bytes[from..from + len].as_ptr_range()]);
            assert_ne!(is_advised(&bytes[whole + 4096]), Some(true), "{len} bytes from {from}");
        }
    }
}
