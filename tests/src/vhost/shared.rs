//! A guest's memory: a memfd, mapped here and handed to the switch. Its guest
//! addresses begin at 0.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::atomic::AtomicU16;

use anyhow::{Result, ensure};

/// Bytes of the guest's memory.
pub const MEMORY_LEN: u64 = 4 << 20;

/// The mapping, and its file.
#[derive(Debug)]
pub(super) struct Shared {
    pub file: File,
    memory: *mut u8,
}

// SAFETY: the mapping is this value's own, and goes where it goes.
unsafe impl Send for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and used by nobody else here.
        unsafe { libc::munmap(self.memory.cast(), len()) };
    }
}

fn len() -> usize {
    usize::try_from(MEMORY_LEN).unwrap_or(usize::MAX)
}

impl Shared {
    /// Zeroes.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> Result<Shared> {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(MEMORY_LEN)?;
        // SAFETY: a new mapping of our own file.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        ensure!(memory != libc::MAP_FAILED, "no memory");
        Ok(Shared { file, memory: memory.cast() })
    }

    fn at(&self, addr: u64, len: usize) -> *mut u8 {
        assert!(addr + len as u64 <= MEMORY_LEN, "the guest's own memory");
        self.memory.wrapping_add(usize::try_from(addr).unwrap_or(usize::MAX))
    }

    /// The two bytes at `addr`, which is even.
    pub fn word(&self, addr: u64) -> &AtomicU16 {
        assert!(addr.is_multiple_of(2), "aligned");
        // SAFETY: aligned, in our mapping, and only ever used as an atomic.
        unsafe { &*self.at(addr, 2).cast::<AtomicU16>() }
    }

    /// Writes bytes.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        // SAFETY: in our mapping; the switch reads it as it finds it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(addr, bytes.len()), bytes.len()) };
    }

    /// Reads bytes.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: in our mapping.
        unsafe { ptr::copy_nonoverlapping(self.at(addr, len), bytes.as_mut_ptr(), len) };
        bytes
    }
}
