//! What ends a capture from the reader's side: a signal, the time that was given, a pipe
//! that hangs up.
//!
//! A thread waits for it and shuts down our half of the connection; the switch answers
//! with the rest and the sums, which another thread reads meanwhile.
//!
//! Deliberately absent: reading, and what is done with it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook_mio::v1_0::Signals;

const SIGNALS: Token = Token(0);
const PIPE: Token = Token(1);

/// Waits for what ends a capture.
#[derive(Debug)]
pub struct Ender {
    /// The connection.
    pub stream: UnixStream,
    /// What is written to.
    pub pipe: Option<OwnedFd>,
    /// Set if nobody reads that any more.
    pub closed: Arc<AtomicBool>,
    /// How long it lasts, at most.
    pub duration: Option<Duration>,
}

impl Ender {
    /// Starts the thread, which ends with the process.
    ///
    /// # Errors
    /// The kernel has no thread or epoll instance left to give.
    pub fn start(self) -> anyhow::Result<()> {
        let poll = Poll::new()?;
        let mut signals = Signals::new([libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        if let Some(pipe) = &self.pipe {
            // A file never hangs up, and epoll refuses it.
            let _ = poll.registry().register(&mut SourceFd(&pipe.as_raw_fd()), PIPE, Interest::WRITABLE);
        }
        std::thread::Builder::new().name("end".to_owned()).spawn(move || self.wait(poll, &mut signals))?;
        Ok(())
    }

    fn wait(&self, mut poll: Poll, signals: &mut Signals) {
        let mut events = Events::with_capacity(4);
        let mut end = self.duration.map(|duration| now() + duration);
        let mut asked = false;
        loop {
            let wait = end.map(|end| end.saturating_duration_since(now()));
            if poll.poll(&mut events, wait).is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                return;
            }
            if end.is_some_and(|end| now() >= end) {
                end = None;
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            for event in &events {
                if event.token() == PIPE && (event.is_error() || event.is_write_closed()) {
                    self.closed.store(true, Ordering::SeqCst);
                    let _ = self.stream.shutdown(Shutdown::Both);
                }
                if event.token() == SIGNALS && signals.pending().next().is_some() {
                    if asked {
                        // Somebody is in a hurry, and whatever we write to is not.
                        std::process::exit(130);
                    }
                    asked = true;
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
            }
        }
    }
}

/// The client's own clock: how long a capture lasts.
#[expect(clippy::disallowed_methods, reason = "no frame is judged by it")]
fn now() -> Instant {
    Instant::now()
}
