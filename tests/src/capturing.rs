//! A `vswitch capture` that runs beside a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vswitch::capture::state::PortSums;

use crate::capture::Capture;
use crate::clock::wait_until;
use crate::process::{Switch, end_child};
use crate::start;

/// How long a capture may take to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// The running command, which writes to a file of its own.
#[derive(Debug)]
pub struct Capturing {
    child: Option<Child>,
    file: PathBuf,
    dir: TempDir,
}

impl Capturing {
    /// Starts `vswitch capture ARGS -w FILE`, and waits until it has begun.
    ///
    /// # Errors
    /// It does not begin.
    pub fn start(switch: &Switch, args: &[&str]) -> Result<Capturing> {
        let mut command = switch.client_command(&["capture"]);
        command.args(args);
        Capturing::spawn(command).with_context(|| switch.stderr())
    }

    /// The same from a command that only lacks `-w FILE`.
    ///
    /// # Errors
    /// It does not begin.
    pub fn spawn(mut command: Command) -> Result<Capturing> {
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        let file = dir.path().join("a.pcapng");
        command.arg("-w").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = start::spawn(&mut command).context("vswitch capture")?;
        let capturing = Capturing { child: Some(child), file, dir };
        // The headers are written when the switch has begun.
        wait_until("the capture to begin", BEGIN, || {
            let files = std::fs::read_dir(capturing.dir.path()).into_iter().flatten().flatten();
            files.filter_map(|file| file.metadata().ok()).any(|found| found.len() > 0)
        })?;
        Ok(capturing)
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits for its end, which comes by itself.
    ///
    /// # Errors
    /// It had ended before.
    pub fn wait(&mut self) -> Result<Output> {
        let child = self.child.take().context("it has ended")?;
        Ok(child.wait_with_output()?)
    }

    /// Ends it as Ctrl-C does, and reads what it has written.
    ///
    /// # Errors
    /// It failed, or wrote no pcapng.
    pub fn end(&mut self) -> Result<Capture> {
        let output = self.interrupt()?;
        ensure!(output.status.success(), "{output:?}");
        Capture::parse(&std::fs::read(&self.file)?)
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
}

impl Drop for Capturing {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            end_child(child);
        }
    }
}

/// That every record is accounted for, and there are as many frames as is said.
///
/// # Errors
/// They differ.
pub fn check_sums(capture: &Capture) -> Result<()> {
    let summary = capture.end();
    for port in &summary.ports {
        let PortSums { name, forwarded, dropped, sent, refused } = port;
        for sums in [forwarded, dropped, sent, refused] {
            ensure!(sums.balance(), "{name}: {sums:?}");
        }
    }
    ensure!(capture.frames.len() as u64 == summary.written, "{summary:?}");
    Ok(())
}

/// That tshark reads every frame as it was written, with its port, its direction
/// and its comment, and finds none malformed.
///
/// # Errors
/// It does not.
pub fn check_tshark(file: &Path, capture: &Capture) -> Result<()> {
    let fields = ["frame.interface_name", "frame.packet_flags_direction", "frame.comment"];
    let args: Vec<&str> =
        ["-T", "fields"].into_iter().chain(fields.iter().flat_map(|it| ["-e", it])).collect();
    let lines = tshark(file, &args)?;
    ensure!(lines.lines().count() == capture.frames.len(), "tshark sees every frame, and nothing else");
    for (line, frame) in lines.lines().zip(&capture.frames) {
        let way = frame.way as u32;
        ensure!(line == format!("{}\t0x{way:08x}\t{}", frame.interface, frame.comment), "{line}: {frame:?}");
    }
    let odd = tshark(file, &["-Y", "_ws.malformed or _ws.short"])?;
    ensure!(odd.is_empty(), "{odd}");
    Ok(())
}

/// What tshark prints of a file.
///
/// # Errors
/// It is not installed, or cannot read the file.
pub fn tshark(file: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new("tshark");
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
