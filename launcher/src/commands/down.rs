//! `vlab down`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use vlab::down::{Options, Report, take_down};
use vlab::facts;
use vlab::lock::Lock;
use vlab::owner;
use vlab::places::{Places, VARIABLES};
use vlab::process;
use vlab::runner::{self, Machine};
use vlab::say;
use vlab::state::{State, Store};

use super::target::Target;
use super::{print, print_json};

/// Takes the lab down.
pub fn run(target: &Target, disks: bool, grace: Duration) -> Result<()> {
    let Some(store) = target.store()? else { return nothing(target, disks) };
    let places = target.roots.lab(&store.state.lab);
    runner::run_directory(&places.run, &target.user)?;
    let lock = Lock::take(&places.lock())?;
    // It may have changed while nobody held the lock.
    let Some(store) = target.store()? else {
        drop(lock);
        return nothing(target, disks);
    };
    let options = Options { grace, disks, boot_id: process::boot_id()? };
    let mut machine = Machine::new(target.user.clone());
    let report = take_down(&store, std::slice::from_ref(&places.run), &options, &mut machine)?;
    if disks {
        forget(&places);
    }
    if target.global.json {
        let kept = if disks { &[][..] } else { &store.state.clones };
        return print_json(&json!({ "lab": store.state.lab, "report": report, "kept": kept }));
    }
    for name in &report.forced {
        say!("{name} did not power down within {}s and was ended", grace.as_secs());
    }
    for interface in &report.left {
        say!("warning: {interface} could not be removed: ip link del {interface}");
    }
    print(&summary(&store.state, &report));
    Ok(())
}

/// "stopped one, zero, lan. Kept: arch.qcow2, 2 clones (delete: …)"
fn summary(state: &State, report: &Report) -> String {
    let mut text = match report.stopped.as_slice() {
        [] => format!("nothing of lab {} was running.", state.lab),
        stopped => format!("stopped {}.", stopped.join(", ")),
    };
    let mut kept: Vec<String> = state
        .images
        .iter()
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    let clones = count_clones(&state.clones.iter().filter(|clone| clone.exists()).collect::<Vec<_>>());
    let plural = if clones == 1 { "" } else { "s" };
    if clones > 0 {
        kept.push(format!("{clones} clone{plural} (delete: vlab down --disks)"));
    }
    if !kept.is_empty() {
        text.push_str(&format!(" Kept: {}.", kept.join(", ")));
    }
    if !report.removed.is_empty() {
        let clones = count_clones(&report.removed);
        let plural = if clones == 1 { "" } else { "s" };
        text.push_str(&format!(" Deleted {clones} clone{plural}."));
    }
    text + "\n"
}

/// Removes the folder of a lab's clones, where nothing else is in it.
fn forget(places: &Places) {
    // As root it has the logs as well, and stays.
    let _ = std::fs::remove_dir(&places.data);
}

/// Clones alone; what UEFI remembers for their guests goes with them.
fn count_clones(images: &[impl AsRef<Path>]) -> usize {
    images.iter().filter(|path| !path.as_ref().to_string_lossy().ends_with(VARIABLES)).count()
}

/// There is no state that this folder, or `--name`, leads to: it is down already, or never
/// was up. Clones may be left, and RUN, of an `up` that was killed before it made anything.
fn nothing(target: &Target, disks: bool) -> Result<()> {
    let named = match &target.global.name {
        Some(name) => Ok(name.clone()),
        None => target.lab().map(|(lab, _)| lab.name),
    };
    let name = match named {
        Ok(name) => name,
        Err(e) if disks => return Err(e.context("which lab's disks?")),
        Err(_) => return told(target, Vec::new()),
    };
    let places = target.roots.lab(&name);
    if !places.run.exists() && !disks {
        refuse_if_up(target, &places)?;
        return told(target, Vec::new());
    }
    runner::run_directory(&places.run, &target.user)?;
    let _lock = Lock::take(&places.lock())?;
    refuse_if_up(target, &places)?;
    let removed = if disks { remove_disks(target, &places) } else { Ok(Vec::new()) };
    // It has the lock, which nobody has to find: whoever waited takes another.
    std::fs::remove_dir_all(&places.run)?;
    told(target, removed?)
}

/// Fails where a lab of this name is up, or was left so, which the file did not lead to.
fn refuse_if_up(target: &Target, places: &Places) -> Result<()> {
    let path = places.state_file();
    let Some(store) = Store::load(&path)
        .with_context(|| format!("{} names what is up, and is needed to take it down", path.display()))?
    else {
        return Ok(());
    };
    let lab = &store.state.lab;
    bail!(
        "lab {lab} is up, or was left so, from {}, not from {}\n  take it down: vlab down --name {lab}",
        store.state.file.display(),
        target.file_for_humans()
    )
}

/// Removes the clones of a lab that is down, and what belongs to them.
fn remove_disks(target: &Target, places: &Places) -> Result<Vec<PathBuf>> {
    if target.global.name.is_none() {
        owner::check(places, &target.absolute()?)?;
    }
    let mut removed = Vec::new();
    for file in std::fs::read_dir(&places.data).into_iter().flatten().flatten() {
        if file.path().extension().is_some_and(|extension| extension == "qcow2") {
            std::fs::remove_file(file.path())?;
            removed.push(file.path());
        }
    }
    let key = places.ssh_key();
    for path in [facts::public_key(&key), key, places.known_hosts(), places.owner()] {
        // Where it is not, there is nothing to do.
        let _ = std::fs::remove_file(path);
    }
    forget(places);
    Ok(removed)
}

/// Tells that there was nothing to take down, and what was `removed`.
fn told(target: &Target, removed: Vec<PathBuf>) -> Result<()> {
    let count = count_clones(&removed);
    let name = target.name_for_humans();
    if target.global.json {
        let report = Report { removed, ..Report::default() };
        return print_json(&json!({ "lab": name, "report": report, "kept": [] }));
    }
    let deleted = match count {
        0 => String::new(),
        1 => "; deleted 1 clone".to_owned(),
        n => format!("; deleted {n} clones"),
    };
    print(&format!("lab {name} is not up{deleted}\n"));
    Ok(())
}
