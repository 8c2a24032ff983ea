//! `vswitch top`: ports with their rates, the FDB and events on one screen.
//!
//! Read in this order: `model` (what is shown and how keys change it), `draw`
//! (the screen, a pure function of the model), `sections` (its parts), `look` (one
//! reading of a switch, and the thread that takes them), `plain` (one look where
//! there is no terminal). This file has the terminal and the loop.
//!
//! Deliberately absent: changing the switch. It only looks.

mod draw;
mod look;
mod model;
mod plain;
mod sections;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec};
use signal_hook::iterator::Signals;

use crate::cli::TopArgs;
use crate::config::Invoker;
use look::{Looker, Seen, look};
use model::{Glyphs, Key, Model, Wish};

/// The longest time between two looks at the keyboard and the signals.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the loop has to end after a signal.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Shows the switch that `args` mean until a key or a signal ends it; where there
/// is no terminal, prints one look.
///
/// # Errors
/// There is no such switch, or the terminal cannot be used.
pub fn run(args: &TopArgs, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.once || args.target.json || is_dumb || !is_terminal {
        return plain::once(args, invoker);
    }
    // Before the screen is taken: a switch that is not there is told in words.
    let first = look(&args.target, invoker, Seen::default())?;
    let seen = Seen::of(&first);
    let ended = ended_by_signal().context("no signal handler")?;
    // From here on a panic gives the terminal back before it is told.
    let mut terminal = ratatui::try_init().context("the terminal cannot be used; try --once")?;
    let mut model = Model::new(args.interval, glyphs());
    model.take(first);
    let looker = Looker::start(args.target.clone(), invoker.clone(), args.interval, seen);
    let outcome = watch(&mut terminal, &mut model, &looker, &ended);
    ratatui::restore();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The loop: keys, looks and signals change the model, the model is drawn.
fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    looker: &Looker,
    ended: &AtomicBool,
) -> anyhow::Result<()> {
    let mut is_stale = true;
    while !ended.load(Ordering::Relaxed) {
        if is_stale {
            terminal.draw(|frame| draw::screen(frame, model)).context("drawing")?;
            is_stale = false;
        }
        if !await_terminal(PATIENCE).context("waiting for keys")? {
            return Ok(());
        }
        while event::poll(Duration::ZERO).context("waiting for keys")? {
            is_stale = true;
            let Event::Key(key) = event::read().context("reading keys")? else { continue };
            match key_of(key).map(|key| model.press(key)) {
                Some(Wish::Quit) => return Ok(()),
                Some(Wish::Interval(interval)) => looker.set_interval(interval),
                Some(Wish::Nothing) | None => {}
            }
        }
        while let Some(look) = looker.next() {
            is_stale |= model.hear(look);
        }
    }
    Ok(())
}

/// Waits until there may be something to read, or a signal has come; false if the
/// terminal has gone. Crossterm, asked to read from one that is gone, reads its end
/// again and again and never returns (seen with 0.29).
fn await_terminal(patience: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    match rustix::event::poll(&mut fds, Some(&patience)) {
        Ok(_) => Ok(!fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// What was pressed, as far as it means anything.
fn key_of(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing here")]
    match key.code {
        KeyCode::Char('c') if is_control => Some(Key::Quit),
        KeyCode::Char(_) if is_control => None,
        KeyCode::Char(letter) => Some(Key::Letter(letter)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        KeyCode::Tab | KeyCode::BackTab => Some(Key::Tab),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Backspace => Some(Key::Backspace),
        KeyCode::Esc => Some(Key::Escape),
        _ => None,
    }
}

/// Set by whatever signal should end us, so that the terminal is given back. Should
/// the loop hang in a terminal that went while it was read, the process ends all
/// the same, [`LAST_PATIENCE`] later.
fn ended_by_signal() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
    let ends = Arc::clone(&ended);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            ends.store(true, Ordering::Relaxed);
            std::thread::sleep(LAST_PATIENCE);
            ratatui::restore();
            std::process::exit(1);
        }
    })?;
    Ok(ended)
}

/// Lines and bars as far as the locale says that the terminal has them.
fn glyphs() -> Glyphs {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") { Glyphs::Unicode } else { Glyphs::Ascii }
}
