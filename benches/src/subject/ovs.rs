//! Open vSwitch with the userspace datapath, run by hand from a directory of
//! its own, so that an Open vSwitch of the machine is neither needed nor
//! touched.
//!
//! Where the senders have offloads on it gets `userspace-tso-enable`, without
//! which it forwards unfinished checksums and TCP dies; where they are off it
//! does not, and is faster so. With DPDK it gets one polling thread.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::{Netns, run};

use super::Running;
use crate::child::Daemon;
use crate::wiring::Wiring;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(10);

/// Where Debian's openvswitch-switch-dpdk has its daemon.
pub(super) const DPDK_DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// Stations that a large table holds; there are 8192 as it comes.
const TABLE_SIZE: u32 = 1 << 20;

/// Memory that the DPDK daemon takes at its start.
pub(crate) const DPDK_MEBIBYTES: u64 = 512;

pub(super) fn start(wiring: &Wiring) -> Result<Running> {
    let tso = format!("other_config:userspace-tso-enable={}", wiring.offloads);
    let (mut running, control) = daemons(&wiring.switch_ns, "ovs-vswitchd", &[&tso])?;
    if wiring.needs_large_table {
        let size = format!("other_config:mac-table-size={TABLE_SIZE}");
        control.order(&["set", "bridge", "b", &size])?;
    }
    let unixctl = control.dir.join("ovs-vswitchd.ctl").display().to_string();
    running.flush = ["ovs-appctl", "-t", &unixctl, "fdb/flush", "b"].map(String::from).into();
    // One transaction, however many.
    let ports = wiring.ports.iter().flat_map(|port| ["--", "add-port", "b", port]);
    control.order(&ports.skip(1).collect::<Vec<_>>())?;
    wiring.switch_ns.batch(wiring.ports.iter().map(|port| format!("link set {port} up")))?;
    Ok(running)
}

/// Two vhost-user sockets, polled by a thread on `core`. They offer guests no offload:
/// with `userspace-tso-enable` pings pass between two guests, and no TCP connection comes
/// about (3.1.0).
pub(super) fn start_dpdk(ns: &Netns, core: usize) -> Result<(Running, [PathBuf; 2])> {
    let settings = [
        "other_config:dpdk-init=true".to_owned(),
        format!("other_config:dpdk-socket-mem={DPDK_MEBIBYTES}"),
        format!("other_config:pmd-cpu-mask={:#x}", 1 << core),
        "other_config:dpdk-extra=--no-pci".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (running, control) = daemons(ns, DPDK_DAEMON, &settings)?;
    for port in ["p0", "p1"] {
        let interface = ["--", "set", "Interface", port, "type=dpdkvhostuser"];
        control.order(&[&["add-port", "b", port], &interface[..]].concat())?;
    }
    Ok((running, ["p0", "p1"].map(|port| control.dir.join(port))))
}

/// `ovs-vsctl` to daemons of ours.
struct Control {
    dir: PathBuf,
}

impl Control {
    fn order(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("ovs-vsctl");
        command.arg("--timeout=20").arg(format!("--db=unix:{}", socket(&self.dir).display())).args(words);
        run(&mut command).map(drop)
    }
}

/// The database and `program`, with `settings` and an empty bridge `b`.
fn daemons(ns: &Netns, program: &str, settings: &[&str]) -> Result<(Running, Control)> {
    let directory = tempfile::Builder::new().prefix("vbench-ovs-").tempdir()?;
    let dir = directory.path().to_owned();
    let database = dir.join("conf.db");
    run(Command::new("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;

    let mut server = daemon(ns, "ovsdb-server", &dir);
    server.arg(&database).arg(format!("--remote=punix:{}", socket(&dir).display()));
    let server = Daemon::start(server)?;
    wait_until("ovsdb-server", LIMIT, || socket(&dir).exists())?;

    let control = Control { dir };
    let words = ["--no-wait", "init", "--", "set", "Open_vSwitch", "."];
    control.order(&[&words[..], settings].concat())?;

    let mut switch = daemon(ns, program, &control.dir);
    switch.arg(format!("unix:{}", socket(&control.dir).display()));
    let switch = Daemon::start(switch)?;
    let bridge = ["add-br", "b", "--", "set", "bridge", "b", "datapath_type=netdev"];
    control.order(&bridge).context("ovs-vswitchd")?;
    let running = Running {
        pids: vec![switch.pid()],
        daemons: vec![switch, server],
        _directory: Some(directory),
        ..Running::default()
    };
    Ok((running, control))
}

/// The database's socket.
fn socket(dir: &Path) -> PathBuf {
    dir.join("db.sock")
}

fn daemon(ns: &Netns, program: &str, dir: &Path) -> Command {
    let mut command = ns.command(program);
    for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
        command.env(variable, dir);
    }
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    command.arg(format!("--unixctl={}", dir.join(format!("{name}.ctl")).display())).arg("-vconsole:off");
    command
}
