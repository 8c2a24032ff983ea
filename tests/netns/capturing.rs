//! A `vswitch capture` that runs beside a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vswitch_tests::capture::Capture;
use vswitch_tests::clock::wait_until;
use vswitch_tests::process::{Switch, end_child};
use vswitch_tests::start;

use crate::lan::SOON;

/// The running command, which writes to a file of its own.
#[derive(Debug)]
pub(crate) struct Capturing {
    child: Option<Child>,
    file: PathBuf,
    dir: TempDir,
}

impl Capturing {
    /// Starts `vswitch capture ARGS -w FILE`, and waits until it has begun.
    pub(crate) fn start(switch: &Switch, args: &[&str]) -> Result<Capturing> {
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        let file = dir.path().join("a.pcapng");
        let mut command = switch.client_command(&["capture"]);
        command.args(args).arg("-w").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = start::spawn(&mut command).context("vswitch capture")?;
        let capturing = Capturing { child: Some(child), file, dir };
        // The headers are written when the switch has begun.
        wait_until("the capture to begin", SOON, || {
            let files = std::fs::read_dir(capturing.dir.path()).into_iter().flatten().flatten();
            files.filter_map(|file| file.metadata().ok()).any(|found| found.len() > 0)
        })
        .with_context(|| switch.stderr())?;
        Ok(capturing)
    }

    /// Its file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Waits for its end, which comes by itself.
    pub(crate) fn wait(&mut self) -> Result<Output> {
        let child = self.child.take().context("it has ended")?;
        Ok(child.wait_with_output()?)
    }

    /// Ends it as Ctrl-C does, and reads what it has written.
    pub(crate) fn end(&mut self) -> Result<Capture> {
        let output = self.interrupt()?;
        ensure!(output.status.success(), "{output:?}");
        Capture::parse(&std::fs::read(&self.file)?)
    }

    /// Ends it as Ctrl-C does.
    pub(crate) fn interrupt(&mut self) -> Result<Output> {
        let child = self.child.as_ref().context("it has ended")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("its pid")?;
        kill_process(pid, Signal::INT)?;
        self.wait()
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            end_child(child);
        }
    }
}

/// What tshark prints of a file.
pub(crate) fn tshark(file: &Path, args: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new("tshark");
    command
        .arg("-r")
        .arg(file)
        .args(args)
        .env("WIRESHARK_RUN_FROM_BUILD_DIRECTORY", "0")
        .stdin(Stdio::null());
    let output = start::output(&mut command).context("tshark")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A limit that only a hang reaches.
pub(crate) const LONG: Duration = Duration::from_secs(60);
