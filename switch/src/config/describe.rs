//! What differs between two configurations, for people: one line a change.
//!
//! Deliberately absent: carrying it out, and its order; that is `diff`.

use super::{Change, Config, SWITCH_KEYS, diff, duration_text, size_text};

/// The changes from `old` to `new` that a running switch can make, one line each.
pub fn describe(old: &Config, new: &Config) -> Vec<String> {
    let changes = diff(old, new);
    let added = |name: &str| matches!(changes.iter().find(|it| is_added(it, name)), Some(Change::AddPort(_)));
    let removed =
        |name: &str| changes.iter().any(|it| matches!(it, Change::RemovePort(gone) if gone == name));
    let mut lines = keys_between(old, new, super::LIVE_KEYS);
    for change in &changes {
        match change {
            Change::RemovePort(name) if added(name) => lines.push(format!("port {name}: opened anew")),
            Change::RemovePort(name) => lines.push(format!("port {name}: removed")),
            Change::AddPort(port) if removed(&port.name) => {}
            Change::AddPort(port) => lines.push(format!("port {}: added", port.name)),
            Change::SetPort { name, .. } => {
                let (Some(was), Some(is)) = (old.port(name), new.port(name)) else { continue };
                for (key, value) in is.keys() {
                    let before = was.keys().remove(&key);
                    if let Some(before) = before.filter(|before| *before != value) {
                        lines.push(format!("port {name}: {key} {before} -> {value}"));
                    }
                }
            }
            // Unless it only follows a port that is opened anew.
            Change::RemoveStatic { mac, vid } => {
                if !new.fdb.iter().any(|entry| (entry.mac, entry.vid) == (*mac, *vid)) {
                    lines.push(format!("{mac}: unbound"));
                }
            }
            Change::AddStatic(entry) => {
                if !old.fdb.contains(entry) {
                    lines.push(format!("{}: bound to {}", entry.mac, entry.port));
                }
            }
            // Told by their keys, above and by `needs_restart`.
            Change::NeedsRestart(_)
            | Change::Settings(_)
            | Change::PadRunts(_)
            | Change::BusyPoll(_)
            | Change::FastPath(_) => {}
        }
    }
    lines
}

/// The changes from `old` to `new` that only a restart can make, one line each.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let keys: Vec<&str> = (diff(old, new).into_iter())
        .filter_map(|change| if let Change::NeedsRestart(key) = change { Some(key) } else { None })
        .collect();
    keys_between(old, new, &keys)
}

fn is_added(change: &Change, name: &str) -> bool {
    matches!(change, Change::AddPort(port) if port.name == name)
}

fn keys_between(old: &Config, new: &Config, keys: &[&str]) -> Vec<String> {
    let differing = keys.iter().filter_map(|key| {
        let (was, is) = (old.key_text(key)?, new.key_text(key)?);
        (was != is).then(|| format!("{key}: {was} -> {is}"))
    });
    differing.collect()
}

impl Config {
    /// The value of one of [`SWITCH_KEYS`], as it is written.
    pub fn key_text(&self, key: &str) -> Option<String> {
        debug_assert!(SWITCH_KEYS.contains(&key), "{key}");
        Some(match key {
            "name" => self.name.clone(),
            "control" => self.control.display().to_string(),
            "owner" => self.owner.to_string(),
            "ageing" => duration_text(self.settings.ageing),
            "fdb_size" => self.settings.fdb_size.to_string(),
            "transparent" => self.settings.transparent.to_string(),
            "pad_runts" => self.pad_runts.to_string(),
            "busy_poll" => duration_text(self.busy_poll),
            "fast_path" => self.fast_path.to_string(),
            "recorder" => self.recorder_text(),
            "recorder_trigger" => self.trigger_text(),
            "recorder_write" => self.recordings_text(),
            "isolation" => self.isolation.name().to_owned(),
            "metrics" => self.metrics.map_or_else(|| "off".to_owned(), |at| at.to_string()),
            _ => return None,
        })
    }

    /// The value of `recorder`, as it is written.
    pub(super) fn recorder_text(&self) -> String {
        if self.recorder == 0 { "off".to_owned() } else { size_text(self.recorder) }
    }

    /// The value of `recorder_trigger`.
    pub(super) fn trigger_text(&self) -> String {
        self.recorder_trigger.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string)
    }

    /// The value of `recorder_write`.
    pub(super) fn recordings_text(&self) -> String {
        self.recorder_write.as_ref().map_or_else(|| "off".to_owned(), |dir| dir.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Invoker, Keys};
    use super::*;

    fn config(text: &str) -> Config {
        let invoker =
            Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 2 };
        Config::from_toml(text, std::path::Path::new("a.toml"), &invoker).unwrap()
    }

    const OLD: &str = "ports = [\"tap0\", \"tap1\", \"tap2\"]\n[switch]\nageing = \"300s\"\n\
                       [[fdb]]\nmac = \"02:00:00:00:00:0a\"\nport = \"tap0\"\n\
                       [[fdb]]\nmac = \"02:00:00:00:00:0b\"\nport = \"tap2\"\n";

    #[test]
    fn each_change_is_one_line() {
        let new = "ports = [\"tap:tap0,name=tap0\", \"tap1,isolated=true,mtu=9000\", \"tap3\"]\n\
                   [switch]\nageing = \"60s\"\npad_runts = true\n\
                   [[fdb]]\nmac = \"02:00:00:00:00:0a\"\nport = \"tap0\"\n\
                   [[fdb]]\nmac = \"02:00:00:00:00:0c\"\nport = \"tap1\"\n";
        let (old, new) = (config(OLD), config(new));
        assert_eq!(
            describe(&old, &new),
            [
                "ageing: 300s -> 60s",
                "pad_runts: false -> true",
                "port tap1: isolated false -> true",
                "port tap1: mtu auto -> 9000",
                "02:00:00:00:00:0b: unbound",
                "port tap0: opened anew",
                "port tap2: removed",
                "port tap3: added",
                "02:00:00:00:00:0c: bound to tap1",
            ]
        );
        assert_eq!(describe(&old, &old), [""; 0]);
        assert_eq!(needs_restart(&old, &new), [""; 0]);
    }

    #[test]
    fn what_needs_a_restart_is_told_apart() {
        let new = config(&OLD.replace("[switch]", "[switch]\nfdb_size = 9\nisolation = \"off\""));
        assert_eq!(describe(&config(OLD), &new), [""; 0]);
        assert_eq!(needs_restart(&config(OLD), &new), ["fdb_size: 8192 -> 9", "isolation: auto -> off"]);
    }

    #[test]
    fn every_key_has_a_text() {
        let config = config("");
        assert!(SWITCH_KEYS.iter().all(|key| config.key_text(key).is_some()));
        // And where the switch can change it, setting that text changes nothing.
        for key in super::super::LIVE_KEYS {
            let keys: Keys = [((*key).to_owned(), config.key_text(key).unwrap().into())].into();
            assert_eq!(config.with_keys(&keys).as_ref(), Ok(&config), "{key}");
        }
    }
}
