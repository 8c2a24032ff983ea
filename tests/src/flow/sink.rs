//! Counts what arrives of flows, by number: once, twice, late, harmed or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::Histogram;

use super::device::Device;
use super::frame::{Flow, Stamp, read_stamp};
use super::generator::Sent;
use crate::clock::{Deadline, now_nanos};
use crate::sys;

/// The highest number believed; beyond it a stamp is broken.
const NUMBER_MAX: u64 = 1 << 32;
/// How long copies too many are waited for.
const SURPLUS: Duration = Duration::from_millis(100);
/// The longest frame a TAP takes, and some.
const ROOM: usize = 132 * 1024;

/// What arrived of one flow.
#[derive(Clone, Debug)]
pub struct Received {
    /// Frames, each number counted once.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Further copies of a number.
    pub duplicated: u64,
    /// Frames that came behind a higher number.
    pub reordered: u64,
    /// Frames whose stamp, length or pattern is not what was sent. Broken
    /// stamps count for the sink's first flow.
    pub corrupted: u64,
    /// Frames that arrived with a gso_size, still whole.
    pub super_frames: u64,
    /// One-way latency from the intended sending time, in ns.
    pub latency_ns: Histogram<u64>,
    /// Arrival of the first and the last frame, in ns of the monotonic clock.
    pub span_ns: (u64, u64),
    seen: Vec<u64>,
    next: u64,
}

impl Received {
    fn new() -> Received {
        let latency_ns =
            Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds in ascending order");
        Received {
            frames: 0,
            bytes: 0,
            duplicated: 0,
            reordered: 0,
            corrupted: 0,
            super_frames: 0,
            latency_ns,
            span_ns: (0, 0),
            seen: Vec::new(),
            next: 0,
        }
    }

    /// Frames of `sent` that never arrived.
    pub fn lost(&self, sent: &Sent) -> u64 {
        sent.frames.saturating_sub(self.frames)
    }

    /// Frames a second between the first and the last arrival.
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    pub fn rate(&self) -> f64 {
        let span = self.span_ns.1.saturating_sub(self.span_ns.0).max(1);
        self.frames.saturating_sub(1) as f64 * 1e9 / span as f64
    }

    /// Numbers below `sent` that never arrived, at most `limit` of them.
    pub fn missing(&self, sent: &Sent, limit: usize) -> Vec<u64> {
        (0..sent.frames).filter(|n| !self.has(*n)).take(limit).collect()
    }

    /// Requires every frame of `sent` once, in order and unharmed.
    ///
    /// # Panics
    /// It was not so; the message has the counts.
    pub fn assert_clean(&self, sent: &Sent) {
        assert!(
            self.lost(sent) == 0 && self.duplicated == 0 && self.reordered == 0 && self.corrupted == 0,
            "{sent:?}: lost {} (first {:?}), {self}",
            self.lost(sent),
            self.missing(sent, 8),
        );
    }

    fn has(&self, number: u64) -> bool {
        self.place(number).is_some_and(|(word, bit)| self.seen.get(word).is_some_and(|w| w & bit != 0))
    }

    fn place(&self, number: u64) -> Option<(usize, u64)> {
        Some((usize::try_from(number / 64).ok()?, 1 << (number % 64)))
    }

    fn count(&mut self, stamp: Stamp, len: usize, now: u64) {
        let Some((word, bit)) = self.place(stamp.number).filter(|_| stamp.number < NUMBER_MAX) else {
            self.corrupted += 1;
            return;
        };
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        if stamp.number < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(stamp.number + 1);
        self.frames += 1;
        self.bytes += u64::try_from(len).unwrap_or_default();
        self.latency_ns.saturating_record(now.saturating_sub(stamp.due_ns).max(1));
        if self.span_ns.0 == 0 {
            self.span_ns.0 = now;
        }
        self.span_ns.1 = now;
    }
}

impl std::fmt::Display for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} frames, {} duplicated, {} reordered, {} corrupted, {} whole super-frames",
            self.frames, self.duplicated, self.reordered, self.corrupted, self.super_frames
        )
    }
}

