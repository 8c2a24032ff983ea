//! Frames on their way into a stream: many in one system call, each behind its
//! length, from wherever they lie.
//!
//! A socket that takes half a frame must be given the other half before
//! anything else: that rest, of one frame, is all that is ever kept here. What
//! does not fit is refused.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::iov::Iov;
use super::super::{BURST_FRAMES, Fault, Sent, gather};
use super::inbound::{FRAME_LEN_MAX, PREFIX_LEN};
use crate::bridge::Refusal;
use crate::frame::Wire;

/// What was begun and must be finished first, and the scatter list.
#[derive(Debug)]
pub(super) struct Outbound {
    iov: Iov,
    prefixes: Box<[[u8; PREFIX_LEN]; BURST_FRAMES]>,
    /// The frame that was cut, with its prefix.
    cut: Vec<u8>,
    /// How much of it was sent; its length if there is nothing to finish.
    cut_at: usize,
}

impl Outbound {
    /// Nothing begun.
    pub fn new() -> Outbound {
        Outbound {
            iov: Iov::new(),
            prefixes: Box::new([[0; PREFIX_LEN]; BURST_FRAMES]),
            // All that it can become: nothing is allocated for a frame.
            cut: Vec::with_capacity(PREFIX_LEN + FRAME_LEN_MAX),
            cut_at: 0,
        }
    }

    /// Whether a frame waits for its second half to be sent.
    #[inline]
    pub fn is_cut(&self) -> bool {
        self.cut_at < self.cut.len()
    }

    /// Sends the rest of the cut frame, as far as it fits now.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn finish(&mut self, fd: &OwnedFd) -> Result<(), Fault> {
        while self.is_cut() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(fd, &self.cut[self.cut_at..], flags) {
                Ok(len) => self.cut_at += len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Ok(()),
                Err(errno) => return Err(fault(errno.raw_os_error())),
            }
        }
        Ok(())
    }

    /// Sends `wires` in order until the socket is full.
    pub fn send(&mut self, fd: &OwnedFd, wires: &[Wire<'_>]) -> Sent {
        let mut outcome = Sent::default();
        if let Err(fault) = self.finish(fd) {
            refuse_rest(&mut outcome, 0, wires, Refusal::Down);
            outcome.fault = Some(fault);
            return outcome;
        }
        let mut next = 0;
        // How many may go in one call.
        let mut most = wires.len();
        while next < wires.len() {
            if self.is_cut() {
                refuse_rest(&mut outcome, next, wires, Refusal::Full);
                break;
            }
            let count = self.collect(&wires[next..wires.len().min(next + most)]);
            if count == 0 {
                let long = wires[next].len() > FRAME_LEN_MAX;
                refuse(&mut outcome, next, if long { Refusal::Oversize } else { Refusal::Invalid });
                next += 1;
                continue;
            }
            match self.write(fd) {
                Ok(len) => {
                    let whole = self.account(&wires[next..next + count], len);
                    next += whole;
                    // A short write means that there is no more room.
                    if whole < count {
                        refuse_rest(&mut outcome, next, wires, Refusal::Full);
                        break;
                    }
                }
                Err(error) => match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => {}
                    // Memory that its owner took away: the frame's sender is at fault, not
                    // this peer. Which frame it is shows when each goes by itself.
                    libc::EFAULT if count > 1 => most = 1,
                    libc::EFAULT => {
                        refuse(&mut outcome, next, Refusal::Error);
                        next += 1;
                    }
                    libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => {
                        refuse_rest(&mut outcome, next, wires, Refusal::Full);
                        break;
                    }
                    errno => {
                        refuse_rest(&mut outcome, next, wires, Refusal::Down);
                        outcome.fault = Some(fault(errno));
                        break;
                    }
                },
            }
        }
        outcome
    }

    /// Makes the scatter list of as many of `wires` as go into one call.
    fn collect(&mut self, wires: &[Wire<'_>]) -> usize {
        self.iov.clear();
        let mut count = 0;
        for (wire, prefix) in wires.iter().zip(self.prefixes.iter_mut()) {
            let Some(len) = u32::try_from(wire.len()).ok().filter(|_| wire.len() <= FRAME_LEN_MAX) else {
                break;
            };
            *prefix = len.to_be_bytes();
            if !self.iov.push_behind(prefix, wire) {
                break;
            }
            count += 1;
        }
        count
    }

    fn write(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        let runs = self.iov.all();
        // SAFETY: all-zero is valid for this C structure: no address, no
        // control data.
        let mut message = unsafe { mem::zeroed::<libc::msghdr>() };
        message.msg_iov = runs.as_mut_ptr();
        message.msg_iovlen = runs.len();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the runs name our prefixes and the wires' bytes, which are
        // borrowed; the kernel only reads them.
        let wrote = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
        usize::try_from(wrote).map_err(|_| io::Error::last_os_error())
    }

    /// Of `wires`, `len` bytes were taken: keeps the rest of the one that was
    /// cut, and returns how many are sent, that one included.
    fn account(&mut self, wires: &[Wire<'_>], len: usize) -> usize {
        let mut left = len;
        for (index, wire) in wires.iter().enumerate() {
            let framed = PREFIX_LEN + wire.len();
            if left >= framed {
                left -= framed;
                continue;
            }
            if left == 0 {
                return index;
            }
            self.cut.clear();
            self.cut.extend(self.prefixes[index]);
            self.cut.resize(framed, 0);
            gather(wire, &mut self.cut[PREFIX_LEN..]);
            self.cut_at = left;
            return index + 1;
        }
        wires.len()
    }
}

/// What an error number says of the connection.
pub(super) fn fault(errno: i32) -> Fault {
    match errno {
        libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN => Fault::Down,
        other => Fault::Os(other),
    }
}

fn refuse(outcome: &mut Sent, index: usize, reason: Refusal) {
    // At most 64 wires: the index fits.
    outcome.refused.push((u8::try_from(index).unwrap_or(u8::MAX), reason));
}

fn refuse_rest(outcome: &mut Sent, from: usize, wires: &[Wire<'_>], reason: Refusal) {
    for index in from..wires.len() {
        refuse(outcome, index, reason);
    }
}
