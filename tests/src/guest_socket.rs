//! The guest's end of a `stream:` or `dgram:` port, as QEMU's `-netdev stream`
//! and `-netdev dgram` behave: a length before each frame, or a frame a
//! datagram.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::wait_for;

/// Time in which anything that should arrive has arrived.
const LIMIT: Duration = Duration::from_secs(20);

/// A guest without QEMU.
#[derive(Debug)]
pub enum GuestSocket {
    /// Connected to a `stream:` port.
    Stream(UnixStream),
    /// Bound, and sending to a `dgram:` port.
    Dgram(UnixDatagram),
}

impl GuestSocket {
    /// Connects to the switch's socket at `path`, which may be about to come.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn stream(path: &Path) -> Result<GuestSocket> {
        let socket = wait_for("the switch's socket", LIMIT, || UnixStream::connect(path).ok())?;
        GuestSocket::of_stream(socket)
    }

    /// The same on a socket that is connected already.
    ///
    /// # Errors
    /// It takes no time-out.
    pub fn of_stream(socket: UnixStream) -> Result<GuestSocket> {
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(GuestSocket::Stream(socket))
    }

    /// Binds `own`, in the place of what was there, as QEMU does, to send to the
    /// switch's socket at `path`, which may be about to come.
    ///
    /// # Errors
    /// It cannot be bound.
    pub fn dgram(own: &Path, path: &Path) -> Result<GuestSocket> {
        let _ = std::fs::remove_file(own);
        let socket = UnixDatagram::bind(own)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        // QEMU names the switch in each call, so that a new one is found.
        wait_for("the switch's socket", LIMIT, || match UnixDatagram::unbound().ok()?.connect(path) {
            // It is there, and has a peer.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(()),
            connected => connected.ok(),
        })?;
        Ok(GuestSocket::Dgram(socket))
    }

    /// A second end for another thread.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> Result<GuestSocket> {
        Ok(match self {
            GuestSocket::Stream(socket) => GuestSocket::Stream(socket.try_clone()?),
            GuestSocket::Dgram(socket) => GuestSocket::Dgram(socket.try_clone()?),
        })
    }

    /// Ends the connection at once. Closed only, a socket lives on for as long as a
    /// child that another test is about to start has it, too.
    ///
    /// # Errors
    /// It has no connection.
    pub fn hang_up(self) -> Result<()> {
        match self {
            GuestSocket::Stream(socket) => socket.shutdown(Shutdown::Both).context("hanging up"),
            GuestSocket::Dgram(_) => bail!("a datagram socket has no connection"),
        }
    }

    /// Sends a frame to the switch at `path`, waiting for room.
    ///
    /// # Errors
    /// The switch is gone.
    pub fn send(&mut self, frame: &[u8], path: &Path) -> Result<()> {
        match self {
            GuestSocket::Stream(socket) => {
                let len = u32::try_from(frame.len())?.to_be_bytes();
                socket.write_all(&[&len, frame].concat()).context("sending a frame")
            }
            GuestSocket::Dgram(socket) => socket.send_to(frame, path).map(drop).context("sending a frame"),
        }
    }

    /// Waits until there is something to receive; false: there is nothing yet.
    pub fn wait_readable(&self, limit: Duration) -> bool {
        let fd = match self {
            GuestSocket::Stream(socket) => socket.as_fd(),
            GuestSocket::Dgram(socket) => socket.as_fd(),
        };
        let limit = Timespec::try_from(limit).ok();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], limit.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Whether the switch has hung up.
    pub fn is_hung_up(&self) -> bool {
        let GuestSocket::Stream(socket) = self else { return false };
        let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Sends bytes that need not be frames.
    ///
    /// # Errors
    /// The switch is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            GuestSocket::Stream(socket) => socket.write_all(bytes).context("sending bytes"),
            GuestSocket::Dgram(_) => bail!("datagrams are frames"),
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// None came in 20 s, or the switch hung up.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        match self {
            GuestSocket::Stream(socket) => {
                let mut len = [0; 4];
                socket.read_exact(&mut len).context("waiting for a frame")?;
                frame.resize(usize::try_from(u32::from_be_bytes(len))?, 0);
                socket.read_exact(&mut frame).context("waiting for the rest of a frame")?;
            }
            GuestSocket::Dgram(socket) => {
                frame.resize(1 << 17, 0);
                let len = socket.recv(&mut frame).context("waiting for a frame")?;
                frame.truncate(len);
            }
        }
        Ok(frame)
    }

    /// The next `len` frames.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_all(&mut self, len: usize) -> Result<Vec<Vec<u8>>> {
        (0..len).map(|_| self.receive()).collect()
    }

    /// Takes whatever comes, and looks at none of it, until the switch hangs up or is
    /// silent for long.
    pub fn discard(self) {
        let GuestSocket::Stream(mut socket) = self else { return };
        let mut bytes = vec![0; 1 << 16];
        while socket.read(&mut bytes).is_ok_and(|len| len > 0) {}
    }

    /// Waits until the switch has hung up.
    ///
    /// # Errors
    /// It did not, or sent a frame instead.
    pub fn wait_hung_up(&mut self) -> Result<()> {
        let GuestSocket::Stream(socket) = self else { bail!("datagram sockets are not hung up on") };
        match socket.read(&mut [0; 1]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => bail!("a frame came instead"),
            Err(error) => Err(error).context("waiting for the switch to hang up"),
        }
    }
}
