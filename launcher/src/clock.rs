//! The one place that reads a clock.

use std::time::{Duration, Instant};

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "the launcher waits for processes; nothing here decides on frames"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `done` until it answers or `limit` has passed, `None` then. Used where
/// the kernel offers nothing to wait on: files that appear, answers of others.
pub fn poll<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    /// Short beside what a person notices, long beside the cost of asking.
    const PAUSE: Duration = Duration::from_millis(20);
    let start = now();
    loop {
        if let Some(answer) = done() {
            return Some(answer);
        }
        if start.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// `14s`, `3m`, `2h`, `5d`: the largest unit that is not zero.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
