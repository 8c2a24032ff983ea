//! Link events of other network namespaces, heard from our own.
//!
//! A netlink socket inside a namespace keeps that namespace alive: a container
//! whose TAP we serve would never go away. Linux 4.2 lets a socket of ours hear
//! of every namespace to which ours has given a number (an "nsid"), and a number
//! keeps nothing alive. The kernel asks for CAP_NET_BROADCAST; without it the
//! watcher falls back on sockets inside.
//!
//! Deliberately absent: what events mean (`watch`).
//! Read first: `do_one_broadcast` of net/netlink/af_netlink.c.

#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel's messages are an open set")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::rtnl::Rtnl;

/// The number that our namespace has for `namespace`, given now if it has none.
///
/// # Errors
/// Whatever the kernel says of it.
pub(super) fn number(namespace: BorrowedFd<'_>) -> io::Result<i32> {
    let mut rtnl = Rtnl::open()?;
    let about = |attributes| {
        let mut message = NsidMessage::default();
        message.attributes = attributes;
        message
    };
    let fd = NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned());
    // Any number that is free; EEXIST: the kernel gave one when it moved the
    // interface.
    let new = about(vec![fd.clone(), NsidAttribute::Id(-1)]);
    match rtnl.request(RouteNetlinkMessage::NewNsId(new), NLM_F_ACK) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let answers = rtnl.request(RouteNetlinkMessage::GetNsId(about(vec![fd])), NLM_F_ACK)?;
    let numbers = answers.iter().flat_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(message) => message.attributes.as_slice(),
        _ => &[],
    });
    let mut found = numbers.filter_map(|attribute| match attribute {
        NsidAttribute::Id(number) if *number >= 0 => Some(*number),
        _ => None,
    });
    found.next().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// A buffer for one message of the kernel, and room for where it came from.
#[derive(Debug)]
pub(super) struct Receiver {
    bytes: Vec<u8>,
}

impl Receiver {
    /// Room for the longest message: a page for each of 16 attributes.
    pub fn new() -> Receiver {
        Receiver { bytes: vec![0; 1 << 16] }
    }

    /// The next message, with the number of the namespace it came from; `None`
    /// there: our own.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; ENOBUFS if some were lost.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<(&[u8], Option<i32>)> {
        let mut control = [0u64; 8];
        let mut run = libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: self.bytes.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut run;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        // SAFETY: the header names buffers that live over the call, with their
        // own lengths.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
        let len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let mut from = None;
        // SAFETY: the kernel filled in the header; its control messages lie
        // within `control`, which is aligned as they must be.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !next.is_null() {
            // SAFETY: not null, so a whole header, aligned.
            let header = unsafe { *next };
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID) {
                // SAFETY: of this type, its data is one int.
                from = Some(unsafe { libc::CMSG_DATA(next).cast::<libc::c_int>().read_unaligned() });
            }
            // SAFETY: both come from this message.
            next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
        }
        Ok((&self.bytes[..len], from))
    }
}
