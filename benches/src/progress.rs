//! What a run will take, said at its beginning; then on a terminal one line that is
//! rewritten, with the time left.
//!
//! Deliberately absent: lines of progress in a file, where nobody waits for them.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use vswitch_tests::clock::now_nanos;

/// Steps of which is known about how long they take.
#[derive(Debug)]
pub(crate) struct Progress {
    started: u64,
    lengths: Vec<Duration>,
    done: usize,
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new(lengths: Vec<Duration>) -> Progress {
        let all: Duration = lengths.iter().sum();
        // Nobody listening is fine, here and below.
        let _ = writeln!(std::io::stderr(), "{} turns, about {} minutes", lengths.len(), minutes(all));
        let is_terminal = std::io::stderr().is_terminal();
        Progress { started: now_nanos(), lengths, done: 0, is_terminal }
    }

    /// Says that `what` begins.
    pub(crate) fn step(&mut self, what: &str) {
        let elapsed = Duration::from_nanos(now_nanos() - self.started);
        let left = minutes(left(&self.lengths, self.done, elapsed));
        self.done += 1;
        if self.is_terminal {
            let total = self.lengths.len();
            let _ = write!(std::io::stderr(), "\r\x1b[K[{}/{total}] {what}, about {left} left", self.done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// What the steps from `done` on take, if they are as much slower than expected as
/// those before, which took `elapsed`.
fn left(lengths: &[Duration], done: usize, elapsed: Duration) -> Duration {
    let sum = |lengths: &[Duration]| lengths.iter().sum::<Duration>().as_secs_f64();
    let (before, behind) = lengths.split_at(done.min(lengths.len()));
    // Ten seconds of what was expected: the first steps alone say little.
    let pace = (elapsed.as_secs_f64() + 10.0) / (sum(before) + 10.0);
    Duration::from_secs_f64(sum(behind) * pace)
}

fn minutes(length: Duration) -> String {
    let secs = length.as_secs();
    format!("{}:{:02}", secs / 60, secs % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_the_pace_so_far() {
        let lengths = [90, 100, 200].map(Duration::from_secs);
        assert_eq!(minutes(left(&lengths, 0, Duration::ZERO)), "6:30");
        // Twice as slow as expected.
        let slow = left(&lengths, 1, Duration::from_secs(190));
        assert_eq!(minutes(slow), "10:00");
        assert_eq!(left(&lengths, 3, Duration::from_secs(1)), Duration::ZERO);
    }
}
