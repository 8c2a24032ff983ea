//! Where measured frames enter and leave: the file descriptor of a TAP, or a
//! packet socket on an interface. Both take and give one frame a call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frame::VNET_LEN;
use crate::netns::Netns;
use crate::sys;

/// One end of a measured flow; clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Device {
    fd: Arc<OwnedFd>,
    vnet_hdr: bool,
}

impl Device {
    /// The fd side of TAP `name` in `ns`, made if missing and gone with the
    /// last clone (unless persistent). Its netdev still has to be set up.
    ///
    /// # Errors
    /// No right to, or somebody holds it.
    pub fn tap(ns: &Netns, name: &str) -> io::Result<Device> {
        Ok(Device { fd: Arc::new(ns.enter(|| sys::open_tap(name, false))?), vnet_hdr: false })
    }

    /// The same without any capability, as a user's QEMU opens it.
    ///
    /// # Errors
    /// The TAP is not ours, or does not exist.
    pub fn tap_without_rights(ns: &Netns, name: &str) -> io::Result<Device> {
        let fd = ns.enter(|| sys::drop_capabilities().and_then(|()| sys::open_tap(name, false)))?;
        Ok(Device { fd: Arc::new(fd), vnet_hdr: false })
    }

    /// The same with IFF_VNET_HDR and every offload on.
    ///
    /// # Errors
    /// As [`tap`](Self::tap).
    pub fn tap_with_offloads(ns: &Netns, name: &str) -> io::Result<Device> {
        Ok(Device { fd: Arc::new(ns.enter(|| sys::open_tap(name, true))?), vnet_hdr: true })
    }

    /// A packet socket on interface `name` of `ns`, which must be up.
    ///
    /// # Errors
    /// No right to, or no such interface.
    pub fn packet(ns: &Netns, name: &str) -> io::Result<Device> {
        Ok(Device { fd: Arc::new(ns.enter(|| sys::open_packet(name, false))?), vnet_hdr: false })
    }

    /// The same with PACKET_VNET_HDR: super-frames come and go whole.
    ///
    /// # Errors
    /// As [`packet`](Self::packet).
    pub fn packet_with_offloads(ns: &Netns, name: &str) -> io::Result<Device> {
        Ok(Device { fd: Arc::new(ns.enter(|| sys::open_packet(name, true))?), vnet_hdr: true })
    }

    /// Bytes of virtio-net header before each frame that is read or written.
    pub fn prefix_len(&self) -> usize {
        if self.vnet_hdr { VNET_LEN } else { 0 }
    }

    /// Writes one frame with its prefix; false: the device takes none now.
    ///
    /// # Errors
    /// The device failed, or finds the frame invalid.
    pub fn write(&self, prefixed: &[u8]) -> io::Result<bool> {
        match rustix::io::write(self.fd.as_fd(), prefixed) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one frame with its prefix; `None`: none is there now. A frame
    /// longer than `buffer` is cut.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(self.fd.as_fd(), buffer) {
            Ok(len) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            // A packet socket reports a device that went down once.
            Err(rustix::io::Errno::NETDOWN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a frame can be read, at most `limit`.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn wait_readable(&self, limit: Duration) -> io::Result<()> {
        self.wait(PollFlags::IN, limit)
    }

    /// Waits until a frame can be written, at most `limit`.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn wait_writable(&self, limit: Duration) -> io::Result<()> {
        self.wait(PollFlags::OUT, limit)
    }

    fn wait(&self, flags: PollFlags, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&*self.fd, flags)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until one of `devices` can be read, at most `limit`.
///
/// # Errors
/// poll(2) failed.
pub fn wait_one_readable(devices: &[Device], limit: Duration) -> io::Result<()> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut fds: Vec<PollFd<'_>> = devices.iter().map(|d| PollFd::new(&*d.fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
