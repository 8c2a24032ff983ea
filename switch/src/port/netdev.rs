//! The netdev side of an interface, by a packet socket: what the device's peer
//! (a guest that holds the TAP's descriptor, the other end of a veth, a wire)
//! sends, and the way back to it.
//!
//! Frames arrive in the shared slots by `recvmmsg`. They leave by `sendmmsg` from
//! wherever they lie, or, if all of a burst are short, from a transmit ring (`tx_ring`);
//! virtio-net headers cross whole in both directions.
//!
//! Deliberately absent: a ring to receive from (`packet` says why) and any retry of a
//! full queue. Read first: packet(7).

use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use arrayvec::ArrayVec;
use mio::unix::SourceFd;

use super::backlog::Backlog;
use super::fast::FastPort;
use super::iov::Iov;
use super::packet;
use super::pieces::{Pieces, head_len};
use super::tx_ring::{self, Outcome, TxRing};
use super::{BURST_BYTES, BURST_FRAMES, Burst, Fault, Link, Losses, Offloads, Port, Rx, Sent, Slot, Slots};
use crate::bridge::{DropReason, Refusal};
use crate::frame::{ETHER_HEADER_LEN, Frame, TAG_LEN, TPID_C, Wire};
use crate::offload::{GSO_NONE, NEEDS_CSUM, VnetHeader};

/// Where in a slot the kernel writes the virtio-net header: the frame behind it
/// then begins at 16, aligned, and its addresses can move down by one tag.
const VNET_AT: usize = 6;
const FRAME_AT: usize = VNET_AT + VnetHeader::LEN;

/// Both addresses: what stands before the tag.
const ADDRESSES_LEN: usize = 12;

/// What a tag adds to the offsets in a virtio-net header.
const TAG_OFFSET: u16 = 4;

/// recvmmsg bounds messages, not bytes: so few are asked for at a time while
/// super-frames come.
const VECTOR_MIN: usize = 8;

/// Frames of this mean size or more make the vector shrink.
const BIG_FRAME: usize = BURST_BYTES / BURST_FRAMES;

/// While frames come without end, the socket's losses are asked for once in so
/// many bursts: one system call for some 4,000 frames.
const BURSTS_PER_ASKING: u32 = 64;

/// Control data of one message: the auxiliary data and nothing else.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    aux: libc::tpacket_auxdata,
}

/// A frame that has arrived, before it is lent to a burst.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    /// Its first byte, counted from the slots' beginning.
    at: usize,
    len: usize,
    vnet: VnetHeader,
    truncated: bool,
}

/// The kernel's vectors, written once and corrected where it writes.
struct Vectors {
    receive: Box<[libc::mmsghdr; BURST_FRAMES]>,
    receive_iov: Box<[libc::iovec; BURST_FRAMES]>,
    controls: Box<[Control; BURST_FRAMES]>,
    send: Box<[libc::mmsghdr; BURST_FRAMES]>,
    send_iov: Iov,
    /// The slots that `receive_iov` points into.
    slots: *mut u8,
}

// SAFETY: the addresses point into the boxes here, which move with the port,
// and into memory that is borrowed during each call.
unsafe impl Send for Vectors {}

/// A port on the netdev side of an interface.
pub(super) struct NetdevPort {
    fd: OwnedFd,
    /// For bursts of short frames; a port can do without.
    ring: Option<TxRing>,
    ifindex: u32,
    link: Link,
    vectors: Vectors,
    vector_len: usize,
    arrived: ArrayVec<Arrived, BURST_FRAMES>,
    pieces: Pieces,
    /// A frame was lost to a virtio-net header that cannot describe it: from
    /// then on a short `recvmmsg` may mean an error instead of an empty queue.
    errors_seen: bool,
    rx_missed: u64,
    /// Frames that others lost of those that the filter let through, and that
    /// are not told to the fast path yet.
    lost: u64,
    fast: Option<FastPort>,
    /// Bursts since the socket's losses were last asked for.
    bursts: u32,
    /// The socket was found empty since the losses were last told.
    was_empty: bool,
    backlog: Backlog,
}

