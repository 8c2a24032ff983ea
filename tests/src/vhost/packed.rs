//! A guest of packed queues, honest or not.
//!
//! Deliberately absent: buffers used out of order. The switch never does that.

use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Result, ensure};

use super::guest::{
    AVAILABLE as DRIVER, BUFFER_LEN, Choice, Descriptor, Guest, NEXT, QUEUE_LEN, RINGS_LEN, USED as DEVICE,
    WRITE, feature,
};
use super::messages::Request;

/// Flags of a descriptor: whose it is.
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Receive buffers, and buffers to send from.
const BUFFERS_LEN: u16 = QUEUE_LEN / 2;

/// The start of every packed queue: slot 0, and a lap marked 1.
const BASE: u32 = 0x8000;

/// A place in the ring, and the mark of its lap.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u16,
    lap: bool,
}

impl Place {
    const START: Place = Place { slot: 0, lap: true };

    fn after(self, count: u16) -> Place {
        let slot = self.slot + count;
        Place { slot: slot % QUEUE_LEN, lap: self.lap != (slot >= QUEUE_LEN) }
    }
}

/// A queue as its driver keeps it.
#[derive(Debug)]
struct Progress {
    next: Place,
    used: Place,
    /// Slots of each buffer, by its id.
    counts: Vec<u16>,
    /// Buffers that are out.
    out: u16,
    sent: u16,
}

/// A guest whose packed queues run.
#[derive(Debug)]
pub struct PackedGuest {
    /// Connection and memory.
    pub guest: Guest,
    queues: [Progress; 2],
}

