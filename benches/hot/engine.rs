//! A whole turn of the engine, frame by frame, on ports without a device: what
//! the switch itself costs before any system call for a frame.
//!
//! Time runs until the sinks have counted every frame.
//!
//! Deliberately absent: the bridge alone (that is `bridge.rs`) and devices
//! (that is `vbench`).

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vswitch_hot::turns::Turns;

/// Longer than the pauses between two measurements.
const BUSY_POLL: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn time(turns: &Turns, frames: u64, copies: u64) -> Duration {
    let start = Instant::now();
    turns.run(frames, copies);
    start.elapsed()
}

/// From 64 stations on the first port to one station on each other port.
fn unicast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/unicast");
    group.throughput(Throughput::Elements(1));
    for (ports, len) in [(2, 60), (2, 1514), (16, 60), (256, 60)] {
        let turns = Turns::unicast(ports, len, BUSY_POLL);
        group.bench_function(BenchmarkId::new(format!("{ports} ports"), format!("{len} B")), |b| {
            b.iter_custom(|frames| time(&turns, frames, 1));
        });
    }
    group.finish();
}

/// Broadcasts to all other ports; the time is for a copy.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/flood");
    for ports in [3, 17, 256] {
        let turns = Turns::flood(ports, BUSY_POLL);
        let copies = u64::try_from(ports - 1).expect("256 at most");
        group.throughput(Throughput::Elements(copies));
        group.bench_function(BenchmarkId::from_parameter(format!("{ports} ports")), |b| {
            b.iter_custom(|frames| time(&turns, frames, copies));
        });
    }
    group.finish();
}

/// The same unicast with and without a capture of everything. Beside the engine's
/// core this takes another two, for the capture thread and its reader: on fewer, it
/// shows what they take from the engine.
fn captured(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/captured");
    group.throughput(Throughput::Elements(1));
    for len in [60, 1514] {
        for (what, turns) in [
            ("no capture", Turns::unicast(2, len, BUSY_POLL)),
            ("capture", Turns::unicast(2, len, BUSY_POLL).captured()),
        ] {
            group.bench_function(BenchmarkId::new(what, format!("{len} B")), |b| {
                b.iter_custom(|frames| time(&turns, frames, 1));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, unicast, flood, captured);
criterion_main!(benches);
