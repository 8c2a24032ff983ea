//! The commands that go on showing a running switch: `events`, `stats --watch` and
//! `top`.
//!
//! Each is a client like any other, polite to the switch: one request for each
//! look, a connection of its own for each that is far from the last, and for
//! events one connection on which the switch speaks.
//!
//! Deliberately absent: what is printed, which is pure text made in `events`,
//! `rates` and `top`.

mod events;
mod rates;
mod watch;

pub use rates::{PortRates, Rates, short};
pub use watch::{rates_json, stats};

use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::LiveCommand;
use crate::config::Invoker;

/// Runs `command` until it is done, ended, or nobody reads any more.
///
/// # Errors
/// There is no such switch, or it refuses.
pub fn run(command: &LiveCommand, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    match command {
        LiveCommand::Events(args) => events::run(args, invoker),
        LiveCommand::Top(args) => crate::top::run(args, invoker),
    }
}

/// Writes `text` to stdout at once; false if nobody reads any more.
fn put(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}
