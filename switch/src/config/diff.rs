//! From one configuration to another: the closed list of things that can
//! change, in an order in which each step is valid.

use std::time::Duration;

use super::{Config, PortConfig, StaticEntry};
use crate::bridge::{PortSettings, Settings};
use crate::frame::{MacAddr, VlanId};

/// One step from an old configuration to a new one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A key that a running switch cannot change. Comes first; nothing is to
    /// be applied when there is one.
    NeedsRestart(&'static str),
    /// Unbind an address.
    RemoveStatic {
        /// The address.
        mac: MacAddr,
        /// Its VLAN.
        vid: VlanId,
    },
    /// Close a port, and forget what was learned there.
    RemovePort(String),
    /// Settings of the bridge.
    Settings(Settings),
    /// Whether short frames are padded.
    PadRunts(bool),
    /// The spin before sleeping.
    BusyPoll(Duration),
    /// Whether the kernel forwards between known stations.
    FastPath(bool),
    /// Set what an open port can change.
    SetPort {
        /// The port.
        name: String,
        /// What the bridge must know.
        flags: PortSettings,
        /// Bytes; `None`: what the device has.
        mtu: Option<u32>,
    },
    /// Open a port.
    AddPort(PortConfig),
    /// Bind an address.
    AddStatic(StaticEntry),
}

/// The steps from `old` to `new`. Start-up is
/// `diff(&config.empty(), &config)`.
///
/// A port whose device or way of opening it differs is removed and added: two
/// ports can then exchange their devices, which neither could take while the
/// other holds it. What can be refused and costs nothing to undo comes before
/// the first port is removed, since a device may not come back as it was.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    needs_restart(old, new, &mut changes);

    let replaced = |name: &str| match (old.port(name), new.port(name)) {
        (Some(old), Some(new)) => old.spec != new.spec || old.takeover != new.takeover,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let kept = |entry: &StaticEntry| new.fdb.contains(entry) && !replaced(&entry.port);
    if old.settings != new.settings {
        changes.push(Change::Settings(new.settings));
    }
    if old.pad_runts != new.pad_runts {
        changes.push(Change::PadRunts(new.pad_runts));
    }
    if old.busy_poll != new.busy_poll {
        changes.push(Change::BusyPoll(new.busy_poll));
    }
    if old.fast_path != new.fast_path {
        changes.push(Change::FastPath(new.fast_path));
    }
    for port in &new.ports {
        let Some(was) = old.port(&port.name).filter(|_| !replaced(&port.name)) else { continue };
        if was.flags != port.flags || was.mtu != port.mtu {
            changes.push(Change::SetPort { name: port.name.clone(), flags: port.flags, mtu: port.mtu });
        }
    }
    for entry in old.fdb.iter().filter(|entry| !kept(entry)) {
        changes.push(Change::RemoveStatic { mac: entry.mac, vid: entry.vid });
    }
    for port in old.ports.iter().filter(|port| replaced(&port.name)) {
        changes.push(Change::RemovePort(port.name.clone()));
    }
    for port in new.ports.iter().filter(|port| old.port(&port.name).is_none() || replaced(&port.name)) {
        changes.push(Change::AddPort(port.clone()));
    }
    for entry in new.fdb.iter().filter(|entry| !(old.fdb.contains(entry) && kept(entry))) {
        changes.push(Change::AddStatic(entry.clone()));
    }
    changes
}

