//! A record as Markdown: the header, a table for each rig, who is missing, and in
//! words where ours is behind.

pub(crate) mod agree;
mod behind;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use vswitch_hot::stats::{Spread, mean, spread};

use crate::record::{GENERATOR_LATE, Report, Sample, Unit};
use crate::rig::{RIGS, Rig};
use crate::subject::Subject;

/// With more subjects a table has them in rows: the page is not wider.
const ACROSS_MAX: usize = 5;

/// Stands before and behind the tables in a page.
pub(crate) const MARKER: &str = "<!-- vbench -->";

/// `page` with `tables` between its two markers; `None`: it has no two.
pub(crate) fn replace(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKER)?;
    let (_, after) = rest.split_once(MARKER)?;
    Some(format!("{before}{MARKER}\n\n{tables}\n{MARKER}{after}"))
}

/// Renders everything that a reader needs to judge the figures, with pictures
/// from the folder `plots` as the page's reader reaches it.
pub(crate) fn render(report: &Report, plots: Option<&str>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = header(&mut out, report);
    for rig in RIGS {
        let samples: Vec<&Sample> = report.samples.iter().filter(|s| s.rig == rig.number()).collect();
        if !samples.is_empty() {
            let _ = table(&mut out, rig, &samples, report, plots);
        }
    }
    out
}

fn header(out: &mut String, report: &Report) -> std::fmt::Result {
    let h = &report.header;
    let versions: Vec<String> = h.versions.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    writeln!(out, "Measured {} at commit {} by `{}`: {} rounds.", h.date, h.commit, h.command, h.rounds)?;
    writeln!(out, "{}, {} cores, Linux {}, MTU {}.", h.cpu, h.cores, h.kernel, h.mtu)?;
    writeln!(out, "{}.", versions.join("; "))?;
    if h.quick {
        writeln!(out, "A quick look: too few and too short runs to quote.")?;
    }
    Ok(())
}

fn table(
    out: &mut String,
    rig: Rig,
    samples: &[&Sample],
    report: &Report,
    plots: Option<&str>,
) -> std::fmt::Result {
    let mut subjects: Vec<Subject> = samples.iter().map(|s| s.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    writeln!(out, "\n### {}\n", rig.title())?;
    if let Some(folder) = plots {
        writeln!(out, "![bars of the table below]({folder}/{})\n", crate::svg::name(rig))?;
    }
    // Between guests it is not always the same form of ours that is compared.
    if subjects.len() > ACROSS_MAX || rig == Rig::Guests {
        down(out, samples, &subjects, report)?;
    } else {
        across(out, samples, &subjects, report)?;
    }
    for absent in report.absent.iter().filter(|a| a.rig == rig.number()) {
        let part = absent.part.as_ref().map_or_else(String::new, |part| format!(", {part}"));
        writeln!(out, "\n{}{part}: {}.", absent.subject.name(), absent.why)?;
    }
    behind::write(out, samples, &subjects)
}

/// A column for each subject.
fn across(out: &mut String, samples: &[&Sample], subjects: &[Subject], report: &Report) -> std::fmt::Result {
    let Some((first, peers)) = subjects.split_first() else { return Ok(()) };
    write!(out, "| work |")?;
    for subject in subjects {
        write!(out, " {} |", subject.name())?;
    }
    for peer in peers {
        write!(out, " {} / {} |", first.name(), peer.name())?;
    }
    writeln!(out, " noise | CPU |")?;
    writeln!(out, "|---|{}", "---|".repeat(subjects.len() + peers.len() + 2))?;
    for (case, rows) in by_case(samples) {
        row(out, case, &rows, subjects, report)?;
    }
    Ok(())
}

/// A row for each subject, where there are too many for columns.
fn down(out: &mut String, samples: &[&Sample], subjects: &[Subject], report: &Report) -> std::fmt::Result {
    writeln!(out, "| work | switch | figure | ours / it | noise | CPU |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for (case, rows) in by_case(samples) {
        let mut name = name(case, &rows, report);
        let first = first(&rows);
        for subject in subjects {
            let own: Vec<&Sample> = rows.iter().filter(|s| s.subject == *subject).copied().collect();
            let Some(figure) = spread(own.iter().map(|s| s.figure.value).collect()) else { continue };
            let ratio =
                first.filter(|first| subject != first).and_then(|first| ratio(&rows, first, *subject));
            let ratio = ratio.map_or_else(|| "–".into(), bold);
            let noise = noise(&own).map_or_else(|| "–".into(), range);
            let cpu = cpu(&own, &[*subject], rows[0].figure.unit);
            let figure = digits(figure.median);
            writeln!(out, "| {name} | {} | {figure} | {ratio} | {noise} | {cpu} |", subject.name())?;
            name.clear();
        }
    }
    Ok(())
}

/// Which form of ours the others are compared with: the first that has a figure.
fn first(rows: &[&Sample]) -> Option<Subject> {
    rows.iter().map(|s| s.subject).filter(|subject| subject.is_ours()).min()
}

/// Samples of each case, in the order in which cases first appeared.
pub(crate) fn by_case<'a>(samples: &[&'a Sample]) -> Vec<(&'a str, Vec<&'a Sample>)> {
    let mut cases: Vec<(&str, Vec<&Sample>)> = Vec::new();
    for sample in samples {
        let case = sample.figure.case.as_str();
        match cases.iter_mut().find(|(name, _)| *name == case) {
            Some((_, rows)) => rows.push(sample),
            None => cases.push((case, vec![sample])),
        }
    }
    cases
}

