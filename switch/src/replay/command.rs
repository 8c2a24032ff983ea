//! `vswitch replay`: what is printed, and how it ends.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;

use super::{Judged, Totals, Wanted, replay};
use crate::cli::ReplayArgs;
use crate::config::{Config, Flags, Invoker};
use crate::pcap::Reader;

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every verdict was the recorded one, or there was none to compare with.
    Same,
    /// Some were not.
    Different,
}

/// Replays a capture, and writes each frame that differs, or with nothing to
/// compare with each that was judged, and the sums.
///
/// # Errors
/// The file or the configuration cannot be read, or nothing can be written.
pub fn execute(args: &ReplayArgs, invoker: &Invoker, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let config = match &args.config {
        None => None,
        Some(file) => {
            let flags = Flags { file: Some(file.clone()), ports: Vec::new(), keys: Vec::new() };
            Some(Config::from_flags(&flags, invoker)?)
        }
    };
    let wanted = Wanted { config, ports: args.ports.clone() };
    let shown = || args.file.display().to_string();
    let mut reader = Reader::open(&args.file).with_context(shown)?;
    let mut form = Form { json: args.json, out, failed: None };
    let totals = replay(&mut reader, &wanted, args.all, |judged| form.frame(&judged)).with_context(shown)?;
    form.totals(&totals, &args.file);
    match form.failed {
        // A reader that hung up has read enough.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Some(_) | None if totals.different > 0 => Ok(Outcome::Different),
        Some(_) | None => Ok(Outcome::Same),
    }
}

struct Form<'o> {
    json: bool,
    out: &'o mut dyn Write,
    failed: Option<io::Error>,
}

impl Form<'_> {
    fn say(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{text}").err();
        }
    }

    fn frame(&mut self, judged: &Judged) {
        if self.json {
            // Names, numbers and texts: they serialise.
            let line = serde_json::to_string(judged).unwrap_or_default();
            return self.say(&line);
        }
        let Judged { frame, port, recorded, verdict, comment, .. } = judged;
        match recorded.as_ref().filter(|_| judged.differs()) {
            None => self.say(&format!("frame {frame} by {port}: {comment}")),
            Some(recorded) => {
                self.say(&format!("frame {frame} by {port}: {verdict}, recorded {recorded}"));
                for step in judged.steps.iter().filter(|step| tells(&step.step)) {
                    self.say(&format!("  {:11}  {}", step.step, step.text));
                }
            }
        }
    }

    fn totals(&mut self, totals: &Totals, file: &Path) {
        if self.json {
            let line = serde_json::to_string(totals).unwrap_or_default();
            return self.say(&line);
        }
        let Totals { frames, judged, compared, different, cut, early, missed, changes_missed, partial } =
            *totals;
        let file = file.display();
        self.say(&match (compared, different) {
            (0, _) => format!("{file}: {judged} of {frames} frames judged, no verdicts to compare with"),
            (_, 0) => format!("{file}: {compared} verdicts reproduced"),
            _ => format!("{file}: {different} of {compared} verdicts differ"),
        });
        for (count, what) in [
            (cut, "frames were cut too short to be judged"),
            (
                early,
                "frames came before the file had told the whole FDB, if it ever does, and were not compared",
            ),
            (missed, "frames were missed by the capture: what they taught is not known"),
            (changes_missed, "changes of the switch were missed by the capture, and not made here"),
        ] {
            if count > 0 {
                self.say(&format!("{count} {what}"));
            }
        }
        if partial {
            self.say("the capture is of some frames only: what the others taught is not known");
        }
    }
}

/// Whether a step says something of why: not that all is well, nor the verdict
/// once more.
fn tells(step: &str) -> bool {
    !matches!(step, "frame" | "vlan" | "verdict")
}
