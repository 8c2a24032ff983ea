//! `vlab up`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use vlab::clock;
use vlab::down::{Options, take_down};
use vlab::facts;
use vlab::lab::Lab;
use vlab::link;
use vlab::lock::Lock;
use vlab::owner;
use vlab::places::Places;
use vlab::plan::{self, Facts};
use vlab::process;
use vlab::ready::{self, Outcome};
use vlab::runner::{self, Machine, Runner as _};
use vlab::say;
use vlab::state::{self, GuestRecord, State, Store};
use vlab::status;
use vlab::up::bring_up;

use super::target::Target;
use super::{change, live, print, print_json};

/// Guests of a lab that failed to come up lose little; they get this long.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Brings the lab up.
pub fn run(target: &Target, keep: bool, recreate: bool) -> Result<()> {
    let (lab, file) = target.lab()?;
    let places = target.roots.lab(&lab.name);
    runner::run_directory(&places.run, &target.user)?;
    runner::private_directory(&places.state)?;
    let lock = Lock::take(&places.lock())?;
    let mut machine = Machine::new(target.user.clone());
    let digest = digest(&lab)?;
    if let Some(mut store) = standing(&file, &places, &mut machine)? {
        claim(&lab, &places, &file)?;
        let changed = change::apply(target, &lab, &digest, &mut store, recreate, &mut machine)?;
        drop(lock);
        return report_up(target, &places, if changed { Since::Changed } else { Since::Already });
    }

    let prepared = owner::check(&places, &file)
        .and_then(|()| facts::gather(&lab, &target.user, places.clone(), None))
        .and_then(|facts| Ok((plan::plan(&lab, &facts)?, facts)));
    let (steps, facts) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            // Nothing was made but the directory of the lock.
            machine.remove(&places.run)?;
            return Err(e);
        }
    };
    notes(&lab, &facts);
    let interrupted = interruptions()?;
    let mut store = Store::new(places.state_file(), begin(&lab, &file, digest, &facts)?);
    claim(&lab, &places, &file)?;
    let outcome = bring_up(&steps, &mut store, &mut machine)
        .and_then(|()| live::pull_cables(&store.state.guests))
        .and_then(|()| wait_until_ready(&store.state, &store.state.guests, &interrupted, keep));
    let times = match outcome {
        Ok(times) => times,
        Err(e) if keep => {
            return Err(anyhow!("{e:#}\n  left as it is (--keep); take it down: vlab down"));
        }
        Err(e) => {
            undo(&mut store, &facts, &places, &mut machine).map_err(|undo| {
                anyhow!("{e:#}\n  and taking it down again failed: {undo:#}; try vlab down")
            })?;
            return Err(anyhow!("{e:#}\n  nothing is left running (to look closer: vlab up --keep)"));
        }
    };
    store.state.complete = true;
    store.save()?;
    drop(lock);
    report_up(target, &places, Since::Now(&times))
}

