//! A connected unix stream, as QEMU's `-netdev stream` speaks it: each frame
//! behind its length, complete, without a virtio-net header.
//!
//! One system call brings as many frames as have arrived, another takes a
//! whole burst along. `inbound` cuts the bytes into frames, `outbound` sends
//! them; both keep at most one frame that is half here or half gone. The
//! kernel's socket buffer is the queue; when it is full, frames are refused.
//!
//! A peer that breaks the framing has its connection shut down at once, and
//! the control thread learns why.
//!
//! Deliberately absent: listening, connecting, and who the peer is
//! (`endpoint`, on the control thread). Read first: net/stream.c of QEMU.

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};

use super::pieces::{Pieces, head_len};
use super::{BURST_FRAMES, Burst, Fault, Link, Port, Rx, Sent};
use crate::frame::Frame;
use crate::offload::VnetHeader;
use inbound::Inbound;
use outbound::Outbound;

/// A port on a connected stream.
#[derive(Debug)]
pub(super) struct StreamPort {
    fd: OwnedFd,
    link: Link,
    inbound: Inbound,
    /// Frames of the burst being lent.
    frames: ArrayVec<Range<usize>, BURST_FRAMES>,
    pieces: Pieces,
    /// The last burst was full: whole frames may wait in `inbound`.
    is_behind: bool,
    outbound: Outbound,
    /// Where to ask for the moment when a cut frame can go on.
    watch: Option<(Registry, Token)>,
    /// Whether it was asked for.
    is_armed: bool,
}

impl StreamPort {
    /// A port on `fd`, a connected, non-blocking stream socket.
    pub fn new(fd: OwnedFd, link: Link) -> StreamPort {
        StreamPort {
            fd,
            link,
            inbound: Inbound::new(),
            frames: ArrayVec::new(),
            pieces: Pieces::default(),
            is_behind: false,
            outbound: Outbound::new(),
            watch: None,
            is_armed: false,
        }
    }

    /// Reads what there is, unless whole frames wait, and takes up to 64 out.
    fn fill(&mut self) -> Rx {
        let read = if self.is_behind { Rx::More } else { self.read() };
        self.is_behind = false;
        while !self.frames.is_full() {
            match self.inbound.next() {
                Ok(Some(range)) => self.frames.push(range),
                Ok(None) => return read,
                Err(why) => return Rx::Fault(Fault::Protocol(why)),
            }
        }
        self.is_behind = true;
        // What the read met is met again, once these are out of the way.
        Rx::More
    }

    /// Reads until nothing is left or there is no more room. That less came
    /// than was asked for is not the end: behind it the peer may have hung up,
    /// of which one and the same edge told.
    fn read(&mut self) -> Rx {
        loop {
            let room = self.inbound.room();
            if room.is_empty() {
                return Rx::More;
            }
            match rustix::net::recv(&self.fd, room, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Rx::Fault(Fault::Down),
                Ok((got, _)) => self.inbound.grow(got),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Rx::Drained,
                Err(errno) => return Rx::Fault(outbound::fault(errno.raw_os_error())),
            }
        }
    }

    /// Asks to be told when the cut frame can go on, and no longer than that:
    /// every read of the peer would be told.
    fn arm(&mut self) {
        if self.is_armed == self.outbound.is_cut() {
            return;
        }
        let Some((registry, token)) = &self.watch else { return };
        let armed = self.outbound.is_cut();
        let interest = if armed { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // If epoll refuses, the next frame that leaves finishes this one first.
        if registry.reregister(&mut SourceFd(&self.fd.as_raw_fd()), *token, interest).is_ok() {
            self.is_armed = armed;
        }
    }

    /// Ends the connection for both sides, so that everybody sees that it did.
    fn hang_up(&self, fault: Fault) -> Fault {
        // One that is gone already cannot be shut down.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
        fault
    }
}

impl Port for StreamPort {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        (self.watch, self.is_armed) = (Some((registry.try_clone()?, token)), false);
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.watch = None;
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        self.frames.clear();
        self.pieces.clear();
        // This turn may be because there is room again.
        let finished = self.outbound.finish(&self.fd);
        self.arm();
        let rx = match finished {
            Ok(()) => self.fill(),
            Err(fault) => Rx::Fault(fault),
        };
        for range in &self.frames {
            let bytes = self.inbound.bytes(range.clone());
            let behind = &bytes[head_len(bytes.len())..];
            self.pieces.push(behind.as_ptr(), behind.len());
        }
        let port: &'a StreamPort = self;
        for (index, range) in port.frames.iter().enumerate() {
            let bytes = port.inbound.bytes(range.clone());
            let head = &bytes[..head_len(bytes.len())];
            burst.frames.push(Frame::new(head, port.pieces.rest(index), VnetHeader::PLAIN));
        }
        match rx {
            Rx::Fault(fault) => Rx::Fault(port.hang_up(fault)),
            Rx::More | Rx::Drained | Rx::Changed => rx,
        }
    }

    fn release(&mut self) {
        self.inbound.compact();
    }

    fn transmit(&mut self, wires: &[crate::frame::Wire<'_>]) -> Sent {
        let mut sent = self.outbound.send(&self.fd, wires);
        sent.fault = sent.fault.map(|fault| self.hang_up(fault));
        self.arm();
        sent
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
    }
}
