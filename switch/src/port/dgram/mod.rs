//! A connected unix datagram socket, as QEMU's `-netdev dgram` speaks it: one
//! complete frame a datagram, without a virtio-net header.
//!
//! Frames arrive in the shared slots by `recvmmsg` and leave by `sendmmsg`.
//! The kernel's queue at the peer may be shorter than a burst
//! (`net.unix.max_dgram_qlen`), so that what does not fit is `held`, within
//! bounds; beyond them frames are refused.
//!
//! That the socket is connected makes the kernel keep strangers away, and lifts
//! the queue's limit in our direction, where the sender's buffer is the bound.
//!
//! Deliberately absent: binding, learning who the peer is, and noticing that a
//! silent one has gone (`endpoint`, on the control thread).
//! Read first: net/dgram.c of QEMU, `unix_dgram_sendmsg` of net/unix/af_unix.c.

mod held;

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::iov::Iov;
use super::pieces::{Pieces, head_len};
use super::{BURST_BYTES, BURST_FRAMES, Burst, Fault, Link, Port, Rx, Sent, Slots};
use crate::bridge::{DropReason, Refusal};
use crate::frame::{Frame, Wire};
use crate::offload::VnetHeader;
use held::Held;

/// A frame that has arrived, before it is lent to a burst.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    len: usize,
    truncated: bool,
}

/// The kernel's vectors, written once and corrected where it writes.
struct Vectors {
    receive: Box<[libc::mmsghdr; BURST_FRAMES]>,
    receive_iov: Box<[libc::iovec; BURST_FRAMES]>,
    send: Box<[libc::mmsghdr; BURST_FRAMES]>,
    send_iov: Iov,
    /// The slots that `receive_iov` points into.
    slots: *mut u8,
}

// SAFETY: the addresses point into the boxes here, which move with the port,
// and into memory that is borrowed during each call.
unsafe impl Send for Vectors {}

/// A port on a connected datagram socket.
pub(super) struct DgramPort {
    fd: OwnedFd,
    link: Link,
    vectors: Vectors,
    arrived: ArrayVec<Arrived, BURST_FRAMES>,
    pieces: Pieces,
    held: Held,
    /// Where to ask for the moment when the peer has room.
    watch: Option<(Registry, Token)>,
    /// Whether it was asked for.
    is_armed: bool,
}

impl fmt::Debug for DgramPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DgramPort").field("fd", &self.fd).field("link", &self.link).finish_non_exhaustive()
    }
}

impl Vectors {
    fn new() -> Vectors {
        // SAFETY: all-zero is valid for this C structure.
        let message = unsafe { mem::zeroed::<libc::mmsghdr>() };
        let no_run = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut vectors = Vectors {
            receive: Box::new([message; BURST_FRAMES]),
            receive_iov: Box::new([no_run; BURST_FRAMES]),
            send: Box::new([message; BURST_FRAMES]),
            send_iov: Iov::new(),
            slots: ptr::null_mut(),
        };
        for (message, run) in vectors.receive.iter_mut().zip(vectors.receive_iov.iter_mut()) {
            message.msg_hdr.msg_iov = ptr::from_mut(run);
            message.msg_hdr.msg_iovlen = 1;
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
            run.iov_base = slots.wrapping_add(index * Slots::STRIDE).cast();
            run.iov_len = Slots::ROOM;
        }
    }

