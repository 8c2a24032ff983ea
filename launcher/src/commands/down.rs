//! `vlab down`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use vlab::down::{Options, Report, take_down};
use vlab::facts;
use vlab::lock::Lock;
use vlab::places::{Places, VARIABLES};
use vlab::process;
use vlab::runner::{self, Machine};
use vlab::say;
use vlab::state::State;

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

/// There is no state: it is down already, or never was up. Clones may be left,
/// and RUN, of an `up` that was killed before it made anything.
fn nothing(target: &Target, disks: bool) -> Result<()> {
    let mut removed: Vec<PathBuf> = Vec::new();
    let known = target.global.name.clone().or_else(|| target.lab().ok().map(|(lab, _)| lab.name));
    if let Some(name) = known.filter(|name| vlab::names::is_name(name, vlab::names::NAME_LEN_MAX)) {
        let places = target.roots.lab(&name);
        if places.run.exists() && !places.state_file().exists() {
            let _lock = Lock::take(&places.lock())?;
            std::fs::remove_dir_all(&places.run)?;
        }
    }
    if disks {
        let name = match &target.global.name {
            Some(name) => name.clone(),
            None => target.lab().context("which lab's disks?")?.0.name,
        };
        let places = target.roots.lab(&name);
        for file in std::fs::read_dir(&places.data).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "qcow2") {
                std::fs::remove_file(file.path())?;
                removed.push(file.path());
            }
        }
        let key = places.ssh_key();
        for path in [facts::public_key(&key), key, places.known_hosts()] {
            // Where it is not, there is nothing to do.
            let _ = std::fs::remove_file(path);
        }
        forget(&places);
    }
    let count = count_clones(&removed);
    if target.global.json {
        return print_json(
            &json!({ "lab": target.name_for_humans(), "report": Report { removed, ..Report::default() }, "kept": [] }),
        );
    }
    let name = target.name_for_humans();
    let deleted = match count {
        0 => String::new(),
        1 => "; deleted 1 clone".to_owned(),
        n => format!("; deleted {n} clones"),
    };
    print(&format!("lab {name} is not up{deleted}\n"));
    Ok(())
}
