//! Frames from a guest's transmit queue: the head of each is copied once into
//! our memory, and judged there; the rest stays where it is until every egress
//! has its copy, and only then does the guest get its buffers back.
//!
//! Deliberately absent: any belief in what was read a moment ago. The
//! virtio-net header, too, is fetched once.

use std::ptr;
use std::slice;

use arrayvec::ArrayVec;

use super::chain::{Access, CHAIN_MAX, Run, Runs};
use super::copy::copy;
use super::memory::GuestMemory;
use super::prefetch::{self, LINE};
use super::ring::{Breach, Descriptor, Queue, Ring};
use crate::bridge::DropReason;
use crate::frame::{Frame, HEAD_MAX, Piece};
use crate::offload::{DATA_VALID, VnetHeader};
use crate::port::{BURST_BYTES, BURST_FRAMES, Burst, Slots};

/// Room for a burst's pieces: at any time for one more of the longest chains.
const PIECES_MAX: usize = 2 * CHAIN_MAX;

/// The longest frame: longer ones are dropped, as on every kind of port.
const FRAME_LEN_MAX: u64 = Slots::ROOM as u64;

/// One cache line of heads.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read and written by address")] [u8; LINE]);

/// Where the frames of one burst are kept.
#[derive(Debug)]
pub(super) struct Received {
    /// Heads, each from a new cache line on.
    heads: Box<[Line]>,
    pieces: Vec<Piece<'static>>,
    runs: Runs,
    /// The buffers of the burst, to be given back.
    taken: ArrayVec<u16, BURST_FRAMES>,
}

// SAFETY: between bursts the addresses are only numbers; within one, the burst
// borrows the port that holds both them and the memory they name.
unsafe impl Send for Received {}

/// The buffer that one frame is in, before it is read.
#[derive(Clone, Copy)]
struct Buffer {
    head: u16,
    /// All of it, if it is one run.
    whole: Option<Run>,
}

impl Received {
    /// Empty, with all the memory it will ever need.
    pub fn new() -> Received {
        Received {
            heads: vec![Line([0; LINE]); BURST_FRAMES * HEAD_MAX / LINE].into(),
            pieces: Vec::with_capacity(PIECES_MAX),
            runs: Runs::with_capacity(CHAIN_MAX),
            taken: ArrayVec::new(),
        }
    }

    /// Fills `burst` from `ring`; true if there may be more.
    ///
    /// # Errors
    /// What the guest broke. The frames before it are in the burst.
    pub fn fill<'a>(
        &'a mut self,
        ring: &mut impl Ring,
        memory: &GuestMemory,
        header_len: usize,
        burst: &mut Burst<'a>,
    ) -> Result<bool, Breach> {
        let Received { heads, pieces, runs, taken } = self;
        let mut store =
            Store { heads: heads.as_mut_ptr().cast(), used: 0, pieces: pieces.as_mut_ptr(), len: 0 };
        let waiting = usize::from(ring.waiting()?);
        let count = waiting.min(BURST_FRAMES);
        let mut buffers: ArrayVec<Buffer, BURST_FRAMES> = ArrayVec::new();
        let mut breach = None;
        ring.fetch(u16::try_from(count).unwrap_or(u16::MAX));
        // First all descriptors, and the frames' first lines on their way to
        // us: they are in another core's cache, 100 ns from here.
        for ahead in 0..count {
            match look(ring, memory, u16::try_from(ahead).unwrap_or(u16::MAX)) {
                Ok(buffer) => buffers.push(buffer),
                Err(error) => {
                    breach = Some(error);
                    break;
                }
            }
        }
        let mut bytes = 0;
        for buffer in &buffers {
            if bytes >= BURST_BYTES || store.len + CHAIN_MAX > PIECES_MAX {
                break;
            }
            let frame = match buffer.whole {
                Some(run) if run.len >= header_len => store.frame_of_run(run, header_len),
                Some(run) => store.frame(&[run], run.len as u64, header_len),
                None => {
                    runs.clear();
                    match ring.walk(memory, buffer.head, Access::Read, runs) {
                        Ok(len) => store.frame(runs.as_slice(), len, header_len),
                        Err(error) => {
                            breach = Some(error);
                            break;
                        }
                    }
                }
            };
            bytes += frame.len() as usize;
            burst.frames.push(frame);
            taken.push(buffer.head);
        }
        ring.take(u16::try_from(taken.len()).unwrap_or(u16::MAX));
        match breach {
            Some(breach) => Err(breach),
            None => Ok(waiting > taken.len()),
        }
    }

    /// Gives the buffers of the last burst back to `ring`, if it still is.
    pub fn release(&mut self, queue: Option<&mut Queue>) {
        match queue {
            Some(Queue::Split(ring)) => give_back(ring, &self.taken),
            Some(Queue::Packed(ring)) => give_back(ring, &self.taken),
            None => {}
        }
        self.taken.clear();
    }

    /// Whether buffers of a burst are out.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

