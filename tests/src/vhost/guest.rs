//! A guest of one queue pair in a memfd: its memory is laid out by hand, and a
//! test writes whatever it likes there.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::messages::{FrontEnd, Request};

/// Descriptors of each queue.
pub const QUEUE_LEN: u16 = 256;

/// The chain goes on.
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// A table of descriptors.
pub const INDIRECT: u16 = 4;

/// Bytes of the guest's memory; its addresses begin at 0.
const MEMORY_LEN: usize = 4 << 20;
/// What the front end calls the first byte.
const USER: u64 = 0x5000_0000_0000;

/// Where things are: each queue has 64 KiB for its rings, then the buffers.
const RINGS_LEN: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
const BUFFERS: u64 = 0x4_0000;
/// Bytes of a buffer.
const BUFFER_LEN: u32 = 4096;

/// VERSION_1, MRG_RXBUF, INDIRECT_DESC and PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 15 | 1 << 28 | 1 << 30;

/// A descriptor to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the specification's names")]
pub struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// A guest whose queues run.
#[derive(Debug)]
pub struct Guest {
    /// Its connection.
    pub front_end: FrontEnd,
    /// Its memory's file.
    pub file: File,
    memory: *mut u8,
    kicks: [OwnedFd; 2],
    calls: [OwnedFd; 2],
    /// What it made available, and saw used, by queue: it receives by 0.
    available: [u16; 2],
    used: [u16; 2],
}

