//! The descriptor side of a TAP: frames that the host's own stack (or the
//! namespace that the interface is moved into) sends by it, and the way back.
//!
//! One frame a call: a TAP's descriptor has no batched form, so that short frames are
//! read and written by lists of calls (`batch`), where the kernel has those. With a
//! virtio-net header, a super-frame of 64 KiB is one of them, and a call for itself.
//!
//! Deliberately absent: making persistent TAPs (`device`).
//! Read first: `tun_get_user` and `tun_do_read` of drivers/net/tun.c.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use mio::unix::SourceFd;

use super::batch::{Batch, UNDONE};
use super::iov::Iov;
use super::pieces::{Pieces, head_len};
use super::tun;
use super::{BURST_BYTES, BURST_FRAMES, Burst, Fault, Link, Offloads, Port, Rx, Sent, Slots};
use crate::bridge::{DropReason, Refusal};
use crate::frame::{Frame, Wire};
use crate::offload::VnetHeader;

/// Where in a slot a frame begins: behind a virtio-net header, aligned.
const FRAME_AT: usize = 16;

/// Frames below this are short, in bytes: with those a bare loop spent a seventh to a third
/// less by io_uring, and with super-frames 1.4 times as much (`benches/hot/candidates`).
const SHORT: usize = 4096;

/// The longest list of reads after a single frame: of super-frames it brings a MiB.
const LIST_FIRST: usize = 16;

/// Who holds the descriptor.
#[derive(Debug)]
pub(super) enum Attached {
    /// With virtio-net headers.
    Vnet(OwnedFd),
    /// Finished frames only.
    Plain(PlainTap),
}

/// `tun_tap::Iface` has no `Debug` of its own.
pub(super) struct PlainTap(tun_tap::Iface);

impl std::fmt::Debug for PlainTap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PlainTap").field(&self.0.name()).finish()
    }
}

impl Attached {
    /// Attaches with virtio-net headers and everything that they allow.
    ///
    /// # Errors
    /// As `tun::attach`.
    pub fn vnet(name: &str) -> io::Result<(Attached, Offloads)> {
        let fd = tun::attach(name, tun::VNET)?;
        // TAPs remember the length that the last holder set.
        tun::set_vnet_header_len(&fd, i32::try_from(VnetHeader::LEN).unwrap_or(10))?;
        let offloads = match tun::set_offloads(&fd, tun::OFFLOADS_USO) {
            Ok(()) => Offloads::ALL,
            // USO is as young as Linux 6.2.
            Err(_) => {
                tun::set_offloads(&fd, tun::OFFLOADS)?;
                Offloads { uso: false, ..Offloads::ALL }
            }
        };
        Ok((Attached::Vnet(fd), offloads))
    }

    /// Attaches without.
    ///
    /// # Errors
    /// As `tun::attach`.
    pub fn plain(name: &str) -> io::Result<Attached> {
        let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)?;
        iface.set_non_blocking()?;
        let tap = Attached::Plain(PlainTap(iface));
        // An earlier holder's offloads would bring frames that we cannot read.
        tun::set_offloads(tap.fd(), 0)?;
        Ok(tap)
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        let fd: RawFd = match self {
            Attached::Vnet(fd) => fd.as_raw_fd(),
            Attached::Plain(tap) => tap.0.as_raw_fd(),
        };
        // SAFETY: the descriptor is open as long as its owner, `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    const fn has_header(&self) -> bool {
        matches!(self, Attached::Vnet(_))
    }
}

/// A frame that was read, before it is lent to a burst.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    /// Where it is.
    slot: usize,
    len: usize,
    vnet: VnetHeader,
    truncated: bool,
}

/// A port on the descriptor side of a TAP.
#[derive(Debug)]
pub(super) struct TapPort {
    tap: Attached,
    link: Link,
    arrived: ArrayVec<Arrived, BURST_FRAMES>,
    /// Frames of the burst before: of this one, so many can be expected.
    expected: usize,
    pieces: Pieces,
    iov: Iov,
    /// `None`: each call is made by itself.
    batch: Option<Batch>,
}

impl TapPort {
    /// A port on `tap`.
    pub fn new(tap: Attached, link: Link) -> TapPort {
        let batch = Batch::new(tap.fd());
        TapPort {
            tap,
            link,
            arrived: ArrayVec::new(),
            expected: 0,
            pieces: Pieces::default(),
            iov: Iov::new(),
            batch,
        }
    }

    /// Where in a slot a read begins.
    fn read_at(&self) -> usize {
        if self.tap.has_header() { FRAME_AT - VnetHeader::LEN } else { FRAME_AT }
    }