/// Shows the driver that buffers were read.
#[inline]
fn give_back(ring: &mut impl Ring, heads: &[u16]) {
    for head in heads {
        ring.complete(*head, 0);
    }
    ring.publish();
}

/// Finds the `ahead`-th waiting buffer, and fetches what will be read of it.
#[inline]
fn look(ring: &impl Ring, memory: &GuestMemory, ahead: u16) -> Result<Buffer, Breach> {
    let head = ring.head(ahead)?;
    let Descriptor { addr, len, flags, .. } = ring.first(head);
    if flags & (Descriptor::NEXT | Descriptor::INDIRECT) != 0 {
        return Ok(Buffer { head, whole: None });
    }
    if !Access::Read.allows(flags) {
        return Err(Breach::Direction);
    }
    if len == 0 {
        return Err(Breach::Empty);
    }
    let (ptr, run) = memory.guest(addr, len as usize).ok_or(Breach::Hole)?;
    if run < len as usize {
        return Ok(Buffer { head, whole: None });
    }
    prefetch::read(ptr, run.min(2 * LINE));
    Ok(Buffer { head, whole: Some(Run { ptr, len: run }) })
}

/// Memory of a burst while it is filled; by address, since frames that are
/// already out borrow its beginning.
struct Store {
    heads: *mut u8,
    /// Bytes of the heads.
    used: usize,
    pieces: *mut Piece<'static>,
    /// Pieces in use.
    len: usize,
}

