//! Values as users write them, and the readers of each kind of value.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Fault;

/// One value: typed in TOML and JSON, text on the command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "a value is true, false, a whole number or text")]
pub enum Value {
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Number(value) => value.fmt(f),
            Value::Text(text) => text.escape_debug().fmt(f),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl Value {
    pub(super) fn bool(&self, key: &str) -> Result<bool, Fault> {
        match self {
            Value::Bool(value) => Ok(*value),
            Value::Text(text) if text == "true" || text == "on" => Ok(true),
            Value::Text(text) if text == "false" || text == "off" => Ok(false),
            Value::Text(_) | Value::Number(_) => {
                Err(Fault::new(format!("`{key}` cannot be `{self}`"), "write true or false"))
            }
        }
    }

    pub(super) fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<u32, Fault> {
        let number = match self {
            Value::Number(number) => u32::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            Value::Bool(_) => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            Fault::new(
                format!("`{key}` cannot be `{self}`"),
                format!("write a number from {} to {}", range.start(), range.end()),
            )
        })
    }

    pub(super) fn duration(&self, key: &str, max: Duration) -> Result<Duration, Fault> {
        let fault = |fix: String| Fault::new(format!("`{key}` cannot be `{self}`"), fix);
        let duration = match self {
            Value::Number(0) => Duration::ZERO,
            Value::Number(number) => return Err(fault(format!("write the unit too, as \"{number}s\""))),
            Value::Bool(_) => return Err(fault("write a time with its unit, as \"300s\"".to_owned())),
            Value::Text(text) => parse_duration(text).ok_or_else(|| {
                if text.parse::<u64>().is_ok() {
                    fault(format!("write the unit too, as {text}s"))
                } else {
                    fault("write a time with its unit: ns, us, ms, s, m or h, as 300s".to_owned())
                }
            })?,
        };
        if duration > max {
            return Err(fault(format!("write at most {}", duration_text(max))));
        }
        Ok(duration)
    }

    /// Bytes, in `range` or 0.
    pub(super) fn size(&self, key: &str, range: RangeInclusive<u64>) -> Result<u64, Fault> {
        let size = match self {
            Value::Number(number) => u64::try_from(*number).ok(),
            Value::Text(text) if text == "off" => Some(0),
            Value::Text(text) => parse_size(text),
            Value::Bool(_) => None,
        };
        size.filter(|size| *size == 0 || range.contains(size)).ok_or_else(|| {
            let (least, most) = (size_text(*range.start()), size_text(*range.end()));
            Fault::new(
                format!("`{key}` cannot be `{self}`"),
                format!("write a size from {least} to {most}, as 64M, or off"),
            )
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, Fault> {
        match self {
            Value::Text(text) => Ok(text),
            Value::Bool(_) | Value::Number(_) => {
                Err(Fault::new(format!("`{key}` cannot be `{self}`"), format!("write text: \"{self}\"")))
            }
        }
    }
}

/// Units from the longest to the shortest, in nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads `300s`, `50us`, `5m` or `0`: a whole number and its unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_nanos(number.parse::<u64>().ok()?.checked_mul(*nanos)?))
}

/// The duration in the largest unit up to seconds that shows all of it:
/// `300s`, `50us`, `1500ms`. What it prints, [`parse_duration`] reads.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, size) =
        UNITS[2..].iter().find(|(_, size)| nanos.is_multiple_of(u128::from(*size))).unwrap_or(&UNITS[5]);
    format!("{}{unit}", nanos / u128::from(*size))
}

/// Sizes from the largest unit to the smallest, in bytes.
const SIZES: [(&str, u64); 4] = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("", 1)];

/// Reads `4096`, `64K`, `100M` or `2G`: a whole number of bytes, or of 1,024 to the
/// first, second or third.
pub fn parse_size(text: &str) -> Option<u64> {
    let (unit, size) = SIZES.iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*size)
}

/// The size in the largest unit that shows all of it. What it prints,
/// [`parse_size`] reads.
pub fn size_text(size: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| size > 0 && size.is_multiple_of(*unit);
    let (unit, bytes) = SIZES.iter().find(fits).unwrap_or(&SIZES[3]);
    format!("{}{unit}", size / bytes)
}

/// The word of `known` that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    known
        .iter()
        .map(|known| (distance(&word, known), *known))
        .filter(|(distance, known)| *distance <= 2.min(known.len() / 2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_what_they_print() {
        for (text, nanos) in
            [("300s", 300_000_000_000), ("50us", 50_000), ("1500ms", 1_500_000_000), ("0s", 0), ("7ns", 7)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!((duration.as_nanos(), duration_text(duration).as_str()), (nanos, text));
        }
        assert_eq!(parse_duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for bad in ["", "s", "300", "-1s", "1.5s", "300 s", "5min", "99999999999999999999s", "9999999999999h"]
        {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_read_back_what_they_print() {
        for (text, size) in
            [("64M", 64 << 20), ("1G", 1 << 30), ("1536K", 1536 << 10), ("4097", 4097), ("0", 0)]
        {
            assert_eq!((parse_size(text), size_text(size).as_str()), (Some(size), text));
        }
        for bad in ["", "M", "1.5M", "-1", "64m", "64 M", "99999999999G"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn slips_of_the_finger_are_recognised() {
        let known = ["ageing", "fdb_size", "mtu", "name"];
        for (word, meant) in [
            ("agein", Some("ageing")),
            ("Ageing", Some("ageing")),
            ("fdb-size", Some("fdb_size")),
            ("mut", None),
            ("mt", Some("mtu")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word:?}");
        }
    }
}
