//! Frames into a guest's receive queue, straight from wherever they lie: with
//! another guest at the other end, from its memory into this one's, and no byte
//! of payload is copied twice.
//!
//! Deliberately absent: waiting for buffers. A guest that gives none is full.

use std::ptr;

use arrayvec::ArrayVec;

use super::chain::{Access, CHAIN_MAX, Run, Runs};
use super::copy::copy;
use super::memory::GuestMemory;
use super::prefetch::{self, LINE};
use super::ring::{Breach, Descriptor, Ring};
use crate::bridge::Refusal;
use crate::frame::Wire;
use crate::offload::VnetHeader;
use crate::port::BURST_FRAMES;

/// The most buffers that one frame may be spread over: 64 KiB in buffers of
/// 1,526 bytes, which is the least that Linux gives, are 43.
const MERGED_MAX: usize = 256;

/// Bytes of the longest header, with `num_buffers`.
const HEADER_MAX: usize = VnetHeader::LEN + 2;

/// How frames are written for this guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// 12; 10 for drivers from before virtio 1.0 without merged buffers.
    pub header_len: usize,
    /// A frame may be spread over several buffers (VIRTIO_NET_F_MRG_RXBUF).
    pub merges: bool,
    /// The driver looks at checksum flags (VIRTIO_NET_F_GUEST_CSUM).
    pub csum: bool,
}

/// Why a frame was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotSent {
    /// Refused; the queue goes on.
    Refused(Refusal),
    /// The guest broke the rules; its port ends.
    Broken(Breach),
}

/// Buffers ahead, found before the first of them is written: the lines that
/// will be written are then on their way all at once.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Single buffers of one run, in the order of the queue; an empty run
    /// stands for anything else.
    buffers: ArrayVec<(u16, Run), BURST_FRAMES>,
    next: usize,
}

impl Ahead {
    /// Looks at up to `count` waiting buffers of `ring`.
    ///
    /// # Errors
    /// The queue's index lies.
    pub fn look(ring: &mut impl Ring, memory: &GuestMemory, count: usize) -> Result<Ahead, Breach> {
        if usize::from(ring.seen()) < count {
            ring.waiting()?;
        }
        let mut ahead = Ahead { buffers: ArrayVec::new(), next: 0 };
        let count = ring.seen().min(u16::try_from(count).unwrap_or(u16::MAX));
        ring.fetch(count);
        for number in 0..count {
            let head = ring.head(number)?;
            let Descriptor { addr, len, flags, .. } = ring.first(head);
            let mut run = Run { ptr: ptr::null_mut(), len: 0 };
            if flags == Descriptor::WRITE
                && let Some((ptr, room)) = memory.guest(addr, len as usize)
            {
                run = Run { ptr, len: room };
                // The header mostly stays as it is.
                prefetch::read(ptr, 1);
                prefetch::write(ptr.wrapping_add(LINE), 1);
            }
            if ahead.buffers.try_push((head, run)).is_err() {
                break;
            }
        }
        Ok(ahead)
    }

    /// Nothing is ahead.
    pub fn none() -> Ahead {
        Ahead { buffers: ArrayVec::new(), next: 0 }
    }

    /// The next buffer, if it is one run of at least `len` bytes.
    #[inline]
    fn single(&self, len: usize) -> Option<(u16, *mut u8)> {
        let &(head, run) = self.buffers.get(self.next)?;
        (run.len >= len).then_some((head, run.ptr))
    }
}

/// Writes `wire` into the next buffers of `ring`.
///
/// # Errors
/// There is no room, or the guest broke a rule; nothing was taken then.
#[inline]
pub(super) fn send(
    ring: &mut impl Ring,
    memory: &GuestMemory,
    layout: Layout,
    wire: &Wire<'_>,
    ahead: &mut Ahead,
    runs: &mut Runs,
) -> Result<(), NotSent> {
    let len = layout.header_len + wire.len();
    let Some((head, to)) = ahead.single(len) else {
        return spread(ring, memory, layout, wire, ahead, runs);
    };
    let (first, last) = header(wire, layout, 1);
    // SAFETY: the buffer is in the guest's memory and has room for `len` bytes;
    // the wire's bytes stay where they are while it lives. Should they overlap
    // (one memory shared by two guests), the bytes are the guests' own affair,
    // and are moved as if by way of a copy.
    unsafe {
        set(to, first.to_le_bytes());
        let last = last.to_le_bytes();
        if layout.header_len == HEADER_MAX {
            set(to.add(8), last);
        } else {
            set(to.add(8), [last[0], last[1]]);
        }
        let mut to = to.add(layout.header_len);
        copy(wire.head.as_ptr(), to, wire.head.len());
        to = to.add(wire.head.len());
        for piece in wire.rest {
            ptr::copy(piece.as_ptr(), to, piece.len());
            to = to.add(piece.len());
        }
    }
    ring.take(1);
    // A frame and its header are far from 4 GiB.
    ring.complete(head, u32::try_from(len).unwrap_or(u32::MAX));
    ahead.next += 1;
    Ok(())
}