impl fmt::Debug for NetdevPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetdevPort")
            .field("fd", &self.fd)
            .field("ifindex", &self.ifindex)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Vectors {
    fn new() -> Vectors {
        // SAFETY: all-zero is valid for these C structures.
        let (message, control) = unsafe { (mem::zeroed::<libc::mmsghdr>(), mem::zeroed::<Control>()) };
        let no_run = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut vectors = Vectors {
            receive: Box::new([message; BURST_FRAMES]),
            receive_iov: Box::new([no_run; BURST_FRAMES]),
            controls: Box::new([control; BURST_FRAMES]),
            send: Box::new([message; BURST_FRAMES]),
            send_iov: Iov::new(),
            slots: ptr::null_mut(),
        };
        for index in 0..BURST_FRAMES {
            let header = &mut vectors.receive[index].msg_hdr;
            header.msg_iov = &raw mut vectors.receive_iov[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut vectors.controls[index]).cast();
            header.msg_controllen = size_of::<Control>();
        }
        vectors
    }

    /// Makes message `n` receive into slot `n`.
    fn aim(&mut self, slots: *mut u8) {
        if self.slots == slots {
            return;
        }
        self.slots = slots;
        for (index, run) in self.receive_iov.iter_mut().enumerate() {
            run.iov_base = slots.wrapping_add(index * Slots::STRIDE + VNET_AT).cast();
            run.iov_len = Slots::ROOM - VNET_AT;
        }
    }

    /// The VLAN tag that the kernel took out of message `index`.
    #[inline]
    fn tag(&self, index: usize) -> Option<(u16, u16)> {
        let Control { header, aux } = &self.controls[index];
        let filled = self.receive[index].msg_hdr.msg_controllen >= size_of::<Control>()
            && header.cmsg_level == libc::SOL_PACKET
            && header.cmsg_type == libc::PACKET_AUXDATA;
        if !filled || aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let known = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        Some((if known { aux.tp_vlan_tpid } else { TPID_C }, aux.tp_vlan_tci))
    }
}

impl NetdevPort {
    /// Opens a packet socket on `ifindex`, in the namespace of the calling
    /// thread.
    ///
    /// # Errors
    /// As `packet::open`.
    pub fn open(
        ifindex: u32,
        fast: Option<FastPort>,
        filter: Option<&OwnedFd>,
        notes: &mut Vec<String>,
    ) -> io::Result<NetdevPort> {
        // The kernel takes milliseconds over a ring: frames had better not wait meanwhile.
        let ring = TxRing::open(ifindex).map_err(|error| {
            notes.push(format!("no transmit ring ({error}): short frames cost more"));
        });
        Ok(NetdevPort {
            fd: packet::open(ifindex, filter, notes)?,
            ring: ring.ok(),
            ifindex,
            link: Link { up: false, mtu: 0, offloads: Offloads::ALL },
            vectors: Vectors::new(),
            vector_len: BURST_FRAMES,
            arrived: ArrayVec::new(),
            pieces: Pieces::default(),
            errors_seen: false,
            rx_missed: 0,
            lost: 0,
            fast,
            bursts: 0,
            was_empty: false,
            backlog: Backlog::default(),
        })
    }

    /// The same with the device's link as it is.
    pub fn with_link(self, link: Link) -> NetdevPort {
        NetdevPort { link, ..self }
    }

    /// Receives up to `want` frames into the slots from number
    /// `arrived.len()` on.
    fn fill(&mut self, want: usize) -> io::Result<usize> {
        let first = self.arrived.len();
        let count = libc::c_uint::try_from(want).unwrap_or(0);
        // SAFETY: messages `first..first + want` exist (`receive` sees to it),
        // and each points to its own slot, iovec and control data.
        let got = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                self.vectors.receive[first..].as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
        for index in first..first + got {
            let arrived = self.arrival(index);
            self.arrived.push(arrived);
            self.vectors.receive[index].msg_hdr.msg_controllen = size_of::<Control>();
        }
        Ok(got)
    }

