//! What `vbench` leaves behind when it ends in the middle of its work: no namespace
//! and so no interface, no process, no socket, no lock, no huge page.
//!
//! Deliberately absent: a kill, after which nobody can clean up; the next run does
//! (`vswitch_tests::netns`, `huge.rs`).

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vswitch_tests::clock::{wait_for, wait_until};
use vswitch_tests::process::end_child;
use vswitch_tests::require;

/// For a topology to stand and to be at work, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A run under way, whose sockets go to a directory of its own; killed when dropped.
struct Run {
    child: Child,
    sockets: TempDir,
}

/// A process that was there: its number and when it started.
type Process = (u32, String);

impl Run {
    /// Starts it with `words`, and with `path` as its PATH.
    fn start(words: &str, path: Option<&str>) -> Result<Run> {
        let sockets = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_vbench"));
        command.args(["--rounds", "1"]).args(words.split(' ')).env("TMPDIR", sockets.path());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Run { child: command.spawn()?, sockets })
    }

    /// Its processes, and theirs.
    fn processes(&self) -> BTreeSet<Process> {
        let all = processes();
        let mut found = BTreeSet::from([self.child.id()]);
        // Parents may have greater numbers than their children.
        while let more = all.iter().filter(|(pid, parent, ..)| found.contains(parent) && !found.contains(pid))
            && let more = more.map(|(pid, ..)| *pid).collect::<Vec<_>>()
            && !more.is_empty()
        {
            found.extend(more);
        }
        let ours = all.into_iter().filter(|(pid, ..)| found.contains(pid));
        ours.map(|(pid, _, started, _)| (pid, started)).collect()
    }

    /// Waits until `count` processes called `name` are at work in its namespaces;
    /// returns them.
    fn wait_for(&mut self, name: &str, count: usize) -> Result<Vec<u32>> {
        wait_for(&format!("{count} {name}"), LIMIT, || {
            let ours = self.processes();
            let all = processes();
            let named = all.iter().filter(|(_, _, _, comm)| comm.starts_with(name));
            let named = named.filter(|(pid, _, started, _)| ours.contains(&(*pid, started.clone())));
            let pids: Vec<u32> = named.map(|(pid, ..)| *pid).filter(|pid| is_elsewhere(*pid)).collect();
            (pids.len() >= count || self.has_ended()).then_some(pids)
        })
        .and_then(|pids| {
            ensure!(pids.len() >= count, "ended before: {}", self.said()?);
            Ok(pids)
        })
    }

    /// Waits until it counts measured frames.
    fn wait_for_frames(&mut self) -> Result<()> {
        let tasks = format!("/proc/{}/task", self.child.id());
        wait_until("a sink", LIMIT, || {
            let threads = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            let mut names = threads.map(|thread| std::fs::read_to_string(thread.path().join("comm")));
            names.any(|name| name.is_ok_and(|name| name == "sink\n")) || self.has_ended()
        })
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    fn said(&mut self) -> Result<String> {
        let mut text = String::new();
        self.child.stderr.take().context("asked for once")?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Waits for its end, which must be a failure; returns what it said, and requires
    /// that nothing is left of it or of `processes`.
    fn end(mut self, before: &BTreeSet<Process>) -> Result<String> {
        let said = self.said()?;
        let status = self.child.wait()?;
        ensure!(status.code() == Some(1), "{status}: {said}");
        let pid = self.child.id();
        let namespaces = names("/run/netns", &format!("vt-{pid}-"));
        ensure!(namespaces.is_empty(), "namespaces {namespaces:?}: {said}");
        let huge = names("/run", &format!("vbench-huge-{pid}-"));
        ensure!(huge.is_empty(), "huge pages {huge:?}: {said}");
        let sockets = names(&self.sockets.path().display().to_string(), "");
        ensure!(sockets.is_empty(), "{sockets:?}: {said}");
        let locks = names("/run/vswitch", &format!("vt-{pid}-"));
        ensure!(locks.is_empty(), "{locks:?}: {said}");
        // Those that init has to collect first.
        wait_until("all processes to be gone", Duration::from_secs(5), || {
            !processes().into_iter().any(|(pid, _, started, _)| before.contains(&(pid, started)))
        })?;
        Ok(said)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        end_child(&mut self.child);
    }
}

/// Number, parent, start and name of every process but those that only wait for
/// being collected.
fn processes() -> Vec<(u32, u32, String, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses, and may hold some itself (proc(5)).
        let (before, after) = text.rsplit_once(") ")?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split(' ').collect();
        let (state, parent, started) = (*fields.first()?, fields.get(1)?.parse().ok()?, fields.get(19)?);
        (state != "Z").then(|| (pid, parent, (*started).to_owned(), name))
    })
    .collect()
}

