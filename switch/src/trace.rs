//! `vswitch trace`: what would become of a frame, or, live, what becomes of those that
//! come; asked of a running switch.
//!
//! Deliberately absent: any decision. The switch answers, with the functions
//! that forward, and changes nothing.

mod live;

pub use live::follow;

use std::fmt::Write as _;

use anyhow::Context as _;

use crate::cli::TraceArgs;
use crate::config::Invoker;
use crate::control::{Client, Request, Trace};
use crate::form;
use crate::output;

/// Asks, and returns the text for stdout.
///
/// # Errors
/// The frame cannot be read, there is no such switch, or it refuses.
pub fn execute(args: &TraceArgs, invoker: &Invoker) -> anyhow::Result<String> {
    let port = args.port.clone().context("--port is missing")?;
    let frame = form::read(&args.frame.join(" "))?;
    let hex = frame.bytes.iter().fold(String::with_capacity(2 * frame.bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let request = Request::Trace { port, frame: hex, unfinished: frame.vnet.into() };
    let target = &args.target;
    let mut client = Client::find(invoker, target.name.as_deref(), target.control.as_deref())?;
    let reply = client.call(&request)?;
    if target.json { Ok(output::json(&reply)) } else { Ok(output::reply(&request, &reply)) }
}

/// The steps, and below the verdict what each egress would do.
pub fn text(trace: &Trace) -> String {
    let mut rows: Vec<[String; 2]> =
        trace.steps.iter().map(|step| [step.step.clone(), step.text.clone()]).collect();
    for egress in &trace.egress {
        rows.push([format!("  {}", egress.port), egress.text.clone()]);
    }
    format!("{} bytes in by {}\n{}", trace.len, trace.port, output::table(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::TraceEgress;
    use crate::explain::Step;

    #[test]
    fn steps_first_and_then_each_egress() {
        let step = |step: &str, text: &str| Step { step: step.to_owned(), text: text.to_owned() };
        let egress = |port: &str, refused: Option<&str>, text: &str| TraceEgress {
            port: port.to_owned(),
            refused: refused.map(str::to_owned),
            text: text.to_owned(),
        };
        let trace = Trace {
            port: "tap0".to_owned(),
            len: 1600,
            steps: vec![step("port", "tap0 is up"), step("verdict", "flooded to tap1 vm2")],
            verdict: "flooded".to_owned(),
            reason: None,
            comment: "flooded to tap1 vm2".to_owned(),
            egress: vec![
                egress("tap1", None, "sent, 1600 bytes"),
                egress("vm2", Some("oversize"), "refused: oversize (1600 bytes; its MTU allows 1514)"),
            ],
        };
        let expected = "1600 bytes in by tap0\nport     tap0 is up\nverdict  flooded to tap1 vm2\n  tap1   sent, \
                        1600 bytes\n  vm2    refused: oversize (1600 bytes; its MTU allows 1514)\n";
        assert_eq!(text(&trace), expected);
    }
}
