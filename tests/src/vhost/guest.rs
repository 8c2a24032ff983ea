//! A guest of split queues in a memfd: its memory is laid out by hand, and a test
//! writes whatever it likes there.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::messages::{FrontEnd, Request};
use super::shared::{MEMORY_LEN, Shared};

/// Descriptors of each queue.
pub const QUEUE_LEN: u16 = 256;

/// Half of them receive, and half of them send, each with its buffer.
const BUFFERS_LEN: u16 = QUEUE_LEN / 2;

/// The chain goes on.
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// A table of descriptors.
pub const INDIRECT: u16 = 4;

/// What the front end calls the first byte of the guest's memory.
pub const USER: u64 = 0x5000_0000_0000;

/// Where things are: each queue has 64 KiB for its rings, then the buffers.
pub(super) const RINGS_LEN: u64 = 0x1_0000;
pub(super) const AVAILABLE: u64 = 0x4000;
pub(super) const USED: u64 = 0x8000;
const BUFFERS: u64 = 0x4_0000;
/// Bytes of a buffer.
pub(super) const BUFFER_LEN: u32 = 4096;

/// Pairs whose rings and buffers fit.
const PAIRS_MAX: u32 = 2;

/// Feature bits, as the specification has them.
#[expect(missing_docs, reason = "the specification's names")]
pub mod feature {
    pub const CSUM: u64 = 1;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const GUEST_USO4: u64 = 1 << 54;
    pub const GUEST_USO6: u64 = 1 << 55;
    pub const HOST_USO: u64 = 1 << 56;
}

/// What a guest chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Bits of [`feature`].
    pub features: u64,
    /// Pairs of queues: 1 or 2.
    pub pairs: u32,
}

impl Default for Choice {
    /// A modern guest without offloads.
    fn default() -> Choice {
        use feature::{INDIRECT_DESC, MRG_RXBUF, PROTOCOL_FEATURES, VERSION_1};
        Choice { features: VERSION_1 | MRG_RXBUF | INDIRECT_DESC | PROTOCOL_FEATURES, pairs: 1 }
    }
}

impl Choice {
    /// The same with further features.
    pub const fn and(self, features: u64) -> Choice {
        Choice { features: self.features | features, ..self }
    }

    /// Bytes before each frame.
    pub const fn header_len(self) -> usize {
        if self.features & (feature::VERSION_1 | feature::MRG_RXBUF) == 0 { 10 } else { 12 }
    }
}

/// A descriptor to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the specification's names")]
pub struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// What the driver has made available in a queue, and seen used.
#[derive(Clone, Copy, Default, Debug)]
struct Progress {
    available: u16,
    /// Of it, when the device was last kicked, or need not be.
    told: u16,
    used: u16,
}

