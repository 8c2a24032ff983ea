//! The `vlab` program: parse, run, exit code.
//!
//! Results go to stdout, everything said on the way to stderr. Exit code 1 is a
//! failure, 2 a wrong command line.
#![warn(clippy::print_stderr)]

mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(&cli) {
        Ok(code) => code,
        Err(e) => {
            if cli.global.json {
                commands::print(&(serde_json::json!({ "error": format!("{e:#}") }).to_string() + "\n"));
            } else {
                vlab::say!("error: {e:#}");
            }
            ExitCode::FAILURE
        }
    }
}
