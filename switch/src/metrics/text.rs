//! One reading of every counter as text: OpenMetrics 1.0, and the older format
//! of Prometheus for whoever does not ask for that.
//!
//! Read first: the names below, which are stable; docs/monitoring.md says what
//! each means.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::control::{PortStats, Stats};
use crate::engine::{TURN_BUCKETS, TurnTimes};

/// Everything that is told, at one instant.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The counters.
    pub stats: Stats,
    /// What ports are, beside their counters.
    pub ports: Vec<PortReading>,
    /// Entries in the FDB.
    pub fdb_len: u32,
    /// The most there can be.
    pub fdb_size: u32,
    /// How long turns took.
    pub turns: TurnTimes,
    /// When the process started, in seconds since 1970.
    pub started: f64,
    /// Clients of the control socket.
    pub clients: u32,
    /// Events written into the journal.
    pub events: u64,
}

/// What a port is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortReading {
    /// Its name.
    pub name: String,
    /// Whether it carries frames.
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
    /// Addresses learned and bound there.
    pub macs: u32,
}

/// A counter of ports: its name without `_total`, what it counts, and where it is.
type PortCounter = (&'static str, &'static str, fn(&PortStats) -> u64);

const PORT_COUNTERS: [PortCounter; 15] = [
    ("vswitch_port_receive_frames", "Frames received", |port| port.rx),
    ("vswitch_port_receive_bytes", "Bytes received", |port| port.rx_bytes),
    ("vswitch_port_forwarded_frames", "Received frames sent on to at least one port", |port| port.forwarded),
    ("vswitch_port_copies", "Times the port was chosen as an egress", |port| port.copies),
    ("vswitch_port_transmit_frames", "Copies sent", |port| port.tx),
    ("vswitch_port_transmit_bytes", "Bytes sent", |port| port.tx_bytes),
    ("vswitch_port_segments", "Frames made out of super-frames", |port| port.segments),
    ("vswitch_port_fast_receive_frames", "Received frames that the kernel forwarded", |port| port.rx_fast),
    ("vswitch_port_fast_transmit_frames", "Copies that the kernel sent", |port| port.tx_fast),
    ("vswitch_port_learned_macs", "Addresses learned", |port| port.learned),
    ("vswitch_port_moved_macs", "Addresses that came from another port", |port| port.moved),
    ("vswitch_port_unlearned_frames", "Frames whose source was not learned for want of room", |port| {
        port.not_learned
    }),
    ("vswitch_port_spoofed_frames", "Frames whose source is bound to another port", |port| port.spoofed),
    ("vswitch_port_missed_frames", "Frames that found the receive buffer full, outside the sums", |port| {
        port.rx_missed
    }),
    ("vswitch_port_lost_frames", "Frames sent that the device dropped later, outside the sums", |port| {
        port.tx_lost
    }),
];

/// A gauge of ports.
type PortGauge = (&'static str, &'static str, fn(&PortReading) -> u32);

const PORT_GAUGES: [PortGauge; 3] = [
    ("vswitch_port_up", "Whether the port carries frames: 1 or 0", |port| u32::from(port.up)),
    ("vswitch_port_mtu_bytes", "Payload bytes of the longest frame", |port| port.mtu),
    ("vswitch_port_macs", "Addresses learned and bound at the port", |port| port.macs),
];

/// `reading` as OpenMetrics.
pub fn open_metrics(reading: Reading) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Told(reading)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

/// The same in Prometheus' own text format 0.0.4: a counter has its sample's name,
/// and there are neither units nor an end.
pub fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let lines: Vec<&str> = open_metrics.lines().collect();
    let type_of = |name: &str| {
        let of = |line: &&str| {
            line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned)
        };
        lines.iter().find_map(of).unwrap_or_default()
    };
    for line in &lines {
        let described = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        let Some((what, (name, rest))) =
            described.and_then(|(what, rest)| Some((what, rest.split_once(' ')?)))
        else {
            if *line != "# EOF" {
                let _ = writeln!(text, "{line}");
            }
            continue;
        };
        let kind = type_of(name);
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        match what {
            "TYPE" => {
                let rest = if rest == "info" { "gauge" } else { rest };
                let _ = writeln!(text, "# TYPE {name}{suffix} {rest}");
            }
            "HELP" => {
                let _ = writeln!(text, "# HELP {name}{suffix} {rest}");
            }
            // UNIT.
            _ => {}
        }
    }
    text
}

/// A reading, to be encoded once.
#[derive(Debug)]
struct Told(Reading);