/// Whether process `pid` is in another network namespace than we.
fn is_elsewhere(pid: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
    namespace(&pid.to_string()).is_ok_and(|its| namespace("self").is_ok_and(|ours| ours != its))
}

/// What in `folder` begins with `prefix`.
fn names(folder: &str, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
    Ok(kill_process(pid, signal)?)
}

/// Starts with `words`, waits for `count` processes called `name` (and for measured
/// frames, if it is the switch that we talk to ourselves), and types Ctrl-C.
fn interrupt(words: &str, name: &str, count: usize) -> Result<()> {
    let mut run = Run::start(words, None)?;
    run.wait_for(name, count)?;
    if name == "vswitch" {
        run.wait_for_frames()?;
    }
    let before = run.processes();
    ensure!(before.len() > count, "{before:?}");
    ensure!(!names("/run/netns", &format!("vt-{}-", run.child.id())).is_empty(), "no namespace");
    signal(run.child.id(), Signal::INT)?;
    let said = run.end(&before)?;
    ensure!(said.contains("interrupted"), "{said}");
    Ok(())
}

#[test]
fn ctrl_c_between_two_hosts_leaves_nothing() -> Result<()> {
    require!(root, tun, "ping", "ethtool", "iperf3");
    // A server and a client.
    interrupt("--rig 1 --peers bridge --only stream", "iperf3", 2)
}

#[test]
fn ctrl_c_between_taps_leaves_nothing() -> Result<()> {
    require!(root, tun);
    // Most of this run is trials of the search.
    interrupt("--rig 3 --peers bridge --only loss", "vswitch", 1)
}

#[test]
fn ctrl_c_between_many_ports_leaves_nothing() -> Result<()> {
    require!(root, tun);
    interrupt("--rig 7 --peers bridge --only copies", "vswitch", 1)
}

#[test]
fn ctrl_c_between_guests_leaves_nothing() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    vswitch_tests::qemu::images()?;
    interrupt("--rig 5 --peers tap --only ping", "qemu-system", 2)
}

#[test]
fn a_switch_that_dies_ends_the_run_and_leaves_nothing() -> Result<()> {
    require!(root, tun);
    let mut run = Run::start("--rig 3 --peers bridge --only loss", None)?;
    let switch = run.wait_for("vswitch", 1)?;
    run.wait_for_frames()?;
    let before = run.processes();
    signal(switch[0], Signal::KILL)?;
    let said = run.end(&before)?;
    ensure!(said.contains("error: rig 3, offloads off, round 1/1: vswitch"), "{said}");
    Ok(())
}

#[test]
fn a_tool_that_fails_ends_the_run_and_leaves_nothing() -> Result<()> {
    require!(root, tun, "ping", "ethtool", "iperf3");
    // A server that works, and clients that do not.
    let tools = tempfile::tempdir()?;
    let tool = tools.path().join("iperf3");
    let path = std::env::var("PATH")?;
    let real = std::env::split_paths(&path)
        .map(|folder| folder.join("iperf3"))
        .find(|path| path.is_file())
        .context("iperf3 is in PATH")?;
    let script = format!("#!/bin/sh\n[ \"$1\" != -s ] && exit 3\nexec {} \"$@\"\n", real.display());
    std::fs::write(&tool, script)?;
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755))?;
    let path = format!("{}:{path}", tools.path().display());
    let mut run = Run::start("--rig 1 --peers-only --peers bridge --only stream", Some(&path))?;
    run.wait_for("iperf3", 1)?;
    let before = run.processes();
    let said = run.end(&before)?;
    ensure!(said.contains("iperf3") && said.contains("exit status: 3"), "{said}");
    Ok(())
}

#[test]
fn a_rig_that_cannot_be_measured_ends_the_run_before_it_begins() -> Result<()> {
    require!(root);
    for words in ["--peers tap", "--peers-only --peers tap"] {
        let run = Run::start(&format!("--rig 6,5 {words}"), Some("/nowhere"))?;
        let said = run.end(&BTreeSet::new())?;
        ensure!(said.contains("rig 5 cannot be measured here: not installed (qemu-system-x86_64)"), "{said}");
    }
    Ok(())
}
