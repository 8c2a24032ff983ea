//! A line a step on standard error, with the time left as the steps so far
//! suggest it; rewritten in place on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use vswitch_tests::clock::now_nanos;

/// Steps done of a known number.
#[derive(Debug)]
pub(crate) struct Progress {
    started: u64,
    done: u64,
    total: u64,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Progress {
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        Progress { started: now_nanos(), done: 0, total, terminal: std::io::stderr().is_terminal() }
    }

    /// Says that `what` begins.
    pub(crate) fn step(&mut self, what: &str) {
        let left = match (now_nanos() - self.started).checked_div(self.done) {
            Some(each) => {
                let secs = Duration::from_nanos(each * (self.total - self.done.min(self.total))).as_secs();
                format!(", about {}:{:02} left", secs / 60, secs % 60)
            }
            None => String::new(),
        };
        self.done += 1;
        let line = format!("[{}/{}] {what}{left}", self.done, self.total);
        let (before, after) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody listening is fine.
        let _ = write!(std::io::stderr(), "{before}{line}{after}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}
