//! A record as pictures: for each rig one SVG, in which each case is a group of
//! bars, one for each subject, with the spread of its runs.
//!
//! The pictures take their colours from the reader's scheme, light or dark, that of
//! the background too: a page may have the other one.
//!
//! Each group has a scale of its own, from zero; but where a rig has one subject, its
//! cases are compared, and those of one unit have one scale.
//!
//! Deliberately absent: scripts, and fonts that a reader may not have.

use std::fmt::Write as _;

use vswitch_hot::stats::spread;

use crate::markdown::{by_case, digits, is_limited};
use crate::record::{Report, Sample};
use crate::rig::Rig;
use crate::subject::Subject;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.case{font-weight:600}\
.page{fill:#fff}.ours{fill:#1f6feb}.other{fill:#80b3ff}.peer{fill:#8c959f}\
.spread{stroke:#1f2328;stroke-width:1.5;fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.ours{fill:#4493f8}\
.other{fill:#1f5fb0}.peer{fill:#6e7681}.spread{stroke:#e6edf3}}";

/// Pixels: from the left to the bars, the longest bar, and the whole width.
const LEFT: f64 = 140.0;
const BAR: f64 = 480.0;
const WIDTH: f64 = 720.0;
/// From one line to the next, and the height of a bar.
const LINE: f64 = 20.0;
const THICK: f64 = 13.0;
/// Above each group.
const GAP: f64 = 10.0;
/// Around all of it.
const MARGIN: f64 = 12.0;

/// File name of the picture of `rig`.
pub(crate) fn name(rig: Rig) -> String {
    format!("rig{}.svg", rig.number())
}

/// The picture of `rig`; `None`: the record has nothing of it.
pub(crate) fn render(report: &Report, rig: Rig) -> Option<String> {
    let samples: Vec<&Sample> = report.samples.iter().filter(|s| s.rig == rig.number()).collect();
    let is_alone = samples.windows(2).all(|pair| pair[0].subject == pair[1].subject);
    let groups: Vec<Group<'_>> = by_case(&samples)
        .into_iter()
        .map(|(case, rows)| {
            let unit = rows[0].figure.unit;
            let of_unit = samples.iter().filter(|s| s.figure.unit == unit).copied();
            let scale = if is_alone { most(of_unit) } else { most(rows.iter().copied()) };
            Group { title: title(case, case, &rows, report), rows, scale }
        })
        .collect();
    (!groups.is_empty()).then(|| picture(rig.title(), &groups))
}

/// The picture of what matters most of each rig, for a page that shows nothing else;
/// `None`: the record has not all of it.
pub(crate) fn headlines(report: &Report) -> Option<String> {
    let group = |(rig, case, words): (Rig, &str, &str)| {
        let is_it =
            |s: &&Sample| s.rig == rig.number() && s.figure.case == case && s.subject != Subject::Engine;
        let rows: Vec<&Sample> = report.samples.iter().filter(is_it).collect();
        let scale = most(rows.iter().copied());
        (!rows.is_empty()).then(|| Group { title: title(words, case, &rows, report), rows, scale })
    };
    let groups: Option<Vec<Group<'_>>> = HEADLINES.into_iter().map(group).collect();
    Some(picture("vswitch beside others, on the same work", &groups?))
}

/// Rig, case, and what it is called where nobody has read what rigs there are.
const HEADLINES: [(Rig, &str, &str); 5] = [
    (Rig::Netns, "TCP, 1 stream, offloads on", "TCP between two network namespaces"),
    (Rig::Direct, "60 B saturated", "60-byte frames from TAP to TAP"),
    (Rig::Ports, "60 B saturated, between two of 256 ports", "60-byte frames between two of 256 TAPs"),
    (Rig::Queues, "64 B, split rings", "64-byte frames between two vhost-user guests"),
    (Rig::Guests, "TCP, first to second guest, offloads on", "TCP between two emulated QEMU guests"),
];

/// One case.
struct Group<'a> {
    title: String,
    rows: Vec<&'a Sample>,
    /// What the longest bar stands for.
    scale: f64,
}

fn title(words: &str, case: &str, rows: &[&Sample], report: &Report) -> String {
    let mark = if is_limited(case, rows, report) { " (generator-limited)" } else { "" };
    let unit = rows[0].figure.unit;
    let less = if unit.is_better_greater() { "" } else { ", less is better" };
    format!("{words}, {}{less}{mark}", unit.name())
}

fn most<'a>(samples: impl Iterator<Item = &'a Sample>) -> f64 {
    samples.map(|s| s.figure.value).fold(f64::MIN_POSITIVE, f64::max)
}

fn picture(title: &str, groups: &[Group<'_>]) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for group in groups {
        y += GAP;
        // Writing to a String cannot fail, here and below.
        let title = escaped(&group.title);
        let _ = writeln!(body, r#"<text class="case" x="0" y="{:.0}">{title}</text>"#, y + 14.0);
        y = bars(&mut body, group, y + LINE);
    }
    let (left, width, height) = (-MARGIN, WIDTH + 2.0 * MARGIN, y + 2.0 * MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{left} {left} {width} {height:.0}\" \
         width=\"{width}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" x=\"{left}\" y=\"{left}\" width=\"{width}\" height=\"{height:.0}\" rx=\"6\"/>\n\
         {body}</svg>\n",
        escaped(title)
    )
}

/// Draws the bars of one case from `y` down; returns where they end.
fn bars(body: &mut String, group: &Group<'_>, mut y: f64) -> f64 {
    let Group { rows, scale, .. } = group;
    for subject in Subject::ALL {
        let own = rows.iter().filter(|s| s.subject == subject).map(|s| s.figure.value).collect();
        let Some(figure) = spread(own) else { continue };
        let [length, from, to] = [figure.median, figure.min, figure.max].map(|value| value / scale * BAR);
        let class = match (subject == Subject::Vswitch, subject.is_ours()) {
            (true, _) => "ours",
            (_, true) => "other",
            _ => "peer",
        };
        let (text, middle) = (y + 12.0, y + 7.5);
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT:.0}\" y=\"{:.0}\" width=\"{length:.1}\" height=\"{THICK:.0}\"/>\
             <path class=\"spread\" d=\"M{:.1} {middle:.1}H{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{text:.0}\">{}</text>",
            LEFT - 8.0,
            escaped(subject.name()),
            y + 1.0,
            LEFT + from,
            LEFT + to,
            LEFT + to + 8.0,
            digits(figure.median)
        );
        y += LINE;
    }
    y
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::tests::report;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let picture = render(&report(), Rig::Netns).unwrap();
        // 10 is the most; the median of vswitch is 8, that of the bridge 10.
        assert!(picture.contains("class=\"ours\" x=\"140\" y=\"31\" width=\"384.0\""), "{picture}");
        assert!(picture.contains("class=\"peer\" x=\"140\" y=\"51\" width=\"480.0\""), "{picture}");
        assert!(picture.contains("M332.0 37.5H524.0"), "the spread is from 4 to 8: {picture}");
        assert_eq!(picture.matches("<rect").count(), 3, "two bars and the page");
        assert!(render(&report(), Rig::Direct).is_none());
    }

    #[test]
    fn one_subject_has_one_scale_and_headlines_want_all_of_theirs() {
        let mut report = report();
        report.samples.retain(|s| s.subject == Subject::Vswitch);
        for (at, sample) in report.samples.iter_mut().enumerate() {
            sample.figure.case = format!("case {at}");
        }
        let picture = render(&report, Rig::Netns).unwrap();
        // 8, 8 and 4.
        let widths = ["width=\"480.0\"", "width=\"240.0\""].map(|width| picture.matches(width).count());
        assert_eq!(widths, [2, 1], "{picture}");
        assert!(headlines(&report).is_none());
        for (rig, case, _) in HEADLINES {
            let mut sample = report.samples[0].clone();
            sample.rig = rig.number();
            sample.figure.case = case.into();
            report.samples.push(sample);
        }
        let picture = headlines(&report).unwrap();
        assert_eq!(picture.matches("class=\"ours\"").count(), HEADLINES.len(), "{picture}");
    }

    #[test]
    fn what_xml_means_is_escaped() {
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