/// A thread that counts.
#[derive(Debug)]
pub struct Sink {
    thread: Option<JoinHandle<Result<Vec<Received>>>>,
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    others: Arc<AtomicU64>,
}

impl Sink {
    /// Starts counting what arrives at `device` of `flows`, on a thread pinned
    /// to `cpu` if one is given.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(device: Device, flows: &[Flow], cpu: Option<usize>) -> Result<Sink> {
        let (stop, frames, others) = (Arc::default(), Arc::default(), Arc::default());
        let mut counting = Counting {
            device,
            flows: flows.iter().map(|flow| (flow.clone(), Received::new())).collect(),
            stop: Arc::clone(&stop),
            frames: Arc::clone(&frames),
            others: Arc::clone(&others),
        };
        let thread = std::thread::Builder::new().name("sink".into()).spawn(move || {
            if let Some(cpu) = cpu {
                sys::pin(cpu).context("pinning the sink")?;
            }
            counting.run()?;
            Ok(counting.flows.into_iter().map(|(_, received)| received).collect())
        })?;
        Ok(Sink { thread: Some(thread), stop, frames, others })
    }

    /// Frames of all flows so far, copies included.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Frames so far that belong to no flow.
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }

    /// Waits until as many frames have arrived as were sent, and a moment more
    /// for what should not come; or, if some are missing, until nothing has
    /// arrived for `quiet` (at most ten seconds). Returns the counts in the
    /// order of the flows.
    ///
    /// # Errors
    /// The device failed on the way.
    pub fn finish(mut self, sent: u64, quiet: Duration) -> Result<Vec<Received>> {
        let limit = Deadline::after(Duration::from_secs(10));
        let mut seen = self.frames();
        let mut still = Deadline::after(if seen < sent { quiet } else { SURPLUS.min(quiet) });
        while !still.passed() && !limit.passed() {
            std::thread::sleep(Duration::from_millis(5));
            if self.frames() != seen {
                seen = self.frames();
                still = Deadline::after(if seen < sent { quiet } else { SURPLUS.min(quiet) });
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a sink is finished once")?;
        thread.join().map_err(|_| anyhow!("the sink panicked"))?
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its result was not wanted.
            let _ = thread.join();
        }
    }
}

struct Counting {
    device: Device,
    flows: Vec<(Flow, Received)>,
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    others: Arc<AtomicU64>,
}

impl Counting {
    fn run(&mut self) -> Result<()> {
        let mut buffer = vec![0; ROOM];
        while !self.stop.load(Ordering::Relaxed) {
            let mut budget = 256;
            while budget > 0
                && let Some(len) = self.device.read(&mut buffer).context("reading a measured frame")?
            {
                budget -= 1;
                self.take(&buffer[..len]);
            }
            if budget > 0 {
                self.device.wait_readable(Duration::from_millis(20)).context("waiting for a frame")?;
            }
        }
        Ok(())
    }

    fn take(&mut self, prefixed: &[u8]) {
        let now = now_nanos();
        let (vnet, frame) = prefixed.split_at(self.device.prefix_len().min(prefixed.len()));
        let known = match read_stamp(frame) {
            Some(Ok(stamp)) => {
                self.flows.iter_mut().find(|(flow, _)| flow.id == stamp.flow).map(|f| (f, stamp))
            }
            Some(Err(())) => {
                if let Some((_, received)) = self.flows.first_mut() {
                    received.corrupted += 1;
                }
                None
            }
            None => None,
        };
        let Some(((flow, received), stamp)) = known else {
            self.others.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if flow.is_unharmed(frame) {
            received.super_frames += u64::from(vnet.get(4..6).is_some_and(|gso_size| gso_size != [0, 0]));
            received.count(stamp, frame.len(), now);
        } else {
            received.corrupted += 1;
        }
        self.frames.fetch_add(1, Ordering::Relaxed);
    }
}
