//! Invariants of the data thread, on ports without a device: where frames go,
//! what the thread asks of the system for each, and who may touch the bridge.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vswitch::bridge::{PortId, PortSettings, Settings, Taken};
use vswitch::engine::{Command, Engine, Handle, Tuning};
use vswitch::port::memory::{MemoryHandle, Sample, memory};
use vswitch::port::{Link, Offloads};
use vswitch_tests::clock::wait_until;
use vswitch_tests::scenario::Random;

use super::invariants::{code, sources_under, word_in};

/// Counts what watched threads allocate.
struct Counting;

thread_local! {
    /// Where this thread's allocations are counted.
    static COUNTER: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting
// touches an atomic and a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(counter) = COUNTER.get() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// A running engine with memory ports; those of `isolated` are so.
pub(super) struct Rig {
    pub(super) handle: Handle,
    pub(super) ports: Vec<MemoryHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Allocations of the engine's thread.
    pub(super) allocated: &'static AtomicU64,
}

impl Rig {
    pub(super) fn new(isolated: &[bool]) -> Rig {
        let tuning = Tuning { busy_poll: Duration::ZERO, pad_runts: false, fast_path: true };
        let (engine, handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
        let allocated: &AtomicU64 = Box::leak(Box::default());
        let thread = std::thread::spawn(move || {
            COUNTER.set(Some(allocated));
            drop(engine.run().unwrap());
        });
        let mut rig = Rig { handle, ports: Vec::new(), thread: Some(thread), allocated };
        for (number, isolated) in (0..).zip(isolated) {
            rig.add(number, *isolated);
        }
        rig
    }

    /// Adds a port.
    pub(super) fn add(&mut self, number: u8, isolated: bool) {
        let link = Link { up: true, mtu: 1500, offloads: Offloads::ALL };
        let (port, end) = memory(link).unwrap();
        let settings = PortSettings { isolated, ..PortSettings::default() };
        let (id, port) = (PortId::new(number), Some(Box::new(port) as Box<dyn vswitch::port::Port>));
        self.handle.ask(|reply| Command::AddPort { id, port, settings, reply }).unwrap().unwrap();
        self.ports.push(end);
    }

    /// Waits until everything injected has been forwarded.
    pub(super) fn settle(&self) {
        wait_until("the ports to be read", LIMIT, || self.ports.iter().all(|p| p.waiting() == 0)).unwrap();
        // Commands are obeyed between two turns: the last one is over then.
        drop(self.handle.ask(|reply| Command::Read { reply }).unwrap());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // An engine that has ended already has nothing to stop.
        let _ = self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A frame between two of 64 stations, or to everybody, that carries `number`.
pub(super) fn numbered(random: &mut Random, number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 60];
    let station = |random: &mut Random| [2, 0, 0, 0, 0, random.next_u64().to_be_bytes()[0] % 64];
    let destination = if random.next_u64().is_multiple_of(8) { [0xff; 6] } else { station(random) };
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&station(random));
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number_of(sample: &Sample) -> usize {
    let bytes = sample.bytes[14..18].try_into().unwrap();
    usize::try_from(u32::from_be_bytes(bytes)).unwrap()
}

/// Sends frames from random ports, half of which are isolated; returns the
/// ingress of each, and for each port the numbers that it sent.
fn exchange(frames: u32) -> (Vec<usize>, Vec<Vec<usize>>) {
    let rig = Rig::new(&[true, true, true, true, false, false, false, false]);
    let mut random = Random::new(2);
    let mut ingress = Vec::new();
    for number in 0..frames {
        let port = usize::from(random.next_u64().to_be_bytes()[0] % 8);
        rig.ports[port].inject(&numbered(&mut random, number));
        ingress.push(port);
        if number % 64 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    let sent = rig.ports.iter().map(|port| port.take_sent().iter().map(number_of).collect()).collect();
    (ingress, sent)
}

/// Notes wait, so that there are not too many: a port's must not come when its
/// number may be another's.
#[test]
fn notes_of_a_port_come_before_the_answer_that_it_is_gone() {
    let rig = Rig::new(&[false, false]);
    // The first is told at once, the others wait for their turn.
    for station in 0..40 {
        let mut bytes = vec![0xff; 60];
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, station]);
        rig.ports[1].inject(&bytes);
        rig.settle();
    }
    let id = PortId::new(1);
    drop(rig.handle.ask(|reply| Command::RemovePort { id, reply }).unwrap());
    let told = std::iter::from_fn(|| rig.handle.note());
    let learned = |taken: &Taken| matches!(taken, Taken::Note(note) if note.port == id);
    assert_eq!(told.filter(learned).count(), 40, "every station that spoke");
}

#[test]
fn invariant_2_never_back_and_never_twice() {
    let (ingress, sent) = exchange(20_000);
    let mut copies = 0;
    for (egress, numbers) in sent.iter().enumerate() {
        let mut seen = vec![false; ingress.len()];
        for &number in numbers {
            assert_ne!(ingress[number], egress, "frame {number} came back");
            assert!(!std::mem::replace(&mut seen[number], true), "port {egress} sent frame {number} twice");
        }
        copies += numbers.len();
    }
    assert!(copies > 20_000, "{copies} copies are no test");
}

#[test]
fn invariant_4_nothing_crosses_an_isolation() {
    let (ingress, sent) = exchange(20_000);
    let isolated = |port: usize| port < 4;
    for (egress, numbers) in sent.iter().enumerate() {
        for &number in numbers {
            assert!(!(isolated(ingress[number]) && isolated(egress)), "frame {number} crossed to {egress}");
        }
        let from_isolated = numbers.iter().any(|&number| isolated(ingress[number]));
        assert_eq!(from_isolated, !isolated(egress), "isolated ports do reach the others");
    }
}

#[test]
fn invariant_6_the_data_thread_allocates_nothing_for_a_frame() {
    let rig = Rig::new(&[false; 4]);
    for port in &rig.ports[1..] {
        port.count_only();
    }
    let mut random = Random::new(6);
    let mut to_nobody = |number| {
        let mut bytes = numbered(&mut random, number);
        // No station has this bit: unknown, so every frame is flooded.
        bytes[5] |= 0x80;
        Sample::plain(&bytes)
    };
    let samples = (0..64).map(&mut to_nobody).collect();
    rig.ports[0].repeat(samples, 1_000);
    let sent = || rig.ports[1..].iter().map(|port| port.sent_totals().0).sum::<u64>();
    // The first thousand lets the ports' buffers grow.
    wait_until("a thousand frames", LIMIT, || sent() == 3_000).unwrap();
    let before = rig.allocated.load(Ordering::Relaxed);
    assert!(before > 0, "the allocator counts");
    rig.ports[0].repeat_more(1_000_000);
    wait_until("a million frames", LIMIT, || sent() == 3_003_000).unwrap();
    assert_eq!(rig.allocated.load(Ordering::Relaxed) - before, 0, "allocations for a million frames");
}

#[test]
fn invariant_6_the_engine_neither_locks_nor_formats() {
    let forbidden = [
        "Mutex",
        "RwLock",
        "Condvar",
        "lock",
        "sleep",
        "format",
        "println",
        "eprintln",
        "tracing",
        "recv",
        "read_to_end",
    ];
    let files = sources_under(&["engine"]);
    assert!(files.iter().any(|path| path.ends_with("engine/mod.rs")));
    for file in files.iter().filter(|path| !path.ends_with("engine/handle.rs")) {
        let source = std::fs::read_to_string(file).unwrap();
        // The control thread's end of the channels is `handle.rs`; it may wait.
        assert_eq!(word_in(&code(&source), &forbidden), None, "{}", file.display());
    }
}

#[test]
fn invariant_7_only_the_engine_holds_the_bridge() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../switch/src");
    let files = sources_under(&[""]);
    assert!(files.len() > 30, "{files:?}");
    let mut holders = 0;
    for file in files {
        let place = file.strip_prefix(&root).unwrap();
        let source = std::fs::read_to_string(&file).unwrap();
        let names_it = word_in(&code(&source), &["Bridge"]).is_some();
        if place.starts_with("engine") {
            holders += usize::from(names_it);
        // A replay has a bridge of its own, which no switch has.
        } else if !place.starts_with("bridge") && !place.starts_with("replay") {
            assert!(!names_it, "{} touches the bridge", file.display());
        }
    }
    assert!(holders > 0, "the engine holds it");
}
