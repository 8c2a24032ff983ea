//! `vswitch capture`: asks a switch for a capture and writes what it sends, until
//! the reader, a limit, a signal or the disk ends it.
//!
//! This thread reads the connection and writes; another waits for what ends the
//! capture (`ender`).
//!
//! Deliberately absent: what is captured, which the switch decides.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::ender::Ender;
use super::pcapng::{Blocks, STATE, json_of};
use super::rotate::{Output, Rotation};
use super::state::{State, Summary};
use crate::control::{Capture, Client, Request, Response};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Why a capture can end without its sums.
pub const NO_SUMS: &str =
    "the capture ends without its sums: the switch has ended, or gave up a reader that took nothing for 10 s";

/// A capture as its user wants it.
#[derive(Debug)]
pub struct Job<'j> {
    /// What the switch is asked for.
    pub capture: Capture,
    /// A file, or `-`.
    pub path: &'j Path,
    /// Another file now and then.
    pub rotation: Option<Rotation>,
    /// How long, at most.
    pub duration: Option<Duration>,
}

/// How a capture ended.
#[derive(Debug)]
pub enum Outcome {
    /// With its sums.
    Whole(Summary),
    /// Whoever read it has gone.
    Closed,
}

/// Captures until it ends.
///
/// # Errors
/// The switch refuses or is lost, or what was captured cannot be written.
pub fn run(mut client: Client, job: Job<'_>) -> anyhow::Result<Outcome> {
    let reply = client.call(&Request::Capture(job.capture))?;
    if !matches!(reply, Response::Capture { .. }) {
        return Err(client.unexpected().into());
    }
    let (mut stream, rest) = client.into_stream()?;
    // Not before: a capture that is refused leaves the file as it was.
    let output = Output::open(job.path, job.rotation).map_err(|error| {
        let name = job.path.display().to_string();
        give_up(&mut stream, &format!("{name}: {error}"));
        anyhow::Error::new(error).context(name)
    })?;
    let closed = Arc::new(AtomicBool::new(false));
    let ender = Ender {
        stream: stream.try_clone()?,
        pipe: output.pipe()?,
        closed: Arc::clone(&closed),
        duration: job.duration,
    };
    ender.start()?;
    let mut reading = Reading { stream, output, blocks: Blocks::default(), summary: None };
    reading.blocks.feed(&rest);
    let ended = reading.all();
    if closed.load(Ordering::SeqCst) {
        return Ok(Outcome::Closed);
    }
    match ended {
        Ok(()) => {}
        Err(Fault::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Outcome::Closed),
        Err(Fault::Write(error)) => {
            let place = reading.output.name();
            give_up(&mut reading.stream, &format!("{place}: {error}"));
            let is_full = error.kind() == io::ErrorKind::StorageFull;
            let text = if is_full {
                "the disk is full; what was captured before is whole"
            } else {
                &error.to_string()
            };
            anyhow::bail!("{place}: {text}");
        }
        Err(Fault::Read(error)) => return Err(error),
    }
    let summary = reading.summary.take();
    summary.map(Outcome::Whole).context(NO_SUMS)
}

/// Says how it ended, for people; `done` is what was done with its frames.
pub fn summary_text(summary: &Summary, done: &str) -> String {
    let plural = if summary.written == 1 { "" } else { "s" };
    let mut text = format!("{} frame{plural} {done}, {} missed", summary.written, summary.missed);
    for port in &summary.ports {
        let kinds = [&port.forwarded, &port.dropped, &port.sent, &port.refused];
        let lost: u64 = kinds.iter().map(|sums| sums.lost).sum();
        let slow: u64 = kinds.iter().map(|sums| sums.slow).sum();
        if lost + slow > 0 {
            text +=
                &format!("\n{}: {lost} missed in the switch, {slow} because this reader was slow", port.name);
        }
    }
    if summary.changes_missed > 0 {
        text += &format!("\n{} changes of the switch missed: a replay will differ", summary.changes_missed);
    }
    if summary.why == "stopped" {
        text += "\nthe switch has ended";
    }
    text
}

/// The exit code of a capture, after its summary was said.
///
/// # Errors
/// stdout is gone.
pub fn report(outcome: &Outcome, json: bool, to_stdout: bool) -> anyhow::Result<ExitCode> {
    let Outcome::Whole(summary) = outcome else { return Ok(ExitCode::SUCCESS) };
    let text = if json { serde_json::to_string_pretty(summary)? } else { summary_text(summary, "written") };
    // stdout is for machines, and may carry the capture itself.
    if json && to_stdout {
        let _ = writeln!(io::stdout(), "{text}");
    } else {
        let _ = writeln!(io::stderr(), "{text}");
    }
    Ok(ExitCode::SUCCESS)
}

enum Fault {
    Read(anyhow::Error),
    Write(io::Error),
}

/// The main thread's work.
struct Reading {
    stream: UnixStream,
    output: Output,
    blocks: Blocks,
    summary: Option<Summary>,
}

impl Reading {
    /// Reads to the end, and writes.
    fn all(&mut self) -> Result<(), Fault> {
        let mut chunk = vec![0; CHUNK];
        loop {
            self.take_blocks()?;
            self.output.flush().map_err(Fault::Write)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.output.end_file().map_err(Fault::Write),
                Ok(len) => self.blocks.feed(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error.into())),
            }
        }
    }

    fn take_blocks(&mut self) -> Result<(), Fault> {
        let now = now();
        while let Some((kind, block)) = self.blocks.next_block().map_err(|error| Fault::Read(error.into()))? {
            if kind == STATE
                && let Some(Ok(State::End(summary))) = json_of(block).map(serde_json::from_slice)
            {
                self.summary = Some(summary);
            }
            self.output.take(kind, block, now).map_err(Fault::Write)?;
        }
        Ok(())
    }
}

/// Tells the switch why it ends, and waits for nothing more.
fn give_up(stream: &mut UnixStream, why: &str) {
    // If the switch has gone, it need not know.
    let _ = writeln!(stream, "{why}");
    let _ = stream.shutdown(Shutdown::Both);
}

/// The client's own clock: how long a capture lasts, and how old its file is.
#[expect(clippy::disallowed_methods, reason = "no frame is judged by it")]
fn now() -> Instant {
    Instant::now()
}
