//! The message thread of a port: one front end at a time, from its connection
//! to its end.
//!
//! It sleeps in poll(2) on the socket, the connection and an alarm, which the
//! data thread raises when a guest broke the rules and the supervisor when the
//! port is to close. A message is handed to the `vhost` crate when all of it is
//! there, since the crate would wait for the rest.
//!
//! Deliberately absent: frames, and a second front end. Whoever connects to a
//! taken port is turned away at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SocketAddrUnix, SocketType};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use super::call::Bell;
use super::early::{self, HEADER_LEN, Header};
use super::seam::MessageSide;
use super::session::Session;
use super::socket::{Socket, peer};
use crate::port::socket_file::socket;

/// The longest message that the crate takes.
const MESSAGE_MAX: usize = 4096;

/// How often the rest of a message is asked for, and how long.
const REST_PAUSE: Duration = Duration::from_millis(2);
const REST_PAUSES: u32 = 25;

/// How often a server is looked for that is not there (mode=client).
const CONNECT_PAUSE: Duration = Duration::from_millis(250);

/// What the supervisor may know, at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Status {
    /// Who is connected: `NAME PID`.
    pub peer: Option<String>,
    /// How the last connection ended, if the front end was at fault.
    pub note: String,
}

/// What the message thread and the supervisor share.
#[derive(Debug)]
pub(super) struct Shared {
    pub status: Mutex<Status>,
    /// An eventfd.
    pub alarm: Arc<OwnedFd>,
    pub is_closing: AtomicBool,
    /// The connection at hand, to be ended from outside.
    pub connection: Mutex<Option<UnixStream>>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn hold(&self, connection: Option<UnixStream>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}

/// Where front ends come from.
#[derive(Debug)]
pub(super) enum Place {
    /// They connect to us.
    Server(Socket),
    /// We connect to a front end that listens.
    Client(PathBuf),
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Server {
    pub place: Place,
    pub seam: Arc<MessageSide>,
    pub pairs: usize,
    pub shared: Arc<Shared>,
    /// The port's name in messages.
    pub name: String,
    /// For all connections: the kernel takes tens of milliseconds to end one.
    pub bell: Option<Arc<Bell>>,
}

/// How waiting ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// Something to read from the connection, or its end.
    Message,
    /// The data thread's alarm.
    Alarm,
    /// The port closes.
    Closing,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// By its front end.
    HungUp,
    /// By us: the port closes.
    Closing,
    /// By us, for this.
    Fault(String),
}

impl Server {
    /// Serves front ends until the port closes.
    pub fn run(self) {
        let mut last = String::new();
        while let Some(stream) = self.next() {
            let peer = peer(&stream);
            let who = peer.clone().unwrap_or_else(|| "a front end".to_owned());
            tracing::info!("{}: {who} connected", self.name);
            self.shared.update(|status| *status = Status { peer, note: String::new() });
            self.shared.hold(stream.try_clone().ok());
            let end = self.serve(stream);
            self.shared.hold(None);
            let note = match end {
                End::Closing => return,
                End::HungUp => {
                    tracing::info!("{}: {who} disconnected", self.name);
                    String::new()
                }
                // Front ends come back twice a second: each fault is told once.
                End::Fault(why) if why == last => why,
                End::Fault(why) => {
                    tracing::warn!("{}: {who} was disconnected: {why}", self.name);
                    why
                }
            };
            last.clone_from(&note);
            self.shared.update(|status| *status = Status { peer: None, note });
        }
    }

    /// The next front end; `None` when the port closes.
    fn next(&self) -> Option<UnixStream> {
        loop {
            match &self.place {
                Place::Server(socket) => {
                    // Level-triggered: the listener is asked again in any case.
                    if self.wait(Some(socket.listener().as_fd()), None, None) == Event::Closing {
                        return None;
                    }
                    if let Ok((stream, _)) = socket.listener().accept() {
                        return Some(stream);
                    }
                }
                Place::Client(path) => {
                    if let Ok(stream) = connect(path) {
                        return Some(stream);
                    }
                    if self.wait(None, None, Some(CONNECT_PAUSE)) == Event::Closing {
                        return None;
                    }
                }
            }
            // Out of descriptors, or an alarm of a connection that is over:
            // not at the processor's full speed.
            std::thread::sleep(REST_PAUSE);
        }
    }

