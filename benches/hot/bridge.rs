//! What one frame costs in the bridge, without any input or output, in bursts
//! of 64: known unicast with uniformly random stations on both sides (so that
//! every frame refreshes a random entry and looks up another), new stations,
//! floods, and addresses chosen to collide.
//!
//! `cargo bench -p vswitch-bench --bench bridge`; a figure is the time of one
//! frame. Only the call is timed; making the burst is not.

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vswitch::bridge::{BURST, Bridge, PortId, PortSettings, Settings, Time, Verdict};
use vswitch::frame::{Frame, MacAddr};
use vswitch::offload::VnetHeader;

/// splitmix64: the same frames in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than a usize")
    }
}

/// Individual and locally administered, otherwise random.
fn random_mac(random: &mut Random) -> MacAddr {
    MacAddr::from_u64(random.next() & 0x00ff_ffff_ffff | 0x0200_0000_0000)
}

/// A bridge, its stations by port, and how much time it has spent.
struct Rig {
    bridge: Bridge,
    stations: Vec<Vec<MacAddr>>,
    random: Random,
    spent: Duration,
}

/// When the measured traffic begins: a tick after the stations were learned, so
/// that each is put in the order of ages once, as traffic makes it in a tick.
const TAUGHT: Time = Time::from_secs(10);

type Header = [u8; 14];

impl Rig {
    fn new(ports: usize, fdb_size: u32) -> Rig {
        let settings = Settings { fdb_size, ..Settings::default() };
        let mut bridge = Bridge::new(settings, [0x5bd1_e995_7b7d_159c, 0xc2b2_ae3d_27d4_eb4f]);
        for number in 0..ports {
            bridge.add_port(port(number), PortSettings::default());
            bridge.set_link(port(number), true);
        }
        Rig { bridge, stations: vec![Vec::new(); ports], random: Random(7), spent: Duration::ZERO }
    }

    /// Lets every one of `macs` speak once, on one port after the other.
    fn teach(&mut self, macs: impl Iterator<Item = MacAddr>) {
        let ports = self.stations.len();
        for (number, mac) in macs.enumerate() {
            self.stations[number % ports].push(mac);
            let head = header(MacAddr::BROADCAST, mac);
            let frame = Frame::new(&head, &[], VnetHeader::PLAIN);
            self.bridge.forward(Time::START, port(number % ports), &frame);
        }
    }

    /// Time of one burst with the headers that `head` makes.
    fn burst(
        &mut self,
        ingress: usize,
        mut head: impl FnMut(&[Vec<MacAddr>], &mut Random) -> Header,
    ) -> Duration {
        let heads: [Header; BURST] = std::array::from_fn(|_| head(&self.stations, &mut self.random));
        let frames: ArrayVec<Frame<'_>, BURST> =
            heads.iter().map(|head| Frame::new(head, &[], VnetHeader::PLAIN)).collect();
        let mut verdicts: ArrayVec<Verdict, BURST> = ArrayVec::new();
        let now = TAUGHT.after(self.spent);
        let bridge = &mut self.bridge;
        let spent = time(|| bridge.forward_burst(now, port(ingress), black_box(&frames), &mut verdicts));
        black_box(&verdicts);
        self.spent += spent;
        spent
    }

