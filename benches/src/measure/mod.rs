//! One figure each: what a subject does with one kind of work.

mod hosts;
mod idle;
mod strace;

pub(crate) mod core;
pub(crate) mod frames;
pub(crate) mod guests;
pub(crate) mod queues;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::host::busy;
use crate::record::{Figure, Unit};
use crate::rig::Rig;
use crate::subject::Running;
use crate::wiring::Wiring;

/// The case that idle and busy switches have in common.
const RESIDENT: &str = "resident memory";

/// How long each run takes and which are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort<'a> {
    /// Length of each run of traffic.
    pub(crate) run: Duration,
    /// Also the long searches (rates without loss, latency under load).
    pub(crate) thorough: bool,
    /// Text that a case's name must hold.
    pub(crate) only: &'a [String],
}

/// What a quick look looks at, if nobody says what: about four minutes.
const HEADLINES: [&str; 17] = [
    "TCP, 1 stream, offloads on",
    "ping round trip",
    "60 B saturated",
    "60 B saturated, virtio-net header",
    "round trip",
    "64 B, split rings",
    "1518 B, split rings",
    "idle CPU after traffic, split rings",
    "system calls of the data thread, 64 B, split rings",
    "TCP, first to second guest",
    "known unicast, 2 ports, 10 stations",
    "known unicast, 2 ports, 1000000 stations",
    "known unicast, 256 ports, 10 stations",
    "known unicast, 256 ports, 1000000 stations",
    "new stations learned",
    "broadcast to 255 ports, a copy",
    "sweep of aged stations, an entry",
];

impl Effort<'_> {
    /// Whether `case` is wanted.
    pub(crate) fn wants(&self, case: &str) -> bool {
        match self.only {
            [] => self.thorough || HEADLINES.contains(&case),
            only => only.iter().any(|only| case.contains(only)),
        }
    }

    /// Whether one of `cases` is wanted.
    pub(crate) fn wants_one<T: AsRef<str>>(&self, cases: impl IntoIterator<Item = T>) -> bool {
        cases.into_iter().any(|case| self.wants(case.as_ref()))
    }
}

/// Whether anything is wanted of a topology with interfaces.
pub(crate) fn is_wanted(rig: Rig, offloads: bool, effort: Effort<'_>) -> bool {
    effort.wants_one([idle::CASE, RESIDENT])
        || match rig {
            Rig::Netns | Rig::OwnedTaps => effort.wants_one(hosts::cases(offloads)),
            Rig::Direct | Rig::Queues | Rig::Guests | Rig::Core => effort.wants_one(frames::cases(offloads)),
        }
}

/// Every figure of what stands and runs.
pub(crate) fn all(wiring: &Wiring, running: &mut Running, effort: Effort<'_>) -> Result<Vec<Figure>> {
    let idle = idle::measure(running, effort)?;
    let meter = Meter { idle_share: idle.idle_share };
    let mut figures = match wiring.hosts() {
        Some(hosts) => hosts::measure(wiring, hosts, &meter, effort)?,
        None => {
            frames::measure(wiring, wiring.fds().context("neither hosts nor descriptors")?, &meter, effort)?
        }
    };
    figures.extend(idle.figures);
    // Memory last: what traffic made it touch counts.
    if !running.pids.is_empty() && effort.wants(RESIDENT) {
        let bytes = running.resident_bytes()?;
        figures.push(Figure::new(RESIDENT, Unit::Mebibytes, approximate(bytes) / f64::from(1 << 20)));
    }
    running.check()?;
    Ok(figures)
}

/// CPU time of the whole machine during a piece of work.
#[derive(Debug)]
pub(crate) struct Meter {
    /// CPUs in use when nothing is sent.
    idle_share: f64,
}

impl Meter {
    /// Runs `work`, and returns with its result the CPU time it cost, in ns,
    /// beyond what the machine uses idle.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (busy_before, before) = (busy()?, vswitch_tests::clock::now_nanos());
        let result = work()?;
        let elapsed = approximate(vswitch_tests::clock::now_nanos() - before);
        let used = (busy()?.saturating_sub(busy_before)).as_secs_f64() * 1e9;
        Ok((result, (used - self.idle_share * elapsed).max(0.0)))
    }
}

/// `value` to 53 bits.
#[expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]
pub(crate) fn approximate(value: u64) -> f64 {
    value as f64
}
