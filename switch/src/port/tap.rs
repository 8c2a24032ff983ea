//! The descriptor side of a TAP: frames that the host's own stack (or the
//! namespace that the interface is moved into) sends by it, and the way back.
//!
//! One frame a system call: a TAP's descriptor has no batched form. With a
//! virtio-net header, a super-frame of 64 KiB is one of them.
//!
//! Deliberately absent: making persistent TAPs (`device`).
//! Read first: `tun_get_user` and `tun_do_read` of drivers/net/tun.c.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use mio::unix::SourceFd;

use super::iov::Iov;
use super::pieces::{Pieces, head_len};
use super::tun;
use super::{BURST_BYTES, BURST_FRAMES, Burst, Fault, Link, Offloads, Port, Rx, Sent, Slots};
use crate::bridge::{DropReason, Refusal};
use crate::frame::{Frame, Wire};
use crate::offload::VnetHeader;

/// Where in a slot a frame begins: behind a virtio-net header, aligned.
const FRAME_AT: usize = 16;

/// Who holds the descriptor.
#[derive(Debug)]
pub(super) enum Attached {
    /// With virtio-net headers.
    Vnet(OwnedFd),
    /// Finished frames only.
    Plain(PlainTap),
}

/// `tun_tap::Iface` has no `Debug` of its own.
pub(super) struct PlainTap(tun_tap::Iface);

impl std::fmt::Debug for PlainTap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PlainTap").field(&self.0.name()).finish()
    }
}

impl Attached {
    /// Attaches with virtio-net headers and everything that they allow.
    ///
    /// # Errors
    /// As `tun::attach`.
    pub fn vnet(name: &str) -> io::Result<(Attached, Offloads)> {
        let fd = tun::attach(name, tun::VNET)?;
        // TAPs remember the length that the last holder set.
        tun::set_vnet_header_len(&fd, i32::try_from(VnetHeader::LEN).unwrap_or(10))?;
        let offloads = match tun::set_offloads(&fd, tun::OFFLOADS_USO) {
            Ok(()) => Offloads::ALL,
            // USO is as young as Linux 6.2.
            Err(_) => {
                tun::set_offloads(&fd, tun::OFFLOADS)?;
                Offloads { uso: false, ..Offloads::ALL }
            }
        };
        Ok((Attached::Vnet(fd), offloads))
    }

    /// Attaches without.
    ///
    /// # Errors
    /// As `tun::attach`.
    pub fn plain(name: &str) -> io::Result<Attached> {
        let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)?;
        iface.set_non_blocking()?;
        let tap = Attached::Plain(PlainTap(iface));
        // An earlier holder's offloads would bring frames that we cannot read.
        tun::set_offloads(tap.fd(), 0)?;
        Ok(tap)
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        let fd: RawFd = match self {
            Attached::Vnet(fd) => fd.as_raw_fd(),
            Attached::Plain(tap) => tap.0.as_raw_fd(),
        };
        // SAFETY: the descriptor is open as long as its owner, `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    const fn has_header(&self) -> bool {
        matches!(self, Attached::Vnet(_))
    }
}

/// A frame that was read, before it is lent to a burst.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    len: usize,
    vnet: VnetHeader,
    truncated: bool,
}

/// A port on the descriptor side of a TAP.
#[derive(Debug)]
pub(super) struct TapPort {
    tap: Attached,
    link: Link,
    arrived: ArrayVec<Arrived, BURST_FRAMES>,
    pieces: Pieces,
    iov: Iov,
}

impl TapPort {
    /// A port on `tap`.
    pub fn new(tap: Attached, link: Link) -> TapPort {
        TapPort { tap, link, arrived: ArrayVec::new(), pieces: Pieces::default(), iov: Iov::new() }
    }

