//! Figures between two hosts: iperf3 and ping.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use vswitch_hot::stats::spread;
use vswitch_tests::iperf::{Server, is_between_tests};
use vswitch_tests::netns::{Netns, veth};

use super::{Effort, Meter};
use crate::child::output;
use crate::record::{Figure, Unit};
use crate::wiring::{ADDRESS_1, ADDRESS_2, Wiring};

/// How often a server that is between two tests is tried.
const TRIES: u32 = 50;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

const PING: &str = "ping round trip";

/// How offloads are called in a case.
pub(super) const fn state(offloads: bool) -> &'static str {
    if offloads { "offloads on" } else { "offloads off" }
}

fn tcp_case(streams: u32, offloads: bool) -> String {
    format!("TCP, {streams} stream{}, {}", if streams == 1 { "" } else { "s" }, state(offloads))
}

fn udp_case(bytes: u32, offloads: bool) -> String {
    format!("UDP, {bytes} B, {}", state(offloads))
}

/// Streams at a time, and bytes of each datagram.
const STREAMS: [u32; 2] = [1, 4];
const DATAGRAMS: [u32; 2] = [64, 1400];

/// Every case that is a rate.
fn rate_cases(offloads: bool) -> Vec<String> {
    let mut cases: Vec<String> = STREAMS.iter().map(|streams| tcp_case(*streams, offloads)).collect();
    cases.extend(DATAGRAMS.map(|bytes| udp_case(bytes, offloads)));
    cases
}

/// Every case there is.
pub(super) fn cases(offloads: bool) -> Vec<String> {
    let mut cases = rate_cases(offloads);
    if offloads {
        cases.push(PING.into());
    }
    cases
}