/// Writes `value`, unless it is there already. A driver reads the header of a
/// buffer and often never writes it, so both processors have its line: a store
/// must first take it from the other one, which no prefetch does for a line that
/// is here, and all later stores wait behind it. Between two cores that was
/// 100 ns a frame, half of all time at 64 bytes; from one frame to the next the
/// header is mostly the same.
///
/// # Safety
/// There are `N` bytes at `to`, in the guest's memory.
#[inline(always)]
unsafe fn set<const N: usize>(to: *mut u8, value: [u8; N]) {
    let to = to.cast::<[u8; N]>();
    // SAFETY: there is room, says the caller; arrays of bytes have no alignment.
    // Read once: what the guest writes meanwhile is what it gets.
    unsafe {
        if to.read_volatile() != value {
            to.write(value);
        }
    }
}

/// The same into buffers of any shape.
#[cold]
fn spread(
    ring: &mut impl Ring,
    memory: &GuestMemory,
    layout: Layout,
    wire: &Wire<'_>,
    ahead: &mut Ahead,
    runs: &mut Runs,
) -> Result<(), NotSent> {
    let len = layout.header_len + wire.len();
    runs.clear();
    let mut chains: ArrayVec<(u16, usize), MERGED_MAX> = ArrayVec::new();
    let mut room = 0;
    while room < len {
        let number = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        if ring.seen() <= number && ring.waiting().map_err(NotSent::Broken)? <= number {
            return Err(NotSent::Refused(Refusal::Full));
        }
        if number > 0 && !layout.merges || chains.is_full() || runs.len() + CHAIN_MAX > RUNS_MAX {
            return Err(NotSent::Refused(Refusal::Oversize));
        }
        let head = ring.head(number).map_err(NotSent::Broken)?;
        let bytes = ring.walk(memory, head, Access::Write, runs).map_err(NotSent::Broken)?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(len - room);
        chains.push((head, bytes));
        room += bytes;
    }
    let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    let (first, last) = header(wire, layout, count);
    let mut header = [0; HEADER_MAX];
    header[..8].copy_from_slice(&first.to_le_bytes());
    header[8..].copy_from_slice(&last.to_le_bytes());
    let mut writer = Writer { runs: runs.as_slice(), at: 0 };
    writer.write(header.as_ptr(), layout.header_len);
    writer.write(wire.head.as_ptr(), wire.head.len());
    for piece in wire.rest {
        writer.write(piece.as_ptr(), piece.len());
    }
    ring.take(count);
    for (head, bytes) in chains {
        ring.complete(head, u32::try_from(bytes).unwrap_or(u32::MAX));
    }
    ahead.next += usize::from(count);
    Ok(())
}

/// Room for the runs of a frame: for one more of the longest chains at any time.
pub(super) const RUNS_MAX: usize = 2 * CHAIN_MAX;

/// The header that goes before the frame: its first eight bytes, and the last
/// four, as numbers. In memory they would be written in small parts and read in
/// large ones, and such a load waits until the stores have left the processor,
/// behind those to the guest's memory: that was 40 % of all time.
#[inline(always)]
fn header(wire: &Wire<'_>, layout: Layout, buffers: u16) -> (u64, u32) {
    // Without that feature the driver wants to see zeroes.
    let vnet = if layout.csum { wire.vnet } else { VnetHeader::PLAIN };
    let VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = vnet;
    let first = u64::from(flags)
        | u64::from(gso_type) << 8
        | u64::from(hdr_len) << 16
        | u64::from(gso_size) << 32
        | u64::from(csum_start) << 48;
    (first, u32::from(csum_offset) | u32::from(buffers) << 16)
}

/// Writes along runs.
struct Writer<'r> {
    runs: &'r [Run],
    /// Bytes of the first run that were written.
    at: usize,
}

impl Writer<'_> {
    /// Copies `len` bytes from `from`, as far as the runs reach.
    fn write(&mut self, from: *const u8, len: usize) {
        let mut done = 0;
        while done < len
            && let Some(run) = self.runs.first()
        {
            let count = (run.len - self.at).min(len - done);
            // SAFETY: the run is in the guest's memory; the source is our memory
            // or another guest's, with `len` bytes.
            unsafe { ptr::copy(from.add(done), run.ptr.add(self.at), count) };
            done += count;
            self.at += count;
            if self.at == run.len {
                (self.runs, self.at) = (&self.runs[1..], 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_there_whatever_was_before() {
        let value = *b"01234567";
        let mut changed_once = value;
        changed_once[7] = 0;
        for before in [[0; 8], [0xff; 8], value, changed_once] {
            let mut memory = [[0xaa; 8], before, [0xaa; 8]];
            // SAFETY: eight bytes of the array.
            unsafe { set(memory[1].as_mut_ptr(), value) };
            assert_eq!(memory, [[0xaa; 8], value, [0xaa; 8]]);
        }
    }

    #[test]
    fn headers_are_those_of_the_wire_or_plain() {
        let vnet = VnetHeader {
            flags: 1,
            gso_type: 4,
            hdr_len: 0x0302,
            gso_size: 0x0504,
            csum_start: 0x0706,
            csum_offset: 0x0908,
        };
        let wire = Wire { head: &[], rest: &[], vnet };
        for (csum, expected) in [(true, vnet), (false, VnetHeader::PLAIN)] {
            let (first, last) = header(&wire, Layout { header_len: HEADER_MAX, merges: true, csum }, 0x0b0a);
            let bytes: [u8; VnetHeader::LEN] = zerocopy::transmute!(expected);
            assert_eq!(
                [&first.to_le_bytes()[..], &last.to_le_bytes()].concat(),
                [&bytes[..], &[0x0a, 0x0b]].concat()
            );
        }
    }
}
