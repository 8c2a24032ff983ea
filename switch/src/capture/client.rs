//! One capture and its reader's socket: bytes leave as the reader takes them, and
//! what it says, or that it hangs up, ends the capture.
//!
//! A reader ends its capture by shutting down its half of the connection, if it
//! likes after a line that says why; it is then sent the rest, with the sums.
//!
//! Deliberately absent: threads, and what is captured (`session`).

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use super::recorder::{Cursor, Item, Recorder};
use super::session::{Labels, Session, Spec};
use crate::bridge::Time;
use crate::engine::observe::Mark;

/// A reader whose capture has ended may take nothing of the rest for this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The longest reason that a reader gives.
const REASON_MAX: usize = 500;

/// Where a capture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Its first mark has not come.
    Waiting,
    /// Its frames are being written.
    Running,
    /// What the recorder kept is being written.
    Recalling,
    /// It was told to end, and its last mark has not come.
    Ending,
    /// All is in its sink, to be taken until then.
    Over(Instant),
}

/// Whoever reads a capture: its connection, from behind the reply on.
#[derive(Debug)]
pub struct Reader {
    /// The connection.
    pub stream: StdStream,
    /// What it has said behind its request already.
    pub said: Vec<u8>,
}

impl From<StdStream> for Reader {
    /// A reader that has said nothing.
    fn from(stream: StdStream) -> Reader {
        Reader { stream, said: Vec::new() }
    }
}

/// A capture and its reader.
#[derive(Debug)]
pub(super) struct Client {
    pub id: u64,
    pub session: Session,
    pub stage: Stage,
    /// The ports, as they were when it was ordered.
    pub labels: Labels,
    /// How many names had been said by then.
    pub names_len: u64,
    /// How far it is in what the recorder keeps, if it is of the past.
    cursor: Cursor,
    /// When it was ordered, on the switch's clock.
    ordered: Time,
    stream: Option<UnixStream>,
    /// The reader takes no more now.
    is_blocked: bool,
    /// The reader wants the end.
    pub is_asked: bool,
    /// Where the FDB is to be read on, once there is room for more of it.
    pub fdb_next: Option<u32>,
    /// Frames that were said to be missed.
    pub told_missed: u64,
    /// When more may be said.
    pub next_news: Instant,
    said: Vec<u8>,
}

/// What a reader did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// Nothing that matters.
    Nothing,
    /// It wants the end, and the rest.
    End,
    /// It is gone.
    Gone,
}

impl Client {
    pub fn new(id: u64, spec: Spec, labels: Labels, names_len: u64, now: Instant) -> Client {
        Client {
            id,
            session: Session::new(spec),
            stage: Stage::Waiting,
            labels,
            names_len,
            cursor: Cursor::default(),
            ordered: Time::START,
            stream: None,
            is_blocked: false,
            is_asked: false,
            fdb_next: None,
            told_missed: 0,
            next_news: now,
            said: Vec::new(),
        }
    }

    /// Gives it its reader.
    ///
    /// # Errors
    /// epoll does not take the socket.
    pub fn connect(&mut self, reader: Reader, registry: &Registry, token: Token) -> io::Result<()> {
        let Reader { stream, said } = reader;
        hear(&mut self.said, &said);
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Begins to recall what `recorder` keeps.
    pub fn begin_recall(&mut self, mark: &Mark, recorder: &Recorder) {
        self.session.start(mark, &Labels::new());
        self.cursor = recorder.begin(&mut self.session);
        (self.stage, self.ordered) = (Stage::Recalling, mark.snapshot.now);
    }

    /// Writes some more of what `recorder` keeps; says why it ends, once all is
    /// written.
    pub fn recall(&mut self, recorder: &Recorder) -> Option<&'static str> {
        recorder.recall(&mut self.cursor, &mut self.session)
    }

    /// Learns that the recorder forgets item `number`.
    pub fn miss(&mut self, number: u64, item: &Item) {
        if self.stage == Stage::Recalling {
            self.cursor.miss(number, item, &mut self.session);
        }
    }

    /// Ends what is recalled: the sums are written, and its reader has until `end`.
    pub fn end_recall(&mut self, why: &str, end: Instant) {
        self.session.end(None, self.ordered, why);
        self.stage = Stage::Over(end);
    }

    /// Whether its reader takes what is recalled as fast as it is made.
    pub fn is_eager(&self) -> bool {
        self.stage == Stage::Recalling && self.stream.is_some() && !self.is_blocked
    }

