//! `vlab up` on a lab that is up: what differs from the file is changed, and
//! nothing else. What needs a guest started anew is refused unless asked for,
//! and then nothing at all is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vlab::changes::{self, Changes};
use vlab::control_port;
use vlab::down::{Report, stop_guests, stop_switch};
use vlab::facts;
use vlab::lab::Lab;
use vlab::plan::{self, Step};
use vlab::qmp::Qmp;
use vlab::runner::Machine;
use vlab::say;
use vlab::state::{GuestRecord, NicRecord, PortRecord, State, Store, SwitchRecord};
use vlab::up::bring_up;
use vswitch::port::{Kind, PortSpec};

use super::live;
use super::target::Target;
use super::up::{interruptions, wait_until_ready};

/// How long a guest may take to power down.
const GRACE: Duration = Duration::from_secs(10);

/// Makes the lab what its file says; returns whether anything was done.
pub fn apply(
    target: &Target,
    lab: &Lab,
    digest: &str,
    store: &mut Store,
    recreate: bool,
    machine: &mut Machine,
) -> Result<bool> {
    let places = target.roots.lab(&lab.name);
    let facts = facts::gather(lab, &target.user, places, Some(&store.state))?;
    let steps = plan::plan(lab, &facts)?;
    let changes = changes::between(&store.state, &dead(&store.state), &steps);
    if !recreate {
        refuse(&changes)?;
    }
    if changes.is_empty() {
        remember(store, &steps, Some(digest))?;
        return Ok(false);
    }
    announce(&changes);
    carry_out(store, &steps, &changes, Some(digest), machine)?;
    Ok(true)
}

/// Stops one guest and starts it as the file says.
pub fn restart(target: &Target, names: &[String], machine: &mut Machine, store: &mut Store) -> Result<()> {
    let (lab, _) = target.lab()?;
    let places = target.roots.lab(&lab.name);
    let mut facts = facts::gather(&lab, &target.user, places, Some(&store.state))?;
    facts.started.extend(names.iter().cloned());
    let steps = plan::plan(&lab, &facts)?;
    let known: Vec<&str> = lab.guests.iter().map(|guest| guest.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no guest {name}; there are: {}", known.join(", "));
    }
    let (again, new) =
        names.iter().cloned().partition(|name| store.state.guests.iter().any(|guest| guest.name == *name));
    let again: Vec<String> = again;
    let recreate = again.into_iter().map(|name| (name, "asked for".to_owned())).collect();
    let changes = Changes { start: new, recreate, ..Changes::default() };
    let rest = changes::between(&store.state, &dead(&store.state), &steps);
    if !rest.start_switches.is_empty() || !rest.add_ports.is_empty() || !rest.restart_switches.is_empty() {
        bail!("the lab's networks differ from its file\n  change them first: vlab up");
    }
    // The others stay as they are, and as they are remembered.
    carry_out(store, &steps, &changes, None, machine)
}

fn dead(state: &State) -> BTreeSet<String> {
    let guests = state.guests.iter().map(|guest| (&guest.name, guest.process));
    let switches = state.switches.iter().map(|switch| (&switch.name, switch.process));
    let ended = guests.chain(switches).filter(|(_, process)| !process.is_some_and(|it| it.alive()));
    ended.map(|(name, _)| name.clone()).collect()
}

/// Fails where a running guest, or a network under running guests, would have
/// to be started anew.
fn refuse(changes: &Changes) -> Result<()> {
    let mut lines: Vec<String> =
        changes.recreate.iter().map(|(guest, why)| format!("guest {guest}: {why}")).collect();
    lines.extend(changes.restart_switches.iter().map(|switch| format!("switch {switch}: its settings")));
    if lines.is_empty() {
        return Ok(());
    }
    bail!(
        "some changes need a restart, and nothing was changed:\n  {}\n  restart what has to be: vlab up --recreate",
        lines.join("\n  ")
    );
}

