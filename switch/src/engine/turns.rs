//! How long turns take: a histogram of fixed buckets, each twice as wide as the
//! one before, that the data thread fills and a snapshot copies.
//!
//! A turn is measured from the end of the turn before it, or from the round's
//! own reading of the clock, to its own end: one reading more for each turn that
//! brought frames, which is 20 ns in some 1 to 100 µs.
//!
//! Deliberately absent: turns without frames, and percentiles; whoever reads the
//! buckets makes those.

use std::time::Duration;

/// The first bucket holds turns shorter than two to this power of nanoseconds.
const FIRST_SHIFT: u32 = 9;

/// Buckets: under 512 ns, under 1 µs … under 134 ms, and longer.
pub const TURN_BUCKETS: usize = 20;

/// Turns by their length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TurnTimes {
    /// Number of turns in each bucket; the last one has those that fit no other.
    pub counts: [u64; TURN_BUCKETS],
    /// All of them together.
    pub sum: Duration,
}

impl TurnTimes {
    /// Counts a turn that took `length`.
    #[inline]
    pub(super) fn record(&mut self, length: Duration) {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        // The bits that are left tell how often the first width was doubled.
        let bucket = (u64::BITS - (nanos >> FIRST_SHIFT).leading_zeros()) as usize;
        self.counts[bucket.min(TURN_BUCKETS - 1)] += 1;
        self.sum += length;
    }

    /// Turns in bucket `bucket` are shorter than this; `None`: there is no bound.
    pub fn bound(bucket: usize) -> Option<Duration> {
        let shift = FIRST_SHIFT + u32::try_from(bucket).ok()?;
        (bucket + 1 < TURN_BUCKETS).then(|| Duration::from_nanos(1 << shift))
    }

    /// Number of turns.
    pub fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether no turn has brought a frame yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_is_in_the_first_bucket_that_is_wide_enough() {
        for (nanos, bucket) in [
            (0, 0),
            (511, 0),
            (512, 1),
            (1023, 1),
            (1024, 2),
            ((1 << 27) - 1, 18),
            (1 << 27, 19),
            (u64::MAX, 19),
        ] {
            let mut times = TurnTimes::default();
            times.record(Duration::from_nanos(nanos));
            assert_eq!(times.counts.iter().position(|count| *count == 1), Some(bucket), "{nanos} ns");
            let fits =
                |bucket| TurnTimes::bound(bucket).is_none_or(|bound| Duration::from_nanos(nanos) < bound);
            assert!(fits(bucket) && (bucket == 0 || !fits(bucket - 1)), "{nanos} ns");
            assert_eq!((times.len(), times.sum), (1, Duration::from_nanos(nanos)));
        }
        assert_eq!(TurnTimes::bound(0), Some(Duration::from_nanos(512)));
        assert_eq!(TurnTimes::bound(TURN_BUCKETS - 1), None);
    }
}