fn row(
    out: &mut String,
    case: &str,
    rows: &[&Sample],
    subjects: &[Subject],
    report: &Report,
) -> std::fmt::Result {
    let unit = rows[0].figure.unit;
    let of = |subject: Subject| rows.iter().filter(move |s| s.subject == subject).copied();
    write!(out, "| {} |", name(case, rows, report))?;
    for subject in subjects {
        match spread(of(*subject).map(|s| s.figure.value).collect()) {
            Some(s) => write!(out, " {} |", digits(s.median))?,
            None => write!(out, " – |")?,
        }
    }
    for peer in &subjects[1..] {
        match ratio(rows, subjects[0], *peer) {
            Some(s) => write!(out, " {} |", bold(s))?,
            None => write!(out, " – |")?,
        }
    }
    match noise(rows) {
        Some(s) => write!(out, " {} |", range(s))?,
        None => write!(out, " – |")?,
    }
    writeln!(out, " {} |", cpu(rows, subjects, unit))
}

/// A case with its unit, and what is to be known of its figures.
fn name(case: &str, rows: &[&Sample], report: &Report) -> String {
    let mut marks = Vec::new();
    if is_limited(case, rows, report) {
        marks.push("generator-limited".to_owned());
    }
    let rounds: BTreeSet<u32> = rows.iter().map(|s| s.round).collect();
    if u32::try_from(rounds.len()).is_ok_and(|rounds| rounds < report.header.rounds) {
        marks.push(format!("{} rounds", rounds.len()));
    }
    let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
    format!("{case}, {}{marks}", rows[0].figure.unit.name())
}

/// Whether the generator could not do twice the work of the best subject: as it
/// did with nobody behind it, or by the share of its time that the work took; or it was
/// late by more than half of a time that is counted from when a frame was due.
pub(crate) fn is_limited(case: &str, rows: &[&Sample], report: &Report) -> bool {
    let best = rows.iter().map(|s| s.figure.value).fold(0.0, f64::max);
    let busy = |s: &&Sample| s.figure.extra.get("generator_busy_percent").is_some_and(|busy| *busy > 50.0);
    let late =
        |s: &&Sample| s.figure.extra.get(GENERATOR_LATE).is_some_and(|late| 2.0 * late > s.figure.value);
    let is_slow = report.generator.get(case).is_some_and(|alone| *alone < 2.0 * best);
    is_slow || rows.iter().any(busy) || rows.iter().any(late)
}

/// Ratio of two subjects in each round, each the mean of its two slots.
fn ratio(rows: &[&Sample], ours: Subject, peer: Subject) -> Option<Spread> {
    let (ours, peer) = (rounds(rows, ours), rounds(rows, peer));
    spread(ours.iter().filter_map(|(round, value)| Some(mean(value)? / mean(peer.get(round)?)?)).collect())
}

/// The same subject against itself: its second slot of a round by its first, or, of
/// what is measured once in a round, each round by the one before.
fn noise(rows: &[&Sample]) -> Option<Spread> {
    let mut ratios = Vec::new();
    for subject in Subject::ALL {
        let rounds = rounds(rows, subject);
        let slots: Vec<f64> = rounds.values().filter_map(|v| Some(v.get(1)? / v.first()?)).collect();
        if slots.is_empty() {
            let values: Vec<&f64> = rounds.values().flatten().collect();
            ratios.extend(values.windows(2).map(|pair| pair[1] / pair[0]));
        }
        ratios.extend(slots);
    }
    spread(ratios)
}

fn rounds(rows: &[&Sample], subject: Subject) -> BTreeMap<u32, Vec<f64>> {
    let mut rounds: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for sample in rows.iter().filter(|s| s.subject == subject) {
        rounds.entry(sample.round).or_default().push(sample.figure.value);
    }
    rounds
}