impl Store {
    /// Reads the frame in one run that has at least the header: nearly all are so.
    #[inline]
    fn frame_of_run<'a>(&mut self, run: Run, header_len: usize) -> Frame<'a> {
        let len = run.len - header_len;
        let head_len = len.min(HEAD_MAX);
        let rest_len = len - head_len;
        // SAFETY: the run is in the guest's memory and has a header, then `len`
        // bytes; there is room for a head of 256 bytes and for a piece, as in
        // `frame`. What is lent out here is left alone until the burst ends.
        let (vnet, head, rest) = unsafe {
            let vnet: [u8; VnetHeader::LEN] = run.ptr.cast::<[u8; VnetHeader::LEN]>().read_volatile();
            let head = self.heads.add(self.used);
            copy(run.ptr.add(header_len), head, head_len);
            let piece = self.pieces.add(self.len);
            piece.write(Piece::new(run.ptr.add(header_len + head_len), rest_len));
            let pieces = usize::from(rest_len > 0);
            self.len += pieces;
            let rest: &'a [Piece<'a>] = slice::from_raw_parts(piece, pieces);
            (vnet, slice::from_raw_parts(head, head_len), rest)
        };
        self.used += head_len.next_multiple_of(LINE);
        if len as u64 > FRAME_LEN_MAX {
            return Frame::broken(head, DropReason::Truncated);
        }
        Frame::new(head, rest, said(vnet))
    }

    /// Reads the frame in `runs`, `len` bytes with its header.
    #[inline]
    fn frame<'a>(&mut self, runs: &[Run], len: u64, header_len: usize) -> Frame<'a> {
        let mut reader = Reader { runs, at: 0 };
        let mut header = [0u8; VnetHeader::LEN];
        let vnet_len = reader.read(header.as_mut_ptr(), VnetHeader::LEN);
        let rest_len = reader.skip(header_len - VnetHeader::LEN);
        if vnet_len + rest_len < header_len {
            return Frame::broken(&[], DropReason::Runt);
        }
        // SAFETY: every burst has room for 64 heads of 256 bytes, each from a
        // new line on; only the bytes behind those of earlier frames are written.
        let (head, head_len) = unsafe {
            let head = self.heads.add(self.used);
            (head, reader.read(head, HEAD_MAX))
        };
        self.used += head_len.next_multiple_of(LINE);
        // SAFETY: written just now, private, and left alone until the burst ends.
        let head: &'a [u8] = unsafe { slice::from_raw_parts(head, head_len) };
        if len - header_len as u64 > FRAME_LEN_MAX {
            return Frame::broken(head, DropReason::Truncated);
        }
        let first = self.len;
        while let Some(run) = reader.next_run() {
            // SAFETY: `fill` keeps room for one chain of the longest, in the
            // vector's own memory.
            unsafe { self.pieces.add(self.len).write(Piece::new(run.ptr, run.len)) };
            self.len += 1;
        }
        // SAFETY: these were written just now, and are left alone as the head is.
        let rest: &'a [Piece<'a>] =
            unsafe { slice::from_raw_parts(self.pieces.add(first), self.len - first) };
        Frame::new(head, rest, said(header))
    }
}

/// The header that a driver wrote, less what it must not say (virtio 1.2 §5.1.6.2.1): that a
/// checksum was found right would be believed by whoever gets the frame, and nobody looked.
#[inline(always)]
fn said(header: [u8; VnetHeader::LEN]) -> VnetHeader {
    let header: VnetHeader = zerocopy::transmute!(header);
    VnetHeader { flags: header.flags & !DATA_VALID, ..header }
}

/// Reads along runs.
struct Reader<'r> {
    runs: &'r [Run],
    /// Bytes of the first run that were read.
    at: usize,
}

impl Reader<'_> {
    /// Copies up to `len` bytes to `to`, which has room for them and is ours.
    #[inline]
    fn read(&mut self, to: *mut u8, len: usize) -> usize {
        let mut done = 0;
        while done < len
            && let Some(run) = self.runs.first()
        {
            let count = (run.len - self.at).min(len - done);
            // SAFETY: the run is in the guest's memory, which stays mapped; our
            // memory is elsewhere. Bytes that the guest changes meanwhile are
            // copied as they are found.
            unsafe { ptr::copy_nonoverlapping(run.ptr.add(self.at), to.add(done), count) };
            done += count;
            self.pass(count);
        }
        done
    }

    /// Passes over up to `len` bytes.
    #[inline]
    fn skip(&mut self, len: usize) -> usize {
        let mut done = 0;
        while done < len
            && let Some(run) = self.runs.first()
        {
            let count = (run.len - self.at).min(len - done);
            done += count;
            self.pass(count);
        }
        done
    }

    #[inline]
    fn pass(&mut self, count: usize) {
        self.at += count;
        if self.runs.first().is_some_and(|run| self.at == run.len) {
            (self.runs, self.at) = (&self.runs[1..], 0);
        }
    }

    /// What is left of the first run.
    #[inline]
    fn next_run(&mut self) -> Option<Run> {
        let run = self.runs.first()?;
        let left = Run { ptr: run.ptr.wrapping_add(self.at), len: run.len - self.at };
        (self.runs, self.at) = (&self.runs[1..], 0);
        Some(left)
    }
}
