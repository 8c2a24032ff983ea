//! For tests: memory that a guest shared, whose file it then made shorter. To read it
//! ends in SIGBUS, or in EFAULT where the kernel reads it.

use std::os::fd::AsRawFd as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// A page without memory.
#[derive(Debug)]
pub(super) struct Gone(*mut libc::c_void);

impl Gone {
    const LEN: usize = 4096;

    /// Maps an empty file.
    pub fn new() -> Gone {
        let file = memfd_create("gone", MemfdFlags::CLOEXEC).unwrap();
        // SAFETY: a new mapping, undone in `drop`.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Gone::LEN,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert!(at != libc::MAP_FAILED);
        Gone(at)
    }

    /// Where it is.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.cast()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing borrows it.
        unsafe { libc::munmap(self.0, Gone::LEN) };
    }
}
