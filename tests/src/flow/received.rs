//! What arrived of one flow, by number: once, twice, late, harmed or never.

use hdrhistogram::Histogram;

use super::frame::Stamp;
use super::generator::Sent;

/// The highest number believed; beyond it a stamp is broken.
const NUMBER_MAX: u64 = 1 << 32;

/// No times yet, of up to 100 s in ns, which are counted to three digits.
pub(super) fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds in ascending order")
}

/// What arrived of one flow.
#[derive(Clone, Debug)]
pub struct Received {
    /// Frames, each number counted once.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Further copies of a number.
    pub duplicated: u64,
    /// Frames that came behind a higher number.
    pub reordered: u64,
    /// Frames whose stamp, length or pattern is not what was sent. Broken
    /// stamps count for the sink's first flow.
    pub corrupted: u64,
    /// Frames that arrived with a gso_size, still whole.
    pub super_frames: u64,
    /// One-way latency from the intended sending time, in ns.
    pub latency_ns: Histogram<u64>,
    /// Arrival of the first and the last frame, in ns of the monotonic clock.
    pub span_ns: (u64, u64),
    seen: Vec<u64>,
    next: u64,
}

impl Received {
    pub(super) fn new() -> Received {
        Received {
            frames: 0,
            bytes: 0,
            duplicated: 0,
            reordered: 0,
            corrupted: 0,
            super_frames: 0,
            latency_ns: times(),
            span_ns: (0, 0),
            seen: Vec::new(),
            next: 0,
        }
    }

    /// Frames of `sent` that never arrived.
    pub fn lost(&self, sent: &Sent) -> u64 {
        sent.frames.saturating_sub(self.frames)
    }

    /// Adds the counts of `other`, a further flow; [`missing`](Self::missing)
    /// speaks of this one only, as before.
    pub fn add(&mut self, other: &Received) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.super_frames += other.super_frames;
        self.latency_ns.add(&other.latency_ns).expect("the same bounds");
        if other.frames > 0 {
            let (first, last) = other.span_ns;
            self.span_ns.0 = if self.span_ns.0 == 0 { first } else { self.span_ns.0.min(first) };
            self.span_ns.1 = self.span_ns.1.max(last);
        }
    }

    /// Frames a second between the first and the last arrival.
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    pub fn rate(&self) -> f64 {
        let span = self.span_ns.1.saturating_sub(self.span_ns.0).max(1);
        self.frames.saturating_sub(1) as f64 * 1e9 / span as f64
    }

    /// Numbers below `sent` that never arrived, at most `limit` of them.
    pub fn missing(&self, sent: &Sent, limit: usize) -> Vec<u64> {
        (0..sent.frames).filter(|n| !self.has(*n)).take(limit).collect()
    }

    /// Requires every frame of `sent` once, in order and unharmed.
    ///
    /// # Panics
    /// It was not so; the message has the counts.
    pub fn assert_clean(&self, sent: &Sent) {
        assert!(
            self.lost(sent) == 0 && self.duplicated == 0 && self.reordered == 0 && self.corrupted == 0,
            "{sent:?}: lost {} (first {:?}), {self}",
            self.lost(sent),
            self.missing(sent, 8),
        );
    }

    /// Whether `number` arrived.
    pub fn has(&self, number: u64) -> bool {
        self.place(number).is_some_and(|(word, bit)| self.seen.get(word).is_some_and(|w| w & bit != 0))
    }

    fn place(&self, number: u64) -> Option<(usize, u64)> {
        Some((usize::try_from(number / 64).ok()?, 1 << (number % 64)))
    }

    pub(super) fn count(&mut self, stamp: Stamp, len: usize, now: u64) {
        let Some((word, bit)) = self.place(stamp.number).filter(|_| stamp.number < NUMBER_MAX) else {
            self.corrupted += 1;
            return;
        };
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        if stamp.number < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(stamp.number + 1);
        self.frames += 1;
        self.bytes += u64::try_from(len).unwrap_or_default();
        self.latency_ns.saturating_record(now.saturating_sub(stamp.due_ns).max(1));
        if self.span_ns.0 == 0 {
            self.span_ns.0 = now;
        }
        self.span_ns.1 = now;
    }
}

impl std::fmt::Display for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} frames, {} duplicated, {} reordered, {} corrupted, {} whole super-frames",
            self.frames, self.duplicated, self.reordered, self.corrupted, self.super_frames
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_add_up_from_the_first_arrival_to_the_last() {
        let of = |arrivals: &[(u64, u64)]| {
            let mut received = Received::new();
            for (number, now) in arrivals {
                received.count(Stamp { flow: 0, number: *number, due_ns: 1 }, 60, *now);
            }
            received
        };
        let mut sum = of(&[]);
        sum.add(&of(&[(0, 1_000), (1, 3_000)]));
        sum.add(&of(&[(0, 500), (0, 600), (1, 2_000)]));
        sum.add(&of(&[]));
        assert_eq!((sum.frames, sum.bytes, sum.duplicated, sum.span_ns), (4, 240, 1, (500, 3_000)));
        assert_eq!(sum.latency_ns.len(), 4);
        assert!((sum.rate() - 3.0 * 1e9 / 2_500.0).abs() < 1.0);
    }
}
