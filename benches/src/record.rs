//! What a run keeps: who was measured where, and every single figure.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::rig::Rig;
use crate::subject::Subject;

/// One run of `vbench`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) header: Header,
    pub(crate) samples: Vec<Sample>,
    /// Subjects left out, and why.
    pub(crate) absent: Vec<Absent>,
    /// What the generator reaches with nobody behind it, by case.
    pub(crate) generator: BTreeMap<String, f64>,
}

impl Report {
    /// Several runs as one, so that a long measurement can be made in parts.
    ///
    /// # Errors
    /// They differ in commit, machine or thoroughness, or there is none.
    pub(crate) fn join(reports: Vec<Report>) -> Result<Report> {
        let mut reports = reports.into_iter();
        let mut whole = reports.next().context("no record to show")?;
        for part in reports {
            let (a, b) = (&mut whole.header, part.header);
            ensure!(a.quick == b.quick, "a quick look and a full run are not one measurement");
            ensure!(
                (&a.commit, &a.cpu, a.cores, &a.kernel) == (&b.commit, &b.cpu, b.cores, &b.kernel),
                "records of {} on {} and of {} on {} are not one measurement",
                a.commit,
                a.kernel,
                b.commit,
                b.kernel
            );
            for (name, version) in &b.versions {
                let other = a.versions.get(name).filter(|other| *other != version);
                ensure!(other.is_none(), "the records have two versions of {name}");
            }
            let turns: HashSet<_> = whole.samples.iter().map(Sample::turn).collect();
            let twice = part.samples.iter().find(|sample| turns.contains(&sample.turn()));
            ensure!(
                twice.is_none(),
                "both records have `{}`: runs of the same work are compared by `vbench agree`",
                twice.map_or("", |sample| &sample.figure.case)
            );
            a.rounds = a.rounds.min(b.rounds);
            a.versions.extend(b.versions);
            a.command = format!("{}` and `{}", a.command, b.command);
            whole.samples.extend(part.samples);
            for absent in part.absent {
                if !whole.absent.contains(&absent) {
                    whole.absent.push(absent);
                }
            }
            whole.generator.extend(part.generator);
        }
        Ok(whole)
    }

    /// What it has of `rigs`, or all of it if none is named.
    ///
    /// # Errors
    /// It has nothing of them.
    pub(crate) fn of(mut self, rigs: &[Rig]) -> Result<Report> {
        let is_asked = |number| rigs.is_empty() || rigs.iter().any(|rig| rig.number() == number);
        self.samples.retain(|sample| is_asked(sample.rig));
        self.absent.retain(|absent| is_asked(absent.rig));
        ensure!(!self.samples.is_empty(), "the record has nothing of what was asked for");
        Ok(self)
    }
}

/// Where and with what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: u32,
    pub(crate) kernel: String,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) mtu: u32,
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    pub(crate) command: String,
}

/// Why a subject has no figures in a rig.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Absent {
    pub(crate) rig: u8,
    pub(crate) subject: Subject,
    /// Where it is left out of a part only, as `e1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<String>,
    pub(crate) why: String,
}

/// One figure of one subject in one slot of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) rig: u8,
    pub(crate) subject: Subject,
    pub(crate) round: u32,
    /// 0 on the way out, 1 on the way back of A B C C B A.
    pub(crate) slot: u8,
    #[serde(flatten)]
    pub(crate) figure: Figure,
}

/// What a figure of latency has besides: the same percentile of how late the generator
/// was, µs.
pub(crate) const GENERATOR_LATE: &str = "generator_late";

impl Sample {
    /// What there is but one of in a run.
    fn turn(&self) -> (u8, Subject, u32, u8, &str) {
        (self.rig, self.subject, self.round, self.slot, &self.figure.case)
    }
}

/// A measured value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured, as `TCP, 1 stream, offloads on`.
    pub(crate) case: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
    /// CPU time of the whole machine, less what it uses idle, in ns for each
    /// frame (rates of frames) or KiB (rates of bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ns: Option<f64>,
    /// Further facts: loss, retransmissions, percentiles.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) extra: BTreeMap<String, f64>,
}

impl Figure {
    pub(crate) fn new(case: impl Into<String>, unit: Unit, value: f64) -> Figure {
        Figure { case: case.into(), unit, value, cpu_ns: None, extra: BTreeMap::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: f64) -> Figure {
        self.extra.insert(name.to_owned(), value);
        self
    }
}

/// Units of figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Unit {
    #[serde(rename = "Gbit/s")]
    GbitPerSecond,
    #[serde(rename = "kframes/s")]
    KiloframesPerSecond,
    #[serde(rename = "Mframes/s")]
    MegaframesPerSecond,
    #[serde(rename = "ns")]
    Nanoseconds,
    #[serde(rename = "us")]
    Microseconds,
    #[serde(rename = "% of a core")]
    PercentOfCore,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "per 1,000 frames")]
    PerThousandFrames,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "addresses")]
    Addresses,
}