/// Becomes true when we are told to stop.
pub fn interruptions() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn digest(lab: &Lab) -> Result<String> {
    let digest = Sha256::digest(serde_json::to_vec(lab)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The state of a lab of which nothing was made yet.
pub fn begin(lab: &Lab, file: &Path, digest: String, facts: &Facts) -> Result<State> {
    let mut images: Vec<_> =
        lab.guests.iter().filter_map(|guest| guest.image()).map(Path::to_owned).collect();
    images.sort();
    images.dedup();
    Ok(State {
        version: state::VERSION,
        lab: lab.name.clone(),
        file: file.to_owned(),
        digest,
        boot_id: process::boot_id()?,
        complete: false,
        images,
        files: Vec::new(),
        clones: facts.clones.iter().cloned().collect(),
        keys: kept_keys(facts),
        switches: Vec::new(),
        guests: Vec::new(),
    })
}

/// Notes whose disks those are that the lab has, or will have, of its own.
fn claim(lab: &Lab, places: &Places, file: &Path) -> Result<()> {
    if lab.guests.iter().any(plan::keeps_something) {
        runner::private_directory(&places.data)?;
        owner::claim(places, file)?;
    }
    Ok(())
}

/// What goes with the clones and is there already, or comes by itself.
fn kept_keys(facts: &Facts) -> Vec<PathBuf> {
    let mut keys = vec![facts.places.known_hosts(), facts.places.owner()];
    if facts.has_ssh_key {
        keys.extend([facts.places.ssh_key(), facts::public_key(&facts.places.ssh_key())]);
    }
    keys
}

/// The lab, where it is up. What an interrupted `up` or another boot left is
/// taken down first.
fn standing(file: &Path, places: &Places, machine: &mut Machine) -> Result<Option<Store>> {
    let Some(store) = Store::load(&places.state_file())? else { return Ok(None) };
    let state = &store.state;
    let boot_id = process::boot_id()?;
    let same_boot = state.boot_id == boot_id;
    let guests = state.guests.iter().map(|guest| guest.process);
    let switches = state.switches.iter().map(|switch| switch.process);
    let alive = same_boot && guests.chain(switches).flatten().any(|process| process.alive());
    if state.file != file && alive {
        bail!(
            "a lab called {} is up from {}\n  take it down: vlab down --name {}, or give this one another name",
            state.lab,
            state.file.display(),
            state.lab
        );
    }
    if state.complete && alive {
        return Ok(Some(store));
    }
    say!("taking down what an earlier vlab up of lab {} left", state.lab);
    let options = Options { grace: GRACE_AFTER_FAILURE, disks: false, boot_id };
    take_down(&store, &[], &options, machine)?;
    Ok(None)
}

/// What the user should know before it starts.
fn notes(lab: &Lab, facts: &Facts) {
    let warnings = [facts::overlapping_routes(lab), facts::empty_images(lab), facts::stale_sizes(lab, facts)];
    for warning in warnings.iter().flatten() {
        say!("warning: {warning}");
    }
    for choice in link::choices(lab, facts) {
        say!("{choice}");
    }
    let mut reasons: Vec<&String> = facts.accels.values().filter_map(|(_, why)| why.as_ref()).collect();
    reasons.dedup();
    for why in reasons {
        say!("accel: tcg, not kvm: {why}");
    }
}

fn undo(store: &mut Store, facts: &Facts, places: &Places, machine: &mut Machine) -> Result<()> {
    say!("taking down what was started");
    // Clones that were there before stay.
    store.state.clones.retain(|clone| !facts.clones.contains(clone));
    let mut kept = kept_keys(facts);
    if facts.clones.is_empty() && !facts.has_ssh_key {
        kept.retain(|key| *key != places.owner());
    }
    store.state.keys.retain(|key| !kept.contains(key));
    let options = Options { grace: GRACE_AFTER_FAILURE, disks: true, boot_id: process::boot_id()? };
    take_down(store, std::slice::from_ref(&places.run), &options, machine)?;
    Ok(())
}

/// Waits for all guests side by side; returns how long each took. The first
/// that fails ends the waiting, unless all are to be `kept`.
pub fn wait_until_ready(
    state: &State,
    guests: &[GuestRecord],
    interrupted: &AtomicBool,
    kept: bool,
) -> Result<Vec<Duration>> {
    let progress = Progress::new(guests);
    let failed = AtomicBool::new(false);
    let stop = || interrupted.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) && !kept;
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let waits: Vec<_> = guests
            .iter()
            .enumerate()
            .map(|(index, guest)| {
                let (progress, failed, stop) = (&progress, &failed, &stop);
                scope.spawn(move || {
                    let outcome = ready::wait(guest, state, stop);
                    if matches!(outcome, Outcome::Failed(_)) {
                        failed.store(true, Ordering::Relaxed);
                    }
                    progress.settle(index, guest, &outcome);
                    outcome
                })
            })
            .collect();
        let panicked = || Outcome::Failed("waiting for it went wrong".to_owned());
        waits.into_iter().map(|wait| wait.join().unwrap_or_else(|_| panicked())).collect()
    });
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    let mut times = Vec::new();
    let mut failures = Vec::new();
    for (guest, outcome) in guests.iter().zip(outcomes) {
        match outcome {
            Outcome::Up(after) => times.push(after),
            Outcome::Failed(why) => failures.push(format!("guest {}: {why}", guest.name)),
            Outcome::Interrupted => {}
        }
    }
    if failures.is_empty() { Ok(times) } else { Err(anyhow!(failures.join("\n"))) }
}

