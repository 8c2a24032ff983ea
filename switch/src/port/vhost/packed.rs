//! A packed virtqueue: one ring of descriptors, in which the driver makes
//! buffers available and the device writes over them what it has used. Two bits
//! of each descriptor say whose it is; which value means what changes with each
//! lap.
//!
//! The ring's chains are found as far ahead as a burst may want (`waiting`), and
//! their lengths are remembered: what a driver writes there later changes neither
//! how many slots a buffer has nor where the next one begins.
//!
//! Read first: virtio 1.2 §2.8. The three areas were checked to lie whole in the
//! guest's memory ([`PackedRing::new`]).
//!
//! Deliberately absent: buffers used out of order.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::call::Call;
use super::chain::{self, Access, CHAIN_MAX, Runs};
use super::memory::GuestMemory;
use super::prefetch::{self, LINE};
use super::ring::{Base, Breach, Descriptor, Ring, RingAddresses, SIZE_MAX, is_passed};

/// Flags of a descriptor: whose it is (VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED).
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The flags that say what a buffer is.
const KIND: u16 = Descriptor::NEXT | Descriptor::WRITE | Descriptor::INDIRECT;

/// What one side wants to be told (RING_EVENT_FLAGS_*): everything, nothing, or
/// that a given slot was passed.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const SLOT: u16 = 2;

/// How many buffers are looked for ahead: as many as one frame may be spread
/// over, and four bursts.
const WINDOW: u16 = 256;

/// A slot, and the value that marks descriptors as available in this lap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    slot: u16,
    lap: bool,
}

impl Place {
    /// As messages and event areas have it: 15 bits and one.
    const fn read(word: u16) -> Place {
        Place { slot: word & 0x7fff, lap: word & 0x8000 != 0 }
    }

    const fn word(self) -> u16 {
        self.slot | if self.lap { 0x8000 } else { 0 }
    }

    /// `count` slots on in a ring of `size`; `count` is at most `size`.
    const fn after(self, count: u16, size: u16) -> Place {
        // At most twice 32,768, less one.
        let slot = self.slot as u32 + count as u32;
        if slot < size as u32 {
            Place { slot: self.slot + count, lap: self.lap }
        } else {
            Place { slot: self.slot.wrapping_add(count).wrapping_sub(size), lap: !self.lap }
        }
    }

    /// Whether a descriptor here with `flags` was made available.
    const fn offers(self, flags: u16) -> bool {
        (flags & AVAILABLE != 0) == self.lap && (flags & USED != 0) != self.lap
    }
}

/// A chain that was seen.
#[derive(Clone, Copy, Default, Debug)]
struct Chain {
    /// The driver's name for the buffer: only handed back.
    id: u16,
    /// Slots; at least 1.
    count: u16,
}

/// A packed virtqueue over a guest's memory, which must outlive it.
#[derive(Debug)]
pub(super) struct PackedRing {
    descriptors: *mut Descriptor,
    /// What the driver wants to be told: a place, and a flag.
    driver: *const AtomicU16,
    /// What we want to be told.
    device: *const AtomicU16,
    size: u16,
    event_idx: bool,
    /// Where the next chain is looked for.
    next: Place,
    /// Heads of the chains that were seen and not taken, as a ring.
    heads: Box<[u16]>,
    first: u16,
    seen: u16,
    /// By their heads.
    chains: Box<[Chain]>,
    /// Slots from `used` to `next`: in our hands.
    held: u16,
    /// Where the next used descriptor is written.
    used: Place,
    /// The first used descriptor that the driver cannot see yet, and the flags
    /// that will show it.
    hidden: Option<(u16, u16)>,
    /// Where `used` was when the driver last was, or need not be, told.
    signalled: Option<Place>,
    call: Option<Call>,
}

// SAFETY: the addresses stay valid in any thread as long as the memory that
// the ring was made for, which is kept and moved together with it.
unsafe impl Send for PackedRing {}

