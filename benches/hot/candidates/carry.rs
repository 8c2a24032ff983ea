//! Two devices, a thread that carries from one to the other, and the flow through it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use rustix::time::{ClockId, clock_gettime};
use vswitch::frame::MacAddr;
use vswitch_tests::flow::{Device, Flow, Pace, Sink, Until, generate};
use vswitch_tests::netns::Netns;

/// A turn's length.
const LENGTH: Duration = Duration::from_secs(1);
/// What arrives later than this after the last frame is lost.
const LATE: Duration = Duration::from_millis(300);
/// How long a carrier waits for a frame before it looks whether it is to end.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);
/// Bytes of a burst, as the switch bounds them: super-frames of more do not stay in a
/// cache.
pub(crate) const BYTES_MAX: usize = 512 << 10;
/// Bytes of virtio-net header before each frame, as the switch's ports have it.
pub(crate) const VNET_LEN: usize = 10;

/// What the carrier holds: the one that the switch would hold of each device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Packet sockets on two TAPs, whose descriptors generator and sink have.
    Packet,
    /// The descriptors of two TAPs; generator and sink have packet sockets on them.
    Tap,
}

/// Frames to carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    kind: Kind,
    /// Bytes of a frame.
    len: usize,
    /// Payload of each segment of a super-frame.
    segment: Option<u16>,
}

/// The two devices of a carrier.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) from: Device,
    pub(crate) to: Device,
}

/// Makes a carrier on the thread that will use it.
pub(crate) type Make = fn(Ends, &Work) -> io::Result<Box<dyn Carrier>>;

/// Carries frames one way.
pub(crate) trait Carrier {
    /// Carries what is there, a burst at most; if there is nothing, waits for
    /// [`PATIENCE`] at most.
    ///
    /// # Errors
    /// A device failed. One that takes no more is no error: the rest is lost.
    fn carry(&mut self) -> io::Result<()>;
}

/// What a turn showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Frames a second that arrived.
    pub(crate) rate: f64,
    /// CPU time of the carrier's thread for each of them, nanoseconds.
    pub(crate) cpu_ns: f64,
    /// CPU time of this process for each of them, nanoseconds: generator and sink too,
    /// where a ring's copies are made.
    pub(crate) all_ns: f64,
}

impl Work {
    /// Frames of `len` bytes.
    pub(crate) const fn plain(kind: Kind, len: usize) -> Work {
        Work { kind, len, segment: None }
    }

    /// TCP super-frames, the longest below 64 KiB at MTU 1500.
    pub(crate) const fn super_frames(kind: Kind) -> Work {
        Work { kind, len: 54 + 45 * 1448, segment: Some(1448) }
    }

    /// Room for a frame, its header, and what a ring puts before both; a whole number
    /// of pages where there is need for more than one.
    pub(crate) const fn room(&self) -> usize {
        if self.segment.is_some() { 17 << 12 } else { 2048 }
    }

    /// The devices that generator, sink and carrier hold.
    fn devices(&self, ns: &Netns) -> Result<(Device, Device, Ends)> {
        let whole = self.segment.is_some();
        let plain_tap =
            |name: &str| if whole { Device::tap_with_offloads(ns, name) } else { Device::tap(ns, name) };
        let both = |open: &dyn Fn(&str) -> io::Result<Device>| -> Result<[Device; 2]> {
            Ok([open("t0")?, open("t1")?])
        };
        let taps = match self.kind {
            Kind::Packet => both(&plain_tap)?,
            Kind::Tap => both(&|name| Device::tap_with_offloads(ns, name))?,
        };
        ns.up("t0")?;
        ns.up("t1")?;
        let sockets = match self.kind {
            Kind::Tap if !whole => both(&|name| Device::packet(ns, name))?,
            Kind::Tap | Kind::Packet => both(&|name| Device::packet_with_offloads(ns, name))?,
        };
        let ([from, to], [carry_from, carry_to]) = match self.kind {
            Kind::Packet => (taps, sockets),
            Kind::Tap => (sockets, taps),
        };
        Ok((from, to, Ends { from: carry_from, to: carry_to }))
    }
}

/// CPU time by `clock`, nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "seconds in f64 are exact to the nanosecond for 104 days")]
fn cpu_time(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// One turn at full speed.
///
/// # Errors
/// A device failed, nothing arrived, or it did not arrive once, in order and unharmed.
pub(crate) fn turn(work: &Work, make: Make) -> Result<Figures> {
    let ns = Netns::new("carry")?;
    let (from, to, ends) = work.devices(&ns)?;
    let station = |last| MacAddr::new([2, 0, 0, 0, 0, last]);
    let flow = Flow::new(1, station(2), station(1), work.len);
    let flow = work.segment.map_or(flow.clone(), |segment| flow.with_segments(segment));
    let stop = AtomicBool::new(false);
    let (received, cpu) = std::thread::scope(|scope| -> Result<_> {
        let carrier = scope.spawn(|| -> io::Result<f64> {
            let mut carrier = make(ends, work)?;
            let before = cpu_time(ClockId::ThreadCPUTime);
            while !stop.load(Ordering::Relaxed) {
                carrier.carry()?;
            }
            Ok(cpu_time(ClockId::ThreadCPUTime) - before)
        });
        let before = cpu_time(ClockId::ProcessCPUTime);
        let received = Sink::start(to, std::slice::from_ref(&flow), None).and_then(|sink| {
            let sent = generate(&from, &flow, Pace::Saturate, Until::Elapsed(LENGTH), None)?;
            sink.finish(sent.frames, LATE)
        });
        stop.store(true, Ordering::Relaxed);
        let all = cpu_time(ClockId::ProcessCPUTime) - before;
        let cpu = carrier.join().map_err(|_| anyhow!("the carrier panicked"))??;
        // One flow went in, so one count comes out.
        Ok((received?.remove(0), [cpu, all]))
    })?;
    ensure!(received.frames > 0, "nothing arrived");
    let faults = received.corrupted + received.duplicated + received.reordered;
    ensure!(faults == 0, "{received}");
    #[expect(clippy::cast_precision_loss, reason = "a second's frames")]
    let frames = received.frames as f64;
    let [cpu_ns, all_ns] = cpu.map(|cpu| cpu / frames);
    Ok(Figures { rate: received.rate(), cpu_ns, all_ns })
}
