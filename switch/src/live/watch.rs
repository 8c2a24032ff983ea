//! `vswitch stats --watch`: rates and differences, a line a port and look. Plain
//! lines without escape codes, so that a pipe gets what a terminal gets.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use super::{PortRates, Rates, put, short};
use crate::cli::Target;
use crate::config::Invoker;
use crate::control::{Client, ClientError, Stats};
use crate::output::plain;

/// Lines between two headings.
const HEADING_EVERY: usize = 20;

/// Reads the counters every `interval` and prints what is new, until nobody
/// reads it or the switch ends.
///
/// # Errors
/// There is no such switch, or it has ended.
pub fn stats(interval: Duration, target: &Target, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    let mut before = read(target, invoker)?;
    let mut lines = 0;
    loop {
        sleep(interval);
        let now = read(target, invoker)?;
        if let Some(rates) = Rates::between(&before, &now) {
            let text = if target.json {
                rates_json(&now, &rates).to_string() + "\n"
            } else {
                text(&now, &rates, &mut lines)
            };
            if !put(&text)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        before = now;
    }
}

/// A connection each: one that says nothing for long is closed.
fn read(target: &Target, invoker: &Invoker) -> Result<Stats, ClientError> {
    let mut client = Client::find(invoker, target.name.as_deref(), target.control.as_deref())?;
    client.stats()
}

/// One look as a table; `lines` counts those since the last heading.
fn text(now: &Stats, rates: &Rates, lines: &mut usize) -> String {
    let width = rates.ports.iter().map(|port| port.name.chars().count()).max().unwrap_or(0).max(5);
    let mut text = String::new();
    if lines.is_multiple_of(HEADING_EVERY) {
        *lines = 0;
        let _ = writeln!(
            text,
            "{:8}  {:width$}  {:>7}  {:>7}  {:>8}  {:>8}  {:>7}  {:>9}  {:>6}",
            "UP", "PORT", "RX/S", "TX/S", "RX BIT/S", "TX BIT/S", "DROPS/S", "REFUSED/S", "LOST/S"
        );
    }
    let up = format!("{}.{}s", now.uptime_ms / 1000, now.uptime_ms / 100 % 10);
    for port in rates.ports.iter().chain([&rates.total]) {
        *lines += 1;
        let PortRates { name, rx, tx, rx_bits, tx_bits, drops, refused, lost, reasons } = port;
        let _ = write!(
            text,
            "{up:8}  {:width$}  {:>7}  {:>7}  {:>8}  {:>8}  {:>7}  {:>9}  {:>6}",
            plain(name),
            short(*rx),
            short(*tx),
            short(*rx_bits),
            short(*tx_bits),
            short(*drops),
            short(*refused),
            short(*lost)
        );
        for (reason, count) in reasons {
            let _ = write!(text, "  {} +{count}", plain(reason));
        }
        text.push('\n');
    }
    text
}

/// One look for machines: rates a second, and the counters themselves.
pub fn rates_json(now: &Stats, rates: &Rates) -> serde_json::Value {
    let port = |rates: &PortRates| {
        let PortRates { name, rx, tx, rx_bits, tx_bits, drops, refused, lost, reasons } = rates;
        let reasons: serde_json::Map<String, serde_json::Value> =
            reasons.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
        serde_json::json!({
            "name": name, "rx": rx, "tx": tx, "rx_bits": rx_bits, "tx_bits": tx_bits,
            "drops": drops, "refused": refused, "lost": lost, "reasons": reasons,
        })
    };
    let ports: Vec<_> = rates.ports.iter().map(port).collect();
    serde_json::json!({
        "uptime_ms": now.uptime_ms, "interval_ms": rates.interval_ms,
        "ports": ports, "total": port(&rates.total), "stats": now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::examples;

    fn looks() -> (Stats, Rates) {
        let (_, before, ..) = examples();
        let mut now = before.clone();
        now.uptime_ms += 1000;
        for port in [&mut now.ports[0], &mut now.total] {
            port.rx += 12_345;
            port.rx_bytes += 1_000_000;
            *port.drops.get_mut("filtered").unwrap() += 7;
        }
        let rates = Rates::between(&before, &now).unwrap();
        (now, rates)
    }

    #[test]
    fn a_look_is_a_table_with_a_heading_now_and_then() {
        let (now, rates) = looks();
        let mut lines = 0;
        assert_eq!(
            text(&now, &rates, &mut lines),
            "UP        PORT      RX/S     TX/S  RX BIT/S  TX BIT/S  DROPS/S  REFUSED/S  LOST/S\n\
             126.0s    tap0     12.3k        0     8.00M         0        7          0       0  filtered +7\n\
             126.0s    total    12.3k        0     8.00M         0        7          0       0  filtered +7\n"
        );
        assert!(!text(&now, &rates, &mut lines).contains("PORT"));
        lines = HEADING_EVERY;
        assert!(text(&now, &rates, &mut lines).contains("PORT"));
    }

    #[test]
    fn machines_get_rates_and_counters_on_one_line() {
        let (now, rates) = looks();
        let look = rates_json(&now, &rates);
        assert_eq!(look.to_string().matches('\n').count(), 0);
        assert_eq!((&look["ports"][0]["rx"], &look["total"]["rx_bits"]), (&12_345.into(), &8_000_000.into()));
        assert_eq!(
            (&look["ports"][0]["reasons"]["filtered"], &look["stats"]["name"]),
            (&7.into(), &"default".into())
        );
    }
}
