//! Copies of heads: most are under 128 bytes, where a call of memcpy(3) costs
//! more than the bytes do (a third of all time at 64-byte frames).

use std::ptr;

/// Copies `len` bytes. Up to 128 of them by two runs of half the length that
/// may overlap: bytes in both are copied twice, and the second time counts.
///
/// # Safety
/// As of `ptr::copy_nonoverlapping`, except that the bytes at `from` may change
/// meanwhile: they are copied as they are found.
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: all of it lies within the `len` bytes, says the caller.
    unsafe {
        match len {
            64..=128 => ends::<64>(from, to, len),
            32..64 => ends::<32>(from, to, len),
            16..32 => ends::<16>(from, to, len),
            _ => ptr::copy_nonoverlapping(from, to, len),
        }
    }
}

/// The first `N` and the last `N` of `len` bytes, `N <= len <= 2 * N`.
///
/// # Safety
/// As `copy`.
#[inline(always)]
unsafe fn ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
    let last = len - N;
    // SAFETY: both runs lie within the `len` bytes, says the caller; arrays of
    // bytes have no alignment. One after the other, they stay in registers.
    unsafe {
        to.cast::<[u8; N]>().write(from.cast::<[u8; N]>().read());
        to.add(last).cast::<[u8; N]>().write(from.add(last).cast::<[u8; N]>().read());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_whole_and_nothing_else() {
        let from: Vec<u8> = (0..=255).collect();
        for len in 0..=200 {
            let mut to = [0xaa; 256];
            // SAFETY: both have more bytes than `len`.
            unsafe { copy(from.as_ptr(), to.as_mut_ptr(), len) };
            assert_eq!(to[..len], from[..len]);
            assert!(to[len..].iter().all(|&byte| byte == 0xaa), "{len}");
        }
    }
}
