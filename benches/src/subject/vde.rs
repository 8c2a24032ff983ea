//! `vde_switch`, which makes and owns its TAPs. It stays in the foreground
//! because its standard input stays open.

use std::time::Duration;

use anyhow::Result;
use vswitch_tests::clock::wait_until;

use super::Running;
use crate::child::Daemon;
use crate::wiring::Wiring;

pub(super) fn start(wiring: &Wiring) -> Result<Running> {
    let directory = tempfile::Builder::new().prefix("vbench-vde-").tempdir()?;
    let mut command = wiring.switch_ns.command("vde_switch");
    command.arg("-s").arg(directory.path().join("ctl"));
    for port in wiring.ports {
        command.args(["-tap", port]);
    }
    let daemon = Daemon::start(command)?;
    wait_until("vde_switch to make its TAPs", Duration::from_secs(10), || {
        wiring.ports.iter().all(|port| wiring.switch_ns.has(port))
    })?;
    Ok(Running {
        pids: vec![daemon.pid()],
        daemons: vec![daemon],
        _directory: Some(directory),
        ..Running::default()
    })
}