    /// Reads what the kernel left in slot `index`, and puts the tag back.
    #[inline]
    fn arrival(&mut self, index: usize) -> Arrived {
        let message = &self.vectors.receive[index];
        let slot = self.vectors.slots.wrapping_add(index * Slots::STRIDE);
        let mut at = FRAME_AT;
        let mut len = (message.msg_len as usize).saturating_sub(VnetHeader::LEN);
        // SAFETY: the slots are borrowed by the running `receive`, and the
        // header lies inside slot `index`; any ten bytes are a VnetHeader.
        let mut vnet = unsafe { slot.add(VNET_AT).cast::<VnetHeader>().read_unaligned() };
        let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        if let Some((tpid, tci)) = self.vectors.tag(index)
            && len >= ADDRESSES_LEN
        {
            at -= TAG_LEN;
            len += TAG_LEN;
            let ([t0, t1], [c0, c1]) = (tpid.to_be_bytes(), tci.to_be_bytes());
            // SAFETY: both ranges lie inside the slot, before the payload; the
            // virtio-net header that they overwrite has been read.
            unsafe {
                ptr::copy(slot.add(FRAME_AT), slot.add(at), ADDRESSES_LEN);
                slot.add(at + ADDRESSES_LEN).cast::<[u8; TAG_LEN]>().write([t0, t1, c0, c1]);
            }
            // The kernel counted these without the tag.
            if vnet.flags & NEEDS_CSUM != 0 {
                vnet.csum_start = vnet.csum_start.saturating_add(TAG_OFFSET);
            }
            if vnet.gso_type != GSO_NONE || vnet.hdr_len != 0 {
                vnet.hdr_len = vnet.hdr_len.saturating_add(TAG_OFFSET);
            }
        }
        Arrived { at: index * Slots::STRIDE + at, len, vnet, truncated }
    }

