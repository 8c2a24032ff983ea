//! What one frame costs in the bridge, without any input or output, in bursts
//! of 64: known unicast with uniformly random stations on both sides (so that
//! every frame refreshes a random entry and looks up another), new stations,
//! floods, and addresses chosen to collide.
//!
//! `cargo bench -p vswitch-bench --bench bridge`; a figure is the time of one
//! frame. Only the call is timed; making the burst is not.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vswitch::bridge::{BURST, FlushScope, Time};
use vswitch::frame::MacAddr;
use vswitch_hot::stations::{Random, Rig};

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(work: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn known_unicast(c: &mut Criterion) {
    let mut group = c.benchmark_group("known_unicast");
    group.throughput(Throughput::Elements(1));
    for ports in [2, 16, 256] {
        for macs in [10, 10_000, 1_000_000] {
            let mut rig = Rig::with_stations(ports, macs, time);
            group.bench_function(BenchmarkId::new(format!("{ports}_ports"), macs), |b| {
                b.iter_custom(|frames| rig.unicast(frames));
            });
        }
    }
    group.finish();
}

/// Known unicast of stations that are seldom heard: nearly each frame is the first
/// in a tick from its source, and puts it in the order of ages anew.
fn seldom_heard(c: &mut Criterion) {
    let mut group = c.benchmark_group("seldom_heard");
    group.throughput(Throughput::Elements(1));
    for macs in [10_000, 1_000_000] {
        let mut rig = Rig::with_stations(16, macs, time);
        group.bench_function(BenchmarkId::new("16_ports", macs), |b| {
            b.iter_custom(|frames| {
                let (mut left, mut spent) = (frames, Duration::ZERO);
                while left > 0 {
                    let some = left.min(macs as u64 / 8);
                    spent += rig.seldom(some);
                    left -= some;
                }
                spent
            });
        });
    }
    group.finish();
}

fn new_stations(c: &mut Criterion) {
    let mut group = c.benchmark_group("new_stations");
    group.throughput(Throughput::Elements(1));
    for fdb_size in [8192u32, 1_048_575] {
        // Two full tables' worth of room is never used: the rig is emptied
        // before it is full, outside the measured time.
        let mut rig = Rig::new(2, fdb_size, time);
        group.bench_function(BenchmarkId::new("learned_into", fdb_size), |b| {
            b.iter_custom(|frames| {
                let mut spent = Duration::ZERO;
                for _ in 0..frames.div_ceil(BURST as u64) {
                    if rig.bridge.fdb_len() + 64 > fdb_size / 2 {
                        rig.bridge.fdb_flush(&FlushScope::default());
                    }
                    spent += rig.strangers(1);
                }
                spent
            });
        });
        let mut rig = Rig::new(2, fdb_size, time);
        rig.fill(fdb_size);
        group.bench_function(BenchmarkId::new("refused_by_full", fdb_size), |b| {
            b.iter_custom(|frames| rig.strangers(frames));
        });
    }
    group.finish();
}

fn flood(c: &mut Criterion) {
    let mut group = c.benchmark_group("flood");
    group.throughput(Throughput::Elements(1));
    for ports in [2, 16, 256] {
        let mut rig = Rig::new(ports, 8192, time);
        let mut random = Random(1);
        rig.teach((0..ports).map(|_| random.mac()));
        group.bench_function(BenchmarkId::new("broadcast_to", ports), |b| {
            b.iter_custom(|frames| rig.broadcasts(frames));
        });
    }
    group.finish();
}

/// One call of the sweep that finds its fill: 256 entries taken out of a
/// table of a million, random in memory.
fn sweep(c: &mut Criterion) {
    let mut rig = Rig::new(16, 1_048_575, time);
    let mut random = Random(1);
    let macs: Vec<MacAddr> = (0..1_000_000).map(|_| random.mac()).collect();
    c.bench_function("sweep/256_of_1000000", |b| {
        b.iter_custom(|calls| {
            let mut spent = Duration::ZERO;
            for _ in 0..calls {
                if rig.bridge.fdb_len() < 256 {
                    rig.stations = vec![Vec::new(); 16];
                    rig.teach(macs.iter().copied());
                }
                spent += rig.sweep(Time::from_secs(1000));
            }
            spent
        });
    });
}

/// A05: addresses that all fall into one in 1,024 under a hash without a
/// secret cost what random ones do.
fn colliding(c: &mut Criterion) {
    let mut group = c.benchmark_group("colliding");
    group.throughput(Throughput::Elements(1));
    let mut random = Random(1);
    let chosen: Vec<MacAddr> = std::iter::repeat_with(|| random.mac())
        .filter(|mac| mac.to_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54 == 0)
        .take(10_000)
        .collect();
    let random: Vec<MacAddr> = std::iter::repeat_with(|| random.mac()).take(10_000).collect();
    for (name, macs) in [("random", random), ("chosen", chosen)] {
        let mut rig = Rig::new(2, 16_384, time);
        rig.teach(macs.into_iter());
        group.bench_function(name, |b| b.iter_custom(|frames| rig.unicast(frames)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = known_unicast, seldom_heard, new_stations, flood, sweep, colliding
}
criterion_main!(benches);
