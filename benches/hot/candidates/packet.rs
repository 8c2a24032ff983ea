//! Carriers over packet sockets, which are what `netdev:` ports have.

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use vswitch_tests::flow::Device;

use crate::carry::{BYTES_MAX, Carrier, Ends, PATIENCE, VNET_LEN, Work};

/// Messages of a burst out of a ring.
const BURST: usize = 64;
/// Bytes of a ring, about.
const RING_BYTES: usize = 8 << 20;
/// How long a read looks for frames in the device, microseconds.
const BUSY_POLL_US: libc::c_int = 50;

/// Sets a socket option.
fn set<T>(device: &Device, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let fd = device.as_fd().as_raw_fd();
    // SAFETY: the kernel reads no more than `value`.
    let rc = unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), len) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends all of `messages`, or as many as the device takes.
fn send(to: &Device, messages: &mut [libc::mmsghdr]) {
    let mut rest = messages;
    while !rest.is_empty() {
        let count = libc::c_uint::try_from(rest.len()).unwrap_or(0);
        // SAFETY: the messages point to memory that outlives the call.
        let sent =
            unsafe { libc::sendmmsg(to.as_fd().as_raw_fd(), rest.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        // What finds no room is lost.
        let Ok(sent) = usize::try_from(sent) else { return };
        rest = &mut rest[sent..];
    }
}

/// One message each for the parts of memory in `iov`.
fn messages(iov: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    let message = |part: &mut libc::iovec| {
        // SAFETY: all-zero is a valid mmsghdr.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    iov.iter_mut().map(message).collect()
}

/// recvmmsg(2) and sendmmsg(2).
pub(crate) struct Messages {
    ends: Ends,
    room: usize,
    /// What `iov` points to.
    _slots: Vec<u8>,
    /// What `messages` points to.
    iov: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Messages {
    /// Up to `burst` frames a call, and no more than [`BYTES_MAX`] have room in.
    pub(crate) fn new(ends: Ends, work: &Work, burst: usize) -> Messages {
        let room = work.room();
        let burst = burst.min(BYTES_MAX / room);
        let mut slots = vec![0u8; burst * room];
        let part = |slot: &mut [u8]| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: room };
        let mut iov: Vec<libc::iovec> = slots.chunks_mut(room).map(part).collect();
        let messages = messages(&mut iov);
        Messages { ends, room, _slots: slots, iov, messages }
    }

    /// Bursts of 64 after a look into the device's queue (SO_BUSY_POLL of socket(7)).
    pub(crate) fn busy(ends: Ends, work: &Work) -> io::Result<Messages> {
        set(&ends.from, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &BUSY_POLL_US)?;
        Ok(Messages::new(ends, work, BURST))
    }
}

impl Carrier for Messages {
    fn carry(&mut self) -> io::Result<()> {
        let burst = libc::c_uint::try_from(self.messages.len()).unwrap_or(0);
        let fd = self.ends.from.as_fd().as_raw_fd();
        // SAFETY: every message points to an iovec of its own, and that to a slot of its
        // own of as many bytes as it says.
        let got = unsafe {
            libc::recvmmsg(fd, self.messages.as_mut_ptr(), burst, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return self.ends.from.wait_readable(PATIENCE);
            }
            return Err(error);
        };
        for (part, message) in self.iov.iter_mut().zip(&self.messages[..got]) {
            part.iov_len = message.msg_len as usize;
        }
        send(&self.ends.to, &mut self.messages[..got]);
        for part in &mut self.iov[..got] {
            part.iov_len = self.room;
        }
        Ok(())
    }
}

/// A ring of TPACKET_V2 in memory that is shared with the kernel.
struct Ring {
    map: NonNull<u8>,
    bytes: usize,
    room: usize,
    frames: usize,
    /// The frame whose turn it is.
    at: usize,
}

impl Ring {
    /// A ring for what `device` receives (PACKET_RX_RING) or sends (PACKET_TX_RING).
    fn new(device: &Device, which: libc::c_int, room: usize) -> io::Result<Ring> {
        set(
            device,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as libc::c_int),
        )?;
        // A block is whole pages and whole frames.
        let block = room.max(4096);
        let blocks = RING_BYTES / block;
        let (bytes, frames) = (blocks * block, blocks * (block / room));
        let number = |value: usize| libc::c_uint::try_from(value).map_err(io::Error::other);
        let request = libc::tpacket_req {
            tp_block_size: number(block)?,
            tp_block_nr: number(blocks)?,
            tp_frame_size: number(room)?,
            tp_frame_nr: number(frames)?,
        };
        set(device, libc::SOL_PACKET, which, &request)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        let fd = device.as_fd().as_raw_fd();
        // SAFETY: a new mapping; it is undone when the ring is dropped.
        let map = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Ring { map, bytes, room, frames, at: 0 })
    }

    /// The frame that is `ahead` of the one whose turn it is.
    fn frame(&self, ahead: usize) -> *mut u8 {
        // SAFETY: less than `frames`, each of `room` bytes, are in the map: blocks are
        // filled by their frames.
        unsafe { self.map.add((self.at + ahead) % self.frames * self.room) }.as_ptr()
    }

    /// Who has the frame at `frame`: the kernel, or we.
    fn status(&self, frame: *mut u8) -> &AtomicU32 {
        // SAFETY: tp_status is the first of a frame's header, aligned as the frame is, and
        // both sides use it as an atomic.
        unsafe { AtomicU32::from_ptr(&raw mut (*frame.cast::<libc::tpacket2_hdr>()).tp_status) }
    }

    fn pass(&mut self, frames: usize) {
        self.at = (self.at + frames) % self.frames;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; nothing points there any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.bytes) };
    }
}

