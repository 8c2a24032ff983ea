//! Congestion control, RFC 2889 §5.5: whether a port that is too slow for what is
//! sent to it holds up what the same sender has for another one (head-of-line
//! blocking), and whether the senders are held up (back pressure).
//!
//! The slow port is a TAP behind a token bucket filter of half the rate that it is
//! sent; the load as a whole is half of what the switch does between two ports, so
//! that nothing but the slow port loses.

use anyhow::Result;
use vswitch_tests::flow::{Flow, Pace};

use super::{Bench, pair, station_of};
use crate::measure::approximate;
use crate::measure::frames::load::{Lane, Load};
use crate::record::{Figure, Unit};

pub(in crate::measure) const CASE: &str = "arrived at a free port beside a congested one";

/// Two senders, the congested port and the free one.
const FIRST: usize = 0;
const SECOND: usize = 1;
const CONGESTED: usize = 2;
const FREE: usize = 3;

/// Bits of a frame of 60 bytes, as the filter counts them.
const BITS: f64 = 60.0 * 8.0;

/// Both send to the congested port, one of them half to the free one.
fn load() -> Load {
    let lane = |id, from, to| {
        let flow = Flow::new(id, station_of(to), station_of(from), 60);
        Lane { from, to: vec![to], flow }
    };
    Load { lanes: vec![lane(11, FIRST, CONGESTED), lane(12, FIRST, FREE), lane(13, SECOND, CONGESTED)] }
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<Figure> {
    let Bench { wiring, fds, effort, .. } = bench;
    let top = pair(fds.len()).send(fds, Pace::Saturate, effort.run / 4)?.total.rate();
    let rate = top / 2.0;
    // Two thirds of the load are for the congested port.
    let bits = rate * 2.0 / 3.0 / 2.0 * BITS;
    let port = &wiring.ports[CONGESTED];
    let filter = format!("tbf rate {bits:.0}bit burst 16kb limit 64kb");
    wiring.switch_ns.run(&format!("tc qdisc add dev {port} root {filter}"))?;
    let arrived = load().send(fds, Pace::Rate(rate), effort.run);
    wiring.switch_ns.run(&format!("tc qdisc del dev {port} root"))?;
    let arrived = arrived?;
    arrived.check(CASE)?;
    let each = approximate(arrived.sent.frames) / 3.0;
    let share = |lanes: &[usize]| {
        let frames: u64 = lanes.iter().flat_map(|lane| &arrived.lanes[*lane]).map(|of| of.frames).sum();
        100.0 * approximate(frames) / (each * approximate(lanes.len() as u64))
    };
    // The last frame of a round may not have been sent.
    let figure = Figure::new(CASE, Unit::Percent, share(&[1]).min(100.0));
    Ok(figure
        .with("offered", rate / 1e3)
        .with("congested_percent", share(&[0, 2]))
        .with("refused", approximate(arrived.sent.retries)))
}