impl Unit {
    /// As shown behind a case.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Unit::GbitPerSecond => "Gbit/s",
            Unit::KiloframesPerSecond => "kframes/s",
            Unit::MegaframesPerSecond => "Mframes/s",
            Unit::Nanoseconds => "ns",
            Unit::Microseconds => "µs",
            Unit::PercentOfCore => "% of a core",
            Unit::Mebibytes => "MiB",
            Unit::PerThousandFrames => "per 1,000 frames",
            Unit::Percent => "%",
            Unit::Addresses => "addresses",
        }
    }

    /// What CPU time is counted for.
    pub(crate) const fn cpu_name(self) -> Option<&'static str> {
        match self {
            Unit::GbitPerSecond => Some("ns/KiB"),
            Unit::KiloframesPerSecond | Unit::MegaframesPerSecond => Some("ns/frame"),
            Unit::Nanoseconds
            | Unit::Microseconds
            | Unit::PercentOfCore
            | Unit::Mebibytes
            | Unit::PerThousandFrames
            | Unit::Percent
            | Unit::Addresses => None,
        }
    }

    /// Whether a greater figure is a better one.
    pub(crate) const fn is_better_greater(self) -> bool {
        match self {
            Unit::GbitPerSecond
            | Unit::KiloframesPerSecond
            | Unit::MegaframesPerSecond
            | Unit::Percent
            | Unit::Addresses => true,
            Unit::Nanoseconds
            | Unit::Microseconds
            | Unit::PercentOfCore
            | Unit::Mebibytes
            | Unit::PerThousandFrames => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::rig::RIGS;

    const UNITS: [Unit; 10] = [
        Unit::GbitPerSecond,
        Unit::KiloframesPerSecond,
        Unit::MegaframesPerSecond,
        Unit::Nanoseconds,
        Unit::Microseconds,
        Unit::PercentOfCore,
        Unit::Mebibytes,
        Unit::PerThousandFrames,
        Unit::Percent,
        Unit::Addresses,
    ];

    fn folder() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench"))
    }

    #[test]
    fn the_schema_names_what_is_kept() {
        let text = std::fs::read_to_string(folder().join("record.schema.json")).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        let sample = &schema["properties"]["samples"]["items"];
        assert_eq!(sample["properties"]["subject"]["enum"], json!(Subject::ALL));
        assert_eq!(sample["properties"]["unit"]["enum"], json!(UNITS));
        let last = RIGS.map(Rig::number).into_iter().max();
        assert_eq!(sample["properties"]["rig"]["maximum"], json!(last));
        let figure = Figure { cpu_ns: Some(1.0), ..Figure::new("TCP", UNITS[0], 1.0) }.with("lost", 0.0);
        let kept = Sample { rig: 1, subject: Subject::Vswitch, round: 0, slot: 0, figure };
        let kept = serde_json::to_value(kept).unwrap();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&kept), keys(&sample["properties"]));
        let (subject, part) = (Subject::Ovs, Some("e1000".to_owned()));
        let absent = serde_json::to_value(Absent { rig: 1, subject, part, why: String::new() }).unwrap();
        assert_eq!(keys(&absent), keys(&schema["properties"]["absent"]["items"]["properties"]));
    }

    #[test]
    fn parts_of_one_measurement_are_joined_and_others_refused() {
        let report = crate::markdown::tests::report();
        let changed = |change: fn(&mut Header)| {
            let mut other = report.clone();
            other.samples.iter_mut().for_each(|sample| sample.rig = 2);
            change(&mut other.header);
            Report::join(vec![report.clone(), other]).map_err(|error| error.to_string())
        };
        let whole = changed(|header| header.rounds = 1).unwrap();
        assert_eq!((whole.samples.len(), whole.header.rounds), (2 * report.samples.len(), 1));
        assert!(changed(|header| header.quick = true).unwrap_err().contains("quick"));
        assert!(changed(|header| header.kernel.push('x')).unwrap_err().contains("not one measurement"));
        assert!(changed(|header| header.cores += 1).unwrap_err().contains("not one measurement"));
        let twice = Report::join(vec![report.clone(), report.clone()]).unwrap_err();
        assert!(twice.to_string().contains("vbench agree"), "{twice}");
    }

    #[test]
    fn one_rig_of_a_record_is_shown() {
        let mut report = crate::markdown::tests::report();
        report.samples[0].rig = 6;
        assert_eq!(report.clone().of(&[]).unwrap().samples.len(), report.samples.len());
        let part = report.clone().of(&[Rig::Netns]).unwrap();
        assert_eq!((part.samples.len(), part.absent.len()), (report.samples.len() - 1, 1));
        assert_eq!(report.clone().of(&[Rig::Core]).unwrap().samples.len(), 1);
        assert!(report.of(&[Rig::Queues]).is_err());
    }

    #[test]
    fn kept_records_can_still_be_read() {
        let mut count = 0;
        for entry in std::fs::read_dir(folder()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") && name != "record.schema.json" {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                let report: Report = serde_json::from_str(&text).unwrap();
                assert!(!report.samples.is_empty(), "{name}");
                count += 1;
            }
        }
        assert!(count > 0);
    }
}