/// Frames are read where the kernel put them.
pub(crate) struct Rings {
    receive: Ring,
    /// They are copied there to be sent, instead of being handed over by sendmmsg(2).
    transmit: Option<Ring>,
    iov: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
    // After the rings, which are of these sockets.
    ends: Ends,
}

impl Rings {
    /// With a ring to receive from, and one to send `both` ways.
    pub(crate) fn new(ends: Ends, work: &Work, both: bool) -> io::Result<Rings> {
        let receive = Ring::new(&ends.from, libc::PACKET_RX_RING, work.room())?;
        let transmit = both.then(|| Ring::new(&ends.to, libc::PACKET_TX_RING, work.room())).transpose()?;
        let mut iov = vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BURST];
        let messages = messages(&mut iov);
        Ok(Rings { receive, transmit, iov, messages, ends })
    }

    /// Puts the first `count` frames of `iov` into the ring and has them sent.
    fn transmit(&mut self, count: usize) {
        /// Where a frame begins: TPACKET2_HDRLEN without its sockaddr_ll.
        const DATA_AT: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16);
        let Some(ring) = &mut self.transmit else { return send(&self.ends.to, &mut self.messages[..count]) };
        for part in &self.iov[..count] {
            let frame = ring.frame(0);
            if ring.status(frame).load(Ordering::Acquire) != libc::TP_STATUS_AVAILABLE {
                // The ring is full: the rest is lost.
                break;
            }
            // SAFETY: the frame is ours, has `room` bytes, and the part is no longer than
            // a frame of the other ring, which has as many and begins later.
            unsafe {
                ptr::copy_nonoverlapping(part.iov_base.cast::<u8>(), frame.add(DATA_AT), part.iov_len);
                (*frame.cast::<libc::tpacket2_hdr>()).tp_len = u32::try_from(part.iov_len).unwrap_or(0);
            }
            ring.status(frame).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
            ring.pass(1);
        }
        let fd = self.ends.to.as_fd().as_raw_fd();
        // SAFETY: no memory is passed. What finds no room is sent with the next burst.
        unsafe { libc::send(fd, ptr::null(), 0, libc::MSG_DONTWAIT) };
    }
}

impl Carrier for Rings {
    fn carry(&mut self) -> io::Result<()> {
        let mut count = 0;
        for part in &mut self.iov {
            let frame = self.receive.frame(count);
            if self.receive.status(frame).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                break;
            }
            // SAFETY: the frame is ours, and its header says where the kernel put the
            // bytes within it: the virtio-net header before the addresses.
            unsafe {
                let header = frame.cast::<libc::tpacket2_hdr>();
                part.iov_base = frame.add(usize::from((*header).tp_mac) - VNET_LEN).cast();
                part.iov_len = (*header).tp_snaplen as usize + VNET_LEN;
            }
            count += 1;
        }
        if count == 0 {
            return self.ends.from.wait_readable(PATIENCE);
        }
        self.transmit(count);
        for ahead in 0..count {
            let frame = self.receive.frame(ahead);
            self.receive.status(frame).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.receive.pass(count);
        Ok(())
    }
}
