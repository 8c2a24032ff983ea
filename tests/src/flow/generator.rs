//! Sends a flow: as fast as the device takes it, or on an open-loop schedule
//! whose times are set before anything is sent. A generator that falls behind
//! sends at once and keeps the intended times, so that a switch that stalls
//! cannot hide it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::device::Device;
use super::frame::Flow;
use super::received::times;
use crate::clock::{nanos, now_nanos};
use crate::sys;

/// How fast.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// As fast as the device takes frames.
    Saturate,
    /// Frames a second, each due a same time after the one before. Between two the
    /// thread sleeps, and a sleep ends late: short gaps make bursts.
    Rate(f64),
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub enum Until<'a> {
    /// That many frames.
    Count(u64),
    /// For that long.
    Elapsed(Duration),
    /// Until somebody sets the flag.
    Stopped(&'a AtomicBool),
}

/// What a generator sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Frames that the device took.
    pub frames: u64,
    /// Times that the device was full and a frame was tried again.
    pub retries: u64,
    /// From the first to behind the last frame, in ns.
    pub elapsed_ns: u64,
    /// How long after they were due frames were given to the device, in ns: at a
    /// [`Pace::Rate`] only.
    pub late_ns: Histogram<u64>,
}

impl Default for Sent {
    fn default() -> Sent {
        Sent { frames: 0, retries: 0, elapsed_ns: 0, late_ns: times() }
    }
}

impl Sent {
    /// Frames a second.
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    pub fn rate(&self) -> f64 {
        self.frames as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }
}

/// The clock is read once in so many saturating frames.
const STRIDE: u64 = 16;

/// Sends `flow` into `device` on this thread, pinned to `cpu` if one is given.
///
/// # Errors
/// The device failed.
pub fn generate(
    device: &Device,
    flow: &Flow,
    pace: Pace,
    until: Until<'_>,
    cpu: Option<usize>,
) -> Result<Sent> {
    generate_in_turn(&[(device, flow)], pace, until, cpu)
}

/// The same with several flows: frame after frame, each of `lanes` has its turn.
/// Pace, limit and what is returned are of all of them together.
///
/// # Errors
/// A device failed.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a schedule in f64 is exact to the nanosecond for 104 days"
)]
pub fn generate_in_turn(
    lanes: &[(&Device, &Flow)],
    pace: Pace,
    until: Until<'_>,
    cpu: Option<usize>,
) -> Result<Sent> {
    if let Some(cpu) = cpu {
        sys::pin(cpu).context("pinning the generator")?;
    }
    sys::wake_promptly().context("timer slack")?;
    let mut lanes: Vec<Lane<'_>> = lanes.iter().map(|(device, flow)| Lane::new(device, flow)).collect();
    let start = now_nanos();
    let mut sent = Sent::default();
    let mut now = start;
    // Frames that every lane has sent; the next ones bear that number.
    for number in 0.. {
        for lane in &mut lanes {
            let due = match pace {
                Pace::Rate(rate) => start + (sent.frames as f64 * 1e9 / rate) as u64,
                Pace::Saturate if sent.frames.is_multiple_of(STRIDE) => now_nanos(),
                Pace::Saturate => now,
            };
            let done = match until {
                Until::Count(frames) => sent.frames >= frames,
                Until::Elapsed(limit) => due >= start + nanos(limit),
                Until::Stopped(flag) => flag.load(Ordering::Relaxed),
            };
            if let Pace::Rate(_) = pace
                && !done
            {
                sent.late_ns.saturating_record(sleep_until(due));
            }
            now = due;
            if done || !lane.send(number, due, start, until, &mut sent)? {
                sent.elapsed_ns = now_nanos() - start;
                return Ok(sent);
            }
        }
        if lanes.is_empty() {
            break;
        }
    }
    Ok(sent)
}

/// A CPU for a generator and another one for a sink; none where there is but one.
///
/// # Errors
/// The kernel does not say.
pub fn two_cpus() -> Result<[Option<usize>; 2]> {
    let cpus = sys::cpus().context("asking for CPUs")?;
    Ok(match cpus[..] {
        [first, .., last] => [Some(first), Some(last)],
        _ => [None, None],
    })
}

/// A flow and where it goes.
struct Lane<'a> {
    device: &'a Device,
    flow: &'a Flow,
    /// The frame with its virtio-net header, to be stamped.
    buffer: Vec<u8>,
}

impl<'a> Lane<'a> {
    fn new(device: &'a Device, flow: &'a Flow) -> Lane<'a> {
        let mut buffer = flow.vnet_header()[..device.prefix_len()].to_vec();
        buffer.extend(flow.blank());
        Lane { device, flow, buffer }
    }

    /// Sends frame `number`; false: the time was over while the device was full.
    fn send(&mut self, number: u64, due: u64, start: u64, until: Until<'_>, sent: &mut Sent) -> Result<bool> {
        let prefix = self.device.prefix_len();
        self.flow.stamp(&mut self.buffer[prefix..], number, due);
        while !self.device.write(&self.buffer).context("sending a measured frame")? {
            sent.retries += 1;
            self.device.wait_writable(Duration::from_millis(1)).context("waiting to send")?;
            let stopped = match until {
                Until::Count(_) => false,
                Until::Elapsed(limit) => now_nanos() >= start + nanos(limit),
                Until::Stopped(flag) => flag.load(Ordering::Relaxed),
            };
            if stopped {
                return Ok(false);
            }
        }
        sent.frames += 1;
        Ok(true)
    }
}

/// Sleeps until `due` of the monotonic clock; returns at once if it is past. How many ns
/// ago it is then.
fn sleep_until(due: u64) -> u64 {
    let now = now_nanos();
    if due <= now {
        return now - due;
    }
    std::thread::sleep(Duration::from_nanos(due - now));
    now_nanos().saturating_sub(due)
}
