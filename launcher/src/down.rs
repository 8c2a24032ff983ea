//! `vlab down`: everything that the state names, and nothing else.
//!
//! Guests first, by asking ever less politely; then switches, which can remove
//! their TAPs once no guest holds them; then RUN; the state last. Whatever is
//! gone already is success, so `down` can be repeated until it has nothing to
//! say.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::runner::{Ask, Runner};
use crate::state::{GuestRecord, Process, Store, SwitchRecord};

/// How long a guest without a disk may take: it has nothing to lose.
const GRACE_WITHOUT_DISK: Duration = Duration::from_secs(1);
/// How long QEMU may take to quit, and a switch to stop.
const QUIT: Duration = Duration::from_secs(5);

/// What `down` is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long guests may take to power down.
    pub grace: Duration,
    /// Remove clones as well.
    pub disks: bool,
    /// The boot that runs now.
    pub boot_id: String,
}

/// What `down` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Guests and networks, in the order of stopping.
    pub stopped: Vec<String>,
    /// Guests that did not power down in time.
    pub forced: Vec<String>,
    /// Disks that were removed.
    pub removed: Vec<PathBuf>,
    /// Interfaces that could not be removed.
    pub left: Vec<String>,
}

/// Takes down what `store` names, then `directories`, then the state itself.
///
/// # Errors
/// Something did not end; the state stays, so that `down` can be repeated.
pub fn take_down(
    store: &Store,
    directories: &[PathBuf],
    options: &Options,
    runner: &mut dyn Runner,
) -> Result<Report> {
    let state = &store.state;
    let mut report = Report::default();
    // Numbers of another boot mean nothing: those processes ended with it.
    let same_boot = state.boot_id == options.boot_id;
    if same_boot {
        stop_guests(&state.guests, options.grace, runner, &mut report)?;
    }
    for switch in state.switches.iter().rev() {
        if same_boot {
            report.left.extend(stop_switch(switch, runner)?);
        }
        report.stopped.push(switch.network.clone());
    }
    for file in &state.files {
        // What a killed `up` was making may still be at it.
        let unfinished = file.extension().is_some_and(|extension| extension == "part" || extension == "raw");
        if same_boot && unfinished {
            let makers = runner.find(file);
            makers.iter().try_for_each(|process| runner.kill(*process))?;
            runner.wait_gone(&makers, QUIT);
        }
        runner.remove(file)?;
    }
    if options.disks {
        for clone in &state.clones {
            runner.remove(clone)?;
            report.removed.push(clone.clone());
        }
        for key in &state.keys {
            runner.remove(key)?;
        }
    }
    for directory in directories {
        runner.remove(directory)?;
    }
    store.remove()?;
    Ok(report)
}

/// Stops a switch and removes what it left; returns the interfaces that stay.
///
/// # Errors
/// It does not end.
pub fn stop_switch(switch: &SwitchRecord, runner: &mut dyn Runner) -> Result<Vec<String>> {
    let processes = match switch.process {
        Some(process) => vec![process],
        None => runner.find(&switch.config),
    };
    for process in runner.wait_gone(&processes, Duration::ZERO) {
        runner.stop_switch(switch, process)?;
        if !runner.wait_gone(&[process], QUIT).is_empty() {
            runner.kill(process)?;
        }
        if !runner.wait_gone(&[process], QUIT).is_empty() {
            bail!("switch {} does not end (pid {})", switch.name, process.pid);
        }
    }
    Ok(runner.sweep(switch))
}

/// Stops guests: asks them, ever less politely.
///
/// # Errors
/// One does not end.
pub fn stop_guests(
    guests: &[GuestRecord],
    grace: Duration,
    runner: &mut dyn Runner,
    report: &mut Report,
) -> Result<()> {
    let mut running: Vec<(&GuestRecord, Process)> = Vec::new();
    for guest in guests.iter().rev() {
        let processes = match guest.process {
            Some(process) => vec![process],
            // Killed between starting QEMU and writing its number down.
            None => runner.find(&guest.qmp),
        };
        running.extend(runner.wait_gone(&processes, Duration::ZERO).into_iter().map(|it| (guest, it)));
        report.stopped.push(guest.name.clone());
    }
    // A guest that cannot be asked is dealt with below, here and further on.
    for (guest, _) in &running {
        let _ = runner.ask(guest, Ask::PowerDown);
    }
    settle(&mut running, grace.min(GRACE_WITHOUT_DISK), runner);
    for (guest, _) in running.iter().filter(|(guest, _)| guest.disk.is_none()) {
        let _ = runner.ask(guest, Ask::Quit);
    }
    settle(&mut running, grace.saturating_sub(GRACE_WITHOUT_DISK), runner);

    report.forced.extend(running.iter().map(|(guest, _)| guest.name.clone()));
    for (guest, _) in &running {
        let _ = runner.ask(guest, Ask::Quit);
    }
    settle(&mut running, QUIT, runner);
    for (_, process) in &running {
        runner.kill(*process)?;
    }
    settle(&mut running, QUIT, runner);
    match running.first() {
        Some((guest, process)) => bail!("guest {} does not end (pid {})", guest.name, process.pid),
        None => Ok(()),
    }
}

/// Waits for `running`, and keeps of it what has not ended.
fn settle(running: &mut Vec<(&GuestRecord, Process)>, limit: Duration, runner: &mut dyn Runner) {
    let processes: Vec<Process> = running.iter().map(|(_, process)| *process).collect();
    let left = if processes.is_empty() { Vec::new() } else { runner.wait_gone(&processes, limit) };
    running.retain(|(_, process)| left.contains(process));
}
