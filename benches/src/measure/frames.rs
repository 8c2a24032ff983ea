//! Figures between two TAPs whose file descriptors we hold, as QEMU would:
//! saturated rates, rates without loss, one-way latency under load, and the
//! round trip of single frames.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::frame::MacAddr;
use vswitch_tests::clock::now_nanos;
use vswitch_tests::flow::{Device, Flow, Pace, Received, Sent, Sink, Until, generate};
use vswitch_tests::netns::Netns;

use super::{Effort, Meter, approximate};
use crate::interrupt;
use crate::record::{Figure, Unit};
use crate::stats::spread;
use crate::wiring::Wiring;

const STATION_1: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
const STATION_2: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);

/// What arrives later than this after the last frame is lost.
const LATE: Duration = Duration::from_millis(300);

/// Payload of each segment of a super-frame at MTU 1500, with timestamps.
const SEGMENT: u16 = 1448;
/// Bytes of a super-frame: 45 such segments, the most below 64 KiB.
const SUPER_LEN: usize = 54 + 45 * 1448;

/// The flow that each case sends from the first TAP to the second.
pub(crate) fn flow(id: u16, len: usize) -> Flow {
    Flow::new(id, STATION_2, STATION_1, len)
}

/// Lengths without a virtio-net header, and their names.
const LENGTHS: [(usize, &str); 3] = [(60, "60 B"), (512, "512 B"), (1514, "1514 B")];

const WITH_HEADER: &str = "60 B saturated, virtio-net header";
const SUPER: &str = "64 KiB super-frames saturated";
const ROUND_TRIP: &str = "round trip";
const WITHOUT_LOSS: &str = "60 B without loss";

/// Every case there is.
pub(super) fn cases(offloads: bool) -> Vec<String> {
    if offloads {
        return [WITH_HEADER, SUPER].map(String::from).into();
    }
    let mut cases: Vec<String> = LENGTHS.iter().map(|(_, name)| format!("{name} saturated")).collect();
    cases.extend([ROUND_TRIP, WITHOUT_LOSS].map(String::from));
    cases
}

pub(super) fn measure(
    wiring: &Wiring,
    fds: &[Device; 2],
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if wiring.offloads {
        if effort.wants(WITH_HEADER) {
            figures.push(saturated(WITH_HEADER, wiring, fds, &flow(2, 60), meter, effort)?);
        }
        if effort.wants(SUPER) {
            let super_flow = flow(3, SUPER_LEN).with_segments(SEGMENT);
            figures.push(saturated(SUPER, wiring, fds, &super_flow, meter, effort)?);
        }
        return Ok(figures);
    }
    for (len, name) in LENGTHS {
        let case = format!("{name} saturated");
        if effort.wants(&case) {
            figures.push(saturated(&case, wiring, fds, &flow(4, len), meter, effort)?);
        }
    }
    if effort.wants(ROUND_TRIP) {
        figures.push(round_trip(ROUND_TRIP, fds, effort)?);
    }
    if effort.thorough && effort.wants(WITHOUT_LOSS) {
        figures.extend(without_loss(WITHOUT_LOSS, fds, effort)?);
    }
    Ok(figures)
}

/// Rate at which the generator writes `len` bytes with nobody behind the TAP.
pub(crate) fn generator_alone(offloads: bool, effort: Effort<'_>) -> Result<Vec<(String, f64)>> {
    let ns = Netns::new("gen")?;
    let device = if offloads { Device::tap_with_offloads(&ns, "t0") } else { Device::tap(&ns, "t0") }?;
    ns.up("t0")?;
    ns.wait_running("t0")?;
    let mut rates = Vec::new();
    let mut run = |case: &str, flow: &Flow| -> Result<()> {
        let sent = generate(&device, flow, Pace::Saturate, Until::Elapsed(effort.run / 2), None)?;
        let unit = approximate(sent.frames) / approximate(sent.elapsed_ns);
        let value = if flow.len > 2000 { unit * approximate_len(flow.len) * 8.0 } else { unit * 1e6 };
        rates.push((case.to_owned(), value));
        Ok(())
    };
    if offloads {
        run(WITH_HEADER, &flow(2, 60))?;
        run(SUPER, &flow(3, SUPER_LEN).with_segments(SEGMENT))?;
    } else {
        for (len, name) in LENGTHS {
            run(&format!("{name} saturated"), &flow(4, len))?;
        }
    }
    Ok(rates)
}

fn approximate_len(len: usize) -> f64 {
    approximate(u64::try_from(len).unwrap_or(u64::MAX))
}

