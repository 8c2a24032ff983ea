//! Figures of two guests that are one dpdk-testpmd: frames that go round
//! through the switch for ever, what the switch uses when they stop, and how
//! often its data thread calls the kernel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::clock::now_nanos;
use vswitch_tests::netns::Netns;

use super::{Effort, Meter, approximate, captured, idle, strace};
use crate::record::{Figure, Unit};
use crate::rig::Queues;
use crate::subject::vhost::{CORE, GENERATOR_CORE, offers_packed, start};
use crate::subject::{Running, Subject};
use crate::testpmd::Testpmd;

/// Lengths as testpmd counts them, without FCS.
const LENGTHS: [usize; 3] = [64, 512, 1518];

/// Bursts of 32 frames that each port sends at first: half a queue.
const BURSTS: u32 = 4;

/// For the first frames to teach the switch, and for the rate to settle.
const SETTLE: Duration = Duration::from_millis(200);

/// Within this after the last frame the switch is to be asleep.
const REST: Duration = Duration::from_secs(1);

const CALLS: &str = "system calls of the data thread";

const STATIONS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];

fn rate_case(len: usize, queues: Queues) -> String {
    format!("{len} B, {}", queues.name())
}

fn idle_case(queues: Queues) -> String {
    format!("idle CPU after traffic, {}", queues.name())
}

fn calls_case(queues: Queues) -> String {
    format!("{CALLS}, 64 B, {}", queues.name())
}

fn captured_case(queues: Queues) -> String {
    captured::case(&rate_case(64, queues))
}

/// Every case of `queues`.
pub(super) fn cases(queues: Queues) -> Vec<String> {
    let mut cases: Vec<String> = LENGTHS.iter().map(|len| rate_case(*len, queues)).collect();
    cases.extend([captured_case(queues), idle_case(queues), calls_case(queues)]);
    cases
}

/// Whether `case` is a figure of `subject`: calls of its thread are ours alone.
pub(super) fn is_of(case: &str, subject: Subject) -> bool {
    (!case.starts_with(CALLS) || subject == Subject::Vswitch) && captured::is_of(case, subject)
}

/// Every figure of `subject` with guests that ask for `queues`; `None`: it has no such
/// queues.
pub(crate) fn all(
    subject: Subject,
    queues: Queues,
    run: &[String],
    effort: Effort<'_>,
) -> Result<Option<Vec<Figure>>> {
    let ns = Netns::new("sw")?;
    // Ends before its namespace goes.
    let (mut running, sockets) = start(subject, &ns, run)?;
    // A driver that was promised none takes split rings, and says nothing.
    if queues.is_packed && !offers_packed(&sockets[0])? {
        return Ok(None);
    }
    let devices = [0, 1].map(|number| {
        format!(
            "net_virtio_user{number},path={},mac={},queues=1,packed_vq={},mrg_rxbuf={}",
            sockets[number].display(),
            STATIONS[number],
            u8::from(queues.is_packed),
            u8::from(queues.merges)
        )
    });
    let peers = [0, 1].map(|number| format!("--eth-peer={number},{}", STATIONS[1 - number]));
    let words = ["--forward-mode=mac", "--burst=32", "--record-core-cycles", &peers[0], &peers[1]];
    let mut guests = Testpmd::start(CORE, GENERATOR_CORE, &devices, &words)?;
    let mut figures = Vec::new();
    for len in LENGTHS {
        let case = rate_case(len, queues);
        if effort.wants(&case) {
            figures.push(rate(case, len, &mut guests, effort)?);
        }
    }
    let case = captured_case(queues);
    if is_of(&case, subject) && effort.wants(&case) {
        figures.push(while_busy(&mut guests, 64, |guests| {
            captured::measure(&case, &running, || arriving(guests, effort.run))
        })?);
    }
    let case = calls_case(queues);
    if is_of(&case, subject) && effort.wants(&case) {
        figures.push(calls(case, &mut guests, &running, effort)?);
    }
    let case = idle_case(queues);
    if effort.wants(&case) {
        figures.push(idle::after(&case, REST, &running, effort)?);
    }
    running.check()?;
    Ok(Some(figures))
}

/// Lets frames of `len` bytes go round while `work` is done.
fn while_busy<T>(
    guests: &mut Testpmd,
    len: usize,
    work: impl FnOnce(&mut Testpmd) -> Result<T>,
) -> Result<T> {
    guests.order(&format!("set txpkts {len}"))?;
    guests.order(&format!("start tx_first {BURSTS}"))?;
    idle::pause(SETTLE)?;
    let result = work(guests);
    guests.order("stop")?;
    result
}

/// Frames a second that arrived, both directions added.
fn rate(case: String, len: usize, guests: &mut Testpmd, effort: Effort<'_>) -> Result<Figure> {
    // Nothing is taken away: a switch that polls when idle would look free.
    let meter = Meter { idle_share: 0.0 };
    while_busy(guests, len, |guests| {
        guests.order("clear fwd stats all")?;
        let (before, start) = (guests.totals()?, now_nanos());
        let (after, cpu) = meter.time(|| idle::pause(effort.run).and_then(|()| guests.totals()))?;
        let elapsed = approximate(now_nanos() - start);
        let work = guests.work_share(elapsed)?;
        let frames = approximate(after.received - before.received);
        ensure!(frames > 0.0, "{case}: nothing arrived");
        let mut figure = Figure::new(case, Unit::MegaframesPerSecond, frames * 1e3 / elapsed)
            .with("generator_busy_percent", work * 100.0)
            .with("not_sent", approximate(after.not_sent - before.not_sent))
            // Of the frames that go round, those that went round no more.
            .with("lost", (after.lost() - before.lost()).max(0.0));
        figure.cpu_ns = Some(cpu / frames);
        Ok(figure)
    })
}

/// Frames a second that arrive while `length` passes.
fn arriving(guests: &mut Testpmd, length: Duration) -> Result<f64> {
    let (before, start) = (guests.totals()?, now_nanos());
    idle::pause(length)?;
    let after = guests.totals()?;
    Ok(approximate(after.received - before.received) * 1e9 / approximate(now_nanos() - start))
}

/// Counted in a run of its own: whoever watches slows down.
fn calls(case: String, guests: &mut Testpmd, running: &Running, effort: Effort<'_>) -> Result<Figure> {
    let pid = *running.pids.first().context("no process")?;
    while_busy(guests, 64, |guests| {
        let before = guests.totals()?;
        let calls = strace::count(pid, "data", effort.run)?;
        let frames = guests.totals()?.received - before.received;
        ensure!(frames > 0, "{case}: nothing arrived");
        Ok(Figure::new(case, Unit::PerThousandFrames, approximate(calls) * 1e3 / approximate(frames)))
    })
}
