//! dpdk-testpmd, driven by its prompt: as two guests that send each other
//! frames, or as DPDK's own loop between two vhost-user sockets.
//!
//! Read first: DPDK's Testpmd Application User Guide.

use std::io::pipe;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vswitch_tests::clock::Deadline;
use vswitch_tests::process::end_child;
use vswitch_tests::qemu::Console;

use crate::child::die_with_us;
use crate::interrupt;

const PROMPT: &str = "testpmd> ";

/// To be ready, or to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at whether somebody wants us to end.
const LOOK: Duration = Duration::from_millis(250);

/// Memory of each instance: its default pools of buffers take 340.
pub(crate) const MEBIBYTES: u64 = 512;

/// The version of DPDK.
pub(crate) fn version() -> String {
    // testpmd would want huge pages to tell.
    let field = ["-W", "-f", "dpdk ${source:Version}", "dpdk-dev"];
    crate::host::first_line("dpkg-query", &field)
}

/// A running instance; ended when dropped.
#[derive(Debug)]
pub(crate) struct Testpmd {
    child: Child,
    console: Console,
}

/// What went through all ports together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// The queue they were meant for was full.
    pub(crate) not_sent: u64,
}

impl Totals {
    /// Frames that were sent and have not arrived: under way, or lost.
    pub(crate) fn lost(&self) -> f64 {
        crate::measure::approximate(self.sent) - crate::measure::approximate(self.received)
    }
}

impl Testpmd {
    /// Starts it with its prompt on core `main` and its forwarding on core
    /// `worker`; `devices` are arguments of `--vdev`, `words` its own options.
    pub(crate) fn start(main: usize, worker: usize, devices: &[String], words: &[&str]) -> Result<Testpmd> {
        // Without stdbuf its answers would wait for a full buffer.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "-l", &format!("{main},{worker}")]);
        command.arg(format!("--main-lcore={main}"));
        command.args(["--in-memory", "--no-pci", "--no-telemetry", "--single-file-segments"]);
        command.args(["-m", &MEBIBYTES.to_string()]);
        for device in devices {
            command.args(["--vdev", device]);
        }
        command.args(["--", "-i"]).args(words);
        // One pipe for both: read from two, an error would come between the letters
        // of a prompt now and then.
        let (output, writer) = pipe()?;
        command.process_group(0).stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        die_with_us(&mut command);
        let mut child = command.spawn().context("dpdk-testpmd")?;
        // It keeps the pipe open for as long as it lives.
        drop(command);
        let input = child.stdin.take().context("a pipe was asked for")?;
        let console = Console::new(output, input);
        let mut testpmd = Testpmd { child, console };
        testpmd.wait().context("dpdk-testpmd")?;
        Ok(testpmd)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types `line` and returns what was printed until the next prompt.
    pub(crate) fn order(&mut self, line: &str) -> Result<String> {
        self.console.send(&format!("{line}\n"))?;
        self.wait().with_context(|| format!("testpmd, {line}"))
    }

    /// What went through its ports since it started.
    pub(crate) fn totals(&mut self) -> Result<Totals> {
        let text = self.order("show port stats all")?;
        totals(&text).with_context(|| text.clone())
    }

    /// Share of the time since `clear fwd stats all`, `elapsed_ns` ago, in
    /// which it worked on frames instead of looking for some.
    pub(crate) fn work_share(&mut self, elapsed_ns: f64) -> Result<f64> {
        let text = self.order("show fwd stats all")?;
        let work_ns = work_ns(&text).with_context(|| text.clone())?;
        Ok(work_ns / elapsed_ns)
    }

    fn wait(&mut self) -> Result<String> {
        let deadline = Deadline::after(LIMIT);
        loop {
            interrupt::check()?;
            match self.console.wait(PROMPT, LOOK) {
                Ok(text) => return Ok(text),
                Err(error) if deadline.passed() => bail!(error),
                Err(error) => {
                    if let Ok(Some(status)) = self.child.try_wait() {
                        bail!("it ended ({status}): {error:#}");
                    }
                }
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        end_child(&mut self.child);
    }
}

fn totals(text: &str) -> Option<Totals> {
    let sum = |key: &str| -> Option<u64> {
        let mut values = text.match_indices(key).map(|(at, _)| number(&text[at + key.len()..])).peekable();
        values.peek()?;
        values.sum()
    };
    Some(Totals { received: sum("RX-packets:")?, sent: sum("TX-packets:")?, not_sent: sum("TX-errors:")? })
}

/// From `CPU cycles/packet=1 (total cycles=2 / total RX packets=3) at 4 MHz Clock`.
fn work_ns(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("CPU cycles/packet="))?;
    let cycles = number(line.split_once("total cycles=")?.1)?;
    let megahertz = number(line.rsplit_once(" at ")?.1)?;
    Some(crate::measure::approximate(cycles) * 1e3 / crate::measure::approximate(megahertz.max(1)))
}

/// The decimal number that `text` begins with, behind spaces.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_summed_over_ports() {
        let port = |rx, tx| {
            format!(
                "  RX-packets: {rx}          RX-missed: 0          RX-bytes:  640\n  RX-errors: 0\n  \
                 RX-nombuf:  0         \n  TX-packets: {tx}          TX-errors: 2          TX-bytes:  640\n"
            )
        };
        let text = format!("show port stats all\n{}\n{}\ntestpmd> ", port(10, 11), port(5, 6));
        assert_eq!(totals(&text), Some(Totals { received: 15, sent: 17, not_sent: 4 }));
        assert_eq!(totals("Command not found"), None);
    }

    #[test]
    fn time_of_work_is_cycles_by_the_clock() {
        let line = "  CPU cycles/packet=52.10 (total cycles=2600 / total RX packets=50) at 2600 MHz Clock\n";
        assert_eq!(work_ns(line), Some(1000.0));
        assert_eq!(work_ns("nothing"), None);
    }
}
