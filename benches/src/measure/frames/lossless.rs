//! Rates without loss, or with next to none, and the one-way latency at shares of
//! them.
//!
//! Latency runs from the time at which a frame was due, not from when it was sent:
//! a switch that stalls the generator cannot hide it.

use anyhow::Result;
use vswitch_tests::flow::{Device, Pace};

use super::load::Load;
use super::search::{Length, Step, Trial, next};
use crate::measure::{Effort, approximate};
use crate::record::{Figure, GENERATOR_LATE, Unit};

const WITHOUT_LOSS: &str = "60 B without loss";
const NEXT_TO_NONE: &str = "60 B, loss up to 1e-4";
const GOALS: [(&str, f64); 2] = [(WITHOUT_LOSS, 0.0), (NEXT_TO_NONE, 1e-4)];

/// Percent of the rate without loss at which latency is measured.
const SHARES: [u32; 3] = [10, 50, 90];
/// Frames a second at which it is measured too: the same for everybody.
const STEADY: f64 = 50_000.0;
/// Shown in the table; the record has more.
const PERCENTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// A rate at which a frame takes as long is none that a switch carries: 100 ms.
const WAIT_MAX_NS: u64 = 100_000_000;

/// Frames a second of the slowest latency trial.
const RATE_MIN: f64 = 100.0;

/// How much is sent while latency is measured.
#[derive(Clone, Copy)]
enum Offered {
    /// Percent of what the one who is measured carries without loss.
    Share(u32),
    Steady,
}

fn latency_case(percentile: &str, offered: Offered) -> String {
    match offered {
        Offered::Share(share) => {
            format!("one-way latency {percentile} at {share} % of its own lossless rate")
        }
        Offered::Steady => format!("one-way latency {percentile} at {STEADY} frames/s"),
    }
}

fn latency_cases(offered: Offered) -> [String; 2] {
    PERCENTILES.map(|(percentile, _)| latency_case(percentile, offered))
}

/// Of the cases that begin with a search.
fn searched_cases() -> Vec<String> {
    let mut cases: Vec<String> = GOALS.map(|(case, _)| case.to_owned()).into();
    cases.extend(SHARES.into_iter().flat_map(|share| latency_cases(Offered::Share(share))));
    cases
}

/// Every case there is.
pub(super) fn cases() -> Vec<String> {
    [searched_cases(), latency_cases(Offered::Steady).into()].concat()
}

/// What the generator alone could make of the searches, if it makes `rate`.
pub(super) fn limits(rate: f64, effort: Effort<'_>) -> Vec<(String, f64)> {
    let wanted = GOALS.into_iter().filter(|(case, _)| effort.wants(case));
    wanted.map(|(case, _)| (case.to_owned(), rate)).collect()
}

/// Every figure that is wanted.
pub(super) fn measure(fds: &[Device], effort: Effort<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if effort.wants_one(latency_cases(Offered::Steady)) {
        figures.extend(latency(STEADY, Offered::Steady, fds, effort)?);
    }
    if !effort.wants_one(searched_cases()) {
        return Ok(figures);
    }
    let load = Load::plain(60);
    let length = |length| if length == Length::Long { effort.run * 2 } else { effort.run / 2 };
    let top = load.send_timed(fds, Pace::Saturate, length(Length::Short))?;
    top.check(WITHOUT_LOSS)?;
    // Frames wait in the TAP at the end of a short trial: it may take a rate that a
    // saturated one does not reach.
    let top = top.total.rate() * 1.2;
    let mut trials = Vec::new();
    let mut search = |goal: f64| -> Result<(f64, usize)> {
        loop {
            match next(&trials, goal, top) {
                Step::Done(rate) => return Ok((rate, trials.len())),
                Step::Try(rate, how_long) => {
                    let arrived = load.send_timed(fds, Pace::Rate(rate), length(how_long))?;
                    // A switch that is too slow may hold all of a trial in its buffers.
                    let was_on_time =
                        arrived.sent.rate() > 0.97 * rate && arrived.total.latency_ns.max() < WAIT_MAX_NS;
                    let lost = if was_on_time { arrived.lost_share() } else { 1.0 };
                    trials.push(Trial { rate, length: how_long, lost });
                }
            }
        }
    };
    let (lossless, _) = search(0.0)?;
    for (case, goal) in GOALS {
        if effort.wants(case) {
            let (rate, trials) = search(goal)?;
            let trials = approximate(u64::try_from(trials)?);
            figures.push(Figure::new(case, Unit::KiloframesPerSecond, rate / 1e3).with("trials", trials));
        }
    }
    for share in SHARES {
        let offered = Offered::Share(share);
        if effort.wants_one(latency_cases(offered)) {
            let rate = (lossless * f64::from(share) / 100.0).max(RATE_MIN);
            figures.extend(latency(rate, offered, fds, effort)?);
        }
    }
    Ok(figures)
}

fn latency(rate: f64, offered: Offered, fds: &[Device], effort: Effort<'_>) -> Result<Vec<Figure>> {
    let arrived = Load::plain(60).send_timed(fds, Pace::Rate(rate), effort.run)?;
    arrived.check(&latency_case("", offered))?;
    let at = |q| approximate(arrived.total.latency_ns.value_at_quantile(q)) / 1e3;
    let figure = |(name, q)| {
        let mut figure = Figure::new(latency_case(name, offered), Unit::Microseconds, at(q));
        // The generator's own share of it.
        let late = approximate(arrived.sent.late_ns.value_at_quantile(q)) / 1e3;
        figure = figure.with(GENERATOR_LATE, late);
        for (name, q) in [("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            figure = figure.with(name, at(q));
        }
        figure.with("lost", approximate(arrived.lost())).with("offered", rate / 1e3)
    };
    Ok(PERCENTILES.into_iter().map(figure).filter(|figure| effort.wants(&figure.case)).collect())
}
