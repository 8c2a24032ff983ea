//! One split virtqueue as the device sees it: which buffers the driver made
//! available, which were used, and who wants to be told.
//!
//! Read first: virtio 1.2 §2.7. The three areas were checked to lie whole in
//! the guest's memory ([`SplitRing::new`]); whatever stands in them may change
//! at any time, so each field is read once and every index is checked.
//!
//! Deliberately absent: what the buffers hold (`chain`, `receive`, `transmit`).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::memory::GuestMemory;

/// The longest queue: indices are 16 bits wide (virtio 1.2 §2.7).
pub(super) const SIZE_MAX: u32 = 32_768;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_LEN: usize = 16;

/// Flag of the used ring: no kicks, please (VIRTQ_USED_F_NO_NOTIFY).
const NO_NOTIFY: u16 = 1;
/// Flag of the available ring: no interrupts, please (VIRTQ_AVAIL_F_NO_INTERRUPT).
const NO_INTERRUPT: u16 = 1;

/// How a peer broke the rules; its connection ends with this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Breach {
    /// More buffers than the queue has.
    #[error("its available index ran ahead of the queue")]
    Ahead,
    /// A descriptor number that the table does not have.
    #[error("a descriptor index lies outside its table")]
    Index,
    /// A chain with a loop, or longer than the queue.
    #[error("a descriptor chain is longer than its queue, or has a loop")]
    Loop,
    /// Memory that it never shared.
    #[error("a descriptor points outside the shared memory")]
    Hole,
    /// A buffer of no bytes.
    #[error("a descriptor has length 0")]
    Empty,
    /// An indirect table in an indirect table, or one that goes on behind itself.
    #[error("an indirect descriptor is nested or has a successor")]
    Nested,
    /// An indirect table of an impossible length.
    #[error("an indirect table has a wrong length")]
    Table,
    /// A buffer to be written among those to be read, or the other way round.
    #[error("a descriptor has the wrong direction")]
    Direction,
    /// The memory ended under us.
    #[error("its memory was cut short while in use")]
    Cut,
}

/// A descriptor, as it was read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// The chain goes on at `next`.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Where a ring is, in addresses of the front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
}

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
    call: Option<OwnedFd>,
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
        call: Option<OwnedFd>,
    ) -> Option<SplitRing> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return None;
        }
        let len = size as usize;
        let descriptors = memory.user(addresses.descriptors, len * DESCRIPTOR_LEN)?;
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

    /// Takes out the descriptor that tells the driver.
    pub fn into_call(self) -> Option<OwnedFd> {
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

    /// How many available buffers were not taken yet.
    ///
    /// # Errors
    /// More than the queue has.
    #[inline]
    pub fn waiting(&mut self) -> Result<u16, Breach> {
        self.seen_available = self.available_at(1).load(Ordering::Acquire);
        let waiting = self.seen_available.wrapping_sub(self.next_available);
        if usize::from(waiting) > self.size() { Err(Breach::Ahead) } else { Ok(waiting) }
    }

    /// How many of those that were seen are left.
    #[inline]
    pub fn seen(&self) -> u16 {
        self.seen_available.wrapping_sub(self.next_available)
    }

    /// The first descriptor of the `ahead`-th available buffer.
    ///
    /// # Errors
    /// Its number lies outside the table.
    #[inline]
    pub fn head(&self, ahead: u16) -> Result<u16, Breach> {
        let place = usize::from(self.next_available.wrapping_add(ahead)) & self.mask;
        let head = self.available_at(2 + place).load(Ordering::Relaxed);
        if usize::from(head) <= self.mask { Ok(head) } else { Err(Breach::Index) }
    }

    /// A descriptor of the ring's own table, read once. `index` is below `size`.
    #[inline]
    pub fn descriptor(&self, index: u16) -> Descriptor {
        debug_assert!(usize::from(index) <= self.mask, "checked by the caller");
        // SAFETY: the table has `size` descriptors, aligned; volatile, so that
        // what is checked is what is used although the driver may write it.
        unsafe { self.descriptors.add(usize::from(index)).read_volatile() }
    }

    /// Takes the next `count` available buffers.
    #[inline]
    pub fn take(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_add(count);
    }

    /// Writes that buffer `head` was used, with `len` bytes in it; the driver
    /// sees it with the next [`publish`](Self::publish).
    #[inline]
    pub fn complete(&mut self, head: u16, len: u32) {
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

    /// Shows the driver what was used, and tells it if it wants to be told.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.next_used {
            return;
        }
        self.used_at(1).store(self.next_used, Ordering::Release);
        self.published = self.next_used;
        if self.call.is_some() {
            self.signal();
        }
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
            // Non-blocking, and full only if the driver has 2^64 to read.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
    }

    /// Asks the driver not to kick.
    pub fn hush(&mut self) {
        if self.event_idx {
            // Just passed: it comes round again after 65,536 buffers.
            let event = self.next_available.wrapping_sub(1);
            self.used_at(2 + 4 * self.size()).store(event, Ordering::Relaxed);
        } else {
            self.used_at(0).store(NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Asks the driver to kick with the next buffer; true if there is one
    /// already.
    ///
    /// # Errors
    /// As [`waiting`](Self::waiting).
    pub fn listen(&mut self) -> Result<bool, Breach> {
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

/// Whether `event` is among the indices passed on the way from `before` to
/// `now` (`vring_need_event` of virtio 1.2 §2.7.10).
fn is_passed(event: u16, now: u16, before: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use super::is_passed;

    #[test]
    fn events_are_passed_once_also_around_the_end() {
        for (event, now, before, expected) in [
            (5, 6, 5, true),
            (5, 5, 4, false),
            (6, 6, 5, false),
            (5, 9, 2, true),
            (2, 9, 2, true),
            (1, 9, 2, false),
            (9, 9, 2, false),
            (65_535, 0, 65_535, true),
            (0, 1, 65_534, true),
            (65_533, 1, 65_534, false),
        ] {
            assert_eq!(is_passed(event, now, before), expected, "{event} {now} {before}");
        }
    }
}
