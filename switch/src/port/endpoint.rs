//! The control thread's half of a socket port: it listens, connects, or learns
//! who speaks, and makes a port of each peer for the data thread. One peer at a
//! time; nothing here waits.
//!
//! Deliberately absent: frames, and any word to the peer. When to look is
//! decided by `supervisor`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::net::{self, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::dgram::DgramPort;
use super::socket_file::{SocketFile, SocketFileError, socket};
use super::stream::StreamPort;
use super::{Link, Offloads, Port, peer};

/// Frames' payload when nobody said: Ethernet's own.
pub(super) const MTU: u32 = 1500;

/// Peers that may wait to be accepted.
const BACKLOG: i32 = 8;

/// Datagrams of nobody in particular that are thrown away at one look.
const STRANGERS_MAX: usize = 256;

/// Bytes that may be on their way to the peer: some 300 frames of MTU 1500.
/// The kernel's own limit may be lower.
const SEND_BUFFER: usize = 512 * 1024;

/// A socket port's place in the file system, and who is at the other end.
#[derive(Debug)]
pub struct Endpoint {
    role: Role,
    mtu: u32,
    peer: Option<Peer>,
    watch: Option<(Registry, Token)>,
}

/// How a peer is found.
#[derive(Debug)]
enum Role {
    /// It connects to us.
    Server { listener: OwnedFd, _file: SocketFile },
    /// We connect to it.
    Client { path: PathBuf },
    /// It sends the first datagram, or is `fixed`.
    Dgram { socket: OwnedFd, _file: SocketFile, fixed: Option<PathBuf> },
}

/// Who is at the other end.
#[derive(Debug)]
struct Peer {
    /// `NAME PID`, or the path where it is bound.
    name: String,
    other_end: OtherEnd,
}

/// How to ask whether it is still there.
#[derive(Debug)]
enum OtherEnd {
    /// By a second copy of the connection.
    Stream(OwnedFd),
    /// By the address that it sent from.
    Dgram(SocketAddrUnix),
}

/// What a look at the door brought.
#[derive(Debug)]
pub enum Visit {
    /// Nobody is there.
    Nobody,
    /// The peer, as a port for the data thread.
    Met(Box<dyn Port>),
    /// Somebody came while a peer was there, and was sent away.
    TurnedAway(String),
}

impl Endpoint {
    /// Listens at `path` for one stream at a time; the file is `owner`'s.
    ///
    /// # Errors
    /// The path is taken, or the kernel refuses it.
    pub(super) fn server(path: &Path, owner: u32) -> Result<Endpoint, SocketFileError> {
        let (listener, file) = SocketFile::bind(path, owner, SocketType::STREAM)?;
        net::listen(&listener, BACKLOG)?;
        Ok(Endpoint::of(Role::Server { listener, _file: file }))
    }

    /// Connects to whoever listens at `path`, now or later.
    pub(super) fn client(path: &Path) -> Endpoint {
        Endpoint::of(Role::Client { path: path.to_owned() })
    }

    /// Receives at `path` from whoever speaks first, or from `fixed` only.
    ///
    /// # Errors
    /// The path is taken, or the kernel refuses it.
    pub(super) fn dgram(path: &Path, fixed: Option<&Path>, owner: u32) -> Result<Endpoint, SocketFileError> {
        let (socket, file) = SocketFile::bind(path, owner, SocketType::DGRAM)?;
        // Less than asked for will do.
        let _ = set_socket_send_buffer_size(&socket, SEND_BUFFER);
        Ok(Endpoint::of(Role::Dgram { socket, _file: file, fixed: fixed.map(Path::to_owned) }))
    }

    fn of(role: Role) -> Endpoint {
        Endpoint { role, mtu: MTU, peer: None, watch: None }
    }

