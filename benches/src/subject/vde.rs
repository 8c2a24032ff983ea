//! `vde_switch`, which makes and owns its TAPs, if it is to have any. It stays in the foreground
//! because its standard input stays open.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;

use super::Running;
use crate::child::Daemon;

/// Starts it with `taps`; returns its control directory, too.
pub(super) fn start(ns: &Netns, taps: &[String]) -> Result<(Running, PathBuf)> {
    let directory = tempfile::Builder::new().prefix("vbench-vde-").tempdir()?;
    let control = directory.path().join("ctl");
    let mut command = ns.command("vde_switch");
    command.arg("-s").arg(&control);
    for tap in taps {
        command.args(["-tap", tap]);
    }
    let daemon = Daemon::start(command)?;
    wait_until("vde_switch", Duration::from_secs(10), || {
        control.join("ctl").exists() && taps.iter().all(|tap| ns.has(tap))
    })?;
    let running = Running {
        pids: vec![daemon.pid()],
        daemons: vec![daemon],
        _directory: Some(directory),
        ..Running::default()
    };
    Ok((running, control))
}