impl PackedRing {
    /// A queue of `size` descriptors at `addresses` that goes on at `base`. `None`
    /// if an area is not whole in `memory` or not aligned, if the size is no power
    /// of two up to [`SIZE_MAX`], or if there is no such place.
    pub fn new(
        memory: &GuestMemory,
        size: u32,
        addresses: RingAddresses,
        base: Base,
        event_idx: bool,
        call: Option<Call>,
    ) -> Option<PackedRing> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return None;
        }
        let len = size as usize;
        let descriptors = memory.user(addresses.descriptors, len * Descriptor::LEN)?;
        let driver = memory.user(addresses.available, 4)?;
        let device = memory.user(addresses.used, 4)?;
        let is_aligned = |ptr: *mut u8, to: usize| ptr.addr().is_multiple_of(to);
        if !(is_aligned(descriptors, 16) && is_aligned(driver, 4) && is_aligned(device, 4)) {
            return None;
        }
        // The upper half is where used descriptors go: the same, since a queue
        // is only ever stopped between bursts. DPDK leaves it 0.
        let place = Place::read(u16::try_from(base.get() & 0xffff).ok()?);
        let size = u16::try_from(size).ok()?;
        if place.slot >= size {
            return None;
        }
        let mut ring = PackedRing {
            descriptors: descriptors.cast(),
            driver: driver.cast(),
            device: device.cast(),
            size,
            event_idx,
            next: place,
            heads: vec![0; usize::from(WINDOW)].into(),
            first: 0,
            seen: 0,
            chains: vec![Chain::default(); len].into(),
            held: 0,
            used: place,
            hidden: None,
            signalled: None,
            call,
        };
        if matches!(base, Base::Said(_)) && place == (Place { slot: 0, lap: true }) {
            ring.used = ring.find_place();
            ring.next = ring.used;
        }
        ring.hush();
        Some(ring)
    }

    /// Where a queue stands that is said to begin (and which we did not leave there): at its beginning, or, if a
    /// switch before us used it and was killed, where that one stopped. Front
    /// ends cannot know (QEMU says "the beginning"), but the slots do: those that
    /// were used carry the mark of their lap.
    ///
    /// That is sure for buffers of one slot each, which Linux makes (it takes
    /// indirect tables for all others); of a longer chain only the first slot is
    /// marked as used.
    fn find_place(&self) -> Place {
        let flags = |slot: u16| self.flags(slot).load(Ordering::Acquire);
        let lap = flags(0) & AVAILABLE != 0;
        // Slot 0 was used in this lap: everything up to its end was.
        let is_used = |flags: u16| (flags & AVAILABLE != 0) == lap && (flags & USED != 0) == lap;
        if is_used(flags(0)) {
            let end = (1..self.size).find(|&slot| !is_used(flags(slot)));
            return end.map_or(Place { slot: 0, lap: !lap }, |slot| Place { slot, lap });
        }
        // It waits; before it may wait what is left of the lap before.
        let before = (1..self.size).find(|&slot| Place { slot, lap: !lap }.offers(flags(slot)));
        before.map_or(Place { slot: 0, lap }, |slot| Place { slot, lap: !lap })
    }

    /// The place that would be taken next, in both halves: what the front end
    /// gets when it stops the queue.
    pub fn base(&self) -> u32 {
        u32::from(self.used.word()) * 0x1_0001
    }

    /// What tells the driver.
    pub fn call(&mut self) -> &mut Option<Call> {
        &mut self.call
    }

    /// Takes out what tells the driver.
    pub fn into_call(self) -> Option<Call> {
        self.call
    }

    /// Slots of the buffer `head`, which was seen.
    pub fn count(&self, head: u16) -> u16 {
        self.chains[usize::from(head)].count
    }

    /// `count` slots from `head` on, and around the end.
    pub fn slots(&self, head: u16, count: u16) -> impl Iterator<Item = u16> {
        let mask = self.size - 1;
        (0..count).map(move |step| head.wrapping_add(step) & mask)
    }

    /// The descriptor in `slot`, which is below the size, read once.
    #[inline]
    pub fn descriptor(&self, slot: u16) -> Descriptor {
        debug_assert!(slot < self.size, "a slot of this ring");
        // SAFETY: the ring has `size` descriptors, aligned; volatile, so that
        // what is checked is what is used although the driver may write it.
        PackedRing::arranged(unsafe { self.descriptors.add(usize::from(slot)).read_volatile() })
    }

    /// A packed descriptor, whose last two fields are the buffer's id and its
    /// flags, as one that says what to do.
    #[inline]
    pub fn arranged(packed: Descriptor) -> Descriptor {
        Descriptor { flags: packed.next & KIND, next: 0, ..packed }
    }

    /// The flags of `slot`, which is below the size.
    #[inline]
    fn flags(&self, slot: u16) -> &AtomicU16 {
        // SAFETY: a descriptor's last two bytes, aligned; others write them, as
        // atomics allow.
        unsafe { &*self.descriptors.add(usize::from(slot)).cast::<AtomicU16>().add(7) }
    }

    /// The buffer's id in `slot`, which is below the size.
    #[inline]
    fn id(&self, slot: u16) -> u16 {
        // SAFETY: the two bytes before the flags, as above.
        unsafe { self.descriptors.add(usize::from(slot)).cast::<u16>().add(6).read_volatile() }
    }

    fn event(&self, area: *const AtomicU16, index: usize) -> &AtomicU16 {
        debug_assert!(index < 2, "a place and a flag");
        // SAFETY: `new` saw four bytes there, aligned, and both areas live as
        // long as the ring; others write them, as atomics allow.
        unsafe { &*area.add(index) }
    }

    /// Takes note of the chain at `next`, whose first descriptor has `flags`.
    #[inline]
    fn see(&mut self, mut flags: u16) -> Result<(), Breach> {
        let head = self.next.slot;
        let (mut slot, mut count) = (head, 1u16);
        if self.held == self.size {
            return Err(Breach::Ahead);
        }
        while flags & Descriptor::NEXT != 0 {
            if self.held + count == self.size || usize::from(count) == CHAIN_MAX {
                return Err(Breach::Loop);
            }
            slot = (slot + 1) & (self.size - 1);
            // Written before the first one was made available.
            flags = self.flags(slot).load(Ordering::Relaxed);
            count += 1;
        }
        self.chains[usize::from(head)] = Chain { id: self.id(slot), count };
        let place = self.first.wrapping_add(self.seen) % WINDOW;
        self.heads[usize::from(place)] = head;
        self.seen += 1;
        self.held += count;
        self.next = self.next.after(count, self.size);
        Ok(())
    }

    fn signal(&mut self) {
        // The driver writes its wish, then looks at our descriptors; we the
        // other way round. Without the fence both could miss the other.
        fence(Ordering::SeqCst);
        let (now, before) = (self.used, self.signalled.replace(self.used));
        let wanted = match self.event(self.driver, 1).load(Ordering::Acquire) & 3 {
            SLOT if self.event_idx => {
                let event = Place::read(self.event(self.driver, 0).load(Ordering::Relaxed));
                before.is_none_or(|before| self.is_passed(event, now, before))
            }
            flags => flags != DISABLE,
        };
        if let Some(call) = self.call.as_ref().filter(|_| wanted) {
            call.ring();
        }
    }

    /// Whether `event` is among the places passed on the way to `now`.
    fn is_passed(&self, event: Place, now: Place, before: Place) -> bool {
        // Counted from the start of this lap: others lie a size before it.
        let from_here = |place: Place| match place.lap == now.lap {
            true => place.slot,
            false => place.slot.wrapping_sub(self.size),
        };
        is_passed(from_here(event), now.slot, from_here(before))
    }
}