pub(super) fn measure(
    wiring: &Wiring,
    hosts: &[Netns; 2],
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Vec<Figure>> {
    let mut figures = rates_between(hosts, wiring.offloads, meter, effort)?;
    if wiring.offloads && effort.wants(PING) {
        figures.push(ping(PING, &hosts[0], effort)?);
    }
    Ok(figures)
}

/// What the hosts reach of each case that is wanted with nothing between them but a
/// veth pair.
pub(crate) fn generator_alone(effort: Effort<'_>) -> Result<Vec<(String, f64)>> {
    // Their CPU time is not asked for.
    let meter = Meter { idle_share: 0.0 };
    let mut rates = Vec::new();
    for offloads in [true, false] {
        if !effort.wants_one(rate_cases(offloads)) {
            continue;
        }
        let hosts = [Netns::new("g1")?, Netns::new("g2")?];
        veth(&hosts[0], "e0", &hosts[1], "e0")?;
        for (host, address) in hosts.iter().zip([ADDRESS_1, ADDRESS_2]) {
            if !offloads {
                host.offloads("e0", false)?;
            }
            host.address("e0", &format!("{address}/24"))?;
        }
        hosts[0].wait_running("e0")?;
        let figures = rates_between(&hosts, offloads, &meter, effort)?;
        rates.extend(figures.into_iter().map(|figure| (figure.case, figure.value)));
    }
    Ok(rates)
}

/// Every rate that is wanted.
fn rates_between(
    hosts: &[Netns; 2],
    offloads: bool,
    meter: &Meter,
    effort: Effort<'_>,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let _server = Server::start(&hosts[1])?;
    for streams in STREAMS {
        let case = tcp_case(streams, offloads);
        if effort.wants(&case) {
            figures.push(tcp(&case, &hosts[0], streams, meter, effort)?);
        }
    }
    for bytes in DATAGRAMS {
        let case = udp_case(bytes, offloads);
        if effort.wants(&case) {
            figures.push(udp(&case, &hosts[0], bytes, meter, effort)?);
        }
    }
    Ok(figures)
}

fn iperf(host: &Netns, args: &[&str], effort: Effort<'_>) -> Result<Value> {
    let secs = effort.run.as_secs().max(1).to_string();
    for _ in 0..TRIES {
        let mut command = host.command("iperf3");
        command.args(["-c", ADDRESS_2, "-J", "--connect-timeout", "5000", "-t", &secs]).args(args);
        let text = match output(command, effort.run * 2 + Duration::from_secs(15)) {
            Err(error) if is_between_tests(&error.to_string()) => {
                std::thread::sleep(PAUSE);
                continue;
            }
            text => text?,
        };
        let report: Value = serde_json::from_str(&text).context("iperf3 -J")?;
        match report["error"].as_str() {
            None => return Ok(report),
            Some(error) if is_between_tests(error) => std::thread::sleep(PAUSE),
            Some(error) => bail!("iperf3: {error}"),
        }
    }
    bail!("iperf3's server never came back")
}

fn number(value: &Value, path: &str) -> Result<f64> {
    value.pointer(path).and_then(Value::as_f64).with_context(|| format!("iperf3 reported no {path}: {value}"))
}

fn tcp(case: &str, host: &Netns, streams: u32, meter: &Meter, effort: Effort<'_>) -> Result<Figure> {
    let (report, cpu) = meter.time(|| iperf(host, &["-P", &streams.to_string()], effort))?;
    tcp_figure(case, &report, cpu)
}

/// What iperf3's `report` says of TCP that cost `cpu` ns.
pub(super) fn tcp_figure(case: &str, report: &Value, cpu: f64) -> Result<Figure> {
    let rate = number(report, "/end/sum_received/bits_per_second")?;
    let bytes = number(report, "/end/sum_received/bytes")?;
    let retransmits = number(report, "/end/sum_sent/retransmits")?;
    let mut figure = Figure::new(case, Unit::GbitPerSecond, rate / 1e9).with("retransmits", retransmits);
    figure.cpu_ns = Some(cpu / (bytes / 1024.0));
    Ok(figure)
}

fn udp(case: &str, host: &Netns, bytes: u32, meter: &Meter, effort: Effort<'_>) -> Result<Figure> {
    let args = ["-u", "-b", "0", "-l", &bytes.to_string()];
    let (report, cpu) = meter.time(|| iperf(host, &args, effort))?;
    udp_figure(case, &report, cpu)
}

/// What iperf3's `report` says of UDP that cost `cpu` ns.
pub(super) fn udp_figure(case: &str, report: &Value, cpu: f64) -> Result<Figure> {
    let sent = number(report, "/end/sum/packets")?;
    let lost = number(report, "/end/sum/lost_packets")?;
    let seconds = number(report, "/end/sum/seconds")?;
    let received = (sent - lost).max(0.0);
    let mut figure = Figure::new(case, Unit::KiloframesPerSecond, received / seconds / 1e3)
        .with("offered", sent / seconds / 1e3)
        .with("lost_percent", 100.0 * lost / sent.max(1.0));
    figure.cpu_ns = Some(cpu / received.max(1.0));
    Ok(figure)
}

fn ping(case: &str, host: &Netns, effort: Effort<'_>) -> Result<Figure> {
    let count = (effort.run.as_millis() / 5).clamp(50, 1000).to_string();
    let mut command = host.command("ping");
    command.args(["-n", "-i", "0.005", "-W", "1", "-c", &count, ADDRESS_2]);
    let text = output(command, effort.run + Duration::from_secs(10))?;
    let times = ping_times(&text);
    let p99 = times.get(times.len() * 99 / 100).copied().context("no ping was answered")?;
    let median = spread(times).context("no ping was answered")?.median;
    Ok(Figure::new(case, Unit::Microseconds, median).with("p99", p99))
}

/// Round trips in µs that `ping` printed, the shortest first.
pub(super) fn ping_times(text: &str) -> Vec<f64> {
    let mut times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .map(|ms: f64| ms * 1e3)
        .collect();
    times.sort_by(f64::total_cmp);
    times
}
