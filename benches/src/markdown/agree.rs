//! Two runs of the same work: how many of the second one's ratios are within the noise
//! that the first one states, and which are not.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use vswitch_hot::stats::{Spread, spread};

use super::{by_case, digits, first, noise, range, ratio};
use crate::record::{Report, Sample};
use crate::rig::{RIGS, Rig};
use crate::subject::Subject;

/// One figure in both runs: a ratio of two subjects, or ours alone where nobody else
/// takes part.
struct Pair {
    rig: Rig,
    what: String,
    first: Spread,
    second: Spread,
    /// Of the first run.
    noise: Option<Spread>,
}

impl Pair {
    fn shift(&self) -> f64 {
        self.second.median / self.first.median
    }

    /// Whether each run's median is between the other's least and greatest: more than to
    /// be within the noise, which a single turn can make wide.
    fn is_between(&self) -> bool {
        let holds = |run: &Spread, value| (run.min..=run.max).contains(&value);
        holds(&self.first, self.second.median) && holds(&self.second, self.first.median)
    }

    /// Whether the noise explains the difference; `None`: nobody knows the noise. Which
    /// run comes first is chance, so it is as wide on either side.
    fn agrees(&self) -> Option<bool> {
        let noise = self.noise?;
        let most = noise.max.max(1.0 / noise.min);
        Some((1.0 / most..=most).contains(&self.shift()))
    }
}

/// The comparison in words, with a table of what does not agree.
///
/// # Errors
/// A quick look is held against a full run, or they have nothing in common.
pub(crate) fn render(first: &Report, second: &Report) -> Result<String> {
    ensure!(
        first.header.quick == second.header.quick,
        "a quick look and a full run measure other things: compare two of a kind"
    );
    let pairs: Vec<Pair> = RIGS.into_iter().flat_map(|rig| of(rig, first, second)).collect();
    let machine = |run: &Report| (run.header.cpu.clone(), run.header.cores, run.header.kernel.clone());
    ensure!(
        machine(first) == machine(second),
        "the records are of two machines: {} and {}",
        first.header.kernel,
        second.header.kernel
    );
    ensure!(!pairs.is_empty(), "the records have no figure in common: give two runs of the same rigs");
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, first, second, &pairs);
    Ok(out)
}

fn of(rig: Rig, first_run: &Report, second_run: &Report) -> Vec<Pair> {
    let [one, two] = [first_run, second_run]
        .map(|run| run.samples.iter().filter(|s| s.rig == rig.number()).collect::<Vec<&Sample>>());
    let two = by_case(&two);
    let mut pairs = Vec::new();
    for (case, rows) in by_case(&one) {
        let Some((_, others)) = two.iter().find(|(other, _)| *other == case) else { continue };
        let Some(ours) = first(&rows) else { continue };
        let pair = |what, first, second| Pair { rig, what, first, second, noise: noise(&rows) };
        let before = pairs.len();
        for peer in Subject::ALL.into_iter().filter(|peer| *peer != ours) {
            if let (Some(a), Some(b)) = (ratio(&rows, ours, peer), ratio(others, ours, peer)) {
                pairs.push(pair(format!("{case}: {} / {}", ours.name(), peer.name()), a, b));
            }
        }
        let alone = |rows: &[&Sample]| {
            spread(rows.iter().filter(|s| s.subject == ours).map(|s| s.figure.value).collect())
        };
        if pairs.len() == before
            && let (Some(a), Some(b)) = (alone(&rows), alone(others))
        {
            let unit = rows[0].figure.unit.name();
            pairs.push(pair(format!("{case}, {unit}"), a, b));
        }
    }
    pairs
}

fn write(out: &mut String, first: &Report, second: &Report, pairs: &[Pair]) -> std::fmt::Result {
    let run = |run: &Report| {
        format!("{} at commit {}, {} rounds", run.header.date, run.header.commit, run.header.rounds)
    };
    writeln!(out, "First run: {}. Second run: {}.\n", run(first), run(second))?;
    writeln!(
        out,
        "| topology | figures | agree within the noise | each within the other's range | median difference |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for rig in RIGS {
        let of: Vec<&Pair> = pairs.iter().filter(|pair| pair.rig == rig).collect();
        if !of.is_empty() {
            line(out, rig.title(), &of)?;
        }
    }
    line(out, "all", &pairs.iter().collect::<Vec<_>>())?;
    for (here, there, which) in [(first, second, "first"), (second, first, "second")] {
        let only = only_in(here, there);
        if !only.is_empty() {
            writeln!(out, "\nOnly in the {which} run: {}.", only.join("; "))?;
        }
    }
    let mut apart = pairs.iter().filter(|pair| pair.agrees() != Some(true)).peekable();
    if apart.peek().is_some() {
        writeln!(out, "\nThose that do not, or whose noise is not known:\n")?;
        writeln!(out, "| topology | figure | first | second | second / first | noise |")?;
        writeln!(out, "|---|---|---|---|---|---|")?;
    }
    for pair in apart {
        let noise = pair.noise.map_or_else(|| "–".into(), range);
        let [a, b] = [pair.first, pair.second]
            .map(|run| format!("{} ({}–{})", digits(run.median), digits(run.min), digits(run.max)));
        let (rig, what, shift) = (pair.rig.number(), &pair.what, pair.shift());
        writeln!(out, "| {rig} | {what} | {a} | {b} | {shift:.2} | {noise} |")?;
    }
    Ok(())
}

