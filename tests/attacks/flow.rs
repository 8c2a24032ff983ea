//! Ten thousand numbered frames a second from one port to another, each of which
//! has to arrive, once, and in its place.
//!
//! Deliberately absent: a rate that is exact. A generator that was not scheduled
//! for a while makes up for it, as a guest does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vswitch::offload::VnetHeader;
use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::{LIMIT, Rig};

/// Its ports in the rig.
pub const FROM: u8 = 110;
pub const TO: u8 = 111;

/// Frames of each millisecond.
const EACH_MS: u64 = 10;

/// A running flow.
pub struct Flow {
    stop: Arc<AtomicBool>,
    generator: JoinHandle<u64>,
    /// How many arrived.
    arrived: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    sink: JoinHandle<()>,
}

/// Frame `number`, from station 1 to station 2.
fn frame(number: u64) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 0x88, 0xb6];
    bytes.extend(number.to_be_bytes());
    bytes.resize(60, 0);
    bytes
}

/// The number of a frame of the flow.
fn number(bytes: &[u8]) -> Option<u64> {
    let number = bytes.get(14..22).filter(|_| bytes[12..14] == [0x88, 0xb6])?;
    Some(u64::from_be_bytes(number.try_into().unwrap()))
}

impl Flow {
    /// Adds two ports to `rig` and lets the one talk to the other.
    pub fn start(rig: &Rig) -> Flow {
        let (from, to) = (rig.memory_port(FROM), rig.memory_port(TO));
        // Station 2 says where it is.
        to.inject(&[&[0xff; 6][..], &[2, 0, 0, 0, 1, 2, 0x88, 0xb5], &[0; 46]].concat());
        wait_until("its announcement", LIMIT, || !from.take_sent().is_empty()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let generator = std::thread::spawn(move || {
            generate(&stopped, |frames| {
                from.inject_all(frames.iter().map(|frame| (VnetHeader::PLAIN, frame.as_slice())));
                // What is flooded here is of no interest.
                from.take_sent();
            })
        });
        let (arrived, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (Arc::clone(&arrived), Arc::clone(&is_over));
        let sink = std::thread::spawn(move || {
            while !ends.load(Ordering::Acquire) {
                for got in to.take_sent().iter().filter_map(|sample| number(&sample.bytes)) {
                    let next = count.fetch_add(1, Ordering::AcqRel);
                    assert_eq!(got, next, "lost, doubled or out of order");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Flow { stop, generator, arrived, is_over, sink }
    }

    /// Ends it when every frame has arrived. Returns how many there were.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let sent = self.generator.join().unwrap();
        let has_all = || self.sink.is_finished() || self.arrived.load(Ordering::Acquire) == sent;
        let waited = wait_until("the last frames", LIMIT, has_all);
        self.is_over.store(true, Ordering::Release);
        self.sink.join().unwrap();
        waited.unwrap();
        sent
    }
}

/// Sends by `send` until told to stop; returns how many frames.
#[expect(clippy::disallowed_methods, reason = "a rate is a matter of time")]
fn generate(stop: &AtomicBool, mut send: impl FnMut(&[Vec<u8>])) -> u64 {
    let start = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        let due = u64::try_from(start.elapsed().as_millis()).unwrap() * EACH_MS;
        let frames: Vec<Vec<u8>> = (sent..due).map(frame).collect();
        send(&frames);
        sent = sent.max(due);
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}
