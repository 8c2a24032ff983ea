//! A thread that counts what arrives of flows, at one device or at many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::device::{Device, wait_one_readable};
use super::frame::{Flow, read_stamp};
use super::received::Received;
use crate::clock::{Deadline, now_nanos};
use crate::sys;
use anyhow::{Context as _, Result, anyhow};

/// How long copies too many are waited for.
const SURPLUS: Duration = Duration::from_millis(100);
/// The longest frame a TAP takes, and some.
const ROOM: usize = 132 * 1024;
/// Frames read from one device before the next has its turn.
const BUDGET: u32 = 256;

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
        Sink::start_many(vec![(device, flows.to_vec())], cpu)
    }

    /// The same at several devices, each with the flows that belong there: what
    /// arrives elsewhere counts among the [`others`](Self::others).
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start_many(ends: Vec<(Device, Vec<Flow>)>, cpu: Option<usize>) -> Result<Sink> {
        let place = move || cpu.map_or(Ok(()), sys::pin).context("pinning the sink");
        Sink::start_placed(ends, place)
    }

    /// The same on a thread that runs before all ordinary ones, so that no frame waits
    /// for it while others work.
    ///
    /// # Errors
    /// No thread can be started; without CAP_SYS_NICE, [`finish`](Self::finish) fails.
    pub fn start_first(ends: Vec<(Device, Vec<Flow>)>, cpu: Option<usize>) -> Result<Sink> {
        Sink::start_placed(ends, move || {
            cpu.map_or(Ok(()), sys::pin).context("pinning the sink")?;
            sys::run_first().context("letting the sink run first")
        })
    }

    fn start_placed(
        ends: Vec<(Device, Vec<Flow>)>,
        place: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Sink> {
        let (stop, frames, others) = (Arc::default(), Arc::default(), Arc::default());
        let with_count = |flow| (flow, Received::new());
        let ends: Vec<End> = ends
            .into_iter()
            .map(|(device, flows)| End { device, flows: flows.into_iter().map(with_count).collect() })
            .collect();
        let mut counting = Counting {
            ends,
            stop: Arc::clone(&stop),
            frames: Arc::clone(&frames),
            others: Arc::clone(&others),
        };
        let thread = std::thread::Builder::new().name("sink".into()).spawn(move || {
            place()?;
            counting.run()?;
            let flows = counting.ends.into_iter().flat_map(|end| end.flows);
            Ok(flows.map(|(_, received)| received).collect())
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
    /// order of the devices and their flows.
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
    ends: Vec<End>,
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    others: Arc<AtomicU64>,
}

/// A device, and what is to arrive there.
struct End {
    device: Device,
    flows: Vec<(Flow, Received)>,
}

impl Counting {
    fn run(&mut self) -> Result<()> {
        let mut buffer = vec![0; ROOM];
        let devices: Vec<Device> = self.ends.iter().map(|end| end.device.clone()).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let mut more = false;
            for end in &mut self.ends {
                let mut budget = BUDGET;
                while budget > 0
                    && let Some(len) = end.device.read(&mut buffer).context("reading a measured frame")?
                {
                    budget -= 1;
                    let counter = if end.take(&buffer[..len]) { &self.frames } else { &self.others };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                more |= budget == 0;
            }
            if !more {
                wait_one_readable(&devices, Duration::from_millis(20)).context("waiting for a frame")?;
            }
        }
        Ok(())
    }
}

impl End {
    /// Counts a frame; false: it is none of these flows.
    fn take(&mut self, prefixed: &[u8]) -> bool {
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
        let Some(((flow, received), stamp)) = known else { return false };
        if flow.is_unharmed(frame) {
            received.super_frames += u64::from(vnet.get(4..6).is_some_and(|gso_size| gso_size != [0, 0]));
            received.count(stamp, frame.len(), now);
        } else {
            received.corrupted += 1;
        }
        true
    }
}
