//! A transmit ring: places for frames in memory that is shared with the kernel, from which
//! a packet socket sends all that are filled with one call (PACKET_TX_RING, TPACKET_V2).
//!
//! A frame is copied into its place, which costs less than what `sendmmsg` does for each
//! message (fetching it, its list and the memory it names from the process) as long as it
//! is short. The kernel copies it once more, so a place is free again when the kernel
//! forgets whose frame it was: at once on a TAP, on a veth when the stack at its other end
//! has it, on a NIC after transmission, and behind a qdisc no earlier than it leaves that.
//!
//! Read first: Documentation/networking/packet_mmap.rst, and `tpacket_snd` of
//! net/packet/af_packet.c.
//!
//! Deliberately absent: waiting for a place (who finds none sends by `sendmmsg`), and
//! super-frames (a ring of 64 KiB places moved 0.69 of what `sendmmsg` did).

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{BURST_FRAMES, packet};
use crate::offload::VnetHeader;

/// Places: a burst.
const PLACES: usize = BURST_FRAMES;
/// Bytes of a place: two to a page.
const PLACE_BYTES: usize = 2048;
/// Where the virtio-net header begins in a place: TPACKET2_HDRLEN of linux/if_packet.h
/// without its sockaddr_ll.
const VNET_AT: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16);
const RING_BYTES: usize = PLACES * PLACE_BYTES;
/// Marks of a place that is not free; others (of time stamps) say nothing of that.
const BUSY: u32 = libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_SENDING | libc::TP_STATUS_WRONG_FORMAT;
/// How often the end of a ring looks whether a device still has frames of it, and how soon
/// again.
const STEPS: u32 = 50;
const STEP: Duration = Duration::from_millis(1);

/// The longest frame that has room, in bytes.
pub(super) const LEN_MAX: usize = PLACE_BYTES - VNET_AT - VnetHeader::LEN;

/// A ring and the socket that sends from it.
#[derive(Debug)]
pub(super) struct TxRing {
    fd: OwnedFd,
    map: NonNull<u8>,
    /// The place of the next frame to be sent, which is the kernel's next too.
    at: usize,
    /// Places from there on that are filled.
    filled: usize,
}

// SAFETY: the map is this ring's alone, shared only with the kernel.
unsafe impl Send for TxRing {}

/// What became of the filled places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    /// So many have left, the first.
    pub sent: usize,
    /// The error of the one behind them; 0 if all have left, or none was said.
    pub errno: i32,
}

impl TxRing {
    /// A ring for the netdev side of interface `ifindex`, in the namespace of the calling
    /// thread.
    ///
    /// # Errors
    /// As `packet::open`; ENOMEM.
    pub fn open(ifindex: u32) -> io::Result<TxRing> {
        let fd = packet::open_sender(ifindex)?;
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        packet::set_option(&fd, libc::SOL_PACKET, libc::PACKET_VERSION, version)?;
        // A block is whole pages and whole places.
        let block = rustix::param::page_size().max(PLACE_BYTES);
        let number = |value: usize| libc::c_uint::try_from(value).map_err(io::Error::other);
        let request = libc::tpacket_req {
            tp_block_size: number(block)?,
            tp_block_nr: number(RING_BYTES / block)?,
            tp_frame_size: number(PLACE_BYTES)?,
            tp_frame_nr: number(PLACES)?,
        };
        packet::set_option(&fd, libc::SOL_PACKET, libc::PACKET_TX_RING, request)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping, undone when the ring is dropped.
        let map = unsafe { libc::mmap(ptr::null_mut(), RING_BYTES, protection, flags, fd.as_raw_fd(), 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(TxRing { fd, map, at: 0, filled: 0 })
    }

    /// The place that is `ahead` of the next.
    #[inline]
    fn place(&self, ahead: usize) -> *mut u8 {
        // SAFETY: a place's number times its size is less than the map's size.
        unsafe { self.map.add((self.at + ahead) % PLACES * PLACE_BYTES) }.as_ptr()
    }

    /// Whose turn it is with the place that is `ahead` of the next: the kernel's, or ours.
    #[inline]
    fn status(&self, ahead: usize) -> &AtomicU32 {
        let place = self.place(ahead);
        // SAFETY: tp_status is the first word of a place, aligned as it is, lives as long
        // as the map, and is an atomic on both sides.
        unsafe { AtomicU32::from_ptr(&raw mut (*place.cast::<libc::tpacket2_hdr>()).tp_status) }
    }

    /// Puts the frame that `runs` name, behind its virtio-net header, into the next place;
    /// false if none is free, or it has no room there.
    ///
    /// # Safety
    /// `runs` name memory that can be read; the first is a whole `VnetHeader`.
    #[inline]
    pub unsafe fn put(&mut self, runs: &[libc::iovec]) -> bool {
        let place = self.place(self.filled);
        let is_free = self.filled < PLACES && self.status(self.filled).load(Ordering::Acquire) & BUSY == 0;
        let len: usize = runs.iter().map(|run| run.iov_len).sum();
        let Some(frame_len) = len.checked_sub(VnetHeader::LEN).filter(|len| is_free && *len <= LEN_MAX)
        else {
            return false;
        };
        let mut to = place.wrapping_add(VNET_AT);
        for run in runs {
            // SAFETY: the caller's memory, and a place that is ours and has room for all.
            unsafe { ptr::copy_nonoverlapping(run.iov_base.cast::<u8>(), to, run.iov_len) };
            to = to.wrapping_add(run.iov_len);
        }
        // All of it is header: the kernel then copies it to one piece of memory, as it
        // does for sendmsg, instead of pointing to the place.
        let hdr_len = place.wrapping_add(VNET_AT + offset_of!(VnetHeader, hdr_len));
        // SAFETY: both lie in the place, which is ours; LEN_MAX fits in both.
        #[expect(clippy::cast_possible_truncation, reason = "at most LEN_MAX and a header")]
        unsafe {
            hdr_len.cast::<u16>().write_unaligned(frame_len as u16);
            (*place.cast::<libc::tpacket2_hdr>()).tp_len = len as u32;
        }
        self.status(self.filled).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.filled += 1;
        true
    }

    /// Sends what was put, in order, until one frame is refused; those behind it are taken
    /// back.
    pub fn send(&mut self) -> Outcome {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return Outcome { sent: 0, errno: 0 };
        }
        // SAFETY: no memory is passed.
        let rc = unsafe { libc::send(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT) };
        let errno = if rc < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
        let is_left = |status| matches!(status, libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_WRONG_FORMAT);
        let sent = (0..filled)
            .position(|ahead| is_left(self.status(ahead).load(Ordering::Acquire)))
            .unwrap_or(filled);
        for ahead in sent..filled {
            self.status(ahead).store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
        }
        self.at = (self.at + sent) % PLACES;
        Outcome { sent, errno: if sent < filled { errno } else { 0 } }
    }
}

impl Drop for TxRing {
    fn drop(&mut self) {
        // The kernel frees a ring without waiting for a device that is just about to write
        // to a place that it is done with it (`tpacket_destruct_skb`, `packet_set_ring`).
        let is_sending = |ahead| self.status(ahead).load(Ordering::Acquire) & libc::TP_STATUS_SENDING != 0;
        for _ in 0..STEPS {
            if !(0..PLACES).any(is_sending) {
                break;
            }
            std::thread::sleep(STEP);
        }
        // SAFETY: mapped in `open` with this length; nothing points there any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), RING_BYTES) };
    }
}
