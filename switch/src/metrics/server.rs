//! The socket that metrics are read from, for the control thread's poll loop.
//!
//! At most 16 connections at a time, each with a head of at most 8 KiB on its way
//! in and one answer on its way out, and five seconds for both. The counters are
//! read at most ten times a second, however often they are asked for, so that
//! nobody can keep the data thread busy with snapshots.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::http::{Form, HEAD_MAX, Wanted, head_end, metrics, read, refusal};
use super::text::{Reading, open_metrics, prometheus};

/// The most connections at a time.
const CLIENTS_MAX: usize = 16;

/// A connection has this long for everything.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reading is good for so long.
const FRESH: Duration = Duration::from_millis(100);

/// Connections taken before those there are get their turn.
const TURN_ACCEPTS: usize = 64;

/// Time to wait after the process ran out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why metrics cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--metrics {address}: {cause}\n  choose another address or port, or end who has it: ss -ltnp")]
pub struct BindError {
    /// Where they should have been.
    pub address: SocketAddr,
    /// The kernel's word.
    pub cause: io::Error,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    deadline: Instant,
    state: State,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The request is coming.
    Asking,
    /// The answer is going.
    Answered,
    /// The answer has gone, and our side is shut: until the other side is as
    /// well, closing could take the answer's end away.
    Leaving,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Wait,
    Close,
}

/// A listening socket and its connections.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    registry: Registry,
    first: Token,
    clients: [Option<Connection>; CLIENTS_MAX],
    last: Option<(Instant, String)>,
    accept_at: Option<Instant>,
}

impl Server {
    /// Listens on `address`, and asks `registry` for events under 17 tokens from
    /// `first`.
    ///
    /// # Errors
    /// The address is taken, or not ours.
    pub fn bind(address: SocketAddr, registry: &Registry, first: Token) -> Result<Server, BindError> {
        let fault = |cause| BindError { address, cause };
        let mut listener = TcpListener::bind(address).map_err(fault)?;
        // Port 0 lets the kernel choose one.
        let address = listener.local_addr().map_err(fault)?;
        registry.register(&mut listener, first, Interest::READABLE).map_err(fault)?;
        let registry = registry.try_clone().map_err(fault)?;
        Ok(Server {
            listener,
            address,
            registry,
            first,
            clients: Default::default(),
            last: None,
            accept_at: None,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether an event's token is ours.
    pub fn owns(&self, token: Token) -> bool {
        (self.first.0..=self.first.0 + CLIENTS_MAX).contains(&token.0)
    }

    /// Serves the event of `token`; `reading` reads the counters if it must.
    pub fn ready(&mut self, token: Token, now: Instant, reading: &mut dyn FnMut() -> Option<Reading>) {
        match token.0.checked_sub(self.first.0) {
            Some(0) => self.accept(now),
            Some(slot @ 1..=CLIENTS_MAX) => self.serve(slot - 1, now, reading),
            _ => {}
        }
    }

    /// How long the poll may wait before [`expire`](Self::expire) has work.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let deadlines = self.clients.iter().flatten().map(|client| client.deadline);
        deadlines.chain(self.accept_at).min().map(|first| first.saturating_duration_since(now))
    }

    /// Closes connections that were given enough time.
    pub fn expire(&mut self, now: Instant) {
        for slot in 0..CLIENTS_MAX {
            if self.clients[slot].as_ref().is_some_and(|client| client.deadline <= now) {
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
                    tracing::warn!("metrics: {e}; trying again in {} s", ACCEPT_PAUSE.as_secs());
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        // More may be waiting, and epoll has told us already: ask anew.
        let _ = self.registry.reregister(&mut self.listener, self.first, Interest::READABLE);
    }

    fn admit(&mut self, mut stream: TcpStream, now: Instant) {
        let Some(slot) = self.clients.iter().position(Option::is_none) else {
            // As far as the socket takes it now; what it asked is not read.
            let _ = stream.write(&refusal("503 Service Unavailable", "too many ask at a time"));
            return;
        };
        let token = Token(self.first.0 + 1 + slot);
        if self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_ok() {
            self.clients[slot] = Some(Connection {
                stream,
                head: Vec::new(),
                answer: Vec::new(),
                sent: 0,
                deadline: now + PATIENCE,
                state: State::Asking,
            });
        }
    }

    fn serve(&mut self, slot: usize, now: Instant, reading: &mut dyn FnMut() -> Option<Reading>) {
        let Server { clients, last, .. } = self;
        let Some(client) = &mut clients[slot] else { return };
        let mut text = |form| {
            if last.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= FRESH) {
                *last = reading().map(|reading| (now, open_metrics(reading)));
            }
            let (_, text) = last.as_ref()?;
            Some(match form {
                Form::OpenMetrics => text.clone(),
                Form::Prometheus => prometheus(text),
            })
        };
        if client.go_on(&mut text) == Next::Close {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(mut client) = self.clients[slot].take() {
            let _ = self.registry.deregister(&mut client.stream);
        }
    }
}

impl Connection {
    /// Reads, answers and writes, as far as the socket goes.
    fn go_on(&mut self, text: &mut dyn FnMut(Form) -> Option<String>) -> Next {
        loop {
            let moved = match self.state {
                State::Asking => self.ask(text),
                State::Answered => self.send(),
                State::Leaving => self.leave(),
            };
            match moved {
                Ok(true) => {}
                Ok(false) => return Next::Close,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return Next::Close,
            }
        }
    }

    fn ask(&mut self, text: &mut dyn FnMut(Form) -> Option<String>) -> io::Result<bool> {
        let mut chunk = [0; 2048];
        let room = (HEAD_MAX - self.head.len()).min(chunk.len());
        let len = self.stream.read(&mut chunk[..room])?;
        self.head.extend_from_slice(&chunk[..len]);
        if let Some(end) = head_end(&self.head) {
            self.answer = match read(&self.head[..end]) {
                Wanted::Nothing(status, word) => refusal(status, word),
                Wanted::Metrics { form, body } => match text(form) {
                    Some(text) => metrics(form, body, &text),
                    None => refusal("500 Internal Server Error", "the data thread does not answer"),
                },
            };
        } else if len == 0 {
            return Ok(false);
        } else if self.head.len() == HEAD_MAX {
            self.answer = refusal("431 Request Header Fields Too Large", "at most 8 KiB");
        } else {
            return Ok(true);
        }
        self.head = Vec::new();
        self.state = State::Answered;
        Ok(true)
    }

    fn send(&mut self) -> io::Result<bool> {
        while self.sent < self.answer.len() {
            self.sent += self.stream.write(&self.answer[self.sent..])?;
        }
        self.answer = Vec::new();
        self.stream.shutdown(std::net::Shutdown::Write)?;
        self.state = State::Leaving;
        Ok(true)
    }

    /// Throws away what still comes, a bounded amount at a time, until the other
    /// side has shut its own.
    fn leave(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 2048];
        // Whoever goes on sending is closed on, with what that does to them.
        for _ in 0..16 {
            if self.stream.read(&mut chunk)? == 0 {
                return Ok(false);
            }
        }
        Ok(false)
    }
}