fn needs_restart(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for (key, differs) in [
        ("name", old.name != new.name),
        ("control", old.control != new.control),
        ("owner", old.owner != new.owner),
        ("fdb_size", old.settings.fdb_size != new.settings.fdb_size),
        ("recorder", old.recorder != new.recorder),
        ("recorder_trigger", old.recorder_trigger != new.recorder_trigger),
        ("recorder_write", old.recorder_write != new.recorder_write),
        ("isolation", old.isolation != new.isolation),
        ("metrics", old.metrics != new.metrics),
    ] {
        if differs {
            changes.push(Change::NeedsRestart(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Invoker;
    use super::*;

    fn config(ports: &[&str], fdb: &[(&str, &str)]) -> Config {
        let invoker =
            Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 2 };
        let mut config = Config::new(&invoker);
        for port in ports {
            config = config.with_port(port, &super::super::Keys::new()).unwrap();
        }
        for (mac, port) in fdb {
            let entry = StaticEntry {
                mac: mac.parse().unwrap(),
                vid: VlanId::UNAWARE,
                port: (*port).to_owned(),
                sticky: false,
            };
            config = config.with_static(entry).unwrap();
        }
        config
    }

    /// One word a change, so that a table shows the order.
    fn words(old: &Config, new: &Config) -> String {
        let word = |change: Change| match change {
            Change::NeedsRestart(key) => format!("restart:{key}"),
            Change::RemoveStatic { mac, .. } => format!("-{mac}"),
            Change::RemovePort(name) => format!("-{name}"),
            Change::Settings(settings) => format!("ageing={}", settings.ageing.as_secs()),
            Change::PadRunts(on) => format!("pad_runts={on}"),
            Change::FastPath(on) => format!("fast_path={on}"),
            Change::BusyPoll(spin) => format!("busy_poll={}", spin.as_micros()),
            Change::SetPort { name, flags, mtu } => format!("{name}:isolated={},mtu={mtu:?}", flags.isolated),
            Change::AddPort(port) => format!("+{}", port.name),
            Change::AddStatic(entry) => format!("+{}@{}", entry.mac, entry.port),
        };
        diff(old, new).into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    const A: &str = "02:00:00:00:00:0a";
    const B: &str = "02:00:00:00:00:0b";

    #[test]
    fn start_up_is_the_difference_from_nothing() {
        let mut new = config(&["tap0", "tap:t1,mtu=9000"], &[(A, "tap0")]);
        assert_eq!(words(&new.empty(), &new), format!("busy_poll=50 +tap0 +t1 +{A}@tap0"));
        new.settings.ageing = Duration::from_secs(10);
        new.settings.fdb_size = 100;
        new.pad_runts = true;
        new.fast_path = false;
        new.isolation = super::super::Isolation::Off;
        new.name = "other".to_owned();
        assert_eq!(
            words(&new.empty(), &new),
            format!("ageing=10 pad_runts=true busy_poll=50 fast_path=false +tap0 +t1 +{A}@tap0"),
            "what needs a restart is there from the start"
        );
        assert_eq!(diff(&new, &new), []);
    }

    #[test]
    fn changes_come_in_an_order_that_works() {
        let old = config(&["tap0", "tap1"], &[(A, "tap0"), (B, "tap1")]);
        for (new, expected) in [
            // Addresses leave before their port, and come after it.
            (config(&["tap1"], &[(B, "tap1")]), format!("-{A} -tap0")),
            (config(&["tap1", "tap2"], &[(A, "tap2"), (B, "tap1")]), format!("-{A} -tap0 +tap2 +{A}@tap2")),
            // Another device behind a name takes its addresses along.
            (
                config(&["tap:tap0,name=tap0", "tap1"], &[(A, "tap0"), (B, "tap1")]),
                format!("-{A} -tap0 +tap0 +{A}@tap0"),
            ),
            // Two ports exchange their devices.
            (
                config(&["tap1,name=tap0", "tap0,name=tap1"], &[]),
                format!("-{A} -{B} -tap0 -tap1 +tap0 +tap1"),
            ),
            (
                config(&["tap0,isolated=true", "tap1,mtu=9000"], &[(A, "tap0"), (B, "tap1")]),
                "tap0:isolated=true,mtu=None tap1:isolated=false,mtu=Some(9000)".to_owned(),
            ),
            (config(&["tap0,takeover=true", "tap1"], &[(B, "tap1")]), format!("-{A} -tap0 +tap0")),
            // A device that does not take its MTU is found out before a port goes.
            (
                config(&["tap1,mtu=9000", "tap2"], &[(B, "tap1")]),
                format!("tap1:isolated=false,mtu=Some(9000) -{A} -tap0 +tap2"),
            ),
        ] {
            assert_eq!(words(&old, &new), expected);
        }
    }

    #[test]
    fn what_a_running_switch_cannot_change_comes_first() {
        let old = config(&["tap0"], &[]);
        let mut new = config(&[], &[]);
        new.name = "b".to_owned();
        new.control = "/b".into();
        new.owner = 7;
        new.settings.fdb_size = 7;
        new.isolation = super::super::Isolation::Clsact;
        let words = words(&old, &new);
        assert_eq!(
            words,
            "restart:name restart:control restart:owner restart:fdb_size restart:isolation ageing=300 -tap0"
        );
    }
}
