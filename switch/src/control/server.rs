//! The switch's end of the control socket, for the control thread's poll loop.
//!
//! Whoever connects is the owner, root, or the switch's own user; there are at
//! most 16 at a time, each with one line of at most 1 MiB on its way in and
//! one reply on its way out. Whoever is slow waits for itself only, and not
//! for ever.
//!
//! Deliberately absent: what a request does (a function given to `ready`), and
//! file descriptors sent along: plain read(2) never receives any, the kernel
//! closes them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::SocketType;

use super::connection::{Connection, MayFollow, PATIENCE, Turn};
use super::lock::LockError;
use super::protocol::{Request, Response};
use crate::capture::Reader;
use crate::events::Journal;
use crate::port::socket_file::{SocketFile, SocketFileError};

/// The most clients at a time.
pub const CLIENTS_MAX: usize = 16;

/// The most of them that follow events: the rest of the places is for those who
/// come, ask and go.
pub const FOLLOWERS_MAX: usize = 8;

/// Connections that may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 128;

/// Connections taken before clients get their turn.
const TURN_ACCEPTS: usize = 64;

/// Time to wait after the process ran out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another process listens on {}{}\n  choose another path: --control PATH", path.display(), .pid.map(|pid| format!(", pid {pid}")).unwrap_or_default())]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who.
        pid: Option<i32>,
    },
    /// The path is something else.
    #[error("{} exists and is not a socket\n  remove it, or choose another path: --control PATH", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// It could not be given to its owner.
    #[error(transparent)]
    Owner(#[from] LockError),
    /// The kernel's word.
    #[error("control socket {}: {cause}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A listening control socket and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    /// Removed with the server.
    file: SocketFile,
    owner: u32,
    registry: Registry,
    first: Token,
    clients: [Option<Connection>; CLIENTS_MAX],
    /// When to accept again after the process ran out of descriptors.
    accept_at: Option<Instant>,
    /// Connections that read a capture from now on.
    readers: Vec<(u64, Option<Reader>)>,
}

impl Server {
    /// Tokens in use: `first` and the 16 after it.
    pub const TOKENS: usize = CLIENTS_MAX + 1;

