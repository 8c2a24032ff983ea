//! A record as pictures: for each rig one SVG, in which each case is a group of
//! bars, one for each subject, with the spread of its runs.
//!
//! The pictures take their colours from the reader's scheme, light or dark, and
//! have no background, so that a page shows through.
//!
//! Deliberately absent: axes that compare one case with another; each group has a
//! scale of its own, from zero.

use std::fmt::Write as _;

use crate::markdown::{by_case, digits, is_limited};
use crate::record::{Report, Sample};
use crate::rig::Rig;
use crate::stats::spread;
use crate::subject::Subject;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.case{font-weight:600}\
.ours{fill:#1f6feb}.peer{fill:#8c959f}.spread{stroke:#1f2328;stroke-width:1.5;fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#4493f8}.peer{fill:#6e7681}\
.spread{stroke:#e6edf3}}";

/// Pixels: from the left to the bars, the longest bar, and the whole width.
const LEFT: f64 = 140.0;
const BAR: f64 = 480.0;
const WIDTH: f64 = 720.0;
/// From one line to the next, and the height of a bar.
const LINE: f64 = 20.0;
const THICK: f64 = 13.0;
/// Above each group.
const GAP: f64 = 10.0;

/// File name of the picture of `rig`.
pub(crate) fn name(rig: Rig) -> String {
    format!("rig{}.svg", rig.number())
}

/// The picture of `rig`; `None`: the record has nothing of it.
pub(crate) fn render(report: &Report, rig: Rig) -> Option<String> {
    let samples: Vec<&Sample> = report.samples.iter().filter(|s| s.rig == rig.number()).collect();
    let mut body = String::new();
    let mut y = 0.0;
    for (case, rows) in by_case(&samples) {
        y += GAP;
        let mark = if is_limited(case, &rows, report) { " (generator-limited)" } else { "" };
        let unit = rows.first()?.figure.unit;
        let less = if unit.is_better_greater() { "" } else { ", less is better" };
        let title = format!("{case}, {}{less}{mark}", unit.name());
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(body, r#"<text class="case" x="0" y="{:.0}">{}</text>"#, y + 14.0, escaped(&title));
        y += LINE;
        y = group(&mut body, &rows, y);
    }
    (!samples.is_empty()).then(|| {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" \
             role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n{body}</svg>\n",
            escaped(rig.title())
        )
    })
}

/// Draws the bars of one case from `y` down; returns where they end.
fn group(body: &mut String, rows: &[&Sample], mut y: f64) -> f64 {
    let most = rows.iter().map(|s| s.figure.value).fold(f64::MIN_POSITIVE, f64::max);
    for subject in Subject::ALL {
        let own = rows.iter().filter(|s| s.subject == subject).map(|s| s.figure.value).collect();
        let Some(figure) = spread(own) else { continue };
        let [length, from, to] = [figure.median, figure.min, figure.max].map(|value| value / most * BAR);
        let class = if subject.is_ours() { "ours" } else { "peer" };
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
        assert_eq!(picture.matches("<rect").count(), 2);
        assert!(render(&report(), Rig::Direct).is_none());
    }

    #[test]
    fn what_xml_means_is_escaped() {
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