    /// Whether frames are still written.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Ending)
    }

    /// The reader may take more.
    pub fn unblock(&mut self) {
        self.is_blocked = false;
    }

    /// Gives the reader what it takes; false if it is gone.
    pub fn write(&mut self, now: Instant) -> bool {
        let Some(stream) = self.stream.as_mut() else { return true };
        if self.is_blocked || self.session.sink.is_empty() {
            return true;
        }
        let waiting = self.session.sink.len();
        let written = self.session.sink.write_to(stream);
        // Who takes some of the rest, however slowly, gets all of it.
        if self.session.sink.len() < waiting
            && let Stage::Over(end) = &mut self.stage
        {
            *end = now + PATIENCE;
        }
        match written {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                true
            }
            Err(_) => {
                // What it said before it went is still there to be read.
                self.listen();
                false
            }
        }
    }

    /// Hears what the reader says.
    pub fn listen(&mut self) -> Heard {
        let Some(stream) = self.stream.as_mut() else { return Heard::Nothing };
        let mut chunk = [0; 256];
        loop {
            // Nobody says that much. Were it read on, who writes for ever would keep
            // this thread from all others, and from its end.
            if self.said.len() >= REASON_MAX {
                return Heard::End;
            }
            match stream.read(&mut chunk) {
                Ok(0) => return Heard::End,
                Ok(len) => hear(&mut self.said, &chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Heard::Gone,
            }
        }
    }

    /// What the reader said of its end: one line, made plain; empty if nothing.
    pub fn reason(&self) -> String {
        let text = String::from_utf8_lossy(&self.said);
        text.lines().next().unwrap_or_default().escape_debug().to_string()
    }

    /// Why it is over now.
    pub fn why(&self, now: Instant) -> String {
        let reason = self.reason();
        match self.stage {
            _ if !reason.is_empty() => reason,
            Stage::Over(_) if self.session.sink.is_empty() => self.session.why().to_owned(),
            Stage::Over(end) if now >= end => {
                format!("the reader took nothing for {} s", PATIENCE.as_secs())
            }
            Stage::Over(_) | Stage::Waiting | Stage::Running | Stage::Recalling | Stage::Ending => {
                "reader gone".to_owned()
            }
        }
    }

    /// Whether its reader, if there is one, has all, or is waited for no longer.
    pub fn is_done(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Over(end) => now >= end || (self.session.sink.is_empty() && self.stream.is_some()),
            Stage::Waiting | Stage::Running | Stage::Recalling | Stage::Ending => false,
        }
    }
}

/// Keeps `more` of what a reader says, as far as a reason goes.
fn hear(said: &mut Vec<u8>, more: &[u8]) {
    let room = REASON_MAX.saturating_sub(said.len());
    said.extend_from_slice(&more[..more.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use mio::Poll;

    use super::*;

    /// A capture of everything, read by the other end of `stream`.
    fn client(stream: StdStream, now: Instant) -> Client {
        let mut client = Client::new(1, Spec::everything("", ""), Labels::new(), 0, now);
        client.connect(stream.into(), Poll::new().unwrap().registry(), Token(1)).unwrap();
        client
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn a_reader_that_is_slow_gets_all_and_one_that_has_stopped_is_given_up() {
        let (mut reader, theirs) = StdStream::pair().unwrap();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut client = client(theirs, start);
        client.session.sink.append(|out| out.resize(4 << 20, 7));
        client.stage = Stage::Over(start + PATIENCE);
        assert!(client.write(start), "as much as the socket takes");
        let mut chunk = vec![0; 64 << 10];
        let mut now = 0;
        // 64 KiB in 9 s each.
        while client.session.sink.len() > 1 << 20 {
            now += 9;
            let len = reader.read(&mut chunk).unwrap();
            assert!(len > 0 && !client.is_done(after(now)), "after {now} s");
            client.unblock();
            assert!(client.write(after(now)));
        }
        assert!(now > 60, "{now} s are no test");
        // From here on it takes nothing.
        client.unblock();
        assert!(client.write(after(now + 9)) && !client.is_done(after(now + 9)));
        assert!(client.is_done(after(now + 19)));
        assert_eq!(client.why(after(now + 19)), "the reader took nothing for 10 s");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn a_reader_that_has_gone_is_heard_although_the_write_fails_first() {
        let (mut reader, theirs) = StdStream::pair().unwrap();
        let now = Instant::now();
        let mut client = client(theirs, now);
        reader.write_all(b"no space left on device\n").unwrap();
        drop(reader);
        client.session.sink.append(|out| out.resize(64, 7));
        assert!(!client.write(now));
        assert_eq!(client.why(now), "no space left on device");
    }
}