fn announce(changes: &Changes) {
    let words = [
        ("stopping", changes.stop.clone()),
        ("stopping", changes.stop_switches.clone()),
        ("starting", changes.start_switches.clone()),
        ("starting anew", changes.restart_switches.clone()),
        ("starting anew", changes.recreate.iter().map(|(name, _)| name.clone()).collect()),
        ("starting", changes.start.clone()),
    ];
    for (what, names) in words {
        if !names.is_empty() {
            say!("{what} {}", names.join(", "));
        }
    }
    for (what, forwards) in [("opening", &changes.add_forwards), ("closing", &changes.del_forwards)] {
        for (guest, forward) in forwards {
            say!("{guest}: {what} {forward}");
        }
    }
}

/// Makes `changes`, each of them remembered as soon as it is made: what fails half-way goes
/// on from there. With the `digest` of a file, the whole lab is as that file says in the end.
fn carry_out(
    store: &mut Store,
    steps: &[Step],
    changes: &Changes,
    digest: Option<&str>,
    machine: &mut Machine,
) -> Result<()> {
    let interrupted = interruptions()?;
    let anew: BTreeSet<&String> =
        changes.recreate.iter().map(|(name, _)| name).chain(&changes.start).collect();
    // Guests first: a port that goes must not be in use, and one that ended may
    // have left half of itself.
    let stopping: Vec<GuestRecord> = store
        .state
        .guests
        .iter()
        .filter(|guest| changes.stop.contains(&guest.name) || anew.contains(&guest.name))
        .cloned()
        .collect();
    stop_guests(&stopping, GRACE, machine, &mut Report::default())?;
    store.state.guests.retain(|guest| !changes.stop.contains(&guest.name));
    store.save()?;

    let port = |switch: &String, port: &String| {
        let step = steps.iter().filter_map(Step::switch).find(|it| it.name == *switch);
        step.and_then(|it| it.ports.get(port)).cloned()
    };
    for (switch, name) in &changes.del_ports {
        control_port::close(&store.state, switch, name)?;
        ports_of(store, switch, |ports| drop(ports.remove(name)))?;
    }
    for name in changes.stop_switches.iter().chain(&changes.restart_switches) {
        if let Some(switch) = store.state.switches.iter().find(|switch| switch.name == *name).cloned() {
            stop_switch(&switch, machine)?;
        }
    }
    store.state.switches.retain(|switch| !changes.stop_switches.contains(&switch.name));

    let fresh =
        |name: &String| changes.start_switches.contains(name) || changes.restart_switches.contains(name);
    let (guests, others): (Vec<Step>, Vec<Step>) = steps
        .iter()
        .filter(|step| step.switch().is_none_or(|switch| fresh(&switch.name)))
        .filter(|step| step.guest().is_none_or(|guest| anew.contains(&guest.name)))
        .cloned()
        .partition(|step| step.guest().is_some());
    bring_up(&others, store, machine)?;
    let is_stream = |nic: &NicRecord| {
        let spec = port(&nic.switch, &nic.port).and_then(|it| it.spec.parse::<PortSpec>().ok());
        spec.is_some_and(|spec| spec.kind == Kind::Stream)
    };
    let bereft = |nic: &NicRecord| fresh(&nic.switch) && is_stream(nic);
    let living = store.state.guests.iter().filter(|guest| !anew.contains(&guest.name));
    for guest in living.filter(|guest| guest.nics.iter().any(bereft)) {
        match Qmp::connect(&guest.qmp, &guest.uuid) {
            Ok(mut qmp) => qmp.unblock_links().with_context(|| format!("guest {}", guest.name))?,
            // QEMU serves one at a time; the rest of the lab need not wait for that.
            Err(error) if guest.process.is_some_and(|process| process.alive()) => say!(
                "guest {0}: its monitor is taken ({error}), and it may be mute now: vlab monitor {0} stop, then cont",
                guest.name
            ),
            // One that has just ended is none to talk to.
            Err(_) => {}
        }
    }
    for (switch, name) in &changes.add_ports {
        let record = port(switch, name).with_context(|| format!("port {name} of {switch}"))?;
        control_port::open(&store.state, switch, name, &record)?;
        ports_of(store, switch, |ports| drop(ports.insert(name.clone(), record)))?;
    }
    bring_up(&guests, store, machine)?;
    for (guest, forward) in &changes.del_forwards {
        let host = forward.rsplit_once('-').map_or(forward.as_str(), |(host, _)| host);
        change_forward(&store.state, guest, "hostfwd_remove", host)?;
        forwards_of(store, guest, |argv| changes::remove_forward(argv, forward))?;
    }
    for (guest, forward) in &changes.add_forwards {
        change_forward(&store.state, guest, "hostfwd_add", forward)?;
        forwards_of(store, guest, |argv| changes::add_forward(argv, forward))?;
    }
    remember(store, steps, digest)?;
    let started: Vec<GuestRecord> =
        store.state.guests.iter().filter(|guest| anew.contains(&guest.name)).cloned().collect();
    live::pull_cables(&started)?;
    wait_until_ready(&store.state, &started, &interrupted, true)
        .map(drop)
        .context("the rest of the lab is up; look closer: vlab status, vlab logs")
}