fn send(fds: &[Device; 2], flow: &Flow, pace: Pace, length: Duration) -> Result<(Sent, Received)> {
    let sink = Sink::start(fds[1].clone(), std::slice::from_ref(flow), None)?;
    let sent = generate(&fds[0], flow, pace, Until::Elapsed(length), None)?;
    let mut received = sink.finish(sent.frames, LATE)?;
    interrupt::check()?;
    Ok((sent, received.remove(0)))
}

fn saturated(
    case: &str,
    wiring: &Wiring,
    fds: &[Device; 2],
    flow: &Flow,
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Figure> {
    let dropped = |port| wiring.switch_ns.device(port).map(|d| d.tx_dropped());
    let before = dropped(wiring.ports[1])?;
    let ((sent, received), cpu) = meter.time(|| send(fds, flow, Pace::Saturate, effort.run))?;
    ensure!(received.frames > 0, "{case}: nothing arrived");
    ensure!(
        received.corrupted == 0 && received.duplicated == 0 && received.reordered == 0,
        "{case}: {received}"
    );
    let is_super = flow.len > 2000;
    let (unit, value) = if is_super {
        (Unit::GbitPerSecond, received.rate() * approximate_len(flow.len) * 8.0 / 1e9)
    } else {
        (Unit::KiloframesPerSecond, received.rate() / 1e3)
    };
    let per = if is_super { approximate(received.bytes) / 1024.0 } else { approximate(received.frames) };
    let lost = approximate(received.lost(&sent));
    let mut figure = Figure::new(case, unit, value)
        .with("offered", sent.rate() / 1e3)
        .with("lost_percent", 100.0 * lost / approximate(sent.frames.max(1)))
        .with("tx_dropped", approximate(dropped(wiring.ports[1])?.saturating_sub(before)));
    if is_super {
        figure = figure.with("whole", approximate(received.super_frames));
    }
    figure.cpu_ns = Some(cpu / per);
    Ok(figure)
}

/// One frame at a time there and back, every 5 ms, as `ping -i 0.005` does.
fn round_trip(case: &str, fds: &[Device; 2], effort: Effort<'_>) -> Result<Figure> {
    let stop = AtomicBool::new(false);
    let there = flow(5, 60);
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
    let lost = approximate(count) - approximate_len(times.len());
    let p99 = times.get(times.len() * 99 / 100).copied().context("no frame came back")?;
    let median = spread(times).context("no frame came back")?.median;
    Ok(Figure::new(case, Unit::Microseconds, median).with("p99", p99).with("lost", lost))
}

fn one_trip(device: &Device, flow: &Flow, number: u64) -> Result<Option<f64>> {
    std::thread::sleep(Duration::from_millis(5));
    let mut frame = vec![0; device.prefix_len()];
    frame.extend(flow.blank());
    let mut buffer = vec![0; 4096];
    let start = now_nanos();
    flow.stamp(&mut frame[device.prefix_len()..], number, start);
    device.write(&frame)?;
    device.wait_readable(Duration::from_millis(200))?;
    let came = device.read(&mut buffer)?.is_some();
    Ok(came.then(|| approximate(now_nanos() - start) / 1e3))
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

/// The highest rate without loss (RFC 2544), found by halving between a rate
/// known good and one known bad; a loss must show twice to count (ETSI TST009).
/// Then the one-way latency at 10, 50 and 90 % of it.
fn without_loss(case: &str, fds: &[Device; 2], effort: Effort<'_>) -> Result<Vec<Figure>> {
    let flow = flow(6, 60);
    let trial = effort.run / 2;
    let loses = |rate: f64| -> Result<bool> {
        for _ in 0..2 {
            let (sent, received) = send(fds, &flow, Pace::Rate(rate), trial)?;
            // A generator that could not keep the rate proves nothing.
            if received.lost(&sent) == 0 && sent.rate() > 0.97 * rate {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let (_, top) = send(fds, &flow, Pace::Saturate, trial)?;
    let (mut good, mut bad) = (0.0, top.rate() * 1.2);
    for _ in 0..7 {
        let middle = f64::midpoint(good, bad);
        if loses(middle)? { bad = middle } else { good = middle }
    }
    let mut figures = vec![Figure::new(case, Unit::KiloframesPerSecond, good / 1e3)];
    for share in [10, 50, 90] {
        let (_, received) =
            send(fds, &flow, Pace::Rate((good * f64::from(share) / 100.0).max(100.0)), trial)?;
        let at = |q| approximate(received.latency_ns.value_at_quantile(q)) / 1e3;
        let name = format!("one-way latency at {share} % of the rate without loss");
        let figure =
            Figure::new(name, Unit::Microseconds, at(0.5)).with("p90", at(0.9)).with("p99", at(0.99));
        figures.push(figure.with("p99.9", at(0.999)).with("max", at(1.0)));
    }
    Ok(figures)
}