    /// Receives until the queue is empty or the budget is spent.
    fn fill_all(&mut self) -> Rx {
        let mut bytes = 0;
        while self.arrived.len() < BURST_FRAMES && bytes < BURST_BYTES {
            let want = self.vector_len.min(BURST_FRAMES - self.arrived.len());
            let first = self.arrived.len();
            match self.fill(want) {
                Ok(got) => {
                    let batch: usize = self.arrived[first..].iter().map(|frame| frame.len).sum();
                    bytes += batch;
                    if batch >= BIG_FRAME * got {
                        self.vector_len = VECTOR_MIN;
                    } else if got == self.vector_len {
                        self.vector_len = (2 * self.vector_len).min(BURST_FRAMES);
                    }
                    if got < want && !self.errors_seen && !self.waits_behind_an_error() {
                        return Rx::Drained;
                    }
                }
                Err(error) => match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => {}
                    libc::EAGAIN => return Rx::Drained,
                    // A super-frame of a kind that a virtio-net header has no
                    // word for (SCTP, ESP): the kernel has thrown it away.
                    libc::EINVAL => {
                        self.errors_seen = true;
                        self.count_lost(1);
                    }
                    // Told once for each time the device went down or away;
                    // it may be back by now, and then there is more to read.
                    libc::ENETDOWN => {
                        if let Some(fault) = packet::probe(&self.fd, self.ifindex) {
                            return Rx::Fault(fault);
                        }
                    }
                    errno => return Rx::Fault(Fault::Os(errno)),
                },
            }
        }
        Rx::More
    }

    /// Whether the kernel may have ended a batch for a frame that it threw away (EINVAL in
    /// `fill_all`), which only the next call says: no edge tells of those behind it.
    fn waits_behind_an_error(&self) -> bool {
        let arrived = self.arrived.len() as u64 + self.lost;
        self.fast.as_ref().is_some_and(|fast| fast.has_more_than(arrived))
    }

    /// Counts frames that the kernel threw away instead of giving them to us, when
    /// their turn came.
    fn count_lost(&mut self, frames: u64) {
        self.rx_missed += frames;
        self.lost += frames;
    }

    /// Asks the kernel how many frames found the socket full; true if any.
    fn ask_drops(&mut self) -> bool {
        let drops = packet::take_drops(&self.fd);
        let drops = u64::from(drops);
        self.rx_missed += drops;
        self.bursts = 0;
        if let Some(fast) = self.fast.as_mut() {
            fast.dropped(drops);
        }
        drops > 0
    }

    /// Tells the fast path how far this port has got.
    fn report_progress(&mut self) {
        let Some(fast) = self.fast.as_mut() else { return };
        fast.done(self.arrived.len() as u64 + std::mem::take(&mut self.lost));
        // Who sends on like this will lose frames in any case: the sooner it begins, the
        // fewer have to be read until the kernel can take the rest.
        if self.backlog.is_overrun(self.was_empty, || packet::waiting_bytes(&self.fd)) {
            fast.drain();
        }
        self.bursts += 1;
        let wants_answer = if self.was_empty { fast.is_behind() } else { self.bursts >= BURSTS_PER_ASKING };
        if wants_answer
            && self.ask_drops()
            && let Some(fast) = self.fast.as_mut()
        {
            fast.drain();
        }
    }

    /// Sends the first of `wires`, whose runs are at `ranges`, from the ring, if all are
    /// short; returns how many have left or were refused.
    fn transmit_short(&mut self, wires: &[Wire<'_>], ranges: &[Range<usize>], outcome: &mut Sent) -> usize {
        let Some(ring) = &mut self.ring else { return 0 };
        // The kernel looks at the MTU for sendmmsg, and not for the ring. If it has just
        // become less, frames between the two are the device's to drop or to take.
        let longest = self.link.mtu as usize + ETHER_HEADER_LEN;
        let is_short = |wire: &Wire<'_>| {
            let is_tagged = wire.head.get(ADDRESSES_LEN..ETHER_HEADER_LEN) == Some(&TPID_C.to_be_bytes());
            let longest = longest + if is_tagged { TAG_LEN } else { 0 };
            wire.vnet.gso_type == GSO_NONE && wire.len() <= longest.min(tx_ring::LEN_MAX)
        };
        if !wires.iter().all(is_short) {
            return 0;
        }
        for range in ranges {
            let runs = self.vectors.send_iov.runs(range.clone());
            // SAFETY: the runs point into `wires`, and begin with a virtio-net header.
            if !unsafe { ring.put(runs) } {
                break;
            }
        }
        let Outcome { sent, errno } = ring.send();
        if !matches!(errno, libc::ENOBUFS | libc::ENOMEM) {
            // What is left is asked for once more by name, and its error is told there.
            return sent;
        }
        // At most 64 wires: the index fits.
        outcome.refused.push((u8::try_from(sent).unwrap_or(u8::MAX), Refusal::Full));
        sent + 1
    }

    /// The answer to a failed send of wire `index`: refuse it, or everything
    /// from it on.
    fn refusal(&self, errno: i32) -> Refused {
        match errno {
            // The socket's own send buffer: nothing else fits either.
            libc::EAGAIN => Refused::Rest(Refusal::Full, None),
            // The device's queue; another class of its qdisc may have room.
            libc::ENOBUFS | libc::ENOMEM => Refused::One(Refusal::Full),
            libc::EMSGSIZE => Refused::One(Refusal::Oversize),
            libc::EINVAL => Refused::One(Refusal::Invalid),
            libc::ENETDOWN => match packet::probe(&self.fd, self.ifindex) {
                Some(Fault::Gone) => Refused::Rest(Refusal::Gone, Some(Fault::Gone)),
                fault => Refused::Rest(Refusal::Down, fault.or(Some(Fault::Down))),
            },
            libc::ENXIO | libc::ENODEV => Refused::Rest(Refusal::Gone, Some(Fault::Gone)),
            _ => Refused::One(Refusal::Error),
        }
    }
}

/// How far a refusal reaches.
enum Refused {
    One(Refusal),
    Rest(Refusal, Option<Fault>),
}

