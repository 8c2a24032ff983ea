//! Congestion control, RFC 2889 §5.5: whether a port that is too slow for what is
//! sent to it holds up what the same sender has for another one (head-of-line
//! blocking), and whether the senders are held up (back pressure).
//!
//! The slow port is a TAP behind a token bucket filter of half the rate that it is
//! sent, or of less until it loses: a figure beside a port that was not congested
//! would say nothing. The load as a whole is half of what the switch does
//! between two ports, so that nothing but the slow port loses.

use anyhow::{Result, bail};
use vswitch_tests::flow::{Flow, Pace};

use super::{Bench, pair, station_of};
use crate::measure::approximate;
use crate::measure::frames::load::{Arrived, Lane, Load};
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

/// Beyond this the port was not congested: a generator that is held up by the machine
/// offers less than it was told to.
const CONGESTED_MAX: f64 = 80.0;
const TRIES: u32 = 4;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Figure> {
    let Bench { wiring, fds, effort, .. } = bench;
    let top = pair(fds.len()).send(fds, Pace::Saturate, effort.run / 4)?.total.rate();
    let rate = top / 2.0;
    let offered = load().send(fds, Pace::Rate(rate), effort.run / 4)?.sent.rate();
    let port = &wiring.ports[CONGESTED];
    // Two thirds of the load are for the congested port.
    let mut through = offered * 2.0 / 3.0 / 2.0;
    for _ in 0..TRIES {
        let filter = format!("tbf rate {:.0}bit burst 16kb limit 64kb", through * BITS);
        wiring.switch_ns.run(&format!("tc qdisc add dev {port} root {filter}"))?;
        let arrived = load().send(fds, Pace::Rate(rate), effort.run);
        wiring.switch_ns.run(&format!("tc qdisc del dev {port} root"))?;
        let arrived = arrived?;
        arrived.check(CASE)?;
        if share(&arrived, &[0, 2]) < CONGESTED_MAX {
            // The last frame of a round may not have been sent.
            return Ok(Figure::new(CASE, Unit::Percent, share(&arrived, &[1]).min(100.0))
                .with("offered", arrived.sent.rate() / 1e3)
                .with("congested_percent", share(&arrived, &[0, 2]))
                .with("refused", approximate(arrived.sent.retries)));
        }
        through /= 2.0;
    }
    bail!("{CASE}: port {port} would not be congested")
}

/// Percent of what was sent on `lanes` that arrived.
fn share(arrived: &Arrived, lanes: &[usize]) -> f64 {
    let frames: u64 = lanes.iter().flat_map(|lane| &arrived.lanes[*lane]).map(|of| of.frames).sum();
    let each = approximate(arrived.sent.frames) / 3.0;
    100.0 * approximate(frames) / (each * approximate(lanes.len() as u64))
}