    /// Reads one frame into slot `index` of `slots`, as far as one is there: the result as
    /// a list of calls has it.
    fn read(&self, slots: &mut [u8], index: usize) -> i32 {
        let room = &mut slots[index * Slots::STRIDE..][self.read_at()..Slots::ROOM];
        match rustix::io::read(self.tap.fd(), room) {
            Ok(got) => i32::try_from(got).unwrap_or(i32::MAX),
            Err(error) => -error.raw_os_error(),
        }
    }

    /// Reads `count` frames into the slots from number `first` on, as far as they are
    /// there; false: there are no lists of calls.
    fn read_list(&mut self, slots: &mut [u8], first: usize, count: usize) -> bool {
        let read_at = self.read_at();
        let Some(batch) = self.batch.as_mut().filter(|batch| batch.is_usable()) else { return false };
        let len = u32::try_from(Slots::ROOM - read_at).unwrap_or(0);
        let rooms = slots.chunks_mut(Slots::STRIDE).skip(first).take(count);
        let reads: ArrayVec<_, BURST_FRAMES> =
            rooms.map(|slot| batch.read(slot[read_at..].as_mut_ptr(), len)).collect();
        // SAFETY: each read has a slot of its own, which is borrowed and has `len` bytes
        // from there on.
        let _ = unsafe { batch.run(reads.into_iter()) };
        // Also if it failed: what it has read is in its results, and the next read is made
        // by itself.
        true
    }

    /// How many frames to read next, where `next` slots are used.
    fn ahead(&self, next: usize) -> usize {
        let has_lists = self.batch.as_ref().is_some_and(Batch::is_usable);
        if !has_lists || self.arrived.iter().any(|frame| frame.len >= SHORT) {
            return 1;
        }
        list_len(self.arrived.len(), self.expected).min(BURST_FRAMES - next)
    }

    /// Notes what a read into slot `slot` came to; what that means if it was the last.
    fn note(&mut self, slots: &[u8], slot: usize, result: i32) -> Option<Rx> {
        let Ok(got) = usize::try_from(result) else {
            return match result.wrapping_neg() {
                libc::EINTR => None,
                libc::EAGAIN => Some(Rx::Drained),
                libc::EBADFD => Some(Rx::Fault(Fault::Gone)),
                libc::EIO => Some(Rx::Fault(Fault::Down)),
                _ if result == UNDONE => None,
                errno => Some(Rx::Fault(Fault::Os(errno))),
            };
        };
        let room = &slots[slot * Slots::STRIDE..][self.read_at()..Slots::ROOM];
        let header = FRAME_AT - self.read_at();
        let vnet = match room.first_chunk::<{ VnetHeader::LEN }>() {
            Some(bytes) if header != 0 => zerocopy::transmute!(*bytes),
            _ => VnetHeader::PLAIN,
        };
        // The kernel cuts what does not fit, and says nothing.
        let truncated = got == room.len();
        self.arrived.push(Arrived { slot, len: got.saturating_sub(header), vnet, truncated });
        None
    }

    fn fill(&mut self, slots: &mut [u8]) -> Rx {
        let (mut next, mut bytes) = (0, 0);
        while next < BURST_FRAMES && bytes < BURST_BYTES {
            let count = self.ahead(next);
            let came = self.arrived.len();
            let mut end = None;
            if count > 1 && self.read_list(slots, next, count) {
                for index in 0..count {
                    let result = self.batch.as_ref().map_or(UNDONE, |batch| batch.results()[index]);
                    // A frame may come while the list is worked off: the last call tells
                    // whether all are read.
                    end = self.note(slots, next + index, result);
                }
            } else {
                let result = self.read(slots, next);
                end = self.note(slots, next, result);
            }
            next += count;
            bytes += self.arrived[came..].iter().map(|frame| frame.len).sum::<usize>();
            if let Some(rx) = end {
                return rx;
            }
        }
        Rx::More
    }

    /// Writes the frame whose runs are at `range`.
    fn write(&mut self, range: Range<usize>) -> i32 {
        let runs = self.iov.runs(range);
        let count = libc::c_int::try_from(runs.len()).unwrap_or(0);
        // SAFETY: the runs name a header and a wire's bytes, which are borrowed; the
        // kernel only reads them.
        let wrote = unsafe { libc::writev(self.tap.fd().as_raw_fd(), runs.as_ptr(), count) };
        let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        if wrote < 0 { -errno() } else { i32::try_from(wrote).unwrap_or(i32::MAX) }
    }

