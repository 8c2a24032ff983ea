//! Many calls for one descriptor in one system call, where the kernel has no batched form
//! of them: reads and writes of a TAP.
//!
//! io_uring is no more than a list of calls here: each is made in its turn and is over,
//! with a result or EAGAIN, when [`Batch::run`] returns. Nothing stays under way, and
//! nothing that a caller lends is kept. That the descriptor does not block is not enough
//! for that: io_uring waits for it all the same, unless each call asks it not to
//! (RWF_NOWAIT). Where the driver cannot be asked (TAPs before Linux 6.4) there are no
//! lists.
//!
//! Read first: io_uring(7), and `io_rw_init_file` of io_uring/rw.c.
//!
//! Deliberately absent: completions that come later (multishot reads, a polling kernel
//! thread): what they write to would have to be the ring's until then, and no burst could
//! borrow it. The bare loop of `benches/hot/candidates` has them; how much of its gain is
//! theirs was not measured.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use io_uring::opcode::{Read, Writev};
use io_uring::types::Fd;
use io_uring::{IoUring, squeue};

use super::BURST_FRAMES;

/// The result of a call that was not made.
pub(super) const UNDONE: i32 = i32::MIN;

/// A list of calls.
pub(super) struct Batch {
    ring: IoUring,
    fd: RawFd,
    results: [i32; BURST_FRAMES],
    /// Calls may be left in the ring that were never made, and never may be.
    is_broken: bool,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl Batch {
    /// Lists of calls for `fd`, which does not block and is to live as long. `None` where
    /// its driver cannot be asked not to wait, the kernel has no io_uring, or the
    /// administrator forbids it (`kernel.io_uring_disabled`, a filter of system calls).
    pub fn new(fd: BorrowedFd<'_>) -> Option<Batch> {
        let ring = IoUring::new(u32::try_from(BURST_FRAMES).ok()?).ok()?;
        let mut batch = Batch { ring, fd: fd.as_raw_fd(), results: [UNDONE; BURST_FRAMES], is_broken: false };
        // A read of nothing takes no frame, and says whether it can be asked for.
        let nothing = batch.read(ptr::null_mut(), 0);
        // SAFETY: no memory is passed.
        let can_ask = unsafe { batch.run([nothing].into_iter()) }.is_ok_and(|results| results == [0]);
        can_ask.then_some(batch)
    }

    /// A read of up to `len` bytes.
    pub fn read(&self, room: *mut u8, len: u32) -> squeue::Entry {
        Read::new(Fd(self.fd), room, len).rw_flags(libc::RWF_NOWAIT).build()
    }

    /// A write of the bytes that `runs` name.
    pub fn write(&self, runs: &[libc::iovec]) -> squeue::Entry {
        let count = u32::try_from(runs.len()).unwrap_or(0);
        Writev::new(Fd(self.fd), runs.as_ptr().cast(), count).rw_flags(libc::RWF_NOWAIT).build()
    }

    /// Makes `calls`, which are this batch's, in order, at most [`BURST_FRAMES`]; returns
    /// the result of each: what the call would have returned, or the negative errno.
    ///
    /// # Errors
    /// The ring is out of order and of no further use; [`results`](Self::results) says
    /// which calls were made.
    ///
    /// # Safety
    /// What the calls point to is valid as for read(2) and writev(2).
    pub unsafe fn run(&mut self, calls: impl ExactSizeIterator<Item = squeue::Entry>) -> io::Result<&[i32]> {
        let count = calls.len().min(BURST_FRAMES);
        self.results = [UNDONE; BURST_FRAMES];
        // Until all are done.
        self.is_broken = true;
        let mut queue = self.ring.submission();
        for (number, call) in (0..).zip(calls.take(count)) {
            // SAFETY: by the contract of this function; the call is over before we return.
            unsafe { queue.push(&call.user_data(number)) }.map_err(io::Error::other)?;
        }
        drop(queue);
        let mut done = 0;
        while done < count {
            let submitted = self.ring.submit_and_wait(count - done);
            // Also when that failed: what was done must not be done again.
            for completion in self.ring.completion() {
                let number = usize::try_from(completion.user_data()).map_err(io::Error::other)?;
                self.results[number] = completion.result();
                done += 1;
            }
            if let Err(error) = submitted
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
        }
        self.is_broken = false;
        Ok(&self.results[..count])
    }

    /// Whether no run has failed so far.
    pub fn is_usable(&self) -> bool {
        !self.is_broken
    }

    /// The results of the calls of the last run, [`UNDONE`] for those that were not made.
    pub fn results(&self) -> &[i32] {
        &self.results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::os::unix::net::UnixDatagram;

    /// Two sockets, and a batch for each; `None` on a machine without, where `test` is
    /// skipped.
    fn pair(test: &str) -> Option<([UnixDatagram; 2], [Batch; 2])> {
        let (a, b) = UnixDatagram::pair().unwrap();
        for socket in [&a, &b] {
            socket.set_nonblocking(true).unwrap();
        }
        let batches = Batch::new(a.as_fd()).zip(Batch::new(b.as_fd()));
        if batches.is_none() {
            crate::skip(test, "io_uring");
        }
        let (one, other) = batches?;
        Some(([a, b], [one, other]))
    }

    fn run(bytes: &[u8]) -> libc::iovec {
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    #[test]
    fn calls_are_made_in_order_and_none_waits() {
        let Some((_sockets, [mut from, mut to])) =
            pair("port::batch::calls_are_made_in_order_and_none_waits")
        else {
            return;
        };
        let bytes = [1, 2, 3, 4, 5];
        let lists: Vec<[libc::iovec; 2]> =
            (0..5).map(|len| [run(&bytes[..len]), run(&bytes[len..=len])]).collect();
        let writes: Vec<_> = lists.iter().map(|list| from.write(list)).collect();
        // SAFETY: the lists and the bytes outlive the call.
        assert_eq!(unsafe { from.run(writes.into_iter()) }.unwrap(), [1, 2, 3, 4, 5]);
        let mut rooms = [[0u8; 16]; 8];
        let reads = rooms.each_mut().map(|room| to.read(room.as_mut_ptr(), 16));
        // SAFETY: each read has a room of its own.
        let read = unsafe { to.run(reads.into_iter()) }.unwrap();
        assert_eq!(read[..5], [1, 2, 3, 4, 5]);
        assert_eq!(read[5..], [-libc::EAGAIN; 3], "nothing is there any more");
        assert_eq!(rooms[4][..6], [1, 2, 3, 4, 5, 0]);
        // Nothing is left over for the next run.
        let read = to.read(rooms[0].as_mut_ptr(), 16);
        // SAFETY: as above.
        assert_eq!(unsafe { to.run([read].into_iter()) }.unwrap(), [-libc::EAGAIN]);
    }

    /// Not blocking is not enough: the kernel would wait for it, and all ports with it.
    #[test]
    fn what_cannot_be_asked_not_to_wait_has_no_lists() {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: a new descriptor that nobody else holds.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        assert!(Batch::new(fd.as_fd()).is_none());
    }

    #[test]
    fn each_call_has_its_own_error() {
        let Some(([a, b], [mut batch, _])) = pair("port::batch::each_call_has_its_own_error") else { return };
        let lists = [&b"x"[..], &[0; 1 << 20], b"yz"].map(|bytes| [run(bytes)]);
        let writes = lists.each_ref().map(|list| batch.write(list));
        // SAFETY: the lists and the bytes outlive the call.
        let results = unsafe { batch.run(writes.into_iter()) }.unwrap();
        assert_eq!(results, [1, -libc::EMSGSIZE, 2]);
        assert_eq!(batch.results()[3], UNDONE);
        assert!(batch.is_usable());
        drop(b);
        let writes = lists.each_ref().map(|list| batch.write(list));
        // SAFETY: as above.
        let results = unsafe { batch.run(writes.into_iter()) }.unwrap();
        assert!(results.iter().all(|result| *result < 0), "{results:?}");
        drop(a);
    }
}
