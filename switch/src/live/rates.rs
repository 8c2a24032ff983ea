//! What happened between two readings of the counters, in numbers a second.
//! Pure: two values in, one out.

use crate::control::{PortStats, Stats};

/// Rates of all ports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// Milliseconds between the readings.
    pub interval_ms: u64,
    /// In the order of their creation.
    pub ports: Vec<PortRates>,
    /// All ports together, deleted ones included.
    pub total: PortRates,
}

/// Rates of one port, a second, rounded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortRates {
    /// Its name.
    pub name: String,
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Bits received.
    pub rx_bits: u64,
    /// Bits sent.
    pub tx_bits: u64,
    /// Received frames that were dropped.
    pub drops: u64,
    /// Copies that were refused.
    pub refused: u64,
    /// Frames lost outside the switch: in a full receive buffer, or behind the device.
    pub lost: u64,
    /// What was dropped, refused and lost, by name: not a rate but how many.
    pub reasons: Vec<(String, u64)>,
}

impl Rates {
    /// From `before` to `now`; `None` if no time is between them, or another
    /// switch has taken the place of the first.
    pub fn between(before: &Stats, now: &Stats) -> Option<Rates> {
        let interval_ms = now.uptime_ms.checked_sub(before.uptime_ms).filter(|ms| *ms != 0)?;
        let rates = |now: &PortStats| {
            let before = before.ports.iter().find(|port| port.name == now.name);
            PortRates::between(before, now, interval_ms)
        };
        let ports = now.ports.iter().map(rates).collect();
        let total = PortRates::between(Some(&before.total), &now.total, interval_ms);
        Some(Rates { interval_ms, ports, total })
    }
}

impl PortRates {
    fn between(before: Option<&PortStats>, now: &PortStats, interval_ms: u64) -> PortRates {
        // A port that was closed and opened anew counts from zero again.
        let more = |field: &dyn Fn(&PortStats) -> u64| {
            let now = field(now);
            now.checked_sub(before.map_or(0, field)).unwrap_or(now)
        };
        let rate = |more: u64| (more.saturating_mul(1000) + interval_ms / 2) / interval_ms;
        let mut reasons = Vec::new();
        for name in now.drops.keys() {
            reasons.push((name.clone(), more(&|port| port.drops.get(name).copied().unwrap_or(0))));
        }
        for name in now.refused.keys() {
            reasons.push((name.clone(), more(&|port| port.refused.get(name).copied().unwrap_or(0))));
        }
        reasons.push(("rx_missed".to_owned(), more(&|port| port.rx_missed)));
        reasons.push(("tx_lost".to_owned(), more(&|port| port.tx_lost)));
        reasons.retain(|(_, count)| *count != 0);
        PortRates {
            name: now.name.clone(),
            rx: rate(more(&|port| port.rx)),
            tx: rate(more(&|port| port.tx)),
            rx_bits: rate(more(&|port| port.rx_bytes).saturating_mul(8)),
            tx_bits: rate(more(&|port| port.tx_bytes).saturating_mul(8)),
            drops: rate(more(&PortStats::dropped)),
            refused: rate(more(&PortStats::refused)),
            lost: rate(more(&|port| port.rx_missed) + more(&|port| port.tx_lost)),
            reasons,
        }
    }
}

/// A number in at most five characters: `999`, `12.3k`, `1.25M`.
pub fn short(number: u64) -> String {
    if number < 1000 {
        return number.to_string();
    }
    let mut unit = 1u64;
    for suffix in ["k", "M", "G", "T", "P"] {
        unit *= 1000;
        // Rounding must not lead to 1000 of a unit.
        let hundredths = u128::from(number) * 100 / u128::from(unit);
        match hundredths {
            0..1_000 => return format!("{}.{:02}{suffix}", hundredths / 100, hundredths % 100),
            1_000..10_000 => return format!("{}.{}{suffix}", hundredths / 100, hundredths / 10 % 10),
            10_000..100_000 => return format!("{}{suffix}", hundredths / 100),
            100_000.. => {}
        }
    }
    format!("{}E", number / 1_000_000_000_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::examples;

    #[test]
    fn rates_are_differences_by_the_switchs_own_clock() {
        let (_, before, ..) = examples();
        let mut now = before.clone();
        now.uptime_ms += 2000;
        for port in [&mut now.ports[0], &mut now.total] {
            port.rx += 3001;
            port.rx_bytes += 1000;
            port.tx_lost += 4;
            *port.drops.get_mut("filtered").unwrap() += 7;
        }
        let rates = Rates::between(&before, &now).unwrap();
        let port = &rates.ports[0];
        assert_eq!((port.rx, port.rx_bits, port.drops, port.lost, port.tx), (1501, 4000, 4, 2, 0));
        assert_eq!(port.reasons, [("filtered".to_owned(), 7), ("tx_lost".to_owned(), 4)]);
        assert_eq!((rates.total.rx, rates.interval_ms), (1501, 2000));

        assert_eq!(Rates::between(&now, &now), None, "no time has passed");
        assert_eq!(Rates::between(&now, &before), None, "another switch");
    }

    #[test]
    fn a_port_that_was_opened_anew_counts_from_zero() {
        let (_, before, ..) = examples();
        let mut now = before.clone();
        now.uptime_ms += 1000;
        now.ports[0].rx = 4;
        now.ports.push(crate::control::PortStats { name: "new".to_owned(), rx: 9, ..now.ports[0].clone() });
        let rates = Rates::between(&before, &now).unwrap();
        assert_eq!((rates.ports[0].rx, rates.ports[1].rx), (4, 9));
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00k"),
            (12_345, "12.3k"),
            (999_999, "999k"),
            (1_000_000, "1.00M"),
            (8_250_000, "8.25M"),
            (41_200_000_000, "41.2G"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
