//! What the fuzz targets of `fuzz/` call: any bytes at all, as the memory of a
//! guest whose queues run (`queues`), or as the messages of a front end
//! (`messages`). They panic if anything is not as it must be.
//!
//! Both also run in the unit tests, from seeds that have a bit of everything.
//!
//! Deliberately absent: chance. The same bytes do the same.

#![expect(clippy::unwrap_used, reason = "what cannot be set up ends the run")]

mod messages;
mod queues;

pub use messages::{messages, messages_seeds};
pub use queues::{queues, queues_seeds};

/// Bytes that are taken one by one; 0 when there are none left.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// At most `len` bytes.
    fn bytes(&mut self, len: usize) -> &[u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A file of memory with `len` zeroes.
fn memory_file(len: u64) -> std::fs::File {
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = std::fs::File::from(fd);
    file.set_len(len).unwrap();
    file
}