/// Changes what is remembered of the ports of a switch.
fn ports_of(
    store: &mut Store,
    switch: &str,
    change: impl FnOnce(&mut BTreeMap<String, PortRecord>),
) -> Result<()> {
    if let Some(record) = store.state.switches.iter_mut().find(|it| it.name == switch) {
        change(&mut record.ports);
    }
    Ok(store.save()?)
}

/// Changes what is remembered of the forwards of a guest, which its command line has.
fn forwards_of(store: &mut Store, guest: &str, change: impl FnOnce(&mut Vec<String>)) -> Result<()> {
    if let Some(record) = store.state.guests.iter_mut().find(|it| it.name == guest) {
        change(&mut record.argv);
    }
    Ok(store.save()?)
}

fn change_forward(state: &State, guest: &str, command: &str, forward: &str) -> Result<()> {
    let Some(guest) = state.guests.iter().find(|it| it.name == guest) else { return Ok(()) };
    let said = Qmp::connect(&guest.qmp, &guest.uuid)?.human(&format!("{command} internet {forward}"))?;
    // It reports its failures as text, and its success as silence or a remark.
    let is_done = said.contains("removed") || command == "hostfwd_remove" && said.contains("not found");
    if !said.trim().is_empty() && !is_done {
        bail!("guest {}: {forward}: {}", guest.name, said.trim());
    }
    Ok(())
}

/// Writes down what the lab is now, processes aside: what its file says where that has the
/// `digest`.
fn remember(store: &mut Store, steps: &[Step], digest: Option<&str>) -> Result<()> {
    let state = &mut store.state;
    let order: Vec<&str> = steps.iter().filter_map(Step::guest).map(|guest| guest.name.as_str()).collect();
    state.guests.sort_by_key(|guest| order.iter().position(|name| *name == guest.name));
    let Some(digest) = digest else { return Ok(store.save()?) };
    for wanted in steps.iter().filter_map(Step::guest) {
        if let Some(guest) = state.guests.iter_mut().find(|guest| guest.name == wanted.name) {
            *guest = GuestRecord { process: guest.process, ..wanted.clone() };
        }
    }
    for wanted in steps.iter().filter_map(Step::switch) {
        if let Some(switch) = state.switches.iter_mut().find(|switch| switch.name == wanted.name) {
            let (process, control) = (switch.process, switch.control.take());
            *switch = SwitchRecord { process, control, ..wanted.clone() };
        }
    }
    digest.clone_into(&mut state.digest);
    Ok(store.save()?)
}