    /// Waits for the listener, the connection, the alarm, or `pause` to pass.
    fn wait(
        &self,
        listener: Option<std::os::fd::BorrowedFd<'_>>,
        connection: Option<&UnixStream>,
        pause: Option<Duration>,
    ) -> Event {
        let alarm = PollFd::new(&self.shared.alarm, PollFlags::IN);
        let others = [listener, connection.map(AsFd::as_fd)].into_iter().flatten();
        let mut fds: Vec<PollFd<'_>> = std::iter::once(alarm)
            .chain(others.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)))
            .collect();
        let timeout = pause.and_then(|pause| Timespec::try_from(pause).ok());
        // A failure (a signal, no memory) is a wake-up without news.
        let _ = poll(&mut fds, timeout.as_ref());
        let is_alarm = !fds[0].revents().is_empty();
        if self.shared.is_closing.load(Ordering::Acquire) {
            return Event::Closing;
        }
        if is_alarm {
            // Non-blocking: it empties the counter.
            let _ = rustix::io::read(&*self.shared.alarm, &mut [0; 8]);
            return Event::Alarm;
        }
        Event::Message
    }

    fn session(&self) -> Session {
        Session::new(Arc::clone(&self.seam), self.pairs, self.bell.clone())
    }

    /// Serves one front end to its end.
    pub(super) fn serve(&self, stream: UnixStream) -> End {
        // Of the connection before: it is over.
        let _ = self.seam.breach();
        let Ok(copy) = stream.try_clone() else { return End::Fault("out of descriptors".to_owned()) };
        let session = Arc::new(Mutex::new(self.session()));
        let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&session));
        let end = loop {
            let listener = match &self.place {
                Place::Server(socket) => Some(socket.listener()),
                Place::Client(_) => None,
            };
            let event = self.wait(listener.map(AsFd::as_fd), Some(&copy), None);
            if event == Event::Closing {
                break End::Closing;
            }
            if let Some(breach) = self.seam.breach() {
                break End::Fault(breach.to_string());
            }
            let header = match self.whole_message(&copy) {
                Ok(Some(header)) => header,
                Ok(None) => {
                    // Asked after the connection at hand: it may just have ended.
                    if let Some((second, _)) = listener.and_then(|listener| listener.accept().ok()) {
                        let who = peer(&second).unwrap_or_else(|| "another front end".to_owned());
                        tracing::warn!("{}: {who} was turned away: the port is taken", self.name);
                    }
                    continue;
                }
                Err(end) => break end,
            };
            let is_early = header.enables_a_queue() && !locked(&session).has_features();
            let handled = if is_early { enable(&copy, header, &session) } else { handler.handle_request() };
            if let Err(error) = handled {
                let offence = locked(&session).offence();
                break match (offence, error) {
                    (Some(offence), _) => End::Fault(offence.to_string()),
                    (None, Error::Disconnected | Error::SocketBroken(_)) => End::HungUp,
                    (None, error) => End::Fault(format!("its message was refused: {error}")),
                };
            }
        };
        locked(&session).end();
        end
    }

    /// The header of the next message if all of it is there; waits a little for
    /// the rest of one.
    fn whole_message(&self, stream: &UnixStream) -> Result<Option<Header>, End> {
        for _ in 0..REST_PAUSES {
            let mut header = [0u8; HEADER_LEN];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match rustix::net::recv(stream, &mut header, flags) {
                Ok((_, 0)) => return Err(End::HungUp),
                Ok((_, len)) if len == HEADER_LEN => {
                    let header = Header::read(header);
                    let size = header.size as usize;
                    // The crate refuses what is longer by its header alone.
                    let there = rustix::io::ioctl_fionread(stream).unwrap_or(0);
                    if size > MESSAGE_MAX || there >= (HEADER_LEN + size) as u64 {
                        return Ok(Some(header));
                    }
                }
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(End::HungUp),
            }
            if self.shared.is_closing.load(Ordering::Acquire) {
                return Err(End::Closing);
            }
            std::thread::sleep(REST_PAUSE);
        }
        Err(End::Fault("it sent half a message".to_owned()))
    }
}

/// A connection to whoever listens at `path`. One that has no place for another waiting
/// connection is not waited for: the port may be closed meanwhile.
///
/// # Errors
/// Nobody listens, or is ready to.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket(SocketType::STREAM)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Nobody panics with it in hand; if one did, the connection is over anyway.
fn locked(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what the crate would, but before features are chosen.
fn enable(stream: &UnixStream, header: Header, session: &Mutex<Session>) -> vhost::vhost_user::Result<()> {
    let (index, enable) = early::read(stream).map_err(Error::SocketBroken)?;
    let mut session = locked(session);
    session.set_vring_enable(index, enable)?;
    if header.wants_reply() && session.replies() {
        early::reply(stream).map_err(Error::SocketBroken)?;
    }
    Ok(())
}

/// Ends the thread's waiting, whatever it waits for.
pub(super) fn close(shared: &Shared) {
    shared.is_closing.store(true, Ordering::Release);
    let _ = rustix::io::write(&*shared.alarm, &1u64.to_ne_bytes());
    // It may be in the middle of an answer that nobody reads.
    if let Some(stream) = &*shared.connection.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}
