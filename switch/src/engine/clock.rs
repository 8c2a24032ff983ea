//! The switch's clock: the data thread reads it once a round and after each turn,
//! the control thread when it writes something down.

use std::time::{Duration, Instant, SystemTime};

use crate::bridge::Time;

/// Time since the switch started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    pub fn now(&self) -> Time {
        // 584 years fit.
        Time::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// What the wall's clock says now, since 1970; it may be set meanwhile.
    #[expect(clippy::disallowed_methods, reason = "for the record only: nothing is decided by it")]
    pub fn wall() -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// Nanoseconds since 1970 at the switch's start, by the wall's clock of now.
    pub fn epoch_ns(&self) -> u64 {
        // 584 years fit.
        u64::try_from(Clock::wall().as_nanos()).unwrap_or(u64::MAX).saturating_sub(self.now().as_nanos())
    }
}