/// Median CPU time of each subject, in the order of the columns.
fn cpu(rows: &[&Sample], subjects: &[Subject], unit: Unit) -> String {
    let Some(name) = unit.cpu_name() else { return "–".into() };
    let of = |subject: Subject| {
        let values = rows.iter().filter(|s| s.subject == subject).filter_map(|s| s.figure.cpu_ns).collect();
        spread(values).map_or_else(|| "–".into(), |s| digits(s.median))
    };
    let values: Vec<String> = subjects.iter().map(|subject| of(*subject)).collect();
    if values.iter().all(|value| value == "–") {
        return "–".into();
    }
    format!("{} {name}", values.join(" : "))
}

/// A ratio and its spread.
fn bold(s: Spread) -> String {
    format!("**{:.2}** ({})", s.median, range(s))
}

fn range(s: Spread) -> String {
    format!("{:.2}–{:.2}", s.min, s.max)
}

/// Three digits.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::{Absent, Figure, Header};

    fn sample(subject: Subject, round: u32, slot: u8, value: f64) -> Sample {
        let figure = Figure::new("TCP", Unit::GbitPerSecond, value);
        Sample { rig: 1, subject, round, slot, figure }
    }

    /// Two rounds of two subjects, one of which is absent in part.
    pub(crate) fn report() -> Report {
        let header = Header {
            commit: "abc".into(),
            date: String::new(),
            cpu: String::new(),
            cores: 2,
            kernel: String::new(),
            versions: BTreeMap::new(),
            mtu: 1500,
            rounds: 2,
            quick: false,
            command: "vbench".into(),
        };
        let samples = vec![
            sample(Subject::Vswitch, 0, 0, 8.0),
            sample(Subject::Bridge, 0, 0, 10.0),
            sample(Subject::Bridge, 0, 1, 10.0),
            sample(Subject::Vswitch, 0, 1, 8.0),
            // The machine is half as fast in the second round.
            sample(Subject::Vswitch, 1, 0, 4.0),
            sample(Subject::Bridge, 1, 0, 5.0),
        ];
        let absent = vec![Absent { rig: 1, subject: Subject::Vde, part: None, why: "not installed".into() }];
        Report { header, samples, absent, generator: BTreeMap::from([("TCP".into(), 12.0)]) }
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_absence_is_said() {
        let report = report();
        let text = render(&report, None);
        assert!(text.contains("**0.80** (0.80–0.80) | 1.00–1.00 |"), "{text}");
        assert!(text.contains("VDE: not installed.") && text.contains("generator-limited"), "{text}");
        let page = replace("a <!-- vbench --> old <!-- vbench --> b", "new").unwrap();
        assert_eq!(page, "a <!-- vbench -->\n\nnew\n<!-- vbench --> b");
        assert_eq!(replace(&page, "new").unwrap(), page);
        let kept: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(render(&kept, None), text);
    }

    #[test]
    fn a_row_says_when_it_has_fewer_rounds_or_a_late_generator() {
        let mut report = report();
        report.generator.clear();
        report.header.rounds = 3;
        assert!(render(&report, None).contains("| TCP, Gbit/s (2 rounds) |"), "{}", render(&report, None));
        report.header.rounds = 2;
        assert!(render(&report, None).contains("| TCP, Gbit/s |"));
        report.samples[1].figure.extra.insert(GENERATOR_LATE.into(), 5.5);
        assert!(render(&report, None).contains("| TCP, Gbit/s (generator-limited) |"));
    }

    #[test]
    fn three_digits_are_shown() {
        let shown = [0.0, 9.994, 9.996, 99.94, 99.96, 1234.5].map(digits);
        assert_eq!(shown, ["0.00", "9.99", "10.0", "99.9", "100", "1234"]);
    }

    #[test]
    fn many_subjects_are_rows_each_with_its_noise() {
        let mut report = report();
        for (subject, value) in
            [(Subject::Tap, 2.0), (Subject::Stream, 1.0), (Subject::Dgram, 1.0), (Subject::Qemu, 1.0)]
        {
            report.samples.extend([0, 1].map(|slot| sample(subject, 0, slot, value)));
        }
        let text = render(&report, Some("bench"));
        assert!(text.contains("(bench/rig1.svg)"), "{text}");
        let row = "|  | vswitch, TAP | 2.00 | **4.00** (4.00–4.00) | 1.00–1.00 | – |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| TCP, Gbit/s (generator-limited) | vswitch | 8.00 | – |"), "{text}");
    }
}
