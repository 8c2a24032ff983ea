//! What the data thread does with a virtqueue, whichever of the two layouts it
//! has: take the buffers that the driver made available, in their order, give
//! them back in the same order, and be told or not be told of more.
//!
//! A buffer goes by the number of its first descriptor, its *head*. Whatever
//! stands in the guest's memory may change at any time, so each field is read
//! once and every index is checked.
//!
//! Deliberately absent: a choice for each frame. Bursts are generic over
//! [`Ring`], and [`Queue`] is looked into once for each.

use super::call::Call;
use super::chain::{Access, Runs};
use super::features::Features;
use super::memory::GuestMemory;
use super::packed::PackedRing;
use super::split::SplitRing;

/// The longest queue: indices are 16 bits wide (virtio 1.2 §2.7, §2.8).
pub(super) const SIZE_MAX: u32 = 32_768;

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
    /// Bytes of one.
    pub const LEN: usize = 16;

    /// The chain goes on: at `next`, or in a packed ring in the next slot.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Where a ring is, in addresses of the front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingAddresses {
    /// The descriptor table, or ring.
    pub descriptors: u64,
    /// The available ring; of a packed one, what the driver wants to be told.
    pub available: u64,
    /// The used ring; of a packed one, what we want to be told.
    pub used: u64,
}

/// Where a queue goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// Where the front end says; it may not know where a switch before us stopped.
    Said(u32),
    /// Where we stopped ourselves.
    Left(u32),
}

impl Default for Base {
    fn default() -> Base {
        Base::Said(0)
    }
}

impl Base {
    /// The place, as messages have it.
    pub const fn get(self) -> u32 {
        match self {
            Base::Said(base) | Base::Left(base) => base,
        }
    }
}

/// One virtqueue as the device sees it.
pub(super) trait Ring {
    /// How many available buffers were not taken yet, as far as they were looked
    /// for: at least one burst's.
    ///
    /// # Errors
    /// More than the queue has.
    fn waiting(&mut self) -> Result<u16, Breach>;

    /// How many of those that were seen are left.
    fn seen(&self) -> u16;

    /// Asks for the lines of the next `count` buffers' first descriptors and of
    /// as many used ones: the driver had them last, and one after the other each
    /// would be waited for.
    fn fetch(&self, count: u16);

    /// The head of the `ahead`-th available buffer, which was seen.
    ///
    /// # Errors
    /// Its number lies outside the table.
    fn head(&self, ahead: u16) -> Result<u16, Breach>;

    /// The first descriptor of the buffer `head`, read once.
    fn first(&self, head: u16) -> Descriptor;

    /// Adds the runs of the buffer `head` to `runs`, and returns their sum in
    /// bytes.
    ///
    /// # Errors
    /// Whatever the chain breaks.
    fn walk(&self, memory: &GuestMemory, head: u16, access: Access, runs: &mut Runs) -> Result<u64, Breach>;

    /// Takes the next `count` available buffers, which were seen.
    fn take(&mut self, count: u16);

    /// Writes that the buffer `head`, which was taken, was used with `len` bytes
    /// in it; the driver sees it with the next [`publish`](Self::publish).
    fn complete(&mut self, head: u16, len: u32);

    /// Shows the driver what was used, and tells it if it wants to be told.
    fn publish(&mut self);

    /// Asks the driver not to kick.
    fn hush(&mut self);

    /// Asks the driver to kick with the next buffer; true if there is one
    /// already.
    ///
    /// # Errors
    /// As [`waiting`](Self::waiting).
    fn listen(&mut self) -> Result<bool, Breach>;
}

/// A ring of the layout that the driver chose.
#[derive(Debug)]
pub(super) enum Queue {
    /// Three areas (virtio 1.2 §2.7).
    Split(SplitRing),
    /// One (§2.8).
    Packed(PackedRing),
}

impl Queue {
    /// A queue of `size` descriptors at `addresses` that goes on at `base`. `None` if an area is not whole in `memory` or not
    /// aligned, or if size or base are impossible.
    pub fn new(
        memory: &GuestMemory,
        features: Features,
        size: u32,
        addresses: RingAddresses,
        base: Base,
        call: Option<Call>,
    ) -> Option<Queue> {
        let event_idx = features.event_idx();
        if features.is_packed() {
            return PackedRing::new(memory, size, addresses, base, event_idx, call).map(Queue::Packed);
        }
        // Indices have 16 bits; above them other kinds of rings keep more.
        let base = u16::try_from(base.get() & 0xffff).ok()?;
        SplitRing::new(memory, size, addresses, base, event_idx, call).map(Queue::Split)
    }

    /// Where it stopped: what the front end gets, and will say again.
    pub fn base(&self) -> u32 {
        match self {
            Queue::Split(ring) => u32::from(ring.base()),
            Queue::Packed(ring) => ring.base(),
        }
    }

    /// Tells the driver by `call` from now on, and does so once: what was to be told by the
    /// last one may have come too late there. Returns that one.
    pub fn set_call(&mut self, call: Option<Call>) -> Option<Call> {
        let place = match self {
            Queue::Split(ring) => ring.call(),
            Queue::Packed(ring) => ring.call(),
        };
        let last = std::mem::replace(place, call);
        if let Some(call) = place {
            call.ring();
        }
        last
    }

    /// Takes out what tells the driver.
    pub fn into_call(self) -> Option<Call> {
        match self {
            Queue::Split(ring) => ring.into_call(),
            Queue::Packed(ring) => ring.into_call(),
        }
    }

    /// As [`Ring::waiting`].
    #[inline]
    pub fn waiting(&mut self) -> Result<u16, Breach> {
        match self {
            Queue::Split(ring) => ring.waiting(),
            Queue::Packed(ring) => ring.waiting(),
        }
    }

    /// As [`Ring::hush`].
    pub fn hush(&mut self) {
        match self {
            Queue::Split(ring) => ring.hush(),
            Queue::Packed(ring) => ring.hush(),
        }
    }

    /// As [`Ring::listen`].
    pub fn listen(&mut self) -> Result<bool, Breach> {
        match self {
            Queue::Split(ring) => ring.listen(),
            Queue::Packed(ring) => ring.listen(),
        }
    }
}

/// Whether `event` is among the indices passed on the way from `before` to
/// `now` (`vring_need_event` of virtio 1.2 §2.7.10).
pub(super) fn is_passed(event: u16, now: u16, before: u16) -> bool {
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