fn line(out: &mut String, title: &str, pairs: &[&Pair]) -> std::fmt::Result {
    let agree = pairs.iter().filter(|pair| pair.agrees() == Some(true)).count();
    // A factor is as far from 1 as its inverse.
    let apart = pairs.iter().map(|pair| 100.0 * (pair.shift().max(1.0 / pair.shift()) - 1.0)).collect();
    let apart = spread(apart).map_or(f64::NAN, |s| s.median);
    let between = pairs.iter().filter(|pair| pair.is_between()).count();
    writeln!(out, "| {title} | {} | {agree} | {between} | {apart:.0} % |", pairs.len())
}

/// What `here` has measured and `there` has not.
fn only_in(here: &Report, there: &Report) -> Vec<String> {
    let work = |s: &Sample| (s.rig, s.figure.case.clone(), s.subject);
    let known: BTreeSet<_> = there.samples.iter().map(work).collect();
    let mut only = Vec::new();
    for sample in here.samples.iter().filter(|s| !known.contains(&work(s))) {
        let what = format!("{} of {}", sample.figure.case, sample.subject.name());
        if !only.contains(&what) {
            only.push(what);
        }
    }
    only
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::tests::report;

    /// `report` with our figures multiplied.
    fn faster(factor: f64) -> Report {
        let mut report = report();
        for sample in report.samples.iter_mut().filter(|s| s.subject == Subject::Vswitch) {
            sample.figure.value *= factor;
        }
        report
    }

    #[test]
    fn a_run_agrees_with_itself_and_not_with_another_ratio() {
        let same = render(&report(), &report()).unwrap();
        assert!(same.contains("| all | 1 | 1 | 1 | 0 % |"), "{same}");
        assert!(!same.contains("not known"), "{same}");
        // The noise there is none at all.
        let other = render(&report(), &faster(1.25)).unwrap();
        assert!(other.contains("| all | 1 | 0 | 0 | 25 % |"), "{other}");
        let row =
            "| 1 | TCP: vswitch / kernel bridge | 0.80 (0.80–0.80) | 1.00 (1.00–1.00) | 1.25 | 1.00–1.00 |";
        assert!(other.contains(row), "{other}");
    }

    #[test]
    fn what_noise_explains_agrees_on_either_side() {
        let mut first = report();
        first.samples[3].figure.value = 10.0;
        let line = |factor| {
            let mut second = faster(factor);
            second.samples[3].figure.value = 10.0 * factor;
            render(&first, &second).unwrap()
        };
        for factor in [0.85, 1.0, 1.2] {
            assert!(line(factor).contains("| all | 1 | 1 |"), "{factor}: {}", line(factor));
        }
        assert!(line(1.3).contains("| all | 1 | 0 | 0 | 30 % |"), "{}", line(1.3));
    }

    #[test]
    fn nobody_else_is_needed_and_nothing_in_common_is_said() {
        let alone = |mut report: Report| {
            report.samples.retain(|s| s.subject == Subject::Vswitch);
            report
        };
        let text = render(&alone(report()), &report()).unwrap();
        assert!(text.contains("Only in the second run: TCP of kernel bridge."), "{text}");
        let text = render(&alone(report()), &alone(faster(2.0))).unwrap();
        assert!(text.contains("| 1 | TCP, Gbit/s |"), "{text}");
        let mut empty = report();
        empty.samples.clear();
        assert!(render(&report(), &empty).unwrap_err().to_string().contains("in common"));
        empty.header.quick = true;
        assert!(render(&report(), &empty).unwrap_err().to_string().contains("quick"));
        let mut other = report();
        other.header.cores += 1;
        assert!(render(&report(), &other).unwrap_err().to_string().contains("two machines"));
    }
}