impl Ring for PackedRing {
    #[inline]
    fn waiting(&mut self) -> Result<u16, Breach> {
        while self.seen < WINDOW {
            let flags = self.flags(self.next.slot).load(Ordering::Acquire);
            if !self.next.offers(flags) {
                break;
            }
            self.see(flags)?;
        }
        Ok(self.seen)
    }

    #[inline]
    fn seen(&self) -> u16 {
        self.seen
    }

    #[inline]
    fn fetch(&self, count: u16) {
        // What was looked for is here already, but only to be read.
        for slot in self.slots(self.used.slot, count).step_by(LINE / Descriptor::LEN) {
            prefetch::write(self.descriptors.wrapping_add(usize::from(slot)).cast(), 1);
        }
    }

    #[inline]
    fn head(&self, ahead: u16) -> Result<u16, Breach> {
        debug_assert!(ahead < self.seen, "seen by the caller");
        Ok(self.heads[usize::from(self.first.wrapping_add(ahead) % WINDOW)])
    }

    #[inline]
    fn first(&self, head: u16) -> Descriptor {
        self.descriptor(head)
    }

    fn walk(&self, memory: &GuestMemory, head: u16, access: Access, runs: &mut Runs) -> Result<u64, Breach> {
        chain::walk_packed(self, memory, head, access, runs)
    }

    #[inline]
    fn take(&mut self, count: u16) {
        debug_assert!(count <= self.seen, "seen by the caller");
        self.first = self.first.wrapping_add(count) % WINDOW;
        self.seen -= count;
    }

    #[inline]
    fn complete(&mut self, head: u16, len: u32) {
        let Chain { id, count } = self.chains[usize::from(head)];
        let slot = self.used.slot;
        // SAFETY: the length and id of a descriptor in our hands; the driver
        // reads them after its flags.
        unsafe {
            let descriptor = self.descriptors.add(usize::from(slot));
            (&raw mut (*descriptor).len).write_volatile(len);
            (&raw mut (*descriptor).flags).write_volatile(id);
        }
        let lap = if self.used.lap { AVAILABLE | USED } else { 0 };
        let flags = lap | if len > 0 { Descriptor::WRITE } else { 0 };
        if self.hidden.is_none() {
            // The driver reads in order: nothing behind it is seen before it.
            self.hidden = Some((slot, flags));
        } else {
            self.flags(slot).store(flags, Ordering::Release);
        }
        self.held -= count;
        self.used = self.used.after(count, self.size);
    }

    #[inline]
    fn publish(&mut self) {
        let Some((slot, flags)) = self.hidden.take() else { return };
        self.flags(slot).store(flags, Ordering::Release);
        if self.call.is_some() {
            self.signal();
        }
    }

    fn hush(&mut self) {
        self.event(self.device, 1).store(DISABLE, Ordering::Relaxed);
    }

    fn listen(&mut self) -> Result<bool, Breach> {
        let flags = if self.event_idx { SLOT } else { ENABLE };
        self.event(self.device, 0).store(self.next.word(), Ordering::Relaxed);
        self.event(self.device, 1).store(flags, Ordering::Release);
        // The driver makes its buffers available, then reads our wish.
        fence(Ordering::SeqCst);
        Ok(self.waiting()? > 0)
    }
}