/// A spinner per guest on a terminal, a line per guest in a pipe.
struct Progress {
    _all: MultiProgress,
    bars: Option<Vec<ProgressBar>>,
}

impl Progress {
    fn new(guests: &[GuestRecord]) -> Progress {
        let all = MultiProgress::new();
        if !std::io::stderr().is_terminal() {
            return Progress { _all: all, bars: None };
        }
        let style = ProgressStyle::with_template("{prefix}  {msg} {spinner} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bars = guests.iter().map(|guest| {
            let bar = all.add(ProgressBar::new_spinner().with_style(style.clone()));
            bar.set_prefix(guest.name.clone());
            bar.set_message("booting");
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Progress { bars: Some(bars.collect()), _all: all }
    }

    fn settle(&self, index: usize, guest: &GuestRecord, outcome: &Outcome) {
        match (self.bars.as_ref().and_then(|bars| bars.get(index)), outcome) {
            // The table that follows says it again, in full.
            (Some(bar), _) => bar.finish_and_clear(),
            (None, Outcome::Up(after)) => say!("{}: up after {}", guest.name, clock::short(*after)),
            (None, Outcome::Failed(_)) => say!("{}: failed", guest.name),
            (None, Outcome::Interrupted) => {}
        }
    }
}

/// Why there is a table of guests to print.
pub enum Since<'t> {
    /// They were started, and took so long.
    Now(&'t [Duration]),
    /// Some were changed.
    Changed,
    /// Nothing was done.
    Already,
}

/// Prints what is up.
pub fn report_up(target: &Target, places: &Places, since: Since<'_>) -> Result<()> {
    let store = Store::load(&places.state_file())?.context("the state is gone")?;
    let state = &store.state;
    if target.global.json {
        return print_json(&status::look(state));
    }
    if matches!(since, Since::Already) {
        print(&format!("lab {} is up already\n", state.lab));
    }
    let times = if let Since::Now(times) = since { Some(times) } else { None };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for switch in &state.switches {
        let mut row = vec![switch.network.clone(), switch.link.clone(), "ready".to_owned()];
        row.extend(switch.host.iter().map(|host| format!("host {} ({})", host.address, host.interface)));
        rows.push(row);
    }
    for (index, guest) in state.guests.iter().enumerate() {
        let took = times.and_then(|times| times.get(index).copied());
        let age = took.or_else(|| guest.process.and_then(|process| process.age()));
        let up = age.map_or("up".to_owned(), |age| format!("up {}", clock::short(age)));
        let mut row = vec![guest.name.clone(), guest.accel.name().to_owned(), up];
        row.extend(guest.nics.iter().map(|nic| {
            let address = nic.address.as_deref().unwrap_or(&nic.network);
            format!("{address} ({})", nic.guest_interface)
        }));
        row.extend(guest.internet.iter().map(|interface| format!("internet ({interface})")));
        rows.push(row);
    }
    print(&status::columns(&rows));
    print(&format!("next: {}vlab down\n", what_next(&state.guests)));
    Ok(())
}

/// What can be done with the first guest that has it: `vlab console zero (Ctrl-]
/// leaves), vlab ssh zero, `.
fn what_next(guests: &[GuestRecord]) -> String {
    let console = guests.iter().find(|guest| guest.serial.is_some());
    let console = console.map(|guest| format!("vlab console {} (Ctrl-] leaves), ", guest.name));
    let ssh = guests.iter().find(|guest| guest.ssh_port.is_some() && guest.ssh_key.is_some());
    let then = ssh.map_or("vlab status, ".to_owned(), |guest| format!("vlab ssh {}, ", guest.name));
    console.unwrap_or_default() + &then
}
