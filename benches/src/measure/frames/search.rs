//! The highest rate whose loss stays within a goal, out of recorded trials: what to
//! try next, or the result.
//!
//! Read first: RFC 2544 §26.1 (throughput) and ETSI GS NFV-TST 009 clause 12.3 (binary
//! search with loss verification). A loss counts when a second trial of the same
//! rate shows it too, so that one interruption of the machine does not end the
//! search a step too low; what was found must then hold for several times as long.
//!
//! Everything follows from the trials: a second goal begins with what the first
//! one tried.

/// How long a trial runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::measure) enum Length {
    Short,
    /// To confirm what the short ones found.
    Long,
}

/// One run at a rate.
#[derive(Clone, Copy, Debug)]
pub(in crate::measure) struct Trial {
    /// Frames a second.
    pub(in crate::measure) rate: f64,
    pub(in crate::measure) length: Length,
    /// Share of the frames that did not arrive. A generator that was late proves
    /// nothing: whatever it lost, 1.
    pub(in crate::measure) lost: f64,
}

/// What follows from the trials so far.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::measure) enum Step {
    /// Another trial.
    Try(f64, Length),
    /// The rate, in frames a second; 0: no rate held.
    Done(f64),
}

/// Halvings: the last step is about a hundredth of the highest rate.
const HALVINGS: u32 = 7;

/// Trials of one rate that must lose before the rate does.
const VERIFIED: usize = 2;

/// Shares of what the short trials found that are confirmed, one after the other.
const CONFIRMED: [f64; 9] = [1.0, 0.97, 0.93, 0.85, 0.75, 0.6, 0.45, 0.3, 0.1];

/// What `trials` say of the highest rate up to `top` at which no more than the
/// share `goal` is lost.
pub(in crate::measure) fn next(trials: &[Trial], goal: f64, top: f64) -> Step {
    let (mut good, mut bad) = (0.0, top);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(good, bad);
        match holds(trials, middle, Length::Short, goal) {
            Some(true) => good = middle,
            Some(false) => bad = middle,
            None => return Step::Try(middle, Length::Short),
        }
    }
    for share in CONFIRMED {
        match holds(trials, good * share, Length::Long, goal) {
            _ if good <= 0.0 => break,
            Some(true) => return Step::Done(good * share),
            Some(false) => {}
            None => return Step::Try(good * share, Length::Long),
        }
    }
    Step::Done(0.0)
}

/// Whether `rate` holds for `length`; `None`: not tried often enough.
fn holds(trials: &[Trial], rate: f64, length: Length, goal: f64) -> Option<bool> {
    let same = |trial: &&Trial| trial.rate.to_bits() == rate.to_bits() && trial.length >= length;
    let of_rate: Vec<&Trial> = trials.iter().filter(same).collect();
    if of_rate.iter().any(|trial| trial.lost <= goal) {
        return Some(true);
    }
    (of_rate.len() >= VERIFIED).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: f64 = 1_000_000.0;

    /// Searches on a device that loses the share `lost(rate, length, count of
    /// trials before)`; returns the result and all trials.
    fn search(
        goal: f64,
        mut trials: Vec<Trial>,
        lost: impl Fn(f64, Length, usize) -> f64,
    ) -> (f64, Vec<Trial>) {
        loop {
            match next(&trials, goal, TOP) {
                Step::Done(rate) => return (rate, trials),
                Step::Try(rate, length) => {
                    trials.push(Trial { rate, length, lost: lost(rate, length, trials.len()) });
                    assert!(trials.len() < 60, "no end: {trials:?}");
                }
            }
        }
    }

    fn above(limit: f64) -> impl Fn(f64, Length, usize) -> f64 {
        move |rate, _, _| if rate > limit { 0.1 } else { 0.0 }
    }

    #[test]
    fn the_limit_is_found_to_a_hundredth() {
        for limit in [20_000.0, 333_333.0, 720_000.0, 990_000.0] {
            let (rate, trials) = search(0.0, vec![], above(limit));
            assert!(rate <= limit && limit - rate <= TOP / 100.0, "{limit}: {rate}");
            assert!(trials.len() <= 2 * 7 + 1, "{trials:?}");
        }
    }

    #[test]
    fn a_loss_that_does_not_come_again_counts_for_nothing() {
        let flaky = |rate: f64, _, before: usize| {
            if rate > 500_000.0 || before.is_multiple_of(2) { 1e-6 } else { 0.0 }
        };
        let (rate, _) = search(0.0, vec![], flaky);
        assert!(rate > 480_000.0, "{rate}");
    }

    #[test]
    fn what_does_not_hold_for_long_is_lowered_until_it_does() {
        let tires = |rate: f64, length, _| {
            let limit = if length == Length::Long { 400_000.0 } else { 500_000.0 };
            if rate > limit { 0.2 } else { 0.0 }
        };
        let (rate, trials) = search(0.0, vec![], tires);
        assert!((350_000.0..=400_000.0).contains(&rate), "{rate}");
        assert!(trials.iter().any(|t| t.length == Length::Long && t.lost > 0.0));
    }

    #[test]
    fn nothing_holds_where_everything_loses() {
        assert_eq!(search(0.0, vec![], |_, _, _| 0.5).0, 0.0);
        let never_long = |_, length, _| if length == Length::Long { 0.5 } else { 0.0 };
        assert_eq!(search(0.0, vec![], never_long).0, 0.0);
    }

    #[test]
    fn a_second_goal_uses_the_trials_of_the_first() {
        // Loses a little from 300,000 on and much from 600,000 on.
        let curve = |rate: f64, _, _| match rate {
            r if r > 600_000.0 => 0.1,
            r if r > 300_000.0 => 5e-5,
            _ => 0.0,
        };
        let (none, trials) = search(0.0, vec![], curve);
        let before = trials.len();
        let (some, trials) = search(1e-4, trials, curve);
        assert!((290_000.0..=300_000.0).contains(&none) && (590_000.0..=600_000.0).contains(&some));
        let (_, alone) = search(1e-4, vec![], curve);
        assert!(trials.len() - before < alone.len(), "{} of {}", trials.len() - before, alone.len());
        // Where nothing is lost up to a limit, both goals are the same rate, and
        // the second needs no trial at all.
        let (none, trials) = search(0.0, vec![], above(500_000.0));
        let before = trials.len();
        let (some, trials) = search(1e-4, trials, above(500_000.0));
        assert_eq!((none, before), (some, trials.len()));
    }
}
