//! `vbench` ended in the middle: nothing that it made is left.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::{wait_for, wait_until};
use vswitch_tests::netns::run;
use vswitch_tests::process::{binary, end_child};
use vswitch_tests::{require, start};

/// For a topology to be built, or to be gone.
const LIMIT: Duration = Duration::from_secs(60);

/// Namespaces of process `pid`.
fn namespaces(pid: u32) -> Result<Vec<String>> {
    let text = run(Command::new("ip").args(["netns", "list"]))?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    Ok(names.filter(|name| name.starts_with(&format!("vt-{pid}-"))).map(String::from).collect())
}

/// Processes in namespace `name`.
fn inside(name: &str) -> Result<Vec<i32>> {
    let text = run(Command::new("ip").args(["netns", "pids", name]))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

#[test]
fn an_interrupted_benchmark_leaves_nothing() -> Result<()> {
    require!(root, "iperf3", "ping", "ethtool");
    let mut command = Command::new(binary("vbench")?);
    command.args(["--quick", "--rig=1", "--peers=bridge"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = start::spawn(&mut command).context("vbench")?;
    let pid = child.id();
    // The first to run is vswitch, in the first namespace: wait for it, and for
    // iperf3, which means that the measurement is under way.
    let begun = wait_for("the first topology", LIMIT, || {
        let names = namespaces(pid).ok()?;
        let pids: Vec<i32> = names.iter().filter_map(|name| inside(name).ok()).flatten().collect();
        (names.len() == 3 && pids.len() >= 2).then_some(pids)
    });
    let ended = begun.and_then(|pids| {
        kill_process(Pid::from_raw(i32::try_from(pid)?).context("a pid")?, Signal::INT)?;
        let status = wait_for("vbench to end", LIMIT, || child.try_wait().ok().flatten())?;
        Ok((pids, status))
    });
    end_child(&mut child);
    let mut errors = String::new();
    child.stderr.take().context("a pipe was asked for")?.read_to_string(&mut errors)?;
    let (pids, status) = ended.with_context(|| errors.clone())?;
    ensure!(status.code() == Some(1) && errors.contains("interrupted"), "{status}: {errors}");
    assert_eq!(namespaces(pid)?, [] as [String; 0]);
    wait_until("its processes to be gone", LIMIT, || {
        pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    })
}