    /// Sends as many of `wires` as there is room for; the number of the error
    /// that the first of them met.
    fn send(&mut self, fd: &OwnedFd, wires: &[Wire<'_>]) -> Result<usize, i32> {
        self.send_iov.clear();
        let mut ranges = ArrayVec::<_, BURST_FRAMES>::new();
        for wire in wires.iter().take(BURST_FRAMES) {
            // Without a run it would be sent all the same, as an empty
            // datagram, which ends QEMU's reading for good.
            let Some(range) = self.send_iov.push(None, wire) else { break };
            ranges.push(range);
        }
        if ranges.is_empty() {
            return Err(libc::EINVAL);
        }
        let count = libc::c_uint::try_from(ranges.len()).unwrap_or(0);
        // Only now: a list that grew has moved.
        for (message, range) in self.send.iter_mut().zip(ranges) {
            let runs = self.send_iov.runs(range);
            message.msg_hdr.msg_iov = runs.as_mut_ptr();
            message.msg_hdr.msg_iovlen = runs.len();
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `count` messages whose runs point into `wires`, which is
        // borrowed; the kernel reads the runs and writes msg_len.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), self.send.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl DgramPort {
    /// A port on `fd`, a connected, non-blocking datagram socket.
    pub fn new(fd: OwnedFd, link: Link) -> DgramPort {
        DgramPort {
            fd,
            link,
            vectors: Vectors::new(),
            arrived: ArrayVec::new(),
            pieces: Pieces::default(),
            held: Held::new(),
            watch: None,
            is_armed: false,
        }
    }

    /// Sends what waits, as far as there is room now.
    fn send_held(&mut self) -> Result<(), Fault> {
        while !self.held.is_empty() {
            let sent = self.vectors.send(&self.fd, &self.held.wires());
            match sent {
                Ok(sent) => self.held.pop(sent),
                Err(libc::EINTR) => {}
                Err(errno) if is_full(errno) => break,
                Err(errno) => return Err(fault(errno)),
            }
        }
        Ok(())
    }

    /// Asks to be told when the peer has room while frames wait for that, and
    /// no longer: each of its reads would be told.
    fn arm(&mut self) {
        let armed = !self.held.is_empty();
        if self.is_armed == armed {
            return;
        }
        let Some((registry, token)) = &self.watch else { return };
        let interest = if armed { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // If epoll refuses, the next frame that leaves sends these first.
        if registry.reregister(&mut SourceFd(&self.fd.as_raw_fd()), *token, interest).is_ok() {
            self.is_armed = armed;
        }
    }

    /// Receives until the queue is empty or the budget is spent.
    fn fill(&mut self) -> Rx {
        let mut bytes = 0;
        while self.arrived.len() < BURST_FRAMES && bytes < BURST_BYTES {
            let first = self.arrived.len();
            let want = BURST_FRAMES - first;
            // SAFETY: messages `first..64` exist, and each points to its own
            // iovec and slot; the slots are borrowed by the running `receive`.
            let got = unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    self.vectors.receive[first..].as_mut_ptr(),
                    libc::c_uint::try_from(want).unwrap_or(0),
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                )
            };
            match usize::try_from(got) {
                Ok(got) => {
                    for message in &self.vectors.receive[first..first + got] {
                        let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
                        self.arrived.push(Arrived { len: message.msg_len as usize, truncated });
                    }
                    bytes += self.arrived[first..].iter().map(|frame| frame.len).sum::<usize>();
                    if got < want {
                        return Rx::Drained;
                    }
                }
                Err(_) => match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
                    libc::EINTR => {}
                    libc::EAGAIN => return Rx::Drained,
                    errno => return Rx::Fault(fault(errno)),
                },
            }
        }
        Rx::More
    }
}

/// Whether an error number says that the peer's queue, or what may be on the way
/// to it, is full.
const fn is_full(errno: i32) -> bool {
    matches!(errno, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)
}

/// What an error number says of the peer.
fn fault(errno: i32) -> Fault {
    match errno {
        // Its socket was closed; its file is gone; it turned to somebody else.
        libc::ECONNREFUSED | libc::ENOENT | libc::ECONNRESET | libc::ENOTCONN | libc::EPIPE => Fault::Down,
        other => Fault::Os(other),
    }
}

impl Port for DgramPort {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        (self.watch, self.is_armed) = (Some((registry.try_clone()?, token)), false);
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.watch = None;
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        let Some(slots) = burst.slots.take() else { return Rx::More };
        let slots: &'a mut [u8] = slots.bytes();
        // This turn may be because there is room again.
        let sent = self.send_held();
        self.arm();
        self.vectors.aim(slots.as_mut_ptr());
        self.arrived.clear();
        self.pieces.clear();
        let rx = sent.map_or_else(Rx::Fault, |()| self.fill());
        let slots: &'a [u8] = slots;
        let bytes = |index: usize, frame: &Arrived| &slots[index * Slots::STRIDE..][..frame.len];
        for (index, frame) in self.arrived.iter().enumerate() {
            let behind = &bytes(index, frame)[head_len(frame.len)..];
            self.pieces.push(behind.as_ptr(), behind.len());
        }
        let port: &'a DgramPort = self;
        for (index, frame) in port.arrived.iter().enumerate() {
            let head = &bytes(index, frame)[..head_len(frame.len)];
            burst.frames.push(if frame.truncated {
                Frame::broken(head, DropReason::Truncated)
            } else {
                Frame::new(head, port.pieces.rest(index), VnetHeader::PLAIN)
            });
        }
        rx
    }

    fn release(&mut self) {}

    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent {
        let mut outcome = Sent::default();
        let mut next = 0;
        if let Err(fault) = self.send_held() {
            refuse(&mut outcome, 0..wires.len(), Refusal::Down);
            outcome.fault = Some(fault);
            return outcome;
        }
        while next < wires.len() && self.held.is_empty() {
            match self.vectors.send(&self.fd, &wires[next..]) {
                Ok(sent) => next += sent,
                Err(libc::EINTR) => {}
                Err(errno) if is_full(errno) => break,
                Err(errno) => {
                    let refusal = match errno {
                        libc::EMSGSIZE => Refusal::Oversize,
                        libc::EINVAL => Refusal::Invalid,
                        // Memory that its owner took away: the frame's sender is at
                        // fault, not this peer.
                        libc::EFAULT => Refusal::Error,
                        _ => {
                            refuse(&mut outcome, next..wires.len(), Refusal::Down);
                            outcome.fault = Some(fault(errno));
                            return outcome;
                        }
                    };
                    refuse(&mut outcome, next..next + 1, refusal);
                    next += 1;
                }
            }
        }
        for (index, wire) in wires.iter().enumerate().skip(next) {
            if !self.held.push(wire) {
                refuse(&mut outcome, index..index + 1, Refusal::Full);
            }
        }
        self.arm();
        outcome
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
    }
}

fn refuse(outcome: &mut Sent, wires: std::ops::Range<usize>, reason: Refusal) {
    for index in wires {
        // At most 64 wires: the index fits.
        outcome.refused.push((u8::try_from(index).unwrap_or(u8::MAX), reason));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;
    use crate::frame::Piece;

    /// A guest's memory whose file became shorter: to read it is a fault.
    #[test]
    fn memory_that_is_gone_is_its_senders_fault_and_not_the_peers() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let link = Link { up: true, mtu: 1500, offloads: crate::port::Offloads::NONE };
        let mut port = DgramPort::new(ours.into(), link);
        let gone = crate::port::gone::Gone::new();
        let rest = [Piece::new(gone.as_ptr(), 100)];
        let wires = [Wire::plain(&[1; 60], &[]), Wire::plain(&[2; 60], &rest), Wire::plain(&[3; 60], &[])];
        let sent = port.transmit(&wires);
        assert_eq!((&sent.refused[..], sent.fault), (&[(1, Refusal::Error)][..], None));
        for number in [1, 3] {
            let mut bytes = [0; 100];
            let len = theirs.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..len], [number; 60]);
        }
    }
}
