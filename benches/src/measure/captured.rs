//! What a capture of everything costs: the rate of short frames while one runs, as a
//! share of the rate without.
//!
//! Both are measured in one turn, one after the other and back again (A B B A): what
//! the machine does meanwhile hits both. The capture is written to `/dev/null` by the
//! command that users run, so that no disk is measured.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vswitch_tests::process::end_child;

use super::frames::SHORT;
use super::{approximate, idle};
use crate::child::die_with_us;
use crate::record::{Figure, Unit};
use crate::subject::{Running, Subject};

/// For the capture to begin or end, and for rates to settle.
const SETTLE: Duration = Duration::from_millis(500);

/// In the name of each such case.
const WORDS: &str = "share left by a full capture";

/// What the case is called of frames that are described as `frames`.
pub(super) fn case(frames: &str) -> String {
    format!("{frames}, {WORDS}")
}

/// Whether `case` is a figure of `subject`: of ours alone, and with TAPs of that whose
/// frames all come to its process, as they do while somebody captures.
pub(super) fn is_of(case: &str, subject: Subject) -> bool {
    let one = if case.starts_with(SHORT) { Subject::Engine } else { Subject::Vswitch };
    !case.contains(WORDS) || subject == one
}

/// The share, of what `rate` measures.
pub(super) fn measure(
    case: &str,
    running: &Running,
    mut rate: impl FnMut() -> Result<f64>,
) -> Result<Figure> {
    let mut without = rate()?;
    let mut capture = Capture::start(running.client(&["capture", "--json", "-w", "/dev/null"])?)?;
    idle::pause(SETTLE)?;
    let with = rate()? + rate()?;
    let (written, missed) = capture.end()?;
    idle::pause(SETTLE)?;
    without += rate()?;
    ensure!(without > 0.0 && written > 0, "{case}: nothing arrived, or nothing was captured");
    let captured = approximate(written) / approximate(written + missed);
    Ok(Figure::new(case, Unit::Percent, 100.0 * with / without)
        .with("captured_percent", 100.0 * captured)
        .with("without", without / 2e3)
        .with("with", with / 2e3))
}

/// A running capture; ended when dropped.
struct Capture(Option<Child>);

impl Capture {
    fn start(mut command: Command) -> Result<Capture> {
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        die_with_us(&mut command);
        Ok(Capture(Some(command.spawn().context("vswitch capture")?)))
    }

    /// Ends it as Ctrl-C does; the records that it wrote, and missed.
    fn end(&mut self) -> Result<(u64, u64)> {
        let child = self.0.take().context("it has ended")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("its pid")?;
        kill_process(pid, Signal::INT)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "vswitch capture: {}", output.status);
        let said: Value = serde_json::from_slice(&output.stdout).context("vswitch capture --json")?;
        let number = |key: &str| said[key].as_u64().with_context(|| format!("no `{key}` in {said}"));
        Ok((number("written")?, number("missed")?))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(child) = self.0.as_mut() {
            end_child(child);
        }
    }
}
