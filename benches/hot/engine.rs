//! A whole turn of the engine, frame by frame, on ports without a device: what
//! the switch itself costs before any system call for a frame.
//!
//! The engine runs on its own thread as it does in the program; the source
//! port serves frames as fast as they are taken, and time runs until the sinks
//! have counted them all. Memory ports take a lock for a burst, which real
//! ports do not.
//!
//! Deliberately absent: the bridge alone (that is `bridge.rs`) and devices
//! (that is `vbench`).

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vswitch::bridge::{PortId, PortSettings, Settings};
use vswitch::engine::{Command, Engine, Handle, Tuning};
use vswitch::offload::VnetHeader;
use vswitch::port::memory::{MemoryHandle, Sample, memory};
use vswitch::port::{Link, Offloads};

/// An engine at work with memory ports, stopped when dropped.
struct Bench {
    handle: Handle,
    ports: Vec<MemoryHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bench {
    fn new(ports: usize) -> Bench {
        let tuning = Tuning { busy_poll: Duration::from_millis(1), pad_runts: false, fast_path: true };
        let (engine, handle) = Engine::new(Settings::default(), tuning, [1, 2], None).expect("epoll");
        let thread = Some(std::thread::spawn(move || drop(engine.run().expect("epoll"))));
        let link = Link { up: true, mtu: 1500, offloads: Offloads::ALL };
        let add = |number: usize| {
            let (port, end) = memory(link).expect("an eventfd");
            let id = PortId::new(u8::try_from(number).expect("256 ports at most"));
            let port = Some(Box::new(port) as Box<dyn vswitch::port::Port>);
            let settings = PortSettings::default();
            let added = handle.ask(|reply| Command::AddPort { id, port, settings, reply });
            added.expect("the engine runs").expect("epoll takes an eventfd");
            end.count_only();
            end
        };
        let ports = (0..ports).map(add).collect();
        Bench { handle, ports, thread }
    }

    /// Copies that all ports but the first have sent.
    fn sent(&self) -> u64 {
        self.ports[1..].iter().map(|port| port.sent_totals().0).sum()
    }

    /// Has the first port bring `frames`; time until `copies` for each are out.
    #[expect(clippy::disallowed_methods, reason = "this measures time")]
    fn run(&self, frames: u64, copies: u64) -> Duration {
        let goal = self.sent() + frames * copies;
        let start = Instant::now();
        self.ports[0].repeat_more(frames);
        // Looking takes the sinks' locks, so it is rare; with few frames it is
        // the looking that is measured.
        while self.sent() < goal {
            std::thread::sleep(Duration::from_micros(20));
        }
        start.elapsed()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // An engine that has ended already has nothing to stop.
        let _ = self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A complete frame from station `source` to station `destination`; 0 is
/// everybody.
fn frame(destination: u16, source: u16, len: usize) -> Sample {
    let mut bytes = vec![0; len];
    let station = |number: u16| [2, 0, 0, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]];
    bytes[..6].copy_from_slice(&if destination == 0 { [0xff; 6] } else { station(destination) });
    bytes[6..12].copy_from_slice(&station(source));
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    Sample { vnet: VnetHeader::PLAIN, bytes, fault: None }
}

/// From 64 stations on the first port to one station on each other port.
fn unicast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/unicast");
    group.throughput(Throughput::Elements(1));
    for (ports, len) in [(2, 60), (2, 1514), (16, 60), (256, 60)] {
        let bench = Bench::new(ports);
        let behind = |port: u16| 1_000 + port;
        for port in 1..u16::try_from(ports).expect("256 at most") {
            // Everyone speaks once, so that nothing is flooded later.
            bench.ports[usize::from(port)].inject(&frame(1, behind(port), 60).bytes);
        }
        let others = u16::try_from(ports - 1).expect("256 at most");
        let samples = (0..64u16).map(|n| frame(behind(1 + n % others), 1 + n, len)).collect();
        bench.ports[0].repeat(samples, 0);
        // The first frames teach; wait them out.
        settle(&bench);
        group.bench_function(BenchmarkId::new(format!("{ports} ports"), format!("{len} B")), |b| {
            b.iter_custom(|frames| black_box(bench.run(frames, 1)));
        });
    }
    group.finish();
}

/// Broadcasts to all other ports; the time is for a copy.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/flood");
    for ports in [3, 17, 256] {
        let bench = Bench::new(ports);
        bench.ports[0].repeat((0..64u16).map(|n| frame(0, 1 + n, 60)).collect(), 0);
        settle(&bench);
        let copies = u64::try_from(ports - 1).expect("256 at most");
        group.throughput(Throughput::Elements(copies));
        group.bench_function(BenchmarkId::from_parameter(format!("{ports} ports")), |b| {
            b.iter_custom(|frames| black_box(bench.run(frames, copies)));
        });
    }
    group.finish();
}

/// Waits until what was injected so far has been forwarded.
fn settle(bench: &Bench) {
    while bench.ports.iter().any(|port| port.waiting() > 0) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // A command is obeyed between two turns: the last turn is over by then.
    let snapshot = bench.handle.ask(|reply| Command::Read { reply });
    drop(snapshot.expect("the engine runs"));
}

criterion_group!(benches, unicast, flood);
criterion_main!(benches);
