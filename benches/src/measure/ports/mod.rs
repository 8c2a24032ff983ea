//! Figures of a switch with many ports and stations, most of them after RFC 2889:
//! full mesh, congestion, broadcast, the table's size and how fast it fills, and how
//! the rate between two ports depends on how many others and stations there are.
//!
//! One generator sends to all ports by turns and one sink reads all of them: more
//! threads would measure the scheduler of a machine with few cores.
//!
//! Read first: [`frames::load`](super::frames::load), then [`stations`] and
//! [`congestion`].

mod congestion;
mod stations;

use anyhow::{Context as _, Result};
use vswitch::frame::MacAddr;
use vswitch_tests::flow::{Device, Flow};

use super::frames::load::{Lane, Load, station};
use super::frames::saturated;
use super::{Effort, Meter, approximate};
use crate::record::Figure;
use crate::rig::COUNTS;
use crate::subject::Running;
use crate::wiring::Wiring;

pub(super) use self::congestion::CASE as CONGESTION;
pub(super) use self::stations::{CAPACITY, LEARNING};

/// RFC 2889 §5.1, throughput with a full mesh.
pub(super) const MESH: &str = "60 B saturated, full mesh of 4 ports";
/// RFC 2889 §5.10, broadcast frame forwarding.
pub(super) const BROADCAST: &str = "broadcast from one to 15 ports, copies";

/// Ports of the switch in each of them.
const MESH_PORTS: usize = 4;
const BROADCAST_PORTS: usize = 16;

/// A switch with two ports is measured with many stations.
const STATION_PORTS: usize = 2;

/// A switch with ports, and how its figures are taken.
struct Bench<'a> {
    wiring: &'a Wiring,
    running: &'a Running,
    fds: &'a [Device],
    meter: &'a Meter,
    effort: Effort<'a>,
}

fn pair_case(count: usize) -> String {
    format!("60 B saturated, between two of {count} ports")
}

/// Every case with `count` ports.
pub(super) fn cases(count: usize) -> Vec<String> {
    let mut cases = Vec::new();
    if count != MESH_PORTS {
        cases.push(pair_case(count));
    }
    if count == STATION_PORTS {
        cases.extend(stations::many_cases());
    }
    if count == MESH_PORTS {
        cases.extend([MESH, CONGESTION, CAPACITY, LEARNING].map(String::from));
    }
    if count == BROADCAST_PORTS {
        cases.push(BROADCAST.into());
    }
    cases
}

/// Whether the switch's tables should be as large as they can be made, with `count`
/// ports.
pub(crate) const fn needs_large_tables(count: usize) -> bool {
    count == STATION_PORTS
}

/// Every figure that is wanted of the switch that runs.
pub(super) fn measure(
    wiring: &Wiring,
    running: &Running,
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Vec<Figure>> {
    let fds = wiring.fds().context("ports without descriptors")?;
    let bench = Bench { wiring, running, fds, meter, effort };
    let count = fds.len();
    let mut figures = Vec::new();
    let loads = [
        (pair_case(count), count != MESH_PORTS, pair as fn(usize) -> Load),
        (MESH.into(), count == MESH_PORTS, mesh),
        (BROADCAST.into(), count == BROADCAST_PORTS, broadcast),
    ];
    for (case, is_here, load) in loads {
        if is_here && effort.wants(&case) {
            figures.push(saturated(&case, wiring, fds, &load(count), meter, effort)?);
        }
    }
    if count == MESH_PORTS {
        if effort.wants(CONGESTION) {
            figures.push(congestion::measure(&bench)?);
        }
        figures.extend(stations::table(&bench)?);
    }
    if count == STATION_PORTS {
        figures.extend(stations::many(&bench)?);
    }
    Ok(figures)
}

/// What the generator could make of the cases that are wanted, if it alone makes
/// `rate`, in thousands of 60-byte frames a second.
pub(crate) fn limits(rate: f64, effort: Effort<'_>) -> Vec<(String, f64)> {
    let mut cases: Vec<(String, f64)> = COUNTS
        .into_iter()
        .flat_map(cases)
        .filter(|case| case != CONGESTION && case != CAPACITY)
        .map(|case| (case, rate))
        .collect();
    for (case, rate) in &mut cases {
        if case == BROADCAST {
            // Each frame becomes so many.
            *rate *= approximate(BROADCAST_PORTS as u64 - 1);
        }
    }
    cases.retain(|(case, _)| effort.wants(case));
    cases
}

/// The TAP's number in `station`, which counts from 1.
fn station_of(port: usize) -> MacAddr {
    station(u16::try_from(port + 1).unwrap_or(u16::MAX))
}

/// From the first to the last of `count` ports.
fn pair(count: usize) -> Load {
    let last = count - 1;
    Load::between(0, last, Flow::new(4, station_of(last), station_of(0), 60))
}

/// From each of `count` ports to each other one.
fn mesh(count: usize) -> Load {
    let mut lanes = Vec::new();
    // The generator goes round all ports before it comes to the same one again.
    for further in 1..count {
        for from in 0..count {
            let to = (from + further) % count;
            let id = u16::try_from(from * count + to).unwrap_or(u16::MAX);
            let flow = Flow::new(id, station_of(to), station_of(from), 60);
            lanes.push(Lane { from, to: vec![to], flow });
        }
    }
    Load { lanes }
}

/// From the first of `count` ports to all others.
fn broadcast(count: usize) -> Load {
    let flow = Flow::new(4, MacAddr::BROADCAST, station_of(0), 60);
    Load { lanes: vec![Lane { from: 0, to: (1..count).collect(), flow }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_has_each_pair_once_in_each_direction() {
        let mut pairs: Vec<_> = mesh(4).lanes.iter().map(|lane| (lane.from, lane.to[0])).collect();
        pairs.sort_unstable();
        let all: Vec<_> = (0..4).flat_map(|a| (0..4).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
        assert_eq!(pairs, all);
        let mut ids: Vec<u16> = mesh(4).lanes.iter().map(|lane| lane.flow.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 12);
    }

    #[test]
    fn a_broadcast_goes_to_all_but_its_own() {
        assert_eq!(broadcast(16).lanes[0].to, (1..16).collect::<Vec<_>>());
    }
}