    /// Payload bytes of a frame that the peer is sent.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    pub(super) fn set_mtu(&mut self, mtu: u32) {
        self.mtu = mtu;
    }

    /// What its port is while there is a peer, or would be.
    pub fn link(&self) -> Link {
        Link { up: self.peer.is_some(), mtu: self.mtu, offloads: Offloads::NONE }
    }

    /// Whether there is a peer, as far as is known.
    pub fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// Who it is.
    pub fn peer_name(&self) -> Option<&str> {
        self.peer.as_ref().map(|peer| peer.name.as_str())
    }

    /// What it waits for, for the user.
    pub fn waits_for(&self) -> String {
        match &self.role {
            Role::Server { .. } => "nobody has connected yet".to_owned(),
            Role::Client { path } => format!("nobody listens on {} yet", path.display()),
            Role::Dgram { fixed: None, .. } => "nobody has sent a frame yet".to_owned(),
            Role::Dgram { fixed: Some(path), .. } => format!("nobody is at {} yet", path.display()),
        }
    }

    /// Whether no event says when to look: a peer that we connect to may
    /// appear, and one that sends datagrams may be gone, without a word.
    pub fn is_silent(&self) -> bool {
        match &self.role {
            Role::Server { .. } => false,
            Role::Client { .. } => self.peer.is_none(),
            Role::Dgram { fixed, .. } => fixed.is_some() || self.peer.is_some(),
        }
    }

    /// Asks `registry` to report as `token` when there is a reason to look.
    ///
    /// # Errors
    /// Whatever epoll says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.watch = Some((registry.try_clone()?, token));
        match &self.role {
            Role::Server { listener, .. } => {
                registry.register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)
            }
            Role::Client { .. } => Ok(()),
            Role::Dgram { .. } => self.listen_for_strangers(),
        }
    }

    /// While a peer is known, its datagrams are the data thread's business.
    fn listen_for_strangers(&self) -> io::Result<()> {
        let (Role::Dgram { socket, .. }, Some((registry, token))) = (&self.role, &self.watch) else {
            return Ok(());
        };
        let fd = socket.as_raw_fd();
        match self.peer {
            Some(_) => registry.deregister(&mut SourceFd(&fd)),
            None => registry.register(&mut SourceFd(&fd), *token, Interest::READABLE),
        }
    }

    /// Whether the peer that was there has gone.
    pub fn has_lost_peer(&self) -> bool {
        let Some(peer) = &self.peer else { return false };
        match (&peer.other_end, &self.role) {
            (OtherEnd::Stream(copy), _) => has_hung_up(copy),
            // Connecting once more to who is there changes nothing; a socket
            // that was bound there since, as by a QEMU that was started again,
            // is the peer from now on.
            (OtherEnd::Dgram(address), Role::Dgram { socket, .. }) => {
                matches!(net::connect(socket, address), Err(Errno::CONNREFUSED | Errno::NOENT))
            }
            (OtherEnd::Dgram(_), Role::Server { .. } | Role::Client { .. }) => false,
        }
    }

    /// Forgets the peer; its port must be taken from the data thread as well.
    ///
    /// # Errors
    /// Whatever epoll says.
    pub fn part(&mut self) -> io::Result<()> {
        if self.peer.take().is_none() {
            return Ok(());
        }
        if let Role::Dgram { socket, .. } = &self.role {
            net::connect_unspec(socket)?;
        }
        self.listen_for_strangers()
    }

    /// Looks whether somebody is there; a peer that has hung up gives its place
    /// to a new one.
    ///
    /// # Errors
    /// Out of descriptors, as a rule; it is worth another try.
    pub fn meet(&mut self) -> io::Result<Visit> {
        match &self.role {
            Role::Server { listener, .. } => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                match net::accept_with(listener, flags) {
                    // Asked only now: who hung up before this one connected is
                    // seen to have, and this one takes its place.
                    Ok(stream) if self.peer.is_some() && !self.has_lost_peer() => {
                        Ok(Visit::TurnedAway(process_behind(&stream)))
                    }
                    Ok(stream) => self.connected(stream),
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(Visit::Nobody),
                    Err(errno) => Err(errno.into()),
                }
            }
            Role::Client { .. } if self.peer.is_some() => Ok(Visit::Nobody),
            Role::Client { path } => {
                let stream = socket(SocketType::STREAM)?;
                match net::connect(&stream, &SocketAddrUnix::new(path)?) {
                    Ok(()) => self.connected(stream),
                    // No file, nobody behind it, or too many before us.
                    Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR) => Ok(Visit::Nobody),
                    Err(errno) => Err(errno.into()),
                }
            }
            Role::Dgram { .. } if self.peer.is_some() => Ok(Visit::Nobody),
            Role::Dgram { socket, fixed, .. } => match find_sender(socket, fixed.as_deref())? {
                Some(address) => self.paired(address),
                None => Ok(Visit::Nobody),
            },
        }
    }

    fn connected(&mut self, stream: OwnedFd) -> io::Result<Visit> {
        // Less than asked for will do.
        let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER);
        let copy = stream.try_clone()?;
        let peer = Peer { name: process_behind(&stream), other_end: OtherEnd::Stream(copy) };
        self.peer = Some(peer);
        Ok(Visit::Met(Box::new(StreamPort::new(stream, self.link()))))
    }

    fn paired(&mut self, address: SocketAddrUnix) -> io::Result<Visit> {
        let Role::Dgram { socket, .. } = &self.role else { return Ok(Visit::Nobody) };
        let copy = socket.try_clone()?;
        let path = path_of(&address);
        let name = path.map_or_else(|| "an abstract socket".to_owned(), |path| path.display().to_string());
        self.peer = Some(Peer { name, other_end: OtherEnd::Dgram(address) });
        self.listen_for_strangers()?;
        Ok(Visit::Met(Box::new(DgramPort::new(copy, self.link()))))
    }
}

