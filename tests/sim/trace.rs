//! What the engine says would become of a frame, beside what then becomes of it,
//! on ports without a device that take different things.

use std::time::Duration;

use vswitch::bridge::{FdbEntry, PortCounters, PortId, PortSettings, Refusal, Settings, Verdict};
use vswitch::control::PortStats;
use vswitch::engine::{Command, Engine, Fate, Handle, Traced, Tuning};
use vswitch::form::{self, Typed};
use vswitch::port::memory::{MemoryHandle, memory};
use vswitch::port::{Link, Losses, Offloads, Port};
use vswitch_tests::clock::wait_until;

use super::engine::LIMIT;

/// Short and long, with and without work left to do, to everybody and to one.
pub(super) const FRAMES: [&str; 17] = [
    "arp who-has 10.0.0.2 tell 10.0.0.1",
    "arp 10.0.0.2 is-at 02:00:0a:00:00:02 dst 02:00:0a:00:00:01",
    "icmp 10.0.0.1 > 10.0.0.2 len 50",
    "icmp 10.0.0.1 > 10.0.0.2 len 1514",
    "icmp 10.0.0.1 > 10.0.0.2 len 1515",
    "icmp 10.0.0.1 > 10.0.0.2 vlan 5 len 1518",
    "icmp 10.0.0.1 > 10.0.0.9 len 614",
    "icmp 10.0.0.1 > 10.0.0.9 len 615",
    "tcp 10.0.0.1 > 10.0.0.9 len 30054 mss 1460",
    "tcp 10.0.0.1 > 10.0.0.9 len 30054 mss 300",
    "tcp 10.0.0.1 > 10.0.0.9 len 30054 mss 100",
    "tcp 10.0.0.1 > 10.0.0.9 len 654 mss 1460",
    "udp fd00::1 > fd00::2 len 3062 mss 1000",
    "ether 02:00:0a:00:00:01 > 02:00:0a:00:00:09 len 13",
    "ether 02:00:0a:00:00:01 > 01:80:c2:00:00:0e len 60",
    "ether ff:ff:ff:ff:ff:ff > 02:00:0a:00:00:09 len 60",
    "icmp 10.0.0.9 > 10.0.0.1",
];

