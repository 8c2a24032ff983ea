//! A split virtqueue: a table of descriptors, a ring of those that the driver
//! made available, and a ring of those that were used.
//!
//! Read first: virtio 1.2 §2.7. The three areas were checked to lie whole in
//! the guest's memory ([`SplitRing::new`]).
//!
//! Deliberately absent: what the buffers hold (`chain`, `receive`, `transmit`).

use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::call::Call;
use super::chain::{self, Access, Runs};
use super::memory::GuestMemory;
use super::prefetch::{self, LINE};
use super::ring::{Breach, Descriptor, Ring, RingAddresses, SIZE_MAX, is_passed};

/// Flag of the used ring: no kicks, please (VIRTQ_USED_F_NO_NOTIFY).
const NO_NOTIFY: u16 = 1;
/// Flag of the available ring: no interrupts, please (VIRTQ_AVAIL_F_NO_INTERRUPT).
const NO_INTERRUPT: u16 = 1;

/// Bytes of a used element.
const USED_LEN: usize = 8;

/// A split virtqueue over a guest's memory, which must outlive it.
#[derive(Debug)]
pub(super) struct SplitRing {
    descriptors: *const Descriptor,
    /// `flags`, `idx`, the ring, `used_event`.
    available: *const AtomicU16,
    /// `flags`, `idx`; the elements begin four bytes on.
    used: *const AtomicU16,
    /// The size less 1. As wide as this, it is never loaded together with a
    /// counter: such a load would wait until the store of the counter has left
    /// the processor, behind stores to the guest's memory; that was half of all
    /// time.
    mask: usize,
    event_idx: bool,
    /// Buffers are taken from here on; counts on beyond the size.
    next_available: u16,
    /// What the driver's index said when it was last read.
    seen_available: u16,
    /// Used elements are written from here on; those before are published.
    next_used: u16,
    published: u16,
    /// The last index at which the driver was, or need not be, told.
    signalled: Option<u16>,
    call: Option<Call>,
}

// SAFETY: the addresses stay valid in any thread as long as the memory that
// the ring was made for, which is kept and moved together with it.
unsafe impl Send for SplitRing {}

impl SplitRing {
    /// A queue of `size` descriptors at `addresses` that goes on with available
    /// buffer number `base`. `None` if an area is not whole in `memory`, not
    /// aligned, or the size is no power of two up to [`SIZE_MAX`].
    pub fn new(
        memory: &GuestMemory,
        size: u32,
        addresses: RingAddresses,
        base: u16,
        event_idx: bool,
        call: Option<Call>,
    ) -> Option<SplitRing> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return None;
        }
        let len = size as usize;
        let descriptors = memory.user(addresses.descriptors, len * Descriptor::LEN)?;
        let available = memory.user(addresses.available, 6 + 2 * len)?;
        let used = memory.user(addresses.used, 6 + 8 * len)?;
        let is_aligned = |ptr: *mut u8, to: usize| ptr.addr().is_multiple_of(to);
        if !(is_aligned(descriptors, 16) && is_aligned(available, 2) && is_aligned(used, 4)) {
            return None;
        }
        let mut ring = SplitRing {
            descriptors: descriptors.cast(),
            available: available.cast(),
            used: used.cast(),
            mask: len - 1,
            event_idx,
            next_available: base,
            seen_available: base,
            next_used: 0,
            published: 0,
            signalled: None,
            call,
        };
        // A queue that ran before goes on where its driver believes it is.
        ring.next_used = ring.used_at(1).load(Ordering::Relaxed);
        ring.published = ring.next_used;
        ring.hush();
        Some(ring)
    }

    /// Number of descriptors.
    #[inline]
    pub fn size(&self) -> usize {
        self.mask + 1
    }

    /// The available buffer that would be taken next: what the front end gets
    /// when it stops the queue.
    pub fn base(&self) -> u16 {
        self.next_available
    }

    /// What tells the driver.
    pub fn call(&mut self) -> &mut Option<Call> {
        &mut self.call
    }

    /// Takes out the descriptor that tells the driver.
    pub fn into_call(self) -> Option<Call> {
        self.call
    }

    fn available_at(&self, index: usize) -> &AtomicU16 {
        // SAFETY: `index` is below size + 3, and `new` saw that so many u16 are
        // there, aligned; others write them, as atomics allow.
        unsafe { &*self.available.add(index) }
    }

    fn used_at(&self, index: usize) -> &AtomicU16 {
        // SAFETY: as above: the used ring has 3 + 4 * size of them.
        unsafe { &*self.used.add(index) }
    }

    /// A descriptor of the ring's own table, read once. `index` is below `size`.
    #[inline]
    pub fn descriptor(&self, index: u16) -> Descriptor {
        debug_assert!(usize::from(index) <= self.mask, "checked by the caller");
        // SAFETY: the table has `size` descriptors, aligned; volatile, so that
        // what is checked is what is used although the driver may write it.
        unsafe { self.descriptors.add(usize::from(index)).read_volatile() }
    }

    fn signal(&mut self) {
        // The driver writes its wish, then reads our index; we the other way
        // round. Without the fence both could miss the other.
        fence(Ordering::SeqCst);
        let now = self.published;
        let wanted = if self.event_idx {
            let event = self.available_at(2 + self.size()).load(Ordering::Relaxed);
            self.signalled.is_none_or(|before| is_passed(event, now, before))
        } else {
            self.available_at(0).load(Ordering::Relaxed) & NO_INTERRUPT == 0
        };
        self.signalled = Some(now);
        if let Some(call) = self.call.as_ref().filter(|_| wanted) {
            call.ring();
        }
    }
}

