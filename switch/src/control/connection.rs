//! One client of the control socket: a line in, a reply out, and nothing read
//! while a reply waits to leave, so that its memory is bounded by both.
//!
//! A client that follows events has a number instead of a queue: what it has not
//! taken stays in the journal, or is missed.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::live::Events;
use super::protocol::{LINE_MAX, Request, Response, decode, encode};
use crate::events::Journal;

/// A client has this long for its next whole request, and to take its reply.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A client that follows events has this long to take what it was sent: a pager
/// that somebody reads in, and no longer.
pub(super) const FOLLOW_PATIENCE: Duration = Duration::from_secs(60);

/// Events of one further reply to a client that follows: some 50 KiB.
const FOLLOW_EVENTS: usize = 256;

/// Bytes read from one client before others get their turn.
const TURN_BYTES: usize = 256 * 1024;

/// Requests answered for one client before others get their turn.
const TURN_REQUESTS: usize = 16;

/// How a client's turn ended.
pub(super) enum Turn {
    /// epoll will tell when it can go on.
    Wait,
    /// It used its budget; others first.
    More,
    /// It is done, or gone.
    Close,
    /// Its reply has left, and it reads a capture from now on.
    HandOver(u64),
}

/// What a client that follows events has been sent.
#[derive(Clone, Copy, Debug)]
struct Follow {
    /// Of its request.
    id: Option<u64>,
    /// The number of the last event.
    after: u64,
}

/// Whether a client may follow events, for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MayFollow {
    /// It may.
    Yes,
    /// So many do already.
    No(usize),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub stream: UnixStream,
    /// Bytes received; those before `start` are answered.
    input: Vec<u8>,
    start: usize,
    /// There is no newline between `start` and here.
    scanned: usize,
    /// The reply on its way; those before `sent` have left.
    output: Vec<u8>,
    sent: usize,
    /// When its patience ends; `None`: it follows, and has taken everything.
    pub deadline: Option<Instant>,
    follow: Option<Follow>,
    /// Close once the reply is out.
    closing: bool,
    /// The capture that it reads once the reply is out.
    pub capture: Option<u64>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(stream: UnixStream, now: Instant) -> Connection {
        Connection {
            stream,
            input: Vec::new(),
            start: 0,
            scanned: 0,
            output: Vec::new(),
            sent: 0,
            deadline: Some(now + PATIENCE),
            follow: None,
            closing: false,
            capture: None,
        }
    }

    /// Whether nobody is left to read a reply.
    pub fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// What was received behind the last request that was answered.
    pub fn unanswered(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Whether it follows events.
    pub fn follows(&self) -> bool {
        self.follow.is_some()
    }

    /// Sends a client that follows what `journal` has for it, as far as the
    /// socket goes; what does not fit is looked for again the next time.
    pub fn publish(&mut self, now: Instant, journal: &Journal, uptime_ms: u64) -> Turn {
        while self.output.is_empty()
            && let Some(follow) = self.follow
            && follow.after != journal.last()
        {
            let events = Events::of(journal, follow.after, FOLLOW_EVENTS, uptime_ms);
            self.follow = Some(Follow { after: events.next, ..follow });
            self.output = encode(follow.id, Response::Events(events));
            self.deadline = Some(now + FOLLOW_PATIENCE);
            match self.flush() {
                Ok(()) => self.deadline = None,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Err(_) => return Turn::Close,
            }
        }
        Turn::Wait
    }

    /// Answers what is complete, as far as the socket and the budgets go.
    pub fn turn(
        &mut self,
        now: Instant,
        may_follow: MayFollow,
        handle: &mut dyn FnMut(Request) -> Response,
    ) -> Turn {
        let mut bytes = TURN_BYTES;
        let mut requests = TURN_REQUESTS;
        loop {
            match self.flush() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Err(_) => return Turn::Close,
            }
            if self.follows() {
                self.deadline = None;
            }
            if let Some(capture) = self.capture {
                return Turn::HandOver(capture);
            }
            if let Some(end) = self.next_line() {
                if requests == 0 {
                    return Turn::More;
                }
                requests -= 1;
                self.answer(end, may_follow, handle);
                self.start = end + 1;
                self.deadline = Some(now + PATIENCE);
                continue;
            }
            if self.closing {
                return Turn::Close;
            }
            if self.input.len() - self.start >= LINE_MAX {
                let error = format!("the line is longer than {LINE_MAX} bytes");
                self.output = encode(None, Response::error(error, "send one request a line"));
                self.input = Vec::new();
                (self.start, self.scanned) = (0, 0);
                self.closing = true;
                continue;
            }
            if bytes == 0 {
                return Turn::More;
            }
            match self.fill(bytes) {
                Ok(0) => return Turn::Close,
                Ok(n) => bytes -= n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Close,
            }
        }
    }

    /// Makes the reply to the line that ends at `end`.
    fn answer(&mut self, end: usize, may_follow: MayFollow, handle: &mut dyn FnMut(Request) -> Response) {
        let (id, response) = match decode(&self.input[self.start..end]) {
            Ok((id, _)) if self.follows() => {
                self.closing = true;
                (id, Response::error("this connection follows events", "ask on another one"))
            }
            Ok((id, request)) => {
                let follows = matches!(request, Request::Events { follow: true, .. });
                let response = match may_follow {
                    MayFollow::No(len) if follows => Response::error(
                        format!("{len} clients follow events already"),
                        "end one of them, or ask now and then without following",
                    ),
                    MayFollow::Yes | MayFollow::No(_) => handle(request),
                };
                if let Response::Capture { capture } = response {
                    self.capture = Some(capture);
                }
                if let (true, Response::Events(events)) = (follows, &response) {
                    self.follow = Some(Follow { id, after: events.next });
                }
                (id, response)
            }
            Err((id, refusal)) => (id, Response::Error(refusal)),
        };
        self.output = encode(id, response);
    }

    /// Where the first line that is not answered ends.
    fn next_line(&mut self) -> Option<usize> {
        let from = self.scanned.max(self.start);
        let found = self.input[from..].iter().position(|b| *b == b'\n').map(|n| from + n);
        self.scanned = found.unwrap_or(self.input.len());
        found
    }

    /// Reads what fits into `budget` and the limit of a line.
    fn fill(&mut self, budget: usize) -> io::Result<usize> {
        self.input.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        let mut chunk = [0; 16 * 1024];
        let room = (LINE_MAX - self.input.len()).min(budget).min(chunk.len());
        let read = self.stream.read(&mut chunk[..room])?;
        self.input.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.output = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Tells a client why it is closed, as far as the socket takes it now.
    pub fn last_word(&mut self, error: &str, hint: &str) {
        // Behind half a reply it would be no line of its own.
        if self.sent == 0 {
            self.output = encode(None, Response::error(error, hint));
        }
        let _ = self.flush();
    }
}