    /// Reads one frame into slot `index` of `slots`.
    fn read(&self, slots: &mut [u8], index: usize) -> io::Result<Arrived> {
        let header = if self.tap.has_header() { VnetHeader::LEN } else { 0 };
        let slot = &mut slots[index * Slots::STRIDE..][..Slots::ROOM];
        let room = &mut slot[FRAME_AT - header..];
        let got = rustix::io::read(self.tap.fd(), &mut *room)?;
        let vnet = match room.first_chunk::<{ VnetHeader::LEN }>() {
            Some(bytes) if header != 0 => zerocopy::transmute!(*bytes),
            _ => VnetHeader::PLAIN,
        };
        // The kernel cuts what does not fit, and says nothing.
        Ok(Arrived { len: got.saturating_sub(header), vnet, truncated: got == room.len() })
    }

    fn fill(&mut self, slots: &mut [u8]) -> Rx {
        let mut bytes = 0;
        while self.arrived.len() < BURST_FRAMES && bytes < BURST_BYTES {
            match self.read(slots, self.arrived.len()) {
                Ok(arrived) => {
                    bytes += arrived.len;
                    self.arrived.push(arrived);
                }
                Err(error) => match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => {}
                    libc::EAGAIN => return Rx::Drained,
                    libc::EBADFD => return Rx::Fault(Fault::Gone),
                    libc::EIO => return Rx::Fault(Fault::Down),
                    errno => return Rx::Fault(Fault::Os(errno)),
                },
            }
        }
        Rx::More
    }

    /// Writes one frame.
    fn write(&mut self, wire: &Wire<'_>) -> io::Result<()> {
        self.iov.clear();
        let header = self.tap.has_header().then_some(&wire.vnet);
        let Some(range) = self.iov.push(header, wire) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let runs = self.iov.runs(range);
        let count = libc::c_int::try_from(runs.len()).unwrap_or(0);
        // SAFETY: the runs name the header and the wire's bytes, which are
        // borrowed; the kernel only reads them.
        let wrote = unsafe { libc::writev(self.tap.fd().as_raw_fd(), runs.as_ptr(), count) };
        if wrote < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Port for TapPort {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.tap.fd().as_raw_fd()), token, mio::Interest::READABLE)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.tap.fd().as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        let Some(slots) = burst.slots.take() else { return Rx::More };
        let slots: &'a mut [u8] = slots.bytes();
        self.arrived.clear();
        self.pieces.clear();
        let rx = self.fill(slots);
        let slots: &'a [u8] = slots;
        let bytes = |index: usize, frame: &Arrived| &slots[index * Slots::STRIDE + FRAME_AT..][..frame.len];
        for (index, frame) in self.arrived.iter().enumerate() {
            let behind = &bytes(index, frame)[head_len(frame.len)..];
            self.pieces.push(behind.as_ptr(), behind.len());
        }
        let port: &'a TapPort = self;
        for (index, frame) in port.arrived.iter().enumerate() {
            let head = &bytes(index, frame)[..head_len(frame.len)];
            burst.frames.push(if frame.truncated {
                Frame::broken(head, DropReason::Truncated)
            } else {
                Frame::new(head, port.pieces.rest(index), frame.vnet)
            });
        }
        rx
    }

    fn release(&mut self) {}

    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent {
        let mut outcome = Sent::default();
        for (index, wire) in (0u8..).zip(wires) {
            let refusal = loop {
                let Err(error) = self.write(wire) else { break None };
                break Some(match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => continue,
                    libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Refusal::Full,
                    libc::EINVAL => Refusal::Invalid,
                    libc::EMSGSIZE => Refusal::Oversize,
                    libc::EIO => {
                        outcome.fault = Some(Fault::Down);
                        Refusal::Down
                    }
                    libc::EBADFD => {
                        outcome.fault = Some(Fault::Gone);
                        Refusal::Gone
                    }
                    _ => Refusal::Error,
                });
            };
            if let Some(refusal) = refusal {
                outcome.refused.push((index, refusal));
            }
        }
        outcome
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
    }
}