/// A guest whose queues run.
#[derive(Debug)]
pub struct Guest {
    /// Its connection.
    pub front_end: FrontEnd,
    pub(super) shared: Shared,
    pub(super) choice: Choice,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
    /// By queue: it receives by even ones.
    progress: Vec<Progress>,
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
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
        Guest::connect_as(path, Choice::default())
    }

    /// The same by its own choice.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn connect_as(path: &Path, choice: Choice) -> Result<Guest> {
        Guest::by(FrontEnd::connect(path)?, choice)
    }

    /// The same on a connection that is there.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn accept(stream: UnixStream, choice: Choice) -> Result<Guest> {
        Guest::by(FrontEnd::of(stream)?, choice)
    }

    fn by(front_end: FrontEnd, choice: Choice) -> Result<Guest> {
        let mut guest = Guest::negotiate(front_end, choice)?;
        for index in 0..2 * choice.pairs {
            guest.start_queue(index, u32::from(QUEUE_LEN))?;
        }
        // Each answer is one to all that was said before.
        guest.front_end.ask_u64(Request::GetFeatures)?;
        for pair in 0..guest.pairs() {
            for number in 0..BUFFERS_LEN {
                guest.offer(pair, number)?;
            }
        }
        Ok(guest)
    }

    /// Connects, negotiates, and shares its memory; starts nothing.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn with_memory(path: &Path, choice: Choice) -> Result<Guest> {
        Guest::negotiate(FrontEnd::connect(path)?, choice)
    }

    fn negotiate(mut front_end: FrontEnd, choice: Choice) -> Result<Guest> {
        ensure!((1..=PAIRS_MAX).contains(&choice.pairs), "one pair or two");
        let shared = Shared::new()?;
        let offered = front_end.ask_u64(Request::GetFeatures)?;
        ensure!(offered & choice.features == choice.features, "features {offered:#x}");
        front_end.send(Request::SetOwner, &[], &[])?;
        if choice.features & feature::PROTOCOL_FEATURES != 0 {
            let protocol = front_end.ask_u64(Request::GetProtocolFeatures)?;
            front_end.send(Request::SetProtocolFeatures, &words(&[protocol & 1]), &[])?;
        }
        front_end.send(Request::SetFeatures, &words(&[choice.features]), &[])?;
        let events = || {
            let event = |_| Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            (0..2 * choice.pairs).map(event).collect::<Result<Vec<OwnedFd>>>()
        };
        let progress = vec![Progress::default(); 2 * choice.pairs as usize];
        let (kicks, calls) = (events()?, events()?);
        let mut guest = Guest { front_end, shared, choice, kicks, calls, progress };
        guest.share(0)?;
        Ok(guest)
    }

    /// Says that the guest's memory is its file, at guest address `start`.
    ///
    /// # Errors
    /// The connection is over.
    pub fn share(&mut self, start: u64) -> Result<()> {
        let table = words(&[1, start, MEMORY_LEN, USER, 0]);
        Ok(self.front_end.send(Request::SetMemTable, &table, &[self.shared.file.as_fd()])?)
    }

    /// Starts queue `index` with `len` descriptors.
    ///
    /// # Errors
    /// The connection is over.
    pub fn start_queue(&mut self, index: u32, len: u32) -> Result<()> {
        self.start_queue_at(index, len, 0)
    }

    pub(super) fn start_queue_at(&mut self, index: u32, len: u32, base: u32) -> Result<()> {
        let rings = USER + u64::from(index) * RINGS_LEN;
        let (kick, call) = (self.kicks[index as usize].as_fd(), self.calls[index as usize].as_fd());
        let front_end = &mut self.front_end;
        front_end.send(Request::SetVringNum, &state(index, len), &[])?;
        front_end.send(Request::SetVringBase, &state(index, base), &[])?;
        // Index and flags, descriptors, used, available, log.
        let addr = words(&[u64::from(index), rings, rings + USED, rings + AVAILABLE, 0]);
        front_end.send(Request::SetVringAddr, &addr, &[])?;
        let number = words(&[u64::from(index)]);
        front_end.send(Request::SetVringCall, &number, &[call])?;
        front_end.send(Request::SetVringKick, &number, &[kick])?;
        if self.choice.features & feature::PROTOCOL_FEATURES != 0 {
            front_end.send(Request::SetVringEnable, &state(index, 1), &[])?;
        }
        Ok(())
    }

    fn pairs(&self) -> usize {
        self.choice.pairs as usize
    }

    /// Its memory's file.
    pub fn file(&self) -> &File {
        &self.shared.file
    }

    /// The eventfd that the switch rings for queue `index`.
    pub fn call(&self, index: usize) -> &OwnedFd {
        &self.calls[index]
    }

    /// How often queue `index` was rung for since the last look.
    pub fn calls(&self, index: usize) -> u64 {
        let mut count = [0; 8];
        // Nothing there: none.
        let _ = rustix::io::read(&self.calls[index], &mut count);
        u64::from_ne_bytes(count)
    }

    /// Writes bytes into the guest's memory.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.shared.write(addr, bytes);
    }

    /// Reads bytes from the guest's memory.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        self.shared.read(addr, len)
    }

    /// Address of buffer `number`: of each pair, 128 receive and then 128 send.
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
        let available = self.progress[index].available;
        let place = u64::from(available % QUEUE_LEN);
        self.shared.word(ring + 4 + 2 * place).store(head, Ordering::Relaxed);
        self.progress[index].available = available.wrapping_add(1);
        self.shared.word(ring + 2).store(available.wrapping_add(1), Ordering::Release);
    }

    /// Says that `ahead` buffers more are available in queue `index` than are.
    pub fn lie_about_available(&self, index: usize, ahead: u16) {
        let ring = index as u64 * RINGS_LEN + AVAILABLE;
        let available = self.progress[index].available.wrapping_add(ahead);
        self.shared.word(ring + 2).store(available, Ordering::Release);
    }

    /// Kicks queue `index` if the switch wants to be; says whether it did.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn kick(&mut self, index: usize) -> Result<bool> {
        fence(Ordering::SeqCst);
        let used = index as u64 * RINGS_LEN + USED;
        let Progress { available, told, .. } = self.progress[index];
        self.progress[index].told = available;
        let wanted = if self.has_event_idx() {
            let event = self.shared.word(used + 4 + 8 * u64::from(QUEUE_LEN)).load(Ordering::Relaxed);
            available.wrapping_sub(event).wrapping_sub(1) < available.wrapping_sub(told)
        } else {
            self.shared.word(used).load(Ordering::Relaxed) & 1 == 0
        };
        if wanted {
            self.ring(index)?;
        }
        Ok(wanted)
    }

    /// Whether the switch asks to be kicked for the next buffer of queue `index`
    /// (EVENT_IDX): it is about to sleep.
    pub fn is_asked(&self, index: usize) -> bool {
        let at = index as u64 * RINGS_LEN + USED + 4 + 8 * u64::from(QUEUE_LEN);
        self.shared.word(at).load(Ordering::Acquire) == self.progress[index].available
    }

    /// Kicks queue `index`, wanted or not.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn ring(&self, index: usize) -> Result<()> {
        rustix::io::write(&self.kicks[index], &1u64.to_ne_bytes())?;
        Ok(())
    }

    fn has_event_idx(&self) -> bool {
        self.choice.features & feature::EVENT_IDX != 0
    }

    /// Asks not to be called for queue `index`, or to be.
    pub fn want_calls(&self, index: usize, wanted: bool) {
        self.shared.word(index as u64 * RINGS_LEN + AVAILABLE).store(u16::from(!wanted), Ordering::Relaxed);
    }

    /// Asks to be called when `ahead` buffers more than were seen are used in
    /// queue `index` (EVENT_IDX).
    pub fn want_call_after(&self, index: usize, ahead: u16) {
        let event = self.progress[index].used.wrapping_add(ahead).wrapping_sub(1);
        let at = index as u64 * RINGS_LEN + AVAILABLE + 4 + 2 * u64::from(QUEUE_LEN);
        self.shared.word(at).store(event, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Gives receive buffer `number` of `pair`, again or for the first time.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn offer(&mut self, pair: usize, number: u16) -> Result<()> {
        let addr = Guest::buffer(own(pair, number)?);
        self.describe(2 * pair, number, Descriptor { addr, len: BUFFER_LEN, flags: WRITE, next: 0 });
        self.push(2 * pair, number);
        self.kick(2 * pair).map(drop)
    }

    /// Sends a complete frame.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.send_by(0, &[0; 10], frame)
    }

    /// Sends a frame with its virtio-net header by `pair`.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn send_by(&mut self, pair: usize, header: &[u8; 10], frame: &[u8]) -> Result<()> {
        let (index, header_len) = (2 * pair + 1, self.choice.header_len());
        let number = self.progress[index].available % BUFFERS_LEN;
        let addr = Guest::buffer(own(pair, BUFFERS_LEN + number)?);
        self.write(addr, &[header.as_slice(), &[0; 2]].concat());
        self.write(addr + header_len as u64, frame);
        let len = u32::try_from(frame.len() + header_len)?;
        self.describe(index, number, Descriptor { addr, len, flags: 0, next: 0 });
        self.push(index, number);
        self.kick(index).map(drop)
    }

    /// How many of its frames were not taken yet.
    pub fn unsent(&self) -> u16 {
        self.unsent_by(0)
    }

    /// The same of `pair`.
    pub fn unsent_by(&self, pair: usize) -> u16 {
        let index = 2 * pair + 1;
        let used = self.shared.word(index as u64 * RINGS_LEN + USED + 2).load(Ordering::Acquire);
        self.progress[index].available.wrapping_sub(used)
    }

    /// A frame that has come, with its header; its buffer is offered again.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        self.receive_by(0)
    }

    /// The same by `pair`.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn receive_by(&mut self, pair: usize) -> Result<Option<Vec<u8>>> {
        let Some((number, len)) = self.used(2 * pair)? else { return Ok(None) };
        ensure!(number < BUFFERS_LEN && len <= BUFFER_LEN, "used {number} with {len} bytes");
        let frame = self.read(Guest::buffer(own(pair, number)?), len as usize);
        self.offer(pair, number)?;
        Ok(Some(frame))
    }

    /// The next buffer that was used in queue `index`, and its bytes.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn used(&mut self, index: usize) -> Result<Option<(u16, u32)>> {
        let ring = index as u64 * RINGS_LEN + USED;
        let used = self.progress[index].used;
        if self.shared.word(ring + 2).load(Ordering::Acquire) == used {
            return Ok(None);
        }
        let element = self.read(ring + 4 + 8 * u64::from(used % QUEUE_LEN), 8);
        let [i0, i1, i2, i3, l0, l1, l2, l3] = element.as_slice() else { return Ok(None) };
        self.progress[index].used = used.wrapping_add(1);
        let number = u16::try_from(u32::from_le_bytes([*i0, *i1, *i2, *i3]))?;
        Ok(Some((number, u32::from_le_bytes([*l0, *l1, *l2, *l3]))))
    }
}

/// Buffer `number` of those of `pair`.
fn own(pair: usize, number: u16) -> Result<u16> {
    Ok(u16::try_from(pair)? * 2 * BUFFERS_LEN + number)
}
