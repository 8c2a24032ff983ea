//! How many stations a switch holds, how fast it learns them, and what many of them
//! cost.
//!
//! Whether a station was learned shows when a frame is sent to it: what was not is
//! flooded, and a third port sees it. Stations of one trial are never those of
//! another, so that nothing that a switch keeps beside its table can answer for it.

use anyhow::{Result, ensure};
use vswitch::frame::MacAddr;
use vswitch_tests::flow::{Flow, Pace, Received, Until};

use super::{Bench, station_of};
use crate::measure::approximate;
use crate::measure::frames::load::{Lane, Load, station};
use crate::measure::frames::saturated;
use crate::measure::frames::search::{Length, Step, Trial, next};
use crate::record::{Figure, Unit};

/// RFC 2889 §5.7, address caching capacity; more are not offered.
pub(in crate::measure) const CAPACITY: &str = "addresses held as it comes, of 65536";
const OFFERED: u32 = 65_536;
/// RFC 2889 §5.8, address learning rate.
pub(in crate::measure) const LEARNING: &str = "learning rate, an address a frame";

/// Stations of a trial, fewer than what anybody holds, and of a confirming one.
const FEW: u32 = 2_000;
const MORE: u32 = 8_000;

/// Frames a second that nobody loses while he is taught or asked: for Open vSwitch
/// each new pair of stations is work for another thread.
const GENTLY: f64 = 20_000.0;
/// The same where a loss does no harm.
const BRISKLY: f64 = 150_000.0;

/// Where stations are, where they are asked for, and who sees what is flooded.
const HOME: usize = 0;
const ASKING: usize = 1;
const WITNESS: usize = 2;

/// Stations on both ports together.
const MANY: [u32; 3] = [10, 10_000, 1_000_000];

fn many_case(stations: u32) -> String {
    format!("60 B saturated, {stations} stations")
}

pub(super) fn many_cases() -> Vec<String> {
    MANY.map(many_case).into()
}

/// The rate between two ports with ever more stations behind both.
pub(super) fn many(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let Bench { wiring, fds, meter, effort, .. } = bench;
    let mut figures = Vec::new();
    for (trial, stations) in (2_000..).zip(MANY) {
        let case = many_case(stations);
        if !effort.wants(&case) {
            continue;
        }
        let each = stations / 2;
        // Two numbers apart, so that the ports' stations are not each other's.
        let (near, far) = (station(2 * trial), station(2 * trial + 1));
        let there = Flow::new(9, far, near, 60).with_stations(each, each);
        let back = there.clone().reversed();
        // Each side speaks once. What is lost is flooded, which with two ports is the
        // same.
        for (from, to, flow) in [(1, 0, back), (0, 1, there.clone())] {
            let pace = Pace::Rate(BRISKLY);
            Load::between(from, to, flow).send_until(fds, pace, Until::Count(u64::from(each)))?;
        }
        figures.push(saturated(&case, wiring, fds, &Load::between(0, 1, there), meter, *effort)?);
    }
    Ok(figures)
}

/// What is wanted of the table's size and speed.
pub(super) fn table(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if bench.effort.wants(CAPACITY) {
        let known = taught(bench, 1_000, OFFERED, Pace::Rate(GENTLY))?;
        let held = approximate(u64::from(known.held));
        figures.push(
            Figure::new(CAPACITY, Unit::Addresses, held).with("lost", approximate(u64::from(known.lost))),
        );
    }
    if bench.effort.wants(LEARNING) {
        figures.push(learning(bench)?);
    }
    Ok(figures)
}

/// The highest rate at which every new station is learned.
fn learning(bench: &Bench<'_>) -> Result<Figure> {
    let mut number = 1_001;
    let mut trial = |count, pace| {
        number += 1;
        taught(bench, number, count, pace)
    };
    // What is learned as fast as it can be sent needs no search.
    let full = trial(MORE, Pace::Saturate)?;
    let top = full.offered;
    let mut trials = Vec::new();
    let again = if full.held == MORE { Some(trial(MORE, Pace::Saturate)?) } else { None };
    let (rate, count) = if let Some(again) = again.filter(|again| again.held == MORE) {
        (f64::midpoint(full.rate, again.rate), 2)
    } else {
        loop {
            match next(&trials, 0.0, top) {
                Step::Done(rate) => break (rate, trials.len()),
                Step::Try(rate, length) => {
                    let count = if length == Length::Long { MORE } else { FEW };
                    let known = trial(count, Pace::Rate(rate))?;
                    let lost = 1.0 - approximate(u64::from(known.held)) / approximate(u64::from(count));
                    let lost = if known.rate > 0.97 * rate { lost } else { 1.0 };
                    trials.push(Trial { rate, length, lost });
                }
            }
        }
    };
    let count = approximate(u64::try_from(count)?);
    Ok(Figure::new(LEARNING, Unit::KiloframesPerSecond, rate / 1e3).with("trials", count))
}

/// What became of stations that a switch was taught.
struct Known {
    /// Those it sends to one port.
    held: u32,
    /// Those of which neither answer came.
    lost: u32,
    /// How many a second were taught: sent, and sent on. A switch that lets the frames
    /// wait has not learned from them yet.
    rate: f64,
    /// How many a second were sent.
    offered: f64,
}

/// Teaches an empty table `count` stations, whose number is `number`, at `pace`, and
/// asks for each.
fn taught(bench: &Bench<'_>, number: u16, count: u32, pace: Pace) -> Result<Known> {
    let Bench { wiring, running, fds, .. } = bench;
    running.flush(&wiring.switch_ns)?;
    let asking = station_of(ASKING);
    // The one who will ask is known, so that nothing that teaches is flooded.
    let first = Flow::new(8, MacAddr::BROADCAST, asking, 60);
    Load::between(ASKING, HOME, first).send_until(fds, Pace::Rate(100.0), Until::Count(2))?;
    let teach = Flow::new(9, asking, station(number), 60).with_stations(1, count);
    let ask = Flow::new(10, station(number), asking, 60).with_stations(count, 1);
    let all = Until::Count(u64::from(count));
    let teaching = Load::between(HOME, ASKING, teach).send_until(fds, pace, all)?;
    let offered = teaching.sent.rate();
    let ask = Load { lanes: vec![Lane { from: ASKING, to: vec![HOME, WITNESS], flow: ask }] };
    let arrived = ask.send_until(fds, Pace::Rate(GENTLY), all)?;
    let [home, witness] = &arrived.lanes[0][..] else { unreachable!("two ends") };
    ensure!(arrived.total.corrupted + arrived.total.duplicated == 0, "asking: {}", arrived.total);
    let (held, lost) = held(home, witness, count);
    Ok(Known { held, lost, rate: offered.min(teaching.total.rate()), offered })
}

/// Numbers below `count` that arrived at `home` alone, and that arrived nowhere.
fn held(home: &Received, witness: &Received, count: u32) -> (u32, u32) {
    let (mut held, mut lost) = (0, 0);
    for number in (0..count).map(u64::from) {
        match (home.has(number), witness.has(number)) {
            (true, false) => held += 1,
            (false, false) => lost += 1,
            (_, true) => {}
        }
    }
    (held, lost)
}