impl Ring for SplitRing {
    #[inline]
    fn waiting(&mut self) -> Result<u16, Breach> {
        self.seen_available = self.available_at(1).load(Ordering::Acquire);
        let waiting = self.seen_available.wrapping_sub(self.next_available);
        if usize::from(waiting) > self.size() { Err(Breach::Ahead) } else { Ok(waiting) }
    }

    #[inline]
    fn seen(&self) -> u16 {
        self.seen_available.wrapping_sub(self.next_available)
    }

    #[inline]
    fn fetch(&self, count: u16) {
        for ahead in 0..count {
            let place = usize::from(self.next_available.wrapping_add(ahead)) & self.mask;
            let head = self.available_at(2 + place).load(Ordering::Relaxed);
            // Any address may be asked for; which may be read is checked later.
            prefetch::read(self.descriptors.wrapping_add(usize::from(head)).cast(), 1);
        }
        for ahead in (0..count).step_by(LINE / USED_LEN) {
            let place = usize::from(self.next_used.wrapping_add(ahead)) & self.mask;
            prefetch::write(self.used.wrapping_add(2 + 4 * place).cast(), 1);
        }
    }

    #[inline]
    fn head(&self, ahead: u16) -> Result<u16, Breach> {
        let place = usize::from(self.next_available.wrapping_add(ahead)) & self.mask;
        let head = self.available_at(2 + place).load(Ordering::Relaxed);
        if usize::from(head) <= self.mask { Ok(head) } else { Err(Breach::Index) }
    }

    #[inline]
    fn first(&self, head: u16) -> Descriptor {
        self.descriptor(head)
    }

    fn walk(&self, memory: &GuestMemory, head: u16, access: Access, runs: &mut Runs) -> Result<u64, Breach> {
        chain::walk_split(self, memory, head, access, runs)
    }

    #[inline]
    fn take(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_add(count);
    }

    #[inline]
    fn complete(&mut self, head: u16, len: u32) {
        let place = usize::from(self.next_used) & self.mask;
        // SAFETY: element `place` lies in the used ring, aligned to 4 bytes;
        // only we write it, and the driver reads it after `publish`.
        unsafe {
            let element = self.used.cast_mut().cast::<u32>().add(1 + 2 * place);
            element.write_volatile(u32::from(head));
            element.add(1).write_volatile(len);
        }
        self.next_used = self.next_used.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self) {
        if self.published == self.next_used {
            return;
        }
        self.used_at(1).store(self.next_used, Ordering::Release);
        self.published = self.next_used;
        if self.call.is_some() {
            self.signal();
        }
    }

    fn hush(&mut self) {
        if self.event_idx {
            // Just passed: it comes round again after 65,536 buffers.
            let event = self.next_available.wrapping_sub(1);
            self.used_at(2 + 4 * self.size()).store(event, Ordering::Relaxed);
        } else {
            self.used_at(0).store(NO_NOTIFY, Ordering::Relaxed);
        }
    }

    fn listen(&mut self) -> Result<bool, Breach> {
        if self.event_idx {
            let event = self.next_available;
            self.used_at(2 + 4 * self.size()).store(event, Ordering::Relaxed);
        } else {
            self.used_at(0).store(0, Ordering::Relaxed);
        }
        // The driver writes its index, then reads our wish (see `signal`).
        fence(Ordering::SeqCst);
        Ok(self.waiting()? > 0)
    }
}
