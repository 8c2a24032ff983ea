//! Open vSwitch with the userspace datapath, run by hand from a directory of
//! its own, so that an Open vSwitch of the machine is neither needed nor
//! touched.
//!
//! Where the senders have offloads on it gets `userspace-tso-enable`, without
//! which it forwards unfinished checksums and TCP dies; where they are off it
//! does not, and is faster so.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::run;

use super::Running;
use crate::child::Daemon;
use crate::wiring::Wiring;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn start(wiring: &Wiring) -> Result<Running> {
    let directory = tempfile::Builder::new().prefix("vbench-ovs-").tempdir()?;
    let dir = directory.path();
    let (database, socket) = (dir.join("conf.db"), dir.join("db.sock"));
    run(Command::new("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;

    let mut server = program(wiring, "ovsdb-server", dir);
    server.arg(&database).arg(format!("--remote=punix:{}", socket.display()));
    let server = Daemon::start(server)?;
    wait_until("ovsdb-server", LIMIT, || socket.exists())?;

    let control = |words: &[&str]| {
        let mut command = Command::new("ovs-vsctl");
        command.arg("--timeout=10").arg(format!("--db=unix:{}", socket.display())).args(words);
        run(&mut command)
    };
    let tso = format!("other_config:userspace-tso-enable={}", wiring.offloads);
    control(&["--no-wait", "init", "--", "set", "Open_vSwitch", ".", &tso])?;

    let mut switch = program(wiring, "ovs-vswitchd", dir);
    switch.arg(format!("unix:{}", socket.display()));
    let switch = Daemon::start(switch)?;
    let [a, b] = wiring.ports;
    control(&["add-br", "b", "--", "set", "bridge", "b", "datapath_type=netdev"]).context("ovs-vswitchd")?;
    control(&["add-port", "b", a, "--", "add-port", "b", b])?;
    for port in wiring.ports {
        wiring.switch_ns.up(port)?;
    }
    Ok(Running {
        pids: vec![switch.pid()],
        daemons: vec![switch, server],
        _directory: Some(directory),
        ..Running::default()
    })
}

fn program(wiring: &Wiring, name: &str, dir: &Path) -> Command {
    let mut command = wiring.switch_ns.command(name);
    for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
        command.env(variable, dir);
    }
    command.arg(format!("--unixctl={}", dir.join(format!("{name}.ctl")).display())).arg("-vconsole:off");
    command
}
