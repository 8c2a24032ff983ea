//! Whole labs by `vlab`: up, in use, down, and what is left then.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::wait_until;
use vswitch_tests::qemu::Turn;
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

#[test]
fn a_lab_comes_up_talks_and_leaves_nothing() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::new("talk")?;
    let before = lab.traces()?;

    lab.vlab("up")?;
    let status = lab.vlab("status")?;
    for (guest, address) in [("zero", "192.168.1.150"), ("one", "192.168.1.151")] {
        let line = status.lines().find(|line| line.starts_with(guest)).context(status.clone())?;
        ensure!(line.contains(" up ") && line.contains(address), "{status}");
    }
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let output = lab.console(guest)?.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
    }
    let mut fdb = lab.command("vswitch")?;
    let fdb = fdb.args(["fdb", "show", "--name", &format!("{}-lan", lab.name)]).output()?;
    let fdb = String::from_utf8_lossy(&fdb.stdout);
    for guest in ["zero", "one"] {
        ensure!(fdb.lines().any(|line| line.split_whitespace().any(|word| word == guest)), "{fdb}");
    }
    // Up again is no second lab.
    let processes = lab.processes()?;
    let _ = lab.try_vlab("up")?;
    ensure!(lab.processes()? == processes, "a second `up` changed what runs");

    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    lab.vlab("down").context("already down is fine")?;
    Ok(())
}

#[test]
fn the_plan_pasted_into_a_shell_is_the_same_network() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::new("pasted")?;
    let before = lab.traces()?;
    let script = lab.vlab("plan")?;
    ensure!(lab.traces()? == before, "planning made something: {:?}", lab.traces()?);
    lab.paste(&script)?;
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let output = lab.console(guest)?.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
    }
    lab.end_by_hand()?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

#[test]
fn a_lab_whose_programs_were_killed_is_taken_down() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::new("killed")?;
    let before = lab.traces()?;
    lab.vlab("up")?;
    for pid in lab.processes()? {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // The switch and one of two guests: what is left must not hinder.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_one = String::from_utf8_lossy(&line).contains("one.qmp");
        if (name.trim() == "vswitch" || is_one)
            && let Some(pid) = Pid::from_raw(pid)
        {
            kill_process(pid, Signal::KILL)?;
        }
    }
    wait_until("the killed to be gone", LIMIT, || lab.processes().is_ok_and(|left| left.len() <= 1))?;
    let status = lab.try_vlab("status")?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let one = status.lines().find(|line| line.starts_with("one")).context(status.clone())?;
    ensure!(!one.contains(" up "), "status trusts its file: {status}");

    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}