    /// Time of at least `frames` frames of known unicast.
    fn unicast(&mut self, frames: u64) -> Duration {
        let ports = self.stations.len();
        let mut spent = Duration::ZERO;
        for _ in 0..frames.div_ceil(BURST as u64) {
            let ingress = self.random.below(ports);
            spent += self.burst(ingress, |stations, random| {
                let egress = (ingress + 1 + random.below(ports - 1)) % ports;
                let src = stations[ingress][random.below(stations[ingress].len())];
                let dst = stations[egress][random.below(stations[egress].len())];
                header(dst, src)
            });
        }
        spent
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

fn port(number: usize) -> PortId {
    PortId::new(u8::try_from(number).expect("at most 256 ports"))
}

fn header(dst: MacAddr, src: MacAddr) -> Header {
    let mut head = [0x08; 14];
    head[..6].copy_from_slice(&dst.octets());
    head[6..12].copy_from_slice(&src.octets());
    head
}

fn known_unicast(c: &mut Criterion) {
    let mut group = c.benchmark_group("known_unicast");
    group.throughput(Throughput::Elements(1));
    for ports in [2, 16, 256] {
        for macs in [10, 10_000, 1_000_000] {
            let mut rig = Rig::new(ports, 1_048_575);
            let mut random = Random(1);
            // Every port has a station, as few as there may be.
            rig.teach((0..macs.max(ports)).map(|_| random_mac(&mut random)));
            group.bench_function(BenchmarkId::new(format!("{ports}_ports"), macs), |b| {
                b.iter_custom(|frames| rig.unicast(frames));
            });
        }
    }
    group.finish();
}

fn new_stations(c: &mut Criterion) {
    let mut group = c.benchmark_group("new_stations");
    group.throughput(Throughput::Elements(1));
    for fdb_size in [8192u32, 1_048_575] {
        // Two full tables' worth of room is never used: the rig is emptied
        // before it is full, outside the measured time.
        let mut rig = Rig::new(2, fdb_size);
        group.bench_function(BenchmarkId::new("learned_into", fdb_size), |b| {
            b.iter_custom(|frames| {
                let mut spent = Duration::ZERO;
                for _ in 0..frames.div_ceil(BURST as u64) {
                    if rig.bridge.fdb_len() + 64 > fdb_size / 2 {
                        rig.bridge.fdb_flush(&vswitch::bridge::FlushScope::default());
                    }
                    spent += rig.burst(0, |_, random| header(MacAddr::BROADCAST, random_mac(random)));
                }
                spent
            });
        });
        let mut rig = Rig::new(2, fdb_size);
        while rig.bridge.fdb_len() < fdb_size {
            rig.burst(0, |_, random| header(MacAddr::BROADCAST, random_mac(random)));
        }
        group.bench_function(BenchmarkId::new("refused_by_full", fdb_size), |b| {
            b.iter_custom(|frames| {
                let bursts = frames.div_ceil(BURST as u64);
                (0..bursts)
                    .map(|_| rig.burst(0, |_, random| header(MacAddr::BROADCAST, random_mac(random))))
                    .sum()
            });
        });
    }
    group.finish();
}

fn flood(c: &mut Criterion) {
    let mut group = c.benchmark_group("flood");
    group.throughput(Throughput::Elements(1));
    for ports in [2, 16, 256] {
        let mut rig = Rig::new(ports, 8192);
        let mut random = Random(1);
        rig.teach((0..ports).map(|_| random_mac(&mut random)));
        group.bench_function(BenchmarkId::new("broadcast_to", ports), |b| {
            b.iter_custom(|frames| {
                let bursts = frames.div_ceil(BURST as u64);
                (0..bursts)
                    .map(|_| rig.burst(0, |stations, _| header(MacAddr::BROADCAST, stations[0][0])))
                    .sum()
            });
        });
    }
    group.finish();
}

/// One call of the sweep that finds its fill: 256 entries taken out of a
/// table of a million, random in memory.
fn sweep(c: &mut Criterion) {
    let mut rig = Rig::new(16, 1_048_575);
    let mut random = Random(1);
    let macs: Vec<MacAddr> = (0..1_000_000).map(|_| random_mac(&mut random)).collect();
    let late = Time::from_secs(1000);
    c.bench_function("sweep/256_of_1000000", |b| {
        b.iter_custom(|calls| {
            let mut spent = Duration::ZERO;
            for _ in 0..calls {
                if rig.bridge.fdb_len() < 256 {
                    rig.stations = vec![Vec::new(); 16];
                    rig.teach(macs.iter().copied());
                }
                spent += time(|| rig.bridge.sweep(late));
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
    let chosen: Vec<MacAddr> = std::iter::repeat_with(|| random_mac(&mut random))
        .filter(|mac| mac.to_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54 == 0)
        .take(10_000)
        .collect();
    let random: Vec<MacAddr> = std::iter::repeat_with(|| random_mac(&mut random)).take(10_000).collect();
    for (name, macs) in [("random", random), ("chosen", chosen)] {
        let mut rig = Rig::new(2, 16_384);
        rig.teach(macs.into_iter());
        group.bench_function(name, |b| b.iter_custom(|frames| rig.unicast(frames)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = known_unicast, new_stations, flood, sweep, colliding
}
criterion_main!(benches);
