//! The round trip of single frames between two TAPs: one at a time, every 5 ms, as
//! `ping -i 0.005` does, answered by a thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use vswitch_hot::stats::spread;
use vswitch_tests::clock::{Deadline, now_nanos};
use vswitch_tests::flow::{Device, Flow, read_stamp};

use super::load::station;
use crate::interrupt;
use crate::measure::{Effort, approximate};
use crate::record::{Figure, Unit};

pub(super) const CASE: &str = "round trip";

pub(super) fn measure(fds: &[Device], effort: Effort<'_>) -> Result<Figure> {
    let stop = AtomicBool::new(false);
    let there = Flow::new(5, station(2), station(1), 60);
    let count = u64::try_from(effort.run.as_millis() / 5).unwrap_or(200).clamp(50, 1000);
    let times = std::thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&fds[1], &stop));
        let times = (0..count).map(|number| one_trip(&fds[0], &there, number)).collect::<Result<Vec<_>>>();
        stop.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
        times
    })?;
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    let lost = approximate(count) - approximate(u64::try_from(times.len())?);
    let p99 = times.get(times.len() * 99 / 100).copied().context("no frame came back")?;
    let median = spread(times).context("no frame came back")?.median;
    Ok(Figure::new(CASE, Unit::Microseconds, median).with("p99", p99).with("lost", lost))
}

fn one_trip(device: &Device, flow: &Flow, number: u64) -> Result<Option<f64>> {
    interrupt::check()?;
    std::thread::sleep(Duration::from_millis(5));
    let mut frame = vec![0; device.prefix_len()];
    frame.extend(flow.blank());
    let mut buffer = vec![0; 4096];
    let start = now_nanos();
    flow.stamp(&mut frame[device.prefix_len()..], number, start);
    device.write(&frame)?;
    let at = device.prefix_len();
    let deadline = Deadline::after(Duration::from_millis(200));
    while !deadline.passed() {
        device.wait_readable(deadline.left())?;
        // An answer to one that was given up is none to this.
        while let Some(len) = device.read(&mut buffer)? {
            let stamp = buffer.get(at..len).and_then(read_stamp);
            if stamp.is_some_and(|stamp| stamp.is_ok_and(|stamp| stamp.number == number)) {
                return Ok(Some(approximate(now_nanos() - start) / 1e3));
            }
        }
    }
    Ok(None)
}

/// Sends every frame back to where it came from.
fn echo(device: &Device, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 4096];
    let at = device.prefix_len();
    while !stop.load(Ordering::Relaxed) {
        device.wait_readable(Duration::from_millis(20))?;
        while let Some(len) = device.read(&mut buffer)? {
            let (destination, source) = buffer[at..at + 12].split_at_mut(6);
            destination.swap_with_slice(source);
            device.write(&buffer[..len])?;
        }
    }
    Ok(())
}
