//! What the subject, and the machine, use while nothing is sent.

use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch_tests::clock::{Deadline, now_nanos};

use super::{Effort, approximate};
use crate::host::{busy, process_time};
use crate::interrupt;
use crate::record::{Figure, Unit};
use crate::subject::Running;

/// Before traffic.
pub(super) const CASE: &str = "idle CPU";

/// Use without traffic.
#[derive(Debug)]
pub(super) struct Idle {
    /// CPUs that the whole machine keeps busy.
    pub(super) idle_share: f64,
    pub(super) figures: Vec<Figure>,
}

pub(super) fn measure(running: &Running, effort: Effort<'_>) -> Result<Idle> {
    // What the first pings woke has to settle.
    pause(Duration::from_millis(300))?;
    let (before, busy_before, own_before) = (now_nanos(), busy()?, process_time(&running.pids)?);
    pause(effort.run)?;
    let elapsed = approximate(now_nanos() - before) / 1e9;
    let share = (busy()?.saturating_sub(busy_before)).as_secs_f64() / elapsed;
    let own = (process_time(&running.pids)?.saturating_sub(own_before)).as_secs_f64() / elapsed;
    let mut figures = Vec::new();
    if !running.pids.is_empty() && effort.wants(CASE) {
        figures.push(Figure::new(CASE, Unit::PercentOfCore, own * 100.0));
    }
    Ok(Idle { idle_share: share, figures })
}

/// CPU time of the subject from `rest` after traffic on.
pub(super) fn after(case: &str, rest: Duration, running: &Running, effort: Effort<'_>) -> Result<Figure> {
    ensure!(!running.pids.is_empty(), "{case}: no process");
    pause(rest)?;
    let (before, own_before) = (now_nanos(), process_time(&running.pids)?);
    pause(effort.run)?;
    let elapsed = approximate(now_nanos() - before) / 1e9;
    let own = (process_time(&running.pids)?.saturating_sub(own_before)).as_secs_f64() / elapsed;
    Ok(Figure::new(case, Unit::PercentOfCore, own * 100.0))
}

/// Waits, unless somebody wants us to end.
pub(super) fn pause(length: Duration) -> Result<()> {
    let deadline = Deadline::after(length);
    while !deadline.passed() {
        interrupt::check()?;
        std::thread::sleep(deadline.left().min(Duration::from_millis(100)));
    }
    Ok(())
}