/// Whether the other side of a connection has closed it, or shut it down.
fn has_hung_up(stream: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An answer that does not come leaves things as they are.
    poll(&mut asked, Some(&at_once)).is_ok()
        && asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// Connects `socket` to `fixed`, or to whoever sent the oldest datagram in its
/// queue, which stays there; returns that address. Datagrams of others, and of
/// senders that cannot be answered, are thrown away.
fn find_sender(socket: &OwnedFd, fixed: Option<&Path>) -> io::Result<Option<SocketAddrUnix>> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    for _ in 0..STRANGERS_MAX {
        let sender = match net::recvfrom(socket, &mut [0u8; 1], flags) {
            Ok((_, _, sender)) => sender.and_then(|sender| SocketAddrUnix::try_from(sender).ok()),
            // A peer that turned away left an error to be read.
            Err(Errno::INTR | Errno::CONNRESET | Errno::CONNREFUSED) => continue,
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno.into()),
        };
        let wanted = sender.filter(|sender| match fixed {
            Some(fixed) => path_of(sender) == Some(fixed),
            None => !sender.is_unnamed(),
        });
        if let Some(address) = wanted
            && net::connect(socket, &address).is_ok()
        {
            return Ok(Some(address));
        }
        // Whatever it is, it is nobody's now.
        let _ = net::recv(socket, &mut [0u8; 1], RecvFlags::DONTWAIT);
    }
    // One that is known need not speak first.
    let Some(fixed) = fixed else { return Ok(None) };
    let address = SocketAddrUnix::new(fixed)?;
    match net::connect(socket, &address) {
        Ok(()) => Ok(Some(address)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn path_of(address: &SocketAddrUnix) -> Option<&Path> {
    address.path_bytes().map(|bytes| Path::new(OsStr::from_bytes(bytes.strip_suffix(&[0]).unwrap_or(bytes))))
}

/// `NAME PID` of the process that made the connection.
fn process_behind(stream: &OwnedFd) -> String {
    let pid =
        socket_peercred(stream).ok().and_then(|cred| u32::try_from(cred.pid.as_raw_nonzero().get()).ok());
    pid.map_or_else(|| "somebody".to_owned(), peer::named)
}