impl PackedGuest {
    /// Connects, starts both queues, gives 128 buffers to receive into.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn connect(path: &Path, choice: Choice) -> Result<PackedGuest> {
        let guest = Guest::with_memory(path, choice.and(feature::RING_PACKED))?;
        let progress = || Progress {
            next: Place::START,
            used: Place::START,
            counts: vec![0; usize::from(QUEUE_LEN)],
            out: 0,
            sent: 0,
        };
        let mut guest = PackedGuest { guest, queues: [progress(), progress()] };
        guest.start(BASE)?;
        for number in 0..BUFFERS_LEN {
            guest.offer(number)?;
        }
        Ok(guest)
    }

    /// Starts both queues at `base`.
    ///
    /// # Errors
    /// The connection is over.
    pub fn start(&mut self, base: u32) -> Result<()> {
        (0..2).try_for_each(|index| self.start_queue(index, base))
    }

    /// Starts queue `index` at `base`.
    ///
    /// # Errors
    /// The connection is over.
    pub fn start_queue(&mut self, index: u32, base: u32) -> Result<()> {
        self.guest.start_queue_at(index, u32::from(QUEUE_LEN), base)?;
        self.guest.front_end.ask_u64(Request::GetFeatures).map(drop)
    }

    /// The same guest by a new connection, whose front end does not know where
    /// its queues are.
    ///
    /// # Errors
    /// The port does not take it.
    pub fn reconnect(self, path: &Path) -> Result<PackedGuest> {
        let choice = self.guest.choice;
        let Guest { front_end, shared, .. } = self.guest;
        drop(front_end);
        let mut guest = Guest::with_memory(path, choice)?;
        guest.shared = shared;
        guest.share(0)?;
        let mut guest = PackedGuest { guest, queues: self.queues };
        guest.start(BASE)?;
        Ok(guest)
    }

    fn slot(index: usize, slot: u16) -> u64 {
        index as u64 * RINGS_LEN + u64::from(slot) * 16
    }

    /// Makes `chain` available in queue `index` as the buffer `id`, without a
    /// kick. `next` of its descriptors is not looked at.
    pub fn push(&mut self, index: usize, id: u16, chain: &[Descriptor]) {
        let Progress { next, .. } = self.queues[index];
        let mut place = next;
        for (number, descriptor) in chain.iter().enumerate() {
            let whose = if place.lap { AVAILABLE } else { USED };
            let at = PackedGuest::slot(index, place.slot);
            let Descriptor { addr, len, flags, .. } = *descriptor;
            self.guest.write(at, &[&addr.to_le_bytes()[..], &len.to_le_bytes(), &id.to_le_bytes()].concat());
            if number > 0 {
                self.guest.shared.word(at + 14).store(flags | whose, Ordering::Relaxed);
            }
            place = place.after(1);
        }
        let whose = if next.lap { AVAILABLE } else { USED };
        let first = chain.first().map_or(0, |descriptor| descriptor.flags);
        let at = PackedGuest::slot(index, next.slot);
        self.guest.shared.word(at + 14).store(first | whose, Ordering::Release);
        let queue = &mut self.queues[index];
        queue.next = place;
        queue.out += 1;
        if let Some(count) = queue.counts.get_mut(usize::from(id)) {
            *count = u16::try_from(chain.len()).unwrap_or(u16::MAX);
        }
    }

    /// Kicks queue `index` if the switch wants to be.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn kick(&self, index: usize) -> Result<()> {
        fence(Ordering::SeqCst);
        let area = index as u64 * RINGS_LEN + DEVICE;
        // 1 is "never". A place it asks for may have been passed: kick.
        if self.guest.shared.word(area + 2).load(Ordering::Relaxed) != 1 {
            self.guest.ring(index)?;
        }
        Ok(())
    }

    /// What queue `index` wants to be told, as the switch wrote it: its place
    /// and its flags.
    pub fn wish(&self, index: usize) -> (u16, u16) {
        let area = index as u64 * RINGS_LEN + DEVICE;
        let word = |at| self.guest.shared.word(at).load(Ordering::Acquire);
        (word(area), word(area + 2))
    }

    /// Asks to be called for queue `index`: 0 for every buffer, 1 for none, 2
    /// (EVENT_IDX) when the one `ahead` of those that were seen is used.
    pub fn want_calls(&self, index: usize, flags: u16, ahead: u16) {
        let place = self.queues[index].used.after(ahead);
        let area = index as u64 * RINGS_LEN + DRIVER;
        let place = place.slot | if place.lap { 0x8000 } else { 0 };
        self.guest.shared.word(area).store(place, Ordering::Relaxed);
        self.guest.shared.word(area + 2).store(flags, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Gives receive buffer `number`.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn offer(&mut self, number: u16) -> Result<()> {
        let addr = Guest::buffer(number);
        self.push(0, number, &[Descriptor { addr, len: BUFFER_LEN, flags: WRITE, next: 0 }]);
        self.kick(0)
    }

    /// Sends a complete frame in `pieces` descriptors.
    ///
    /// # Errors
    /// The eventfd is broken.
    pub fn send_in(&mut self, pieces: u16, frame: &[u8]) -> Result<()> {
        // What was used makes room.
        while self.used(1)?.is_some() {}
        let number = self.queues[1].sent % BUFFERS_LEN;
        self.queues[1].sent = self.queues[1].sent.wrapping_add(1);
        let (start, len) = (Guest::buffer(BUFFERS_LEN + number), u32::try_from(frame.len() + 12)?);
        self.guest.write(start, &[&[0; 12][..], frame].concat());
        let step = len / u32::from(pieces);
        let chain: Vec<Descriptor> = (0..pieces)
            .map(|piece| {
                let (at, is_last) = (u32::from(piece) * step, piece + 1 == pieces);
                let (len, flags) = if is_last { (len - at, 0) } else { (step, NEXT) };
                Descriptor { addr: start + u64::from(at), len, flags, next: 0 }
            })
            .collect();
        self.push(1, number, &chain);
        self.kick(1)
    }

    /// How many of its frames were not taken yet.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn unsent(&mut self) -> Result<u16> {
        while self.used(1)?.is_some() {}
        Ok(self.queues[1].out)
    }

    /// A frame that has come, with its header; its buffer is offered again.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let Some((number, len)) = self.used(0)? else { return Ok(None) };
        ensure!(number < BUFFERS_LEN && len <= BUFFER_LEN, "used {number} with {len} bytes");
        let frame = self.guest.read(Guest::buffer(number), len as usize);
        self.offer(number)?;
        Ok(Some(frame))
    }

    /// The next buffer that was used in queue `index`, and its bytes.
    ///
    /// # Errors
    /// The switch wrote nonsense.
    pub fn used(&mut self, index: usize) -> Result<Option<(u16, u32)>> {
        let queue = &mut self.queues[index];
        if queue.out == 0 {
            return Ok(None);
        }
        let at = PackedGuest::slot(index, queue.used.slot);
        let flags = self.guest.shared.word(at + 14).load(Ordering::Acquire);
        let marks = (flags & AVAILABLE != 0, flags & USED != 0);
        if marks != (queue.used.lap, queue.used.lap) {
            return Ok(None);
        }
        let element = self.guest.read(at + 8, 6);
        let [l0, l1, l2, l3, i0, i1] = element.as_slice() else { return Ok(None) };
        let (id, len) = (u16::from_le_bytes([*i0, *i1]), u32::from_le_bytes([*l0, *l1, *l2, *l3]));
        let count = queue.counts.get(usize::from(id)).copied().unwrap_or(0);
        ensure!(count > 0, "buffer {id} was never given");
        ensure!((flags & WRITE != 0) == (len > 0), "{len} bytes, flags {flags:#x}");
        queue.used = queue.used.after(count);
        queue.out -= 1;
        Ok(Some((id, len)))
    }
}
