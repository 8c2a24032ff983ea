//! What differs between a lab that is up and its file. Pure.
//!
//! Guests and switches are compared by the command lines that would start them,
//! so that nothing is forgotten here that `plan` knows. What QEMU can change
//! while it runs is taken out first: host ports that lead into the guest.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::plan::Step;
use crate::state::{GuestRecord, State, SwitchRecord};

/// Everything that `up` has to do to a lab that is up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Switches to start.
    pub start_switches: Vec<String>,
    /// Switches whose networks are gone.
    pub stop_switches: Vec<String>,
    /// Switches whose own settings differ: all their guests' links break.
    pub restart_switches: Vec<String>,
    /// Ports to open: switch and port.
    pub add_ports: Vec<(String, String)>,
    /// Ports to close: switch and port.
    pub del_ports: Vec<(String, String)>,
    /// Guests to start.
    pub start: Vec<String>,
    /// Guests that are gone from the file.
    pub stop: Vec<String>,
    /// Guests that must be started anew to be as the file says, and why.
    pub recreate: Vec<(String, String)>,
    /// Host ports to open, as QEMU writes them: guest and forward.
    pub add_forwards: Vec<(String, String)>,
    /// Host ports to close.
    pub del_forwards: Vec<(String, String)>,
}

impl Changes {
    /// Whether the lab is as its file says.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

/// What leads from `state`, of which `dead` have ended, to what `steps` make.
pub fn between(state: &State, dead: &BTreeSet<String>, steps: &[Step]) -> Changes {
    let mut changes = Changes::default();
    switch_changes(state, dead, &steps.iter().filter_map(Step::switch).collect::<Vec<_>>(), &mut changes);
    guest_changes(state, dead, &steps.iter().filter_map(Step::guest).collect::<Vec<_>>(), &mut changes);
    changes
}

fn switch_changes(state: &State, dead: &BTreeSet<String>, wanted: &[&SwitchRecord], changes: &mut Changes) {
    for was in &state.switches {
        if !wanted.iter().any(|switch| switch.name == was.name) {
            changes.stop_switches.push(was.name.clone());
        }
    }
    for switch in wanted {
        let Some(was) = state.switches.iter().find(|was| was.name == switch.name) else {
            changes.start_switches.push(switch.name.clone());
            continue;
        };
        if dead.contains(&was.name) {
            changes.start_switches.push(switch.name.clone());
        } else if was.argv != switch.argv || was.settings != switch.settings {
            changes.restart_switches.push(switch.name.clone());
        } else {
            let ports = |of: &SwitchRecord| of.ports.keys().cloned().collect::<BTreeSet<_>>();
            let name = |port: &String| (switch.name.clone(), port.clone());
            let differs = |port: &&String| was.ports.get(*port) != switch.ports.get(*port);
            let (before, after) = (ports(was), ports(switch));
            changes.del_ports.extend(before.iter().filter(differs).map(name));
            changes.add_ports.extend(after.iter().filter(differs).map(name));
        }
    }
}

fn guest_changes(state: &State, dead: &BTreeSet<String>, wanted: &[&GuestRecord], changes: &mut Changes) {
    for was in &state.guests {
        if !wanted.iter().any(|guest| guest.name == was.name) {
            changes.stop.push(was.name.clone());
        }
    }
    for guest in wanted {
        let name = &guest.name;
        let Some(was) = state.guests.iter().find(|was| was.name == *name) else {
            changes.start.push(name.clone());
            continue;
        };
        if dead.contains(name) {
            changes.start.push(name.clone());
            continue;
        }
        if let Some(why) = why_anew(was, guest) {
            changes.recreate.push((name.clone(), why));
            continue;
        }
        let (before, after) = (forwards(&was.argv), forwards(&guest.argv));
        let of = |forward: &String| (name.clone(), forward.clone());
        changes.del_forwards.extend(before.difference(&after).map(of));
        changes.add_forwards.extend(after.difference(&before).map(of));
    }
}

/// Why a running guest cannot become `guest` without a restart.
fn why_anew(was: &GuestRecord, guest: &GuestRecord) -> Option<String> {
    let (before, after) = (essence(&was.argv), essence(&guest.argv));
    if before == after {
        return (was.told != guest.told).then(|| "what it is told at its start differs".to_owned());
    }
    let gone: Vec<&str> = before.iter().filter(|word| !after.contains(word)).map(String::as_str).collect();
    let new: Vec<&str> = after.iter().filter(|word| !before.contains(word)).map(String::as_str).collect();
    Some(match (gone.as_slice(), new.as_slice()) {
        ([], []) => "its options come in another order".to_owned(),
        (gone, []) => format!("without {}", gone.join(" ")),
        ([], new) => format!("with {}", new.join(" ")),
        (gone, new) => format!("{} instead of {}", new.join(" "), gone.join(" ")),
    })
}

/// A command line of QEMU without what can change while it runs.
fn essence(argv: &[String]) -> Vec<String> {
    let strip = |word: &String| {
        let parts = word.split(",hostfwd=").next().unwrap_or_default();
        if has_forwards(word) { parts.to_owned() } else { word.clone() }
    };
    argv.iter().map(strip).collect()
}

/// The forwards in a command line, as `tcp:127.0.0.1:8080-:80`.
fn forwards(argv: &[String]) -> BTreeSet<String> {
    let user = argv.iter().find(|word| has_forwards(word));
    user.into_iter().flat_map(|word| word.split(",hostfwd=").skip(1)).map(str::to_owned).collect()
}

/// The word of a command line that has the forwards.
fn has_forwards(word: &str) -> bool {
    word.starts_with("user,id=internet")
}

/// Notes in a command line that `forward` is closed.
pub fn remove_forward(argv: &mut [String], forward: &str) {
    for word in argv.iter_mut().filter(|word| has_forwards(word)) {
        let mut parts = word.split(",hostfwd=");
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.filter(|part| *part != forward);
        *word = rest.fold(first, |word, part| format!("{word},hostfwd={part}"));
    }
}

/// Notes in a command line that `forward` is open.
pub fn add_forward(argv: &mut [String], forward: &str) {
    for word in argv.iter_mut().filter(|word| has_forwards(word)) {
        word.push_str(&format!(",hostfwd={forward}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_without_what_can_change() {
        let argv = |net: &str| ["qemu", "-m", "1024", "-netdev", net].map(str::to_owned).to_vec();
        let one = argv("user,id=internet,hostfwd=tcp:127.0.0.1:1-:22,hostfwd=udp:0.0.0.0:5-:53");
        let two = argv("user,id=internet,hostfwd=tcp:127.0.0.1:1-:22");
        assert_eq!(essence(&one), essence(&two));
        let gone: Vec<String> = forwards(&one).difference(&forwards(&two)).cloned().collect();
        assert_eq!(gone, ["udp:0.0.0.0:5-:53"]);

        let mut changed = one.clone();
        remove_forward(&mut changed, "udp:0.0.0.0:5-:53");
        assert_eq!(changed, two);
        add_forward(&mut changed, "udp:0.0.0.0:5-:53");
        assert_eq!(changed, one);
    }
}