impl Port for NetdevPort {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, mio::Interest::READABLE)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        let Some(slots) = burst.slots.take() else { return Rx::More };
        let slots = slots.bytes().as_mut_ptr();
        self.vectors.aim(slots);
        self.arrived.clear();
        self.pieces.clear();
        let rx = self.fill_all();
        self.was_empty = rx == Rx::Drained;
        for frame in &self.arrived {
            let head = head_len(frame.len);
            self.pieces.push(slots.wrapping_add(frame.at + head), frame.len - head);
        }
        let port: &'a NetdevPort = self;
        for (index, frame) in port.arrived.iter().enumerate() {
            // SAFETY: the slots are lent to this burst for 'a, nothing writes
            // to them before it ends, and the kernel filled these bytes.
            let head: &'a [u8] =
                unsafe { std::slice::from_raw_parts(slots.add(frame.at), head_len(frame.len)) };
            burst.frames.push(if frame.truncated {
                Frame::broken(head, DropReason::Truncated)
            } else {
                Frame::new(head, port.pieces.rest(index), frame.vnet)
            });
        }
        rx
    }

    fn release(&mut self) {
        self.report_progress();
    }

    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent {
        let mut outcome = Sent::default();
        let send_iov = &mut self.vectors.send_iov;
        send_iov.clear();
        let mut ranges = ArrayVec::<Range<usize>, BURST_FRAMES>::new();
        for wire in wires {
            // A frame of more than a thousand pieces is left without any run:
            // the kernel calls that invalid.
            ranges.push(send_iov.push(Some(&wire.vnet), wire).unwrap_or(0..0));
        }
        let mut next = self.transmit_short(wires, &ranges, &mut outcome);
        // Only now: a list that grew has moved.
        let Vectors { send, send_iov, .. } = &mut self.vectors;
        for (message, range) in send.iter_mut().zip(ranges).skip(next) {
            let runs = send_iov.runs(range);
            message.msg_hdr.msg_iov = runs.as_mut_ptr();
            message.msg_hdr.msg_iovlen = runs.len();
        }
        let mut retried = None;
        while next < wires.len() {
            let messages = &mut self.vectors.send[next..wires.len()];
            let count = libc::c_uint::try_from(messages.len()).unwrap_or(0);
            // SAFETY: `count` messages whose runs point into `wires`, which is
            // borrowed; the kernel reads the runs and writes msg_len.
            let sent = unsafe {
                libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT)
            };
            if let Ok(sent) = usize::try_from(sent) {
                next += sent;
                // It was the receive side's: a frame thrown away there, and
                // others may wait behind it.
                if retried == Some((next - sent, libc::EINVAL)) {
                    self.errors_seen = true;
                    self.count_lost(1);
                }
                continue;
            }
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            if errno == libc::EINTR {
                continue;
            }
            // A packet socket reports errors of its receive side to whoever
            // comes first: ask once more before believing these.
            if retried.is_none() && matches!(errno, libc::ENETDOWN | libc::EINVAL) {
                retried = Some((next, errno));
                continue;
            }
            let (end, refusal) = match self.refusal(errno) {
                Refused::One(refusal) => (next + 1, refusal),
                Refused::Rest(refusal, fault) => {
                    outcome.fault = fault;
                    (wires.len(), refusal)
                }
            };
            for index in next..end {
                // At most 64 wires: the index fits.
                outcome.refused.push((u8::try_from(index).unwrap_or(u8::MAX), refusal));
            }
            next = end;
        }
        outcome
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    fn fast(&self) -> Option<(Slot, u32)> {
        self.fast.as_ref().map(|fast| (fast.slot(), self.ifindex))
    }

    fn losses(&mut self) -> Losses {
        if let Some(fast) = self.fast.as_mut() {
            fast.done(std::mem::take(&mut self.lost));
        }
        self.ask_drops();
        let mut rx_missed = self.rx_missed;
        if let Some(fast) = self.fast.as_mut() {
            if self.was_empty {
                fast.forget_lost();
            }
            rx_missed += fast.missed();
        }
        Losses { rx_missed, ..Losses::default() }
    }
}