    /// Writes the frames whose runs are at `ranges` by a list of calls, if that is worth
    /// it; their results are those of the list then.
    fn write_list(&mut self, ranges: &[Range<usize>]) -> bool {
        let bytes: usize = self.iov.all().iter().map(|run| run.iov_len).sum();
        let Some(batch) = self.batch.as_mut().filter(|batch| batch.is_usable()) else { return false };
        if ranges.len() < 2 || bytes >= ranges.len() * SHORT {
            return false;
        }
        let iov = &mut self.iov;
        let writes: ArrayVec<_, BURST_FRAMES> =
            ranges.iter().map(|range| batch.write(iov.runs(range.clone()))).collect();
        // SAFETY: the runs name headers and wires' bytes, which are borrowed, and stay
        // where they are.
        let _ = unsafe { batch.run(writes.into_iter()) };
        // Also if it failed: what it has not written has no result, and is written by itself.
        true
    }
}

/// How many frames to read in one list when `came` short ones have come in this burst, and
/// `expected` did in the last.
fn list_len(came: usize, expected: usize) -> usize {
    // The first frame tells what they are like; and one says little of those behind it:
    // they may be super-frames.
    let most = match came {
        0 => 1,
        1 => LIST_FIRST,
        _ => BURST_FRAMES,
    };
    // The last call of a list is to find nothing. If more came than expected, as many may
    // be there by now.
    let more = if came < expected { expected - came + 1 } else { came.max(1) };
    more.min(most)
}

/// What the switch makes of a write that failed.
fn refusal(errno: i32) -> (Refusal, Option<Fault>) {
    match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => (Refusal::Full, None),
        libc::EINVAL => (Refusal::Invalid, None),
        libc::EMSGSIZE => (Refusal::Oversize, None),
        libc::EIO => (Refusal::Down, Some(Fault::Down)),
        libc::EBADFD => (Refusal::Gone, Some(Fault::Gone)),
        _ => (Refusal::Error, None),
    }
}

impl Port for TapPort {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.tap.fd().as_raw_fd()), token, mio::Interest::READABLE)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.tap.fd().as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        let Some(slots) = burst.slots.take() else { return Rx::More };
        let slots: &'a mut [u8] = slots.bytes();
        self.arrived.clear();
        self.pieces.clear();
        let rx = self.fill(slots);
        let slots: &'a [u8] = slots;
        self.expected = self.arrived.len();
        let bytes = |frame: &Arrived| &slots[frame.slot * Slots::STRIDE + FRAME_AT..][..frame.len];
        for frame in &self.arrived {
            let behind = &bytes(frame)[head_len(frame.len)..];
            self.pieces.push(behind.as_ptr(), behind.len());
        }
        let port: &'a TapPort = self;
        for (index, frame) in port.arrived.iter().enumerate() {
            let head = &bytes(frame)[..head_len(frame.len)];
            burst.frames.push(if frame.truncated {
                Frame::broken(head, DropReason::Truncated)
            } else {
                Frame::new(head, port.pieces.rest(index), frame.vnet)
            });
        }
        rx
    }

    fn release(&mut self) {}

    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent {
        let mut outcome = Sent::default();
        self.iov.clear();
        let mut ranges = ArrayVec::<_, BURST_FRAMES>::new();
        for wire in wires {
            let header = self.tap.has_header().then_some(&wire.vnet);
            // A frame of more than a thousand pieces is left without any run: the kernel
            // calls that invalid.
            ranges.push(self.iov.push(header, wire).unwrap_or(0..0));
        }
        let is_listed = self.write_list(&ranges);
        for (index, range) in (0u8..).zip(ranges) {
            let listed = self.batch.as_ref().filter(|_| is_listed);
            let mut result = listed.map_or(UNDONE, |batch| batch.results()[usize::from(index)]);
            while result == UNDONE || result == -libc::EINTR {
                result = self.write(range.clone());
            }
            // Nothing at all is written of what has no runs.
            if result <= 0 {
                let (refusal, fault) = refusal(if result == 0 { libc::EINVAL } else { -result });
                outcome.fault = fault.or(outcome.fault);
                outcome.refused.push((index, refusal));
            }
        }
        outcome
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_long_as_the_last_burst_and_one_more() {
        assert_eq!(list_len(0, 64), 1);
        assert_eq!([list_len(1, 1), list_len(1, 2), list_len(1, 12)], [1, 2, 12]);
        assert_eq!(list_len(1, 64), 16, "who knows what they are");
        assert_eq!(list_len(17, 20), 4, "three more, and nothing");
        assert_eq!([list_len(2, 1), list_len(20, 20)], [2, 20], "more than expected");
        assert_eq!(list_len(17, 64), 48);
    }
}
