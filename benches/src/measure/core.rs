//! Figures of the decision alone: no input, no output, so no peers either. How
//! its cost grows with ports and stations is what they show.

use std::time::{Duration, Instant};

use anyhow::Result;
use vswitch::bridge::{BURST, FlushScope, Time};
use vswitch_hot::stations::{Random, Rig};

use super::{Effort, approximate};
use crate::interrupt;
use crate::record::{Figure, Unit};

/// The greatest table, with room for the most stations below.
const FDB_SIZE: u32 = 1_048_575;
const STATIONS: [usize; 3] = [10, 10_000, 1_000_000];
const PORTS: [usize; 3] = [2, 16, 256];

/// Stations of whom nearly each frame is the first in a tick.
const SELDOM: &str = "known unicast, 256 ports, 1000000 stations, each seldom heard";
const LEARNED: &str = "new stations learned";
const SWEPT: &str = "sweep of aged stations, an entry";

fn unicast_case(ports: usize, stations: usize) -> String {
    format!("known unicast, {ports} ports, {stations} stations")
}

fn flood_case(ports: usize) -> String {
    format!("broadcast to {} ports, a copy", ports - 1)
}

/// Every case there is.
pub(super) fn cases() -> Vec<String> {
    let unicast = |ports: usize| STATIONS.map(|stations| unicast_case(ports, stations));
    let mut cases: Vec<String> = PORTS.into_iter().flat_map(unicast).collect();
    cases.extend(PORTS.map(flood_case));
    cases.extend([SELDOM, LEARNED, SWEPT].map(String::from));
    cases
}

/// Every figure.
pub(crate) fn all(effort: Effort<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for ports in PORTS {
        for stations in STATIONS {
            let case = unicast_case(ports, stations);
            if effort.wants(&case) {
                figures.push(known(case, ports, stations, effort)?);
            }
        }
    }
    if effort.wants(SELDOM) {
        figures.push(seldom(effort)?);
    }
    if effort.wants(LEARNED) {
        figures.push(learned(effort)?);
    }
    for ports in PORTS {
        let case = flood_case(ports);
        if effort.wants(&case) {
            figures.push(flood(case, ports, effort)?);
        }
    }
    if effort.wants(SWEPT) {
        figures.push(swept(effort)?);
    }
    Ok(figures)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(work: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Runs `step`, which returns what it did and how long it took, for a part of
/// the length of a run; returns the time of one in ns.
fn repeat(effort: Effort<'_>, mut step: impl FnMut() -> (u64, Duration)) -> Result<f64> {
    let length = effort.run / 5;
    // The first steps fill caches, and count for nothing.
    for _ in 0..100 {
        step();
    }
    let (mut done, mut spent) = (0, Duration::ZERO);
    while spent < length {
        interrupt::check()?;
        let (more, took) = step();
        (done, spent) = (done + more, spent + took);
    }
    Ok(spent.as_secs_f64() * 1e9 / approximate(done))
}

fn known(case: String, ports: usize, stations: usize, effort: Effort<'_>) -> Result<Figure> {
    let mut rig = Rig::with_stations(ports, stations, time);
    // A run is far shorter than it takes until all have been heard: it begins in the
    // middle of a tick.
    rig.hear_all();
    let each = repeat(effort, || (BURST as u64, rig.unicast(BURST as u64)))?;
    Ok(Figure::new(case, Unit::Nanoseconds, each))
}

fn seldom(effort: Effort<'_>) -> Result<Figure> {
    let mut rig = Rig::with_stations(256, 1_000_000, time);
    let frames = 1000 * BURST as u64;
    let each = repeat(effort, || (frames, rig.seldom(frames)))?;
    Ok(Figure::new(SELDOM, Unit::Nanoseconds, each))
}

fn learned(effort: Effort<'_>) -> Result<Figure> {
    let mut rig = Rig::new(2, FDB_SIZE, time);
    let each = repeat(effort, || {
        if rig.bridge.fdb_len() > FDB_SIZE / 2 {
            rig.bridge.fdb_flush(&FlushScope::default());
        }
        (BURST as u64, rig.strangers(BURST as u64))
    })?;
    Ok(Figure::new(LEARNED, Unit::MegaframesPerSecond, 1e3 / each))
}

fn flood(case: String, ports: usize, effort: Effort<'_>) -> Result<Figure> {
    let mut rig = Rig::with_stations(ports, ports, time);
    let copies = (ports - 1) as u64;
    let each = repeat(effort, || (BURST as u64 * copies, rig.broadcasts(BURST as u64)))?;
    Ok(Figure::new(case, Unit::Nanoseconds, each))
}

/// Stations that are all too old, found and taken out.
fn swept(effort: Effort<'_>) -> Result<Figure> {
    let late = Time::from_secs(1000);
    let mut rig = Rig::new(2, FDB_SIZE, time);
    let each = repeat(effort, || {
        if rig.bridge.fdb_len() == 0 {
            rig.stations.iter_mut().for_each(Vec::clear);
            let mut random = Random(1);
            rig.teach((0..100_000).map(|_| random.mac()));
        }
        let before = rig.bridge.fdb_len();
        let spent = rig.sweep(late);
        (u64::from(before - rig.bridge.fdb_len()), spent)
    })?;
    Ok(Figure::new(SWEPT, Unit::Nanoseconds, each))
}
