//! From what was typed to a capture: the filter is compiled, the switch found.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use super::libpcap;
use super::reader::{self, Job};
use crate::cli::CaptureArgs;
use crate::config::Invoker;
use crate::control::{Capture, Client, Filter};

/// Captures as `args` say, until it ends.
///
/// # Errors
/// What was typed cannot be, the switch refuses, or the file cannot be written.
pub fn run(args: &CaptureArgs, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    let to_stdout = args.write == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        bail!("a terminal cannot show a capture\n  write a file: -w FILE, or pipe it: -w - | tshark -r -");
    }
    if to_stdout && args.rotate.is_some() {
        bail!("--rotate needs a file\n  write one: -w FILE");
    }
    let filter = args.filter.as_deref().map(compile).transpose()?;
    let target = &args.target;
    let client = Client::find(invoker, target.name.as_deref(), target.control.as_deref())?;
    let job = Job {
        capture: Capture {
            ports: args.ports.clone(),
            directions: args.directions.clone(),
            filter,
            snaplen: args.snaplen,
            count: args.count,
            last_ms: args.last.map(|last| u64::try_from(last.as_millis()).unwrap_or(u64::MAX)),
            steps: false,
            segment: args.segment,
        },
        path: &args.write,
        rotation: args.rotate,
        duration: args.duration,
    };
    let outcome = reader::run(client, job)?;
    reader::report(&outcome, target.json, !to_stdout)
}

/// A filter as the switch takes it.
///
/// # Errors
/// libpcap is missing, or does not understand it.
pub fn compile(text: &str) -> Result<Filter, libpcap::CompileError> {
    Ok(Filter { text: text.to_owned(), program: libpcap::compile(text)? })
}
