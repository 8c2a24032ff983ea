//! `vlab up`: the steps of a plan, one after the other, each written down
//! before it is made.
//!
//! Waiting until guests are ready is `ready`'s; undoing is `down`'s.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::facts::public_key;
use crate::plan::Step;
use crate::runner::Runner;
use crate::state::Store;

/// Carries out `steps`. When it fails, `store` names at least everything that
/// was made.
///
/// # Errors
/// The first step that went wrong.
pub fn bring_up(steps: &[Step], store: &mut Store, runner: &mut dyn Runner) -> Result<()> {
    for step in steps {
        intend(step, store);
        store.save().context("cannot write the lab's state")?;
        let process = runner.execute(step).with_context(|| describe(step))?;
        match step {
            Step::Directory { .. }
            | Step::Key { .. }
            | Step::Clone { .. }
            | Step::File { .. }
            | Step::Seed { .. } => {}
            Step::Switch { record, .. } => {
                if let Some(switch) = store.state.switches.iter_mut().find(|it| it.name == record.name) {
                    switch.process = process;
                }
                store.save()?;
            }
            Step::Guest { record, .. } => {
                if let Some(guest) = store.state.guests.iter_mut().find(|it| it.name == record.name) {
                    guest.process = process;
                }
                store.save()?;
            }
        }
        if let Step::Switch { record, .. } = step {
            let position = store.state.switches.iter().position(|it| it.name == record.name);
            let Some(switch) = position.map(|at| &mut store.state.switches[at]) else { continue };
            switch.control = Some(runner.await_switch(switch)?);
            store.save()?;
        }
    }
    Ok(())
}

fn intend(step: &Step, store: &mut Store) {
    let state = &mut store.state;
    match step {
        // What dies with the lab is named when the state is begun.
        Step::Directory { .. } => {}
        Step::Key { path, part, .. } => {
            state.files.extend([part.clone(), public_key(part)]);
            state.keys.extend([path.clone(), public_key(path)]);
        }
        Step::Clone { path, part, scratch, .. } => {
            state.files.push(part.clone());
            state.files.extend(scratch.iter().cloned());
            if !state.clones.contains(path) {
                state.clones.push(path.clone());
            }
        }
        Step::File { path, .. } | Step::Seed { path, .. } => state.files.push(path.clone()),
        Step::Switch { record, .. } => {
            state.switches.retain(|switch| switch.name != record.name);
            state.switches.push((**record).clone());
        }
        Step::Guest { record, .. } => {
            state.guests.retain(|guest| guest.name != record.name);
            state.guests.push((**record).clone());
        }
    }
    // A lab that is changed has named most of them before.
    let mut seen = BTreeSet::new();
    state.files.retain(|file| seen.insert(file.clone()));
}

fn describe(step: &Step) -> String {
    match step {
        Step::Directory { path, .. } | Step::File { path, .. } | Step::Seed { path, .. } => {
            path.display().to_string()
        }
        Step::Key { path, .. } => format!("ssh key {}", path.display()),
        Step::Clone { path, .. } => format!("clone {}", path.display()),
        Step::Switch { record, .. } => format!("switch {}", record.name),
        Step::Guest { record, .. } => format!("guest {}", record.name),
    }
}
