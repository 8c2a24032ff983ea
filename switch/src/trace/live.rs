//! `vswitch trace --live`: real frames, each with every step of the decision that was
//! made on it.
//!
//! It is a capture of frames that come in, whose reader looks at what is said behind
//! each of them and not at the frames. So it sees what a capture sees, is bounded as
//! one, and ends as one.
//!
//! Deliberately absent: any decision, and any guess at what was decided.

use std::io::{self, Read as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;

use super::text;
use crate::capture::command::compile;
use crate::capture::ender::Ender;
use crate::capture::pcapng::{Blocks, STATE, json_of};
use crate::capture::reader::{NO_SUMS, summary_text};
use crate::capture::state::{State, Summary, Told};
use crate::cli::TraceArgs;
use crate::config::Invoker;
use crate::control::{Capture, Client, Direction, PortLine, PortState, Request, Response};
use crate::events::utc;

/// Whoever sees nothing for this long wants to know that it is no fault.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of each frame that are sent along: as few as can be asked for.
const SNAPLEN: u32 = 14;

/// Explains frames as they come, until a limit, a signal or a closed pipe ends it.
///
/// # Errors
/// There is no such switch, it refuses, or it ends without the sums.
pub fn follow(args: &TraceArgs, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    let capture = Capture {
        ports: args.port.iter().cloned().collect(),
        directions: vec![Direction::In],
        filter: args.filter.as_deref().map(compile).transpose()?,
        snaplen: Some(SNAPLEN),
        count: args.count,
        steps: true,
        ..Capture::default()
    };
    let find = || Client::find(invoker, args.target.name.as_deref(), args.target.control.as_deref());
    let mut client = find()?;
    if !matches!(client.call(&Request::Capture(capture))?, Response::Capture { .. }) {
        return Err(client.unexpected().into());
    }
    let (stream, rest) = client.into_stream()?;
    let closed = Arc::new(AtomicBool::new(false));
    let ender = Ender {
        stream: stream.try_clone()?,
        pipe: Some(io::stdout().as_fd().try_clone_to_owned()?),
        closed: Arc::clone(&closed),
        duration: args.duration,
    };
    ender.start()?;
    let mut following =
        Following { stream, blocks: Blocks::default(), json: args.target.json, summary: None };
    following.blocks.feed(&rest);
    let hint = || {
        // If it cannot be asked, nothing more is known.
        let ports = find().and_then(|mut client| client.show()).map_or(Vec::new(), |show| show.ports);
        let _ = writeln!(io::stderr(), "{}", nothing_yet(args, &ports));
    };
    let ended = following.all(&mut io::stdout().lock(), hint);
    match ended {
        _ if closed.load(Ordering::SeqCst) => return Ok(ExitCode::SUCCESS),
        Err(Fault::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Fault::Write(error) | Fault::Read(error)) => return Err(error.into()),
        Ok(()) => {}
    }
    let summary = following.summary.context(NO_SUMS)?;
    // stdout is for the frames.
    let _ = writeln!(io::stderr(), "{}", summary_text(&summary, "explained"));
    Ok(ExitCode::SUCCESS)
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

/// What comes from the switch.
struct Following {
    stream: UnixStream,
    blocks: Blocks,
    json: bool,
    summary: Option<Summary>,
}

impl Following {
    /// Writes all that is explained to `out`; has `hint` say so if nothing is for long.
    fn all(&mut self, out: &mut dyn Write, hint: impl FnOnce()) -> Result<(), Fault> {
        let mut chunk = vec![0; 64 << 10];
        let mut hint = Some(hint);
        self.stream.set_read_timeout(Some(PATIENCE)).map_err(Fault::Read)?;
        loop {
            if self.take_blocks(out)? && hint.take().is_some() {
                self.stream.set_read_timeout(None).map_err(Fault::Read)?;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(len) => self.blocks.feed(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(hint) = hint.take() {
                        hint();
                    }
                    self.stream.set_read_timeout(None).map_err(Fault::Read)?;
                }
                Err(error) => return Err(Fault::Read(error)),
            }
        }
    }

    /// Writes what is explained in the blocks that are whole; says whether there was
    /// anything.
    fn take_blocks(&mut self, out: &mut dyn Write) -> Result<bool, Fault> {
        let mut is_any = false;
        loop {
            let damaged = |error| Fault::Read(io::Error::other(error));
            let Some((kind, block)) = self.blocks.next_block().map_err(damaged)? else { break };
            if kind != STATE {
                continue;
            }
            match json_of(block).map(serde_json::from_slice) {
                Some(Ok(State::Trace(told))) => {
                    is_any = true;
                    out.write_all(shown(&told, self.json).as_bytes()).map_err(Fault::Write)?;
                }
                Some(Ok(State::End(summary))) => self.summary = Some(summary),
                // A switch that is newer may say more.
                Some(Ok(State::Start(_) | State::Fdb(_) | State::Change(_)) | Err(_)) | None => {}
            }
        }
        out.flush().map_err(Fault::Write)?;
        Ok(is_any)
    }
}

/// One frame: a line of JSON, or its steps and a line between it and the next.
fn shown(told: &Told, json: bool) -> String {
    if json {
        // Names, numbers and texts: they serialise.
        return serde_json::to_string(told).unwrap_or_default() + "\n";
    }
    let when = utc(Duration::from_nanos(told.date_ns));
    format!("frame {} at {when}: {}\n", told.frame, text(&told.trace))
}

/// What to say to somebody who sees nothing.
fn nothing_yet(args: &TraceArgs, ports: &[PortLine]) -> String {
    let mut said = "no frame yet".to_owned();
    if let Some(port) = &args.port {
        said += &format!(" by {port}");
    }
    if let Some(filter) = args.filter.as_deref().filter(|filter| !filter.trim().is_empty()) {
        said += &format!(" that `{filter}` accepts");
    }
    let asked = |line: &&PortLine| args.port.as_ref().is_none_or(|port| *port == line.name);
    for PortLine { name, state, note, .. } in
        ports.iter().filter(asked).filter(|line| line.state != PortState::Up)
    {
        said += &format!("; {name} is {}", state.name());
        if !note.is_empty() {
            said += &format!(" ({note})");
        }
    }
    said + ". Waiting; Ctrl-C ends"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Target;

    fn line(name: &str, state: PortState, note: &str) -> PortLine {
        PortLine {
            name: name.to_owned(),
            kind: "netdev".to_owned(),
            state,
            note: note.to_owned(),
            mtu: 1500,
            rx: 0,
            tx: 0,
            drops: 0,
            peer: String::new(),
            isolation: String::new(),
            fast_path: false,
        }
    }

    #[test]
    fn whoever_sees_nothing_is_told_what_may_be_why() {
        let ports = [
            line("tap0", PortState::Down, "no guest yet"),
            line("tap1", PortState::Up, ""),
            line("tap2", PortState::Fault, ""),
        ];
        let args = |port: Option<&str>, filter: Option<&str>| TraceArgs {
            port: port.map(str::to_owned),
            filter: filter.map(str::to_owned),
            live: true,
            target: Target::default(),
            ..TraceArgs::default()
        };
        assert_eq!(
            nothing_yet(&args(Some("tap0"), Some("arp")), &ports),
            "no frame yet by tap0 that `arp` accepts; tap0 is down (no guest yet). Waiting; Ctrl-C ends"
        );
        assert_eq!(
            nothing_yet(&args(None, None), &ports),
            "no frame yet; tap0 is down (no guest yet); tap2 is fault. Waiting; Ctrl-C ends"
        );
        // An empty filter accepts everything, and is no reason.
        assert_eq!(
            nothing_yet(&args(Some("tap1"), Some(" ")), &ports),
            "no frame yet by tap1. Waiting; Ctrl-C ends"
        );
        assert_eq!(
            nothing_yet(&args(Some("tap1"), None), &ports),
            "no frame yet by tap1. Waiting; Ctrl-C ends"
        );
    }
}
