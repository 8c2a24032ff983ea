//! A `vswitch trace --live` that runs beside a test.

use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::wait_until;
use crate::process::{Switch, end_child};
use crate::start;

/// How long it may take to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// The running command.
#[derive(Debug)]
pub struct LiveTrace {
    child: Option<Child>,
}

impl LiveTrace {
    /// Starts `vswitch trace --live ARGS`, and waits until it has begun.
    ///
    /// # Errors
    /// It does not begin.
    pub fn start(switch: &Switch, args: &[&str]) -> Result<LiveTrace> {
        let before = begun(switch)?;
        let mut command = switch.client_command(&["trace", "--live"]);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let trace = LiveTrace { child: Some(start::spawn(&mut command)?) };
        wait_until("the live trace to begin", BEGIN, || begun(switch).is_ok_and(|len| len > before))?;
        Ok(trace)
    }

    /// Waits for its end, which comes by itself.
    ///
    /// # Errors
    /// It had ended before.
    pub fn wait(&mut self) -> Result<Output> {
        let child = self.child.take().context("it has ended")?;
        Ok(child.wait_with_output()?)
    }

    /// Ends it as Ctrl-C does.
    ///
    /// # Errors
    /// It had ended before.
    pub fn interrupt(&mut self) -> Result<Output> {
        let child = self.child.as_ref().context("it has ended")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("its pid")?;
        kill_process(pid, Signal::INT)?;
        self.wait()
    }

    /// Hangs up: nobody reads what it prints any more.
    ///
    /// # Errors
    /// It had ended before.
    pub fn hang_up(&mut self) -> Result<()> {
        drop(self.child.as_mut().context("it has ended")?.stdout.take());
        Ok(())
    }
}

impl Drop for LiveTrace {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            end_child(child);
        }
    }
}

/// How many captures have begun.
fn begun(switch: &Switch) -> Result<usize> {
    let output = switch.client(&["events", "--kind", "capture_started", "--json"])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().count())
}
