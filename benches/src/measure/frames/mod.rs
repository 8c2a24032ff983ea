//! Figures between two TAPs whose file descriptors we hold, as QEMU would:
//! saturated rates, rates without loss, one-way latency under load, and the
//! round trip of single frames.
//!
//! Read in this order: [`load`] (what is sent), [`trip`], [`search`] (pure),
//! [`lossless`].

pub(crate) mod load;
mod lossless;
pub(super) mod search;
mod trip;

use anyhow::Result;
use vswitch_tests::flow::{Device, Pace, Until, generate_in_turn};
use vswitch_tests::netns::Netns;

use self::load::{Load, SUPER_LEN};
use super::{Effort, Meter, approximate, captured};
use crate::record::{Figure, Unit};
use crate::subject::{Running, Subject};
use crate::wiring::Wiring;

/// RFC 2544 §9.1 in the lengths of TAPs: without the four bytes of the FCS.
const LENGTHS: [usize; 7] = [60, 124, 252, 508, 1020, 1276, 1514];

const WITH_HEADER: &str = "60 B saturated, virtio-net header";
const SUPER: &str = "64 KiB super-frames saturated";
const MIX: &str = "IMIX saturated";

/// What is sent as fast as it goes.
fn loads(offloads: bool) -> Vec<(String, Load)> {
    if offloads {
        return vec![(WITH_HEADER.into(), Load::plain(60)), (SUPER.into(), Load::super_frames())];
    }
    let of_length = |len| (format!("{len} B saturated"), Load::plain(len));
    let mut loads: Vec<(String, Load)> = LENGTHS.into_iter().map(of_length).collect();
    loads.push((MIX.into(), Load::mix()));
    loads
}

/// Every case there is.
pub(super) fn cases(offloads: bool) -> Vec<String> {
    let mut cases: Vec<String> = loads(offloads).into_iter().map(|(case, _)| case).collect();
    if !offloads {
        cases.push(trip::CASE.into());
        cases.push(captured::case(SHORT));
        cases.extend(lossless::cases());
    }
    cases
}

pub(super) fn measure(
    wiring: &Wiring,
    (subject, running): (Subject, &Running),
    fds: &[Device],
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (case, load) in loads(wiring.offloads) {
        if effort.wants(&case) {
            figures.push(saturated(&case, wiring, fds, &load, meter, effort)?);
        }
    }
    if !wiring.offloads {
        if effort.wants(trip::CASE) {
            figures.push(trip::measure(fds, effort)?);
        }
        let case = captured::case(SHORT);
        if captured::is_of(&case, subject) && effort.wants(&case) {
            let load = Load::plain(60);
            let rate = || {
                let arrived = load.send(fds, Pace::Saturate, effort.run)?;
                arrived.check(&case)?;
                Ok(arrived.total.rate())
            };
            figures.push(captured::measure(&case, running, rate)?);
        }
        figures.extend(lossless::measure(fds, effort)?);
    }
    Ok(figures)
}

/// What short frames are called when they saturate a TAP.
pub(crate) const SHORT: &str = "60 B saturated";

/// Rate at which the generator writes each load that is wanted, and short frames in
/// any case, with nobody behind the TAP.
pub(crate) fn generator_alone(effort: Effort<'_>) -> Result<Vec<(String, f64)>> {
    let mut rates = Vec::new();
    for offloads in [false, true] {
        let mut loads = loads(offloads);
        loads.retain(|(case, _)| case == SHORT || effort.wants(case));
        if loads.is_empty() {
            continue;
        }
        let ns = Netns::new("gen")?;
        let device = if offloads { Device::tap_with_offloads(&ns, "t0") } else { Device::tap(&ns, "t0") }?;
        ns.up("t0")?;
        ns.wait_running("t0")?;
        for (case, load) in loads {
            let lanes: Vec<_> = load.lanes.iter().map(|lane| (&device, &lane.flow)).collect();
            let sent = generate_in_turn(&lanes, Pace::Saturate, Until::Elapsed(effort.run / 2), None)?;
            rates.push((case, value(&load, sent.rate()).1));
        }
    }
    Ok(rates)
}

/// What the generator could make of searches for a rate without loss, if it alone makes
/// `rate`, in thousands of 60-byte frames a second.
pub(crate) fn limits(rate: f64, effort: Effort<'_>) -> Vec<(String, f64)> {
    lossless::limits(rate, effort)
}

/// How `rate` frames of `load` a second are shown.
fn value(load: &Load, rate: f64) -> (Unit, f64) {
    if load.is_of_super_frames() {
        let bits = approximate(u64::try_from(SUPER_LEN).unwrap_or(u64::MAX)) * 8.0;
        (Unit::GbitPerSecond, rate * bits / 1e9)
    } else {
        (Unit::KiloframesPerSecond, rate / 1e3)
    }
}

/// What arrives of `load` at full speed, and what a frame of it costs.
pub(super) fn saturated(
    case: &str,
    wiring: &Wiring,
    fds: &[Device],
    load: &Load,
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Figure> {
    // Each end once, by its interface: where a TAP's loss in silence shows.
    let mut ends: Vec<usize> = load.lanes.iter().flat_map(|lane| lane.to.iter().copied()).collect();
    ends.sort_unstable();
    ends.dedup();
    let dropped = || -> Result<u64> {
        ends.iter().map(|end| Ok(wiring.switch_ns.device(&wiring.ports[*end])?.tx_dropped())).sum()
    };
    let before = dropped()?;
    let (arrived, cpu) = meter.time(|| load.send(fds, Pace::Saturate, effort.run))?;
    arrived.check(case)?;
    let total = &arrived.total;
    let (unit, value) = value(load, total.rate());
    let is_super = load.is_of_super_frames();
    let per = if is_super { approximate(total.bytes) / 1024.0 } else { approximate(total.frames) };
    let mut figure = Figure::new(case, unit, value)
        .with("offered", arrived.sent.rate() / 1e3)
        .with("lost_percent", 100.0 * arrived.lost_share())
        .with("tx_dropped", approximate(dropped()?.saturating_sub(before)));
    if is_super {
        figure = figure.with("whole", approximate(total.super_frames));
    }
    figure.cpu_ns = Some(cpu / per);
    Ok(figure)
}
