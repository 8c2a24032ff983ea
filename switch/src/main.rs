//! The `vswitch` program: parse, run, exit code (0 done, 1 failed, 2 misused).

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;
use vswitch::cli::{Cli, ClientCommand, Command};
use vswitch::commands;
use vswitch::config::{ConfigError, Invoker, Origin};
use vswitch::live;
use vswitch::output;
use vswitch::replay;
use vswitch::run::Form;
use vswitch::supervisor::Source;

/// Misused: as clap's own.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = match &cli.command {
        Command::Client(command) => command.target().json,
        Command::Live(command) => command.target().json,
        Command::Trace(args) => args.target.json,
        Command::Replay(args) => args.json,
        Command::Capture(args) => args.target.json,
        Command::Extcap(args) => args.json,
        Command::Run(args) => args.json,
        Command::Completions { .. } | Command::Man { .. } => false,
    };
    let outcome = log_to_stderr(&cli.log).and_then(|()| dispatch(cli.command));
    outcome.unwrap_or_else(|error| {
        if json {
            // Whoever reads JSON gets the answer where answers come; if that
            // fails, the exit code is left to tell.
            let _ = print(&output::json(&commands::refusal(&error)));
        } else {
            // Errors carry their fix on indented lines of their own.
            let _ = writeln!(io::stderr(), "error: {error:#}");
        }
        let misused = |error: &ConfigError| matches!(error.origin, Origin::Flag(_));
        if error.downcast_ref().is_some_and(misused) { USAGE.into() } else { ExitCode::FAILURE }
    })
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            let form = if args.json { Form::Json } else { Form::Text };
            vswitch::run::run(Source { flags: args.flags(), invoker: Invoker::from_env() }, form)
        }
        Command::Client(ClientCommand::Stats { watch: Some(interval), target }) => {
            live::stats(interval, &target, &Invoker::from_env())
        }
        Command::Live(command) => live::run(&command, &Invoker::from_env()),
        Command::Client(command) => print(&commands::execute(&command, &Invoker::from_env())?),
        Command::Replay(args) => {
            let mut stdout = io::BufWriter::new(io::stdout().lock());
            let outcome = replay::execute(&args, &Invoker::from_env(), &mut stdout)?;
            // Whoever hung up does not mind the exit code.
            let _ = stdout.flush();
            Ok(if outcome == replay::Outcome::Same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Trace(args) if args.live => vswitch::trace::follow(&args, &Invoker::from_env()),
        Command::Trace(args) => print(&vswitch::trace::execute(&args, &Invoker::from_env())?),
        Command::Capture(args) => vswitch::capture::command::run(&args, &Invoker::from_env()),
        Command::Extcap(args) => print(&vswitch::capture::extcap::run(&args, &Invoker::from_env())?),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vswitch", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(Cli::command(), &dir)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes `text` to stdout; a reader that hung up has read enough.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        anyhow::anyhow!("--log {filter}: {e}\n  write error, warn, info, debug, trace, or MODULE=LEVEL")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    Ok(())
}