    /// Listens on `path` (mode 0600, `owner`'s), and asks `registry` for events
    /// under [`TOKENS`](Self::TOKENS) tokens from `first`. A socket that nobody
    /// listens on is replaced.
    ///
    /// # Errors
    /// The path is taken, or the kernel refuses it.
    pub fn bind(path: &Path, owner: u32, registry: &Registry, first: Token) -> Result<Server, BindError> {
        let io = |cause| BindError::Io { path: path.to_owned(), cause };
        let registry = registry.try_clone().map_err(io)?;
        let (mut listener, file) = listen(path, owner)?;
        registry.register(&mut listener, first, Interest::READABLE).map_err(io)?;
        Ok(Server {
            listener,
            file,
            owner,
            registry,
            first,
            clients: Default::default(),
            accept_at: None,
            readers: Vec::new(),
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether an event's token is ours.
    pub fn owns(&self, token: Token) -> bool {
        (self.first.0..self.first.0 + Server::TOKENS).contains(&token.0)
    }

    /// Number of clients connected.
    pub fn clients_len(&self) -> usize {
        self.clients.iter().flatten().count()
    }

    /// Serves the event of `token`; every request that is complete goes
    /// through `handle`.
    pub fn ready(&mut self, token: Token, now: Instant, handle: &mut dyn FnMut(Request) -> Response) {
        match token.0.checked_sub(self.first.0) {
            Some(0) => self.accept(now),
            Some(slot @ 1..=CLIENTS_MAX) => self.serve(slot - 1, now, handle),
            _ => {}
        }
    }

    /// Sends what `journal` has to the clients that follow it.
    pub fn publish(&mut self, now: Instant, journal: &Journal, uptime_ms: u64) {
        for slot in 0..CLIENTS_MAX {
            if let Some(client) = &mut self.clients[slot]
                && matches!(client.publish(now, journal, uptime_ms), Turn::Close)
            {
                self.close(slot);
            }
        }
    }

    /// How long the poll may wait before [`expire`](Self::expire) has work.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let deadlines = self.clients.iter().flatten().filter_map(|client| client.deadline);
        deadlines.chain(self.accept_at).min().map(|first| first.saturating_duration_since(now))
    }

    /// Closes clients that were given enough time.
    pub fn expire(&mut self, now: Instant) {
        for slot in 0..CLIENTS_MAX {
            if let Some(client) = &mut self.clients[slot]
                && client.deadline.is_some_and(|deadline| deadline <= now)
            {
                let error = if client.follows() {
                    "the events that were sent were not read".to_owned()
                } else {
                    format!("no whole request within {} s", PATIENCE.as_secs())
                };
                client.last_word(&error, "send one line, and read its reply");
                self.close(slot);
            }
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            self.accept(now);
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..TURN_ACCEPTS {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    tracing::warn!("control socket: {e}; trying again in {} s", ACCEPT_PAUSE.as_secs());
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        // More may be waiting, and epoll has told us already: ask anew.
        let _ = self.registry.reregister(&mut self.listener, self.first, Interest::READABLE);
    }

    fn admit(&mut self, stream: UnixStream, now: Instant) {
        let mut client = Connection::new(stream, now);
        let peer = rustix::net::sockopt::socket_peercred(&client.stream).map(|peer| peer.uid.as_raw());
        let own = rustix::process::geteuid().as_raw();
        match peer {
            Ok(uid) if uid == self.owner || uid == 0 || uid == own => {}
            Ok(uid) => {
                tracing::warn!("control socket: refused uid {uid}");
                let error = format!("uid {uid} may not control this switch; uid {} may", self.owner);
                return client.last_word(&error, "use sudo, or start your own: vswitch run");
            }
            Err(e) => return client.last_word(&format!("cannot tell who you are: {e}"), ""),
        }
        self.sweep();
        let Some(slot) = self.clients.iter().position(Option::is_none) else {
            let error = format!("{CLIENTS_MAX} clients are connected already");
            return client.last_word(&error, "try again when one is done");
        };
        let token = self.token(slot);
        match self.registry.register(&mut client.stream, token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => self.clients[slot] = Some(client),
            Err(e) => client.last_word(&format!("cannot serve you: {e}"), ""),
        }
    }

    /// When every place is taken, frees those of clients that have hung up:
    /// their events may still be behind the ones being served.
    fn sweep(&mut self) {
        if self.clients.iter().any(Option::is_none) {
            return;
        }
        let gone = self.clients.each_ref().map(|client| client.as_ref().is_some_and(Connection::has_hung_up));
        for slot in (0..CLIENTS_MAX).filter(|slot| gone[*slot]) {
            self.close(slot);
        }
    }

    fn serve(&mut self, slot: usize, now: Instant, handle: &mut dyn FnMut(Request) -> Response) {
        let token = self.token(slot);
        let followers = self.clients.iter().flatten().filter(|client| client.follows()).count();
        let may_follow = if followers < FOLLOWERS_MAX { MayFollow::Yes } else { MayFollow::No(followers) };
        let Some(client) = &mut self.clients[slot] else { return };
        match client.turn(now, may_follow, handle) {
            Turn::Wait => {}
            Turn::More => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                if self.registry.reregister(&mut client.stream, token, interest).is_err() {
                    self.close(slot);
                }
            }
            Turn::Close => self.close(slot),
            Turn::HandOver(capture) => {
                if let Some(mut client) = self.clients[slot].take() {
                    let _ = self.registry.deregister(&mut client.stream);
                    let said = client.unanswered().to_vec();
                    self.readers.push((capture, Some(Reader { stream: client.stream.into(), said })));
                }
            }
        }
    }

    /// The connections that read a capture from now on, with its number; without
    /// a connection if it was lost before its reply had left.
    pub fn take_readers(&mut self) -> Vec<(u64, Option<Reader>)> {
        std::mem::take(&mut self.readers)
    }

    fn close(&mut self, slot: usize) {
        if let Some(mut client) = self.clients[slot].take() {
            let _ = self.registry.deregister(&mut client.stream);
            self.readers.extend(client.capture.map(|capture| (capture, None)));
        }
    }

    const fn token(&self, slot: usize) -> Token {
        Token(self.first.0 + 1 + slot)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.registry.deregister(&mut self.listener);
    }
}

/// A listening socket at `path`.
fn listen(path: &Path, owner: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let io = |cause: io::Error| BindError::Io { path: path.to_owned(), cause };
    let bound = SocketFile::bind(path, owner, SocketType::STREAM);
    let (socket, file) = bound.map_err(|error| match error {
        SocketFileError::InUse { pid } => BindError::InUse { path: path.to_owned(), pid },
        SocketFileError::NotASocket => BindError::NotASocket { path: path.to_owned() },
        SocketFileError::Owner { owner } => LockError::Owner { path: path.to_owned(), owner }.into(),
        SocketFileError::Io(cause) => io(cause),
    })?;
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| io(errno.into()))?;
    Ok((UnixListener::from_std(socket.into()), file))
}
