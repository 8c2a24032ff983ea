//! The few messages of traffic control that `isolate` needs on kernels without
//! TCX: a clsact qdisc, and a program on each side of it.
//!
//! Written by hand, since the netlink crates know the qdisc but not the `bpf`
//! classifier's options. Read first: include/uapi/linux/pkt_cls.h.
//!
//! Deliberately absent: everything else that traffic control can do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Our filters' preference number: ours by this, since a killed process leaves
/// no other trace of itself ("vs").
const PREFERENCE: u32 = 0x7673;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;

const REQUEST_ACK: u16 = 1 | 4;
const CREATE_EXCL: u16 = 0x400 | 0x200;

/// TC_H_CLSACT, the parent of a clsact qdisc.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// Which side of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// Frames that come in by it.
    Ingress,
    /// Frames that leave by it.
    Egress,
}

impl Direction {
    /// TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or TC_H_MIN_EGRESS).
    const fn parent(self) -> u32 {
        match self {
            Direction::Ingress => 0xffff_fff2,
            Direction::Egress => 0xffff_fff3,
        }
    }
}

/// A message under construction: `nlmsghdr`, `tcmsg`, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32, info: u32) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for word in [0, ifindex, handle, parent, info] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, payload: &[u8]) -> Message {
        push_attribute(&mut self.0, kind, payload);
        self
    }

    /// Sends it and waits for the kernel's word.
    fn send(mut self) -> io::Result<()> {
        let len = u32::try_from(self.0.len()).unwrap_or(0);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&self.0, 0)?;
        let (answer, _) = socket.recv_from_full()?;
        // nlmsghdr of 16 bytes, then nlmsgerr begins with the error number.
        match answer.get(16..20).and_then(|bytes| bytes.first_chunk()) {
            Some(code) => match i32::from_ne_bytes(*code) {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(-code)),
            },
            None => Err(io::Error::from_raw_os_error(libc::EBADMSG)),
        }
    }
}

fn push_attribute(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let len = u16::try_from(payload.len() + 4).unwrap_or(0);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// ETH_P_ALL in network order, behind the preference.
fn info() -> u32 {
    PREFERENCE << 16 | u32::from(3u16.to_be())
}

/// Puts a clsact qdisc on `ifindex`; false if one is there already.
pub(super) fn add_clsact(ifindex: u32) -> io::Result<bool> {
    let message = Message::new(RTM_NEWQDISC, CREATE_EXCL, ifindex, CLSACT_HANDLE, CLSACT, 0);
    match message.attribute(TCA_KIND, b"clsact\0").send() {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the clsact qdisc with all its filters.
pub(super) fn remove_clsact(ifindex: u32) -> io::Result<()> {
    Message::new(RTM_DELQDISC, 0, ifindex, CLSACT_HANDLE, CLSACT, 0).send()
}

/// Attaches `program`; its return value is the verdict.
pub(super) fn add_filter(ifindex: u32, direction: Direction, program: &OwnedFd) -> io::Result<()> {
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_NAME, b"vswitch\0");
    push_attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    Message::new(RTM_NEWTFILTER, CREATE_EXCL, ifindex, 0, direction.parent(), info())
        .attribute(TCA_KIND, b"bpf\0")
        .attribute(TCA_OPTIONS, &options)
        .send()
}

/// Removes our filters, if there are any; says whether there were.
pub(super) fn remove_filters(ifindex: u32) -> bool {
    let remove = |direction: Direction| {
        Message::new(RTM_DELTFILTER, 0, ifindex, 0, direction.parent(), info())
            .attribute(TCA_KIND, b"bpf\0")
            .send()
            .is_ok()
    };
    // Both, whatever the first says.
    let (ingress, egress) = (remove(Direction::Ingress), remove(Direction::Egress));
    ingress || egress
}
