//! Where ours is behind a peer, in words: a table that has to be searched for its
//! bad rows hides them.

use std::fmt::Write as _;

use vswitch_hot::stats::Spread;

use super::{by_case, first, noise, ratio, rounds};
use crate::record::{Sample, Unit};
use crate::subject::Subject;

/// How ours stands beside a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Behind in the median of the rounds, and by more than the noise or in each round.
    Behind,
    /// Behind in the median, as the noise might have it, or nobody knows the noise.
    Perhaps,
    NotBehind,
}

/// Rounds that say something if all of them say the same.
const ROUNDS_MIN: usize = 3;

fn standing(ratio: Spread, rounds: usize, noise: Option<Spread>, unit: Unit) -> Standing {
    // Of figures that are better when they are less, the inverse.
    let is_better_greater = unit.is_better_greater();
    let ours = if is_better_greater { ratio.median } else { 1.0 / ratio.median };
    let best = if is_better_greater { ratio.max } else { 1.0 / ratio.min };
    // Which of two turns comes first is chance: noise is as wide on either side.
    let least = noise.map(|noise| noise.min.min(1.0 / noise.max));
    // 1.00 as it is shown.
    if ours >= 0.995 {
        Standing::NotBehind
    } else if least.is_some_and(|least| ours < least) || (rounds >= ROUNDS_MIN && best < 0.995) {
        Standing::Behind
    } else {
        Standing::Perhaps
    }
}

/// A sentence for each peer that ours is behind.
pub(super) fn write(out: &mut String, samples: &[&Sample], subjects: &[Subject]) -> std::fmt::Result {
    for peer in subjects.iter().filter(|subject| !subject.is_ours()) {
        let (mut clearly, mut perhaps) = (Vec::new(), Vec::new());
        for (case, rows) in by_case(samples) {
            let Some(ours) = first(&rows) else { continue };
            let Some(ratio) = ratio(&rows, ours, *peer) else { continue };
            let entry = format!("{case} ({:.2})", ratio.median);
            let standing = standing(ratio, rounds(&rows, ours).len(), noise(&rows), rows[0].figure.unit);
            match standing {
                Standing::Behind => clearly.push(entry),
                Standing::Perhaps => perhaps.push(entry),
                Standing::NotBehind => {}
            }
        }
        if clearly.is_empty() && perhaps.is_empty() {
            continue;
        }
        write!(out, "\n*Behind {}*", peer.name())?;
        if !clearly.is_empty() {
            write!(out, " by more than the noise, or in every round: {}.", clearly.join("; "))?;
        }
        if !perhaps.is_empty() {
            write!(out, " Within the noise, or with none known: {}.", perhaps.join("; "))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::tests::report;

    fn spread(min: f64, median: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn behind_is_less_of_a_rate_and_more_of_a_time() {
        let noise = Some(spread(0.9, 1.0, 1.05));
        let rate = |median| standing(spread(0.1, median, 2.0), 5, noise, Unit::GbitPerSecond);
        let time = |median| standing(spread(0.1, median, 20.0), 5, noise, Unit::Microseconds);
        assert_eq!([0.8, 0.95, 1.2].map(rate), [Standing::Behind, Standing::Perhaps, Standing::NotBehind]);
        assert_eq!([1.3, 1.05, 0.8].map(time), [Standing::Behind, Standing::Perhaps, Standing::NotBehind]);
        assert_eq!(standing(spread(0.5, 0.5, 0.5), 2, None, Unit::Percent), Standing::Perhaps);
        // Within a wide noise, but never once ahead.
        let wide = Some(spread(0.5, 1.0, 2.0));
        let each = |rounds| standing(spread(0.85, 0.88, 0.94), rounds, wide, Unit::GbitPerSecond);
        assert_eq!([each(3), each(2)], [Standing::Behind, Standing::Perhaps]);
        assert_eq!(standing(spread(1.1, 1.2, 1.3), 3, wide, Unit::Microseconds), Standing::Behind);
    }

    #[test]
    fn the_table_says_it() {
        let report = report();
        let samples: Vec<&Sample> = report.samples.iter().collect();
        let mut out = String::new();
        write(&mut out, &samples, &[Subject::Vswitch, Subject::Bridge]).unwrap();
        assert_eq!(out, "\n*Behind kernel bridge* by more than the noise, or in every round: TCP (0.80).\n");
    }
}