pub(super) struct Rig {
    pub(super) handle: Handle,
    pub(super) ports: Vec<MemoryHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Rig {
    /// Port 0 sends; the others take everything, nothing unfinished, and nothing
    /// long.
    pub(super) fn new(pad_runts: bool) -> Rig {
        let tuning = Tuning { busy_poll: Duration::ZERO, pad_runts, fast_path: false };
        let (engine, handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
        let thread = std::thread::spawn(move || drop(engine.run().unwrap()));
        let links =
            [(9000, Offloads::ALL), (9000, Offloads::ALL), (1500, Offloads::NONE), (600, Offloads::ALL)];
        let add = |(number, (mtu, offloads)): (u8, (u32, Offloads))| {
            let (port, end) = memory(Link { up: true, mtu, offloads }).unwrap();
            let (id, port) = (PortId::new(number), Some(Box::new(port) as Box<dyn Port>));
            let settings = PortSettings::default();
            handle.ask(|reply| Command::AddPort { id, port, settings, reply }).unwrap().unwrap();
            end
        };
        let ports = (0..).zip(links).map(add).collect();
        Rig { handle, ports, thread: Some(thread) }
    }

    pub(super) fn trace(&self, ingress: PortId, Typed { bytes, vnet }: &Typed) -> Traced {
        let (frame, vnet) = (bytes.clone(), *vnet);
        *self.handle.ask(|reply| Command::Trace { ingress, frame, vnet, reply }).unwrap()
    }

    pub(super) fn send(&self, ingress: PortId, Typed { bytes, vnet }: &Typed) {
        let port = &self.ports[ingress.index()];
        port.inject_with(*vnet, bytes);
        wait_until("the frame to be read", LIMIT, || port.waiting() == 0).unwrap();
    }

    /// Counters of each port, and who is known where. Ages are left out: they go
    /// on by themselves, and the bridge's own tests compare them.
    fn state(&self) -> (Vec<PortCounters>, Vec<FdbEntry>) {
        let snapshot = self.handle.ask(|reply| Command::Read { reply }).unwrap();
        let (entries, _) = self.handle.ask(|reply| Command::FdbRead { start: 0, reply }).unwrap();
        let counters = snapshot.ports.into_iter().map(|port| port.counters).collect();
        (counters, entries.into_iter().map(|entry| FdbEntry { age: Duration::ZERO, ..entry }).collect())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the counters of an egress say when it does what was foretold.
fn foretold(before: &PortCounters, fate: Option<Fate>, frame_len: usize) -> PortCounters {
    let mut after = before.clone();
    let Some(fate) = fate else { return after };
    after.copies += 1;
    let sent = match fate {
        Fate::Refused { reason, .. } => {
            after.refused[reason.index()] += 1;
            return after;
        }
        // What is put behind a frame is not counted as its own.
        Fate::Padded { len: 60 } => frame_len as u64,
        Fate::AsIs { len, .. } | Fate::Padded { len } | Fate::Completed { len } => u64::from(len),
        Fate::Cut { segments, .. } => {
            after.segments += u64::from(segments);
            // Each has its headers: the sum is counted, not foretold.
            0
        }
    };
    after.tx += 1;
    after.tx_bytes += sent;
    after
}

#[test]
fn what_is_foretold_is_what_then_happens_and_asking_changes_nothing() {
    let mut seen = std::collections::BTreeSet::new();
    for pad_runts in [false, true] {
        let rig = Rig::new(pad_runts);
        for text in FRAMES.into_iter().chain(FRAMES) {
            let typed = form::read(text).unwrap();
            let before = rig.state();
            let traced = rig.trace(PortId::new(0), &typed);
            assert_eq!(rig.state(), before, "{text}: asking changed something");
            rig.send(PortId::new(0), &typed);
            let (counters, _) = rig.state();
            let forwarded = counters[0].forwarded - before.0[0].forwarded;
            match traced.account.story.verdict {
                Verdict::Forward { copies, .. } => {
                    assert_eq!((forwarded, usize::from(copies)), (1, traced.egress.len()), "{text}");
                }
                Verdict::Drop(reason) => {
                    assert_eq!(forwarded, 0, "{text}");
                    assert_eq!(counters[0].drops[reason.index()], before.0[0].drops[reason.index()] + 1);
                }
            }
            for (port, (after, before)) in counters.iter().zip(&before.0).enumerate().skip(1) {
                let fate = traced.egress.iter().find(|(id, _)| id.index() == port).map(|(_, fate)| *fate);
                let mut expected = foretold(before, fate, typed.bytes.len());
                if let Some(Fate::Cut { .. }) = fate {
                    expected.tx_bytes = after.tx_bytes;
                }
                assert_eq!(*after, expected, "{text}: port {port}, {fate:?}");
                seen.insert(fate.map(|fate| std::mem::discriminant(&fate)).map(|kind| format!("{kind:?}")));
            }
        }
    }
    assert_eq!(seen.len(), 6, "every fate, and none, was met: {seen:?}");
}

/// What only a device knows; the other names are made on real ones, in
/// `tests/netns/reasons.rs`.
#[test]
fn whatever_a_device_answers_is_counted_by_its_name() {
    let rig = Rig::new(false);
    let typed = form::read("ether 02:00:00:00:00:01 > 02:00:00:00:00:02 len 60").unwrap();
    for &reason in Refusal::ALL {
        rig.ports[1].refuse(Some(reason));
        let (before, _) = rig.state();
        rig.send(PortId::new(0), &typed);
        let (after, _) = rig.state();
        let named =
            |counters: &PortCounters| PortStats::new("p", counters, Losses::default()).refused[reason.name()];
        assert_eq!(named(&after[1]), named(&before[1]) + 1, "{reason}");
        assert!(after[1].balance(), "{reason}");
    }
}
