//! Carriers over the descriptors of TAPs, which are what `tap:` ports have.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use vswitch_tests::flow::Device;

use crate::carry::{BYTES_MAX, Carrier, Ends, PATIENCE, Work};

/// A call for each frame.
pub(crate) struct Calls {
    ends: Ends,
    room: usize,
    slots: Vec<u8>,
    /// Lengths of the burst's frames.
    lens: Vec<usize>,
}

impl Calls {
    /// Reads until a burst has `burst` frames or [`BYTES_MAX`], then as many writes.
    pub(crate) fn new(ends: Ends, work: &Work, burst: usize) -> Calls {
        let room = work.room();
        Calls { ends, room, slots: vec![0; burst * room], lens: Vec::with_capacity(burst) }
    }
}

impl Carrier for Calls {
    fn carry(&mut self) -> io::Result<()> {
        self.lens.clear();
        let mut bytes = 0;
        for slot in self.slots.chunks_mut(self.room) {
            let Some(len) = self.ends.from.read(slot)? else { break };
            self.lens.push(len);
            bytes += len;
            if bytes >= BYTES_MAX {
                break;
            }
        }
        if self.lens.is_empty() {
            return self.ends.from.wait_readable(PATIENCE);
        }
        for (slot, len) in self.slots.chunks(self.room).zip(&self.lens) {
            self.ends.to.write(&slot[..*len])?;
        }
        Ok(())
    }
}

/// Buffers of a [`Uring`].
const BUFFERS: u16 = 256;
/// The only group of buffers.
const GROUP: u16 = 0;
/// Marks the completions of the read; those of writes bear their buffer's number.
const READ: u64 = u64::MAX;

/// A page, for the kernel wants a ring of buffers to begin with one.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// How a [`Uring`] names the memory that it writes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writes {
    /// By address.
    Plain,
    /// As registered memory, whose pages need not be looked up for each write.
    Fixed,
}

/// One read that goes on for ever, into a ring of buffers, and a write for each frame;
/// both handed over in one call for all that is there.
pub(crate) struct Uring {
    // Before the memory that the kernel knows of.
    ring: IoUring,
    ends: Ends,
    writes: Writes,
    room: usize,
    slots: Vec<u8>,
    /// Free buffers, for the kernel to take.
    free: Box<Page>,
    /// How many have ever been given to it.
    given: u16,
    /// Whether the read still goes on.
    reading: bool,
}

impl Uring {
    /// A ring that this thread alone uses.
    pub(crate) fn new(ends: Ends, work: &Work, writes: Writes) -> io::Result<Uring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(4 * u32::from(BUFFERS))
            .build(2 * u32::from(BUFFERS))?;
        let room = work.room();
        let mut slots = vec![0u8; usize::from(BUFFERS) * room];
        let free = Box::new(Page([0; 4096]));
        let submitter = ring.submitter();
        if writes == Writes::Fixed {
            let all = libc::iovec { iov_base: slots.as_mut_ptr().cast(), iov_len: slots.len() };
            // SAFETY: the slots live as long as the ring.
            unsafe { submitter.register_buffers(&[all])? };
        }
        let at = (&raw const free.0) as u64;
        // SAFETY: a page has room for 256 entries, and lives as long as the ring.
        unsafe { submitter.register_buf_ring_with_flags(at, BUFFERS, GROUP, 0)? };
        // Else the read would end when there is nothing to read.
        rustix::io::ioctl_fionbio(&ends.from, false)?;
        let mut uring = Uring { ring, ends, writes, room, slots, free, given: 0, reading: false };
        for buffer in 0..BUFFERS {
            uring.give(buffer);
        }
        Ok(uring)
    }

    fn slot(&mut self, buffer: u16) -> *mut u8 {
        self.slots[usize::from(buffer) * self.room..].as_mut_ptr()
    }

    /// Lets the kernel have `buffer`.
    fn give(&mut self, buffer: u16) {
        let address = self.slot(buffer) as u64;
        let entries: *mut BufRingEntry = (&raw mut self.free.0).cast();
        // SAFETY: one of 256 entries in the page; the kernel reads it after it has seen
        // the new tail, which lies in the first entry where that has no other use.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.given % BUFFERS));
            entry.set_addr(address);
            entry.set_len(u32::try_from(self.room).unwrap_or(0));
            entry.set_bid(buffer);
            self.given = self.given.wrapping_add(1);
            let tail = BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.given, Ordering::Release);
        }
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: what the entry points to are slots, which live as long as the ring.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Writes the `len` bytes of `buffer`.
    fn write(&mut self, buffer: u16, len: u32) -> io::Result<()> {
        let (to, at) = (descriptor(&self.ends.to), self.slot(buffer));
        let entry = match self.writes {
            Writes::Plain => opcode::Write::new(to, at, len).build(),
            Writes::Fixed => opcode::WriteFixed::new(to, at, len, 0).build(),
        };
        self.push(&entry.user_data(u64::from(buffer)))
    }
}

fn descriptor(device: &Device) -> Fd {
    Fd(device.as_fd().as_raw_fd())
}

impl Carrier for Uring {
    fn carry(&mut self) -> io::Result<()> {
        if !self.reading {
            let read = opcode::ReadMulti::new(descriptor(&self.ends.from), 0, GROUP).build();
            self.push(&read.user_data(READ))?;
            self.reading = true;
        }
        let limit = Timespec::from(PATIENCE);
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit)) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => return Ok(()),
            Err(error) => return Err(error),
        }
        loop {
            // The queue is to be free again for what follows.
            let next = self.ring.completion().next();
            let Some(entry) = next else { break };
            let result = entry.result();
            if entry.user_data() != READ {
                // A write; what found no room is lost.
                self.give(u16::try_from(entry.user_data()).map_err(io::Error::other)?);
                continue;
            }
            self.reading &= cqueue::more(entry.flags());
            match (u32::try_from(result), cqueue::buffer_select(entry.flags())) {
                (Ok(len), Some(buffer)) => self.write(buffer, len)?,
                // All buffers are on their way.
                _ if result == -libc::ENOBUFS => self.reading = false,
                _ => return Err(io::Error::from_raw_os_error(-result)),
            }
        }
        Ok(())
    }
}
