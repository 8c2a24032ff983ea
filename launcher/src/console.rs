//! A terminal on a guest's serial console.
//!
//! Bytes go both ways untouched, except Ctrl-], which leaves. The terminal is
//! put back as it was on every way out.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::clock;

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// How a console session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The user left (Ctrl-], the end of the input, a signal), or the time was over.
    Left,
    /// The guest's QEMU is gone.
    Closed,
}

/// A terminal in raw mode, for as long as this lives.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> io::Result<Raw> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better is known than to try.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Joins the terminal (or what stands in for it) and `stream`, for at most `limit`.
///
/// # Errors
/// Reading or writing either of them.
pub fn attach(stream: &UnixStream, limit: Option<Duration>) -> io::Result<End> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let _raw = if io::stdin().is_terminal() { Some(Raw::enter()?) } else { None };
    join(io::stdin(), &mut io::stdout(), stream, (&ended, limit))
}

fn join(
    input: impl AsFd,
    output: &mut impl Write,
    mut stream: &UnixStream,
    (ended, limit): (&AtomicBool, Option<Duration>),
) -> io::Result<End> {
    let mut bytes = [0; 4096];
    let start = clock::now();
    while !ended.load(Ordering::Relaxed) {
        let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        let left = left.map(Timespec::try_from).transpose().unwrap_or(None);
        let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(stream, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(_) => {}
        }
        let (typed, said) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if said {
            let len = stream.read(&mut bytes)?;
            if len == 0 {
                return Ok(End::Closed);
            }
            output.write_all(&bytes[..len])?;
            output.flush()?;
        }
        if typed {
            // std's stdin has a buffer of its own, which poll cannot see: the
            // descriptor is read instead.
            let len = rustix::io::read(&input, &mut bytes)?;
            let leave = bytes[..len].iter().position(|byte| *byte == LEAVE);
            stream.write_all(&bytes[..leave.unwrap_or(len)])?;
            if len == 0 || leave.is_some() {
                return Ok(End::Left);
            }
        }
    }
    Ok(End::Left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_until_ctrl_bracket() {
        let (keyboard, terminal) = UnixStream::pair().unwrap();
        let (ours, guest) = UnixStream::pair().unwrap();
        (&guest).write_all(b"login: ").unwrap();
        (&keyboard).write_all(b"root\r\x1dignored").unwrap();
        let mut screen = Vec::new();
        let end = join(&terminal, &mut screen, &ours, (&AtomicBool::new(false), None)).unwrap();
        assert_eq!((end, screen.as_slice()), (End::Left, &b"login: "[..]));
        drop(ours);
        let mut typed = Vec::new();
        (&guest).read_to_end(&mut typed).unwrap();
        assert_eq!(typed, b"root\r");
    }

    #[test]
    fn the_time_ends_a_session_in_which_nobody_says_anything() {
        let (_keyboard, terminal) = UnixStream::pair().unwrap();
        let (ours, _guest) = UnixStream::pair().unwrap();
        let limit = Some(Duration::from_millis(20));
        let end = join(&terminal, &mut Vec::new(), &ours, (&AtomicBool::new(false), limit)).unwrap();
        assert_eq!(end, End::Left);
    }

    #[test]
    fn a_guest_that_ends_ends_the_session() {
        let (_keyboard, terminal) = UnixStream::pair().unwrap();
        let (ours, guest) = UnixStream::pair().unwrap();
        drop(guest);
        let end = join(&terminal, &mut Vec::new(), &ours, (&AtomicBool::new(false), None)).unwrap();
        assert_eq!(end, End::Closed);
    }
}
