//! Ports: where frames come in and leave. A port only reads and writes; it
//! decides nothing and counts nothing but its own losses.
//!
//! This directory is the only home of raw file descriptors, mappings and
//! `unsafe`.
//!
//! Deliberately absent: a queue. A full port refuses, by name, and never waits.

mod alias;
mod backlog;
mod batch;
mod bpf;
mod burst;
mod close;
mod device;
mod dgram;
mod endpoint;
mod error;
mod fast;
mod finish;
#[cfg(test)]
mod gone;
mod huge;
mod iov;
mod isolate;
mod leftover;
pub mod memory;
mod mtu;
mod netdev;
mod nsid;
mod open;
mod packet;
mod peer;
mod pieces;
mod rtnl;
pub mod socket_file;
mod spec;
mod stream;
mod tap;
mod tc;
mod tun;
mod tx_ring;
mod vhost;
pub mod watch;

pub use burst::{BURST_BYTES, BURST_FRAMES, Burst, Slots};
pub use close::close_together;
pub use device::{CloseOutcome, Device, DeviceState};
pub use endpoint::{Endpoint, Visit};
pub use error::OpenError;
pub use fast::{FastFace, FastPath, FastTable, Passed, Slot};
pub use finish::{Finished, Finisher, as_is, gather};
pub use huge::ask_for_huge_pages;
#[cfg(test)]
pub(crate) use huge::is_advised;
pub use isolate::{IsolationKind, IsolationMode};
pub use leftover::remove_leftovers;
pub use open::{OpenOptions, Opened, exists, open};
pub use peer::Holders;
pub use spec::{Kind, ParseSpecError, PortSpec, SOCKET_PATH_MAX, is_socket_path, parse_address};
pub use vhost::QUEUES_MAX;
#[cfg(any(test, feature = "fuzz"))]
pub use vhost::fuzz as vhost_fuzz;

use std::fmt::Debug;
use std::io;

use arrayvec::ArrayVec;

use crate::bridge::Refusal;
use crate::frame::Wire;

/// One way into and out of the switch, owned by the data thread.
///
/// The order of calls in a turn is `receive`, any number of `transmit` on
/// *other* ports while the burst is alive, then `release`.
pub trait Port: Send + Debug {
    /// Asks `registry` to report the port's readiness (edge-triggered) as `token`.
    ///
    /// # Errors
    /// Whatever epoll says.
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()>;

    /// Undoes `register`.
    ///
    /// # Errors
    /// Whatever epoll says.
    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()>;

    /// Fills `burst` with frames that have arrived, borrowed from the port's
    /// memory or the burst's, without waiting.
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx;

    /// Gives the memory of the last burst back to whoever fills it.
    fn release(&mut self);

    /// Sends `wires` in order, without waiting: what does not fit now is
    /// refused. Every wire asks only for offloads that `link` offers, and is
    /// at most 64 of them.
    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent;

    /// Whether frames arrive in memory, where looking costs no system call: the
    /// engine then looks again and again for a while, and asks to be woken only
    /// before it sleeps.
    fn is_polled(&self) -> bool {
        false
    }

    /// For a port that is polled: asks to be reported ready with the next
    /// frame; true if one is there already.
    fn arm(&mut self) -> bool {
        false
    }

    /// What the port can carry.
    fn link(&self) -> Link;

    /// Tells the port what its device's link is now; ports without a device
    /// that others can change ignore it.
    fn set_link(&mut self, link: Link);

    /// The port's place on the kernel's fast path, and its interface's number;
    /// `None` for ports whose every frame comes to `receive`.
    fn fast(&self) -> Option<(Slot, u32)> {
        None
    }

    /// Frames that the kernel or the peer lost without telling the sender.
    /// Called between turns, at most once a second a port.
    fn losses(&mut self) -> Losses {
        Losses::default()
    }
}

/// How a `receive` ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rx {
    /// Nothing is left; readiness will be reported again.
    Drained,
    /// It stopped on its budget; there may be more.
    More,
    /// The link is another now (see [`Port::link`]); there may be more, and the
    /// frames in the burst are still good.
    Changed,
    /// The device failed; the frames in the burst are still good.
    Fault(Fault),
}

/// Why a device stopped working.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Set down, or its peer hung up; it may come back by itself.
    Down,
    /// Deleted, or moved to another network namespace.
    Gone,
    /// Its peer broke the framing, in the way that is said here.
    Protocol(&'static str),
    /// Any other error number.
    Os(i32),
}

/// What became of the wires given to `transmit`.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Index and reason of each wire that was not sent, in ascending order.
    pub refused: ArrayVec<(u8, Refusal), BURST_FRAMES>,
    /// The device failed on the way.
    pub fault: Option<Fault>,
}

/// State of a port's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Somebody can receive what is sent.
    pub up: bool,
    /// Payload bytes of the longest frame behind a 14-byte header.
    pub mtu: u32,
    /// What may be left unfinished in frames sent here.
    pub offloads: Offloads,
}

/// Work that the receiver behind a port finishes itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Checksums.
    pub csum: bool,
    /// TCPv4 super-frames.
    pub tso4: bool,
    /// TCPv6 super-frames.
    pub tso6: bool,
    /// UDP super-frames (USO) over IPv4 and IPv6.
    pub uso: bool,
    /// TCP super-frames with ECN's CWR set.
    pub ecn: bool,
}

impl Offloads {
    /// Frames must be complete.
    pub const NONE: Offloads = Offloads { csum: false, tso4: false, tso6: false, uso: false, ecn: false };
    /// The kernel takes, and if need be finishes, everything.
    pub const ALL: Offloads = Offloads { csum: true, tso4: true, tso6: true, uso: true, ecn: true };
}

/// Losses outside the switch's own sums, since the port was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Frames that found the receive buffer full (PACKET_STATISTICS).
    pub rx_missed: u64,
    /// Frames sent that the device dropped later (its `tx_dropped`).
    pub tx_lost: u64,
}

impl Losses {
    /// The sum of both.
    #[must_use]
    pub const fn and(self, other: Losses) -> Losses {
        Losses { rx_missed: self.rx_missed + other.rx_missed, tx_lost: self.tx_lost + other.tx_lost }
    }
}