impl Collector for Told {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let reading = &self.0;
        for (name, help, of) in PORT_COUNTERS {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for port in rows(&reading.stats) {
                let labels = [("port", port.name.as_str())];
                ConstCounter::new(of(port)).encode(family.encode_family(&labels)?)?;
            }
        }
        reasons(&mut to, &reading.stats, "vswitch_port_dropped_frames", "Received frames dropped", |port| {
            &port.drops
        })?;
        reasons(&mut to, &reading.stats, "vswitch_port_refused_frames", "Copies not sent", |port| {
            &port.refused
        })?;
        for (name, help, of) in PORT_GAUGES {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for port in &reading.ports {
                let labels = [("port", port.name.as_str())];
                ConstGauge::new(of(port)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in [
            ("vswitch_fdb_entries", "Addresses known", reading.fdb_len),
            ("vswitch_fdb_size_entries", "The most addresses there can be", reading.fdb_size),
            ("vswitch_control_clients", "Clients of the control socket", reading.clients),
        ] {
            let gauge = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        let help = "Events written down";
        let events = to.encode_descriptor("vswitch_events", help, None, MetricType::Counter)?;
        ConstCounter::new(reading.events).encode(events)?;
        turns(&mut to, &reading.turns)?;
        let help = "When the process started, since 1970";
        let started =
            to.encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(reading.started).encode(started)?;
        let help = "The version and the name of the switch";
        let mut build = to.encode_descriptor("vswitch_build", help, None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("switch", &reading.stats.name)])
    }
}

/// Ports, and what deleted ones counted: a sum over all of them never goes back.
/// No port can be called that.
fn rows(stats: &Stats) -> impl Iterator<Item = &PortStats> {
    stats.ports.iter().chain([&stats.retired])
}

fn reasons(
    to: &mut DescriptorEncoder<'_>,
    stats: &Stats,
    name: &str,
    help: &str,
    of: fn(&PortStats) -> &std::collections::BTreeMap<String, u64>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for port in rows(stats) {
        for (reason, count) in of(port) {
            let labels = [("port", port.name.as_str()), ("reason", reason.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn turns(to: &mut DescriptorEncoder<'_>, turns: &TurnTimes) -> fmt::Result {
    let help = "How long the data thread took to receive, judge and send a burst";
    let mut histogram =
        to.encode_descriptor("vswitch_turn", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    let mut buckets = [(f64::INFINITY, 0); TURN_BUCKETS];
    for (at, (bucket, count)) in buckets.iter_mut().zip(turns.counts).enumerate() {
        *bucket = (TurnTimes::bound(at).map_or(f64::INFINITY, |bound| bound.as_secs_f64()), count);
    }
    histogram.encode_histogram::<NoLabelSet>(turns.sum.as_secs_f64(), turns.len(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::examples;

    fn reading() -> Reading {
        let (_, stats, ..) = examples();
        let mut turns = TurnTimes::default();
        turns.counts[1] = 3;
        turns.counts[TURN_BUCKETS - 1] = 1;
        turns.sum = std::time::Duration::from_millis(500);
        let port = PortReading { name: "tap0".to_owned(), up: true, mtu: 1500, macs: 1 };
        Reading {
            stats,
            ports: vec![port],
            fdb_len: 1,
            fdb_size: 8192,
            turns,
            started: 1_795_575_016.5,
            clients: 1,
            events: 12,
        }
    }

    #[test]
    fn every_counter_and_reason_is_told() {
        let text = open_metrics(reading());
        for line in [
            "# TYPE vswitch_port_receive_frames counter",
            "vswitch_port_receive_frames_total{port=\"tap0\"} 10",
            "vswitch_port_dropped_frames_total{port=\"tap0\",reason=\"filtered\"} 2",
            "vswitch_port_refused_frames_total{port=\"retired\",reason=\"full\"} 1",
            "vswitch_port_lost_frames_total{port=\"tap0\"} 4",
            "vswitch_port_up{port=\"tap0\"} 1",
            "vswitch_fdb_size_entries 8192",
            "# TYPE vswitch_turn_seconds histogram",
            "vswitch_turn_seconds_sum 0.5",
            "vswitch_turn_seconds_count 4",
            "vswitch_turn_seconds_bucket{le=\"0.000001024\"} 3",
            "vswitch_turn_seconds_bucket{le=\"+Inf\"} 4",
            "process_start_time_seconds 1795575016.5",
            concat!("vswitch_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",switch=\"default\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        let (_, stats, ..) = examples();
        assert_eq!(PORT_COUNTERS.len(), stats.total.numbers().len(), "a counter that is not told");
        for reason in stats.total.drops.keys().chain(stats.total.refused.keys()) {
            assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason}");
        }
    }

    #[test]
    fn the_older_format_names_counters_by_their_samples() {
        let text = prometheus(&open_metrics(reading()));
        assert!(text.contains("# TYPE vswitch_port_receive_frames_total counter\n"), "{text}");
        assert!(text.contains("# HELP vswitch_port_receive_frames_total Frames received"), "{text}");
        assert!(text.contains("# TYPE vswitch_build_info gauge\n"), "{text}");
        assert!(
            !text.contains("# UNIT") && !text.contains("# EOF") && !text.contains("_total_total"),
            "{text}"
        );
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&text), samples(&open_metrics(reading())));
    }
}