// SAFETY: the mapping is the guest's own, and goes where it goes.
unsafe impl Send for Guest {}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: mapped in `connect`, and used by nobody else here.
        unsafe { libc::munmap(self.memory.cast(), MEMORY_LEN) };
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn state(index: u32, value: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (index.to_ne_bytes(), value.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

impl Guest {
    /// Connects, and starts both queues; gives 128 buffers to receive into.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn connect(path: &Path) -> Result<Guest> {
        let mut guest = Guest::with_memory(path)?;
        for index in 0..2 {
            guest.start_queue(index, u32::from(QUEUE_LEN))?;
        }
        // Each answer is one to all that was said before.
        ensure!(guest.front_end.ask_u64(Request::GetQueueNum)? >= 1, "no queues");
        for number in 0..QUEUE_LEN / 2 {
            guest.offer(number)?;
        }
        Ok(guest)
    }

    /// Connects, negotiates, and shares its memory; starts nothing.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn with_memory(path: &Path) -> Result<Guest> {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(MEMORY_LEN as u64)?;
        // SAFETY: a new mapping of our own file.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                MEMORY_LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        ensure!(memory != libc::MAP_FAILED, "no memory");
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let mut front_end = FrontEnd::connect(path)?;
        let offered = front_end.ask_u64(Request::GetFeatures)?;
        ensure!(offered & FEATURES == FEATURES, "features {offered:#x}");
        front_end.send(Request::SetOwner, &[], &[])?;
        let protocol = front_end.ask_u64(Request::GetProtocolFeatures)?;
        front_end.send(Request::SetProtocolFeatures, &words(&[protocol & 1]), &[])?;
        front_end.send(Request::SetFeatures, &words(&[FEATURES]), &[])?;
        let table = [words(&[1, 0, MEMORY_LEN as u64, USER, 0])].concat();
        front_end.send(Request::SetMemTable, &table, &[file.as_fd()])?;
        Ok(Guest {
            front_end,
            file,
            memory: memory.cast(),
            kicks: [event()?, event()?],
            calls: [event()?, event()?],
            available: [0; 2],
            used: [0; 2],
        })
    }

    /// Starts queue `index` with `len` descriptors.
    ///
    /// # Errors
    /// The connection is over.
    pub fn start_queue(&mut self, index: u32, len: u32) -> Result<()> {
        let rings = USER + u64::from(index) * RINGS_LEN;
        let front_end = &mut self.front_end;
        front_end.send(Request::SetVringNum, &state(index, len), &[])?;
        front_end.send(Request::SetVringBase, &state(index, 0), &[])?;
        // Index and flags, descriptors, used, available, log.
        let addr = words(&[u64::from(index), rings, rings + USED, rings + AVAILABLE, 0]);
        front_end.send(Request::SetVringAddr, &addr, &[])?;
        let number = words(&[u64::from(index)]);
        front_end.send(Request::SetVringCall, &number, &[self.calls[index as usize].as_fd()])?;
        front_end.send(Request::SetVringKick, &number, &[self.kicks[index as usize].as_fd()])?;
        front_end.send(Request::SetVringEnable, &state(index, 1), &[])?;
        Ok(())
    }

    fn at(&self, addr: u64) -> *mut u8 {
        assert!(addr < MEMORY_LEN as u64, "the guest's own memory");
        self.memory.wrapping_add(usize::try_from(addr).unwrap_or(usize::MAX))
    }

    fn index_at(&self, addr: u64) -> &AtomicU16 {
        // SAFETY: aligned, in our mapping, and only ever used as an atomic.
        unsafe { &*self.at(addr).cast::<AtomicU16>() }
    }

    /// Writes bytes into the guest's memory.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        assert!(addr + bytes.len() as u64 <= MEMORY_LEN as u64, "the guest's own memory");
        // SAFETY: in our mapping; the switch reads it as it finds it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(addr), bytes.len()) };
    }

    /// Reads bytes from the guest's memory.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        assert!(addr + len as u64 <= MEMORY_LEN as u64, "the guest's own memory");
        let mut bytes = vec![0; len];
        // SAFETY: in our mapping.
        unsafe { ptr::copy_nonoverlapping(self.at(addr), bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Address of buffer `number`.
    pub const fn buffer(number: u16) -> u64 {
        BUFFERS + number as u64 * BUFFER_LEN as u64
    }

    /// Writes a descriptor at `addr`.
    pub fn write_descriptor(&self, addr: u64, descriptor: Descriptor) {
        let Descriptor { addr: to, len, flags, next } = descriptor;
        let bytes = [&to.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        self.write(addr, &bytes.concat());
    }

    /// Writes descriptor `number` of queue `index`.
    pub fn describe(&self, index: usize, number: u16, descriptor: Descriptor) {
        self.write_descriptor(index as u64 * RINGS_LEN + u64::from(number) * 16, descriptor);
    }

    /// Makes the chain at `head` available in queue `index`, without a kick.
    pub fn push(&mut self, index: usize, head: u16) {
        let ring = index as u64 * RINGS_LEN + AVAILABLE;
        let place = u64::from(self.available[index] % QUEUE_LEN);
        self.index_at(ring + 4 + 2 * place).store(head, Ordering::Relaxed);
        self.available[index] = self.available[index].wrapping_add(1);
        self.index_at(ring + 2).store(self.available[index], Ordering::Release);
    }

    /// Says that `ahead` buffers more are available in queue `index` than are.
    pub fn lie_about_available(&self, index: usize, ahead: u16) {
        let ring = index as u64 * RINGS_LEN + AVAILABLE;
        self.index_at(ring + 2).store(self.available[index].wrapping_add(ahead), Ordering::Release);
    }

    /// Kicks queue `index` if the switch wants to be.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn kick(&self, index: usize) -> Result<()> {
        fence(Ordering::SeqCst);
        if self.index_at(index as u64 * RINGS_LEN + USED).load(Ordering::Relaxed) & 1 == 0 {
            rustix::io::write(&self.kicks[index], &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Gives receive buffer `number`, again or for the first time.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn offer(&mut self, number: u16) -> Result<()> {
        let addr = Guest::buffer(number);
        self.describe(0, number, Descriptor { addr, len: BUFFER_LEN, flags: WRITE, next: 0 });
        self.push(0, number);
        self.kick(0)
    }

    /// Sends a complete frame.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let number = self.available[1] % (QUEUE_LEN / 2);
        let addr = Guest::buffer(QUEUE_LEN / 2 + number);
        self.write(addr, &[0; 12]);
        self.write(addr + 12, frame);
        let len = u32::try_from(frame.len() + 12)?;
        self.describe(1, number, Descriptor { addr, len, flags: 0, next: 0 });
        self.push(1, number);
        self.kick(1)
    }

    /// How many of its frames were not taken yet.
    pub fn unsent(&self) -> u16 {
        self.available[1].wrapping_sub(self.index_at(RINGS_LEN + USED + 2).load(Ordering::Acquire))
    }

    /// A frame that has come, with its header; its buffer is offered again.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let index = self.index_at(USED + 2).load(Ordering::Acquire);
        if index == self.used[0] {
            return Ok(None);
        }
        let element = self.read(USED + 4 + 8 * u64::from(self.used[0] % QUEUE_LEN), 8);
        let [i0, i1, i2, i3, l0, l1, l2, l3] = element.as_slice() else { return Ok(None) };
        let number = u16::try_from(u32::from_le_bytes([*i0, *i1, *i2, *i3]))?;
        let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
        ensure!(number < QUEUE_LEN / 2 && len <= BUFFER_LEN, "used {number} with {len} bytes");
        let frame = self.read(Guest::buffer(number), len as usize);
        self.used[0] = self.used[0].wrapping_add(1);
        self.offer(number)?;
        Ok(Some(frame))
    }
}
