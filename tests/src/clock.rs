//! The one clock of the tests, and waiting for a condition with a deadline.
//!
//! Deliberately absent: a plain sleep. A test waits for what it needs to see.

use std::time::Duration;

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: comparable between threads and processes.
pub fn now_nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // The monotonic clock starts at zero with the machine.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Nanoseconds of `duration`; a duration of more than 584 years saturates.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment after which waiting is over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(u64);

impl Deadline {
    /// `limit` from now.
    pub fn after(limit: Duration) -> Deadline {
        Deadline(now_nanos().saturating_add(nanos(limit)))
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        now_nanos() >= self.0
    }

    /// What is left of it.
    pub fn left(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(now_nanos()))
    }
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Looks at `condition` until it holds.
///
/// # Errors
/// It did not hold within `limit`; the message names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || condition().then_some(()))
}

/// Calls `look` until it finds something, and returns that.
///
/// # Errors
/// Nothing was found within `limit`; the message names `what`.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Deadline::after(limit);
    loop {
        // The order matters: a look after the deadline still counts, so a
        // machine that stalls for longer than `limit` fails nothing.
        let late = deadline.passed();
        if let Some(found) = look() {
            return Ok(found);
        }
        if late {
            bail!("waited {limit:?} for {what}");
        }
        std::thread::sleep(POLL);
    }
}
