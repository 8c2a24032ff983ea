//! An engine among ports without devices.
//!
//! It runs on its own thread as it does in the program; the first port serves
//! frames as fast as they are taken. Memory ports take a lock for a burst, which
//! real ports do not.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vswitch::bridge::{PortId, PortSettings, Settings};
use vswitch::capture::Captures;
use vswitch::capture::session::{Labels, Spec};
use vswitch::engine::{Command, Engine, Handle, Tuning};
use vswitch::offload::VnetHeader;
use vswitch::port::memory::{MemoryHandle, Sample, memory};
use vswitch::port::{Link, Offloads, Port};

/// An engine at work with memory ports, stopped when dropped.
#[derive(Debug)]
pub struct Turns {
    handle: Handle,
    ports: Vec<MemoryHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// The capture thread, and who reads what it writes.
    capture: Option<(Captures, std::thread::JoinHandle<()>)>,
}

impl Turns {
    fn new(ports: usize, busy_poll: Duration) -> Turns {
        let tuning = Tuning { busy_poll, pad_runts: false, fast_path: true };
        let (engine, handle) = Engine::new(Settings::default(), tuning, [1, 2], None).expect("epoll");
        let thread = Some(std::thread::spawn(move || drop(engine.run().expect("epoll"))));
        let link = Link { up: true, mtu: 1500, offloads: Offloads::ALL };
        let add = |number: usize| {
            let (port, end) = memory(link).expect("an eventfd");
            let id = PortId::new(u8::try_from(number).expect("256 ports at most"));
            let port = Some(Box::new(port) as Box<dyn Port>);
            let settings = PortSettings::default();
            let added = handle.ask(|reply| Command::AddPort { id, port, settings, reply });
            added.expect("the engine runs").expect("epoll takes an eventfd");
            end.count_only();
            end
        };
        let ports = (0..ports).map(add).collect();
        Turns { handle, ports, thread, capture: None }
    }

    /// 64 stations on the first port that speak to one on each other port, in
    /// frames of `len` bytes.
    ///
    /// # Panics
    /// If there are fewer than 2 ports, or more than 256.
    pub fn unicast(ports: usize, len: usize, busy_poll: Duration) -> Turns {
        let turns = Turns::new(ports, busy_poll);
        let behind = |port: u16| 1_000 + port;
        let others = u16::try_from(ports - 1).expect("256 at most");
        for port in 1..=others {
            // Everyone speaks once, so that nothing is flooded later.
            turns.ports[usize::from(port)].inject(&frame(1, behind(port), 60).bytes);
        }
        turns.ports[0].repeat((0..64u16).map(|n| frame(behind(1 + n % others), 1 + n, len)).collect(), 0);
        // The first frames teach; wait them out.
        turns.settle();
        turns
    }

    /// 64 stations on the first port that speak to everybody.
    ///
    /// # Panics
    /// If there are more than 256 ports.
    pub fn flood(ports: usize, busy_poll: Duration) -> Turns {
        let turns = Turns::new(ports, busy_poll);
        turns.ports[0].repeat((0..64u16).map(|n| frame(0, 1 + n, 60)).collect(), 0);
        turns.settle();
        turns
    }

    /// Has everything captured from now on, all of each frame, and read as fast as
    /// a socket goes.
    ///
    /// # Panics
    /// It was captured before.
    #[must_use]
    pub fn captured(mut self) -> Turns {
        let observation = self.handle.take_observation().expect("the first capture");
        let mut captures = Captures::start(observation, self.handle.orders(), None).expect("a thread");
        let spec = Spec::everything("", "");
        let (mut ours, theirs) = UnixStream::pair().expect("two sockets");
        let id = captures.begin(spec, Labels::new()).expect("the engine runs");
        captures.hand_over(id, Some(theirs.into()));
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while matches!(ours.read(&mut buffer), Ok(1..)) {}
        });
        self.settle();
        self.capture = Some((captures, reader));
        self
    }

    /// Copies that all ports but the first have sent.
    fn sent(&self) -> u64 {
        self.ports[1..].iter().map(|port| port.sent_totals().0).sum()
    }

    /// Has the first port bring `frames`, and waits until `copies` of each are
    /// out.
    pub fn run(&self, frames: u64, copies: u64) {
        let goal = self.sent() + frames * copies;
        self.ports[0].repeat_more(frames);
        // Looking takes the sinks' locks, so it is rare; with few frames it is
        // the looking that is measured.
        while self.sent() < goal {
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Waits until what was injected so far has been forwarded.
    fn settle(&self) {
        while self.ports.iter().any(|port| port.waiting() > 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // A command is obeyed between two turns: the last turn is over by then.
        let snapshot = self.handle.ask(|reply| Command::Read { reply });
        drop(snapshot.expect("the engine runs"));
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // An engine that has ended already has nothing to stop.
        let _ = self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some((captures, reader)) = self.capture.take() {
            captures.join();
            let _ = reader.join();
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
