//! Commands on guests that run: `restart`, `monitor`, `link`, `snapshot`, `open`.

use std::io::{BufRead, IsTerminal, Write};
use std::process::{Command as Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use vlab::clock;
use vlab::lock::Lock;
use vlab::places::Drop;
use vlab::privilege;
use vlab::qmp::Qmp;
use vlab::runner::Machine;
use vlab::say;
use vlab::state::GuestRecord;

use super::target::Target;
use super::up::{Since, report_up};
use super::{change, print, print_json};
use crate::cli::Snapshot;

/// How long saving or restoring a guest with its memory may take.
const SNAPSHOT: Duration = Duration::from_secs(300);
/// How long QEMU may take to open its monitor.
const MONITOR: Duration = Duration::from_secs(10);

fn connect(guest: &GuestRecord) -> Result<Qmp> {
    Qmp::connect(&guest.qmp, &guest.uuid).with_context(|| format!("guest {} is not running", guest.name))
}

/// Pulls the cables that are to be out when the guests start.
pub fn pull_cables(guests: &[GuestRecord]) -> Result<()> {
    for guest in guests.iter().filter(|guest| guest.nics.iter().any(|nic| !nic.carrier)) {
        let qmp = clock::poll(MONITOR, || Qmp::connect(&guest.qmp, &guest.uuid).ok());
        let mut qmp = qmp.with_context(|| format!("guest {} does not open its monitor", guest.name))?;
        for (position, _) in guest.nics.iter().enumerate().filter(|(_, nic)| !nic.carrier) {
            qmp.set_link(&format!("lab{position}"), false)?;
        }
    }
    Ok(())
}

/// Stops guests and starts them as the file says now.
pub fn restart(target: &Target, guests: &[String]) -> Result<()> {
    let mut store = target.up()?;
    let places = target.roots.lab(&store.state.lab);
    let lock = Lock::take(&places.lock())?;
    let names: Vec<String> = match guests {
        [] => store.state.guests.iter().map(|guest| guest.name.clone()).collect(),
        some => some.to_vec(),
    };
    let mut machine = Machine::new(target.user.clone());
    change::restart(target, &names, &mut machine, &mut store)?;
    drop(lock);
    report_up(target, &places, Since::Changed)
}

/// Runs a command of QEMU's monitor, or those that stdin has.
pub fn monitor(target: &Target, guest: &str, command: &[String]) -> Result<()> {
    let guest = target.guest(guest)?;
    let mut qmp = connect(&guest)?;
    if !command.is_empty() {
        let said = qmp.human(&command.join(" "))?;
        if target.global.json {
            return print_json(&json!({ "guest": guest.name, "said": said }));
        }
        print(&said);
        return Ok(());
    }
    drop(qmp);
    let prompt = std::io::stdin().is_terminal();
    let ask = || {
        if prompt {
            let _ = write!(std::io::stderr(), "(qemu {}) ", guest.name);
        }
    };
    ask();
    for line in std::io::stdin().lock().lines() {
        // A connection for each line: QEMU serves one client at a time, and
        // `vlab status` wants its turn.
        let said = connect(&guest)?.human(&line?)?;
        match target.global.json {
            true => print_json(&json!({ "guest": guest.name, "said": said }))?,
            false => print(&said),
        }
        ask();
    }
    Ok(())
}

/// Plugs a guest's cable in, or pulls it.
pub fn link(target: &Target, guest: &str, network: Option<&str>, up: bool) -> Result<()> {
    let guest = target.guest(guest)?;
    let named = |port: &str| match port.strip_prefix(guest.name.as_str()) {
        Some(index) => index.to_owned(),
        None => String::new(),
    };
    let ids: Vec<(String, String)> = guest
        .nics
        .iter()
        .enumerate()
        .map(|(position, nic)| (format!("{}{}", nic.network, named(&nic.port)), format!("lab{position}")))
        .filter(|(name, _)| network.is_none_or(|network| network == name))
        .collect();
    if ids.is_empty() {
        let known: Vec<&str> = guest.nics.iter().map(|nic| nic.network.as_str()).collect();
        bail!("guest {} has no such NIC; it is on {}", guest.name, known.join(", "));
    }
    let mut qmp = connect(&guest)?;
    for (_, id) in &ids {
        qmp.set_link(id, up)?;
    }
    let names: Vec<&str> = ids.iter().map(|(name, _)| name.as_str()).collect();
    if target.global.json {
        return print_json(&json!({ "guest": guest.name, "nics": names, "up": up }));
    }
    print(&format!("{}: {} {}\n", guest.name, names.join(", "), if up { "up" } else { "down" }));
    Ok(())
}

/// Saves or restores guests with their memory, inside their disks.
pub fn snapshot(target: &Target, what: &Snapshot) -> Result<()> {
    let store = target.up()?;
    let (verb, tag, named) = match what {
        Snapshot::Save { tag, guests } => ("snapshot-save", tag, guests),
        Snapshot::Restore { tag, guests } => ("snapshot-load", tag, guests),
        Snapshot::Delete { tag, guests } => ("snapshot-delete", tag, guests),
    };
    let guests: Vec<GuestRecord> = match named.as_slice() {
        [] => store.state.guests.clone(),
        names => names.iter().map(|name| target.guest(name)).collect::<Result<_>>()?,
    };
    // All can, before any does.
    let mut ready = Vec::new();
    for guest in &guests {
        let mut qmp = connect(guest)?;
        let nodes = image_nodes(&mut qmp)
            .with_context(|| format!("guest {} has no qcow2 disk to keep a snapshot in", guest.name))?;
        ready.push((guest, qmp, nodes));
    }
    for (guest, qmp, nodes) in &mut ready {
        let mut arguments = json!({ "tag": tag, "devices": nodes });
        if verb != "snapshot-delete" {
            arguments["vmstate"] = json!(nodes[0]);
        }
        let running = qmp.status()? == "running";
        qmp.job(verb, arguments, SNAPSHOT).with_context(|| format!("guest {}", guest.name))?;
        if running {
            // A guest that was restored is paused.
            qmp.call("cont")?;
        }
        say!("{}: {} {tag}", guest.name, verb.trim_start_matches("snapshot-"));
    }
    if target.global.json {
        let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
        return print_json(&json!({ "tag": tag, "did": verb, "guests": names }));
    }
    Ok(())
}

/// QEMU's names for the guest's writable qcow2 images: the disk first, which the
/// memory goes to, then UEFI's variables.
fn image_nodes(qmp: &mut Qmp) -> Option<Vec<String>> {
    let devices = qmp.call("query-block").ok()?;
    let holds = |device: &&Value| {
        let inserted = &device["inserted"];
        inserted["drv"] == "qcow2" && inserted["ro"] == false
    };
    let is_flash = |device: &Value| device["device"].as_str().is_some_and(|name| name.starts_with("pflash"));
    let mut held: Vec<&Value> = devices.as_array()?.iter().filter(holds).collect();
    held.sort_by_key(|device| is_flash(device));
    if held.first().is_none_or(|device| is_flash(device)) {
        return None;
    }
    held.into_iter().map(|device| Some(device["inserted"]["node-name"].as_str()?.to_owned())).collect()
}

/// Shows a guest's screen in a VNC viewer.
pub fn open(target: &Target, guest: &str) -> Result<()> {
    let store = target.up()?;
    let record = target.guest(guest)?;
    let socket = target.roots.lab(&store.state.lab).vnc(guest);
    connect(&record)?;
    if !socket.exists() {
        bail!(
            "guest {guest} shows its screen nowhere\n  give it display = \"vnc\", then: vlab up --recreate"
        );
    }
    if target.global.json {
        return print_json(&json!({ "guest": guest, "vnc": socket }));
    }
    let viewer = ["vncviewer", "xtigervncviewer"].into_iter().find(|name| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    });
    let Some(viewer) = viewer else {
        print(&format!("{}\n", socket.display()));
        say!("there is no vncviewer (package tigervnc-viewer); any viewer that takes a unix socket will do");
        return Ok(());
    };
    let mut words = Vec::new();
    if let Drop::To { uid, gid } = target.user.drop {
        words.extend(["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")]);
        words.push("--init-groups".to_owned());
    }
    words.push(viewer.to_owned());
    let mut child = Child::new(&words[0]);
    child.args(&words[1..]).arg(&socket).stdin(Stdio::null());
    let status = privilege::with_root(&target.user.drop, || child.status())?.context(viewer)?;
    if status.success() { Ok(()) } else { bail!("{viewer}: {status}") }
}
