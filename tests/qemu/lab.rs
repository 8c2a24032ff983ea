//! Whole labs by `vlab`: up, in use, down, and what is left then.

use std::path::Path;

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

/// What `vlab` says of a command that it must refuse, for the lab of `file`.
fn refusal(lab: &Lab, file: &Path, words: &str) -> Result<String> {
    let mut command = lab.command("vlab")?;
    let output = command.arg("--lab").arg(file).args(words.split(' ')).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "vlab {words}: {}: {said}", output.status);
    Ok(said)
}

#[test]
fn labs_keep_their_hands_off_the_disks_of_others() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "qemu-img");
    let _turn = Turn::take();
    // Empty disks will do; the cable is out, so that no frame is waited for.
    let guests = r#"
[networks.lan]
[guests.zero]
base = "base.qcow2"
accel = "tcg"
memory = "64M"
nics = [{ network = "lan", carrier = false }]
"#;
    let lab = Lab::of("owner", guests)?;
    let before = lab.traces()?;
    let base = lab.path("base.qcow2").display().to_string();
    lab.words(&["disk", "create", &base, "--size", "8M"])?;
    lab.vlab("up")?;
    let clone = Path::new("/var/lib/vlab").join(&lab.name).join("zero.qcow2");
    let running = lab.processes()?;

    // A lab of the same name in another file, which is not up.
    let other = lab.path("other.toml");
    std::fs::copy(&lab.file, &other)?;
    for words in ["down", "down --disks"] {
        let said = refusal(&lab, &other, words)?;
        ensure!(said.contains(&format!("vlab down --name {}", lab.name)), "{said}");
    }
    let said = refusal(&lab, &other, "up")?;
    ensure!(said.contains("is up from"), "{said}");
    ensure!(clone.exists() && lab.processes()? == running);
    // A typing error is no file of a guest's own.
    let said = refusal(&lab, &lab.file, "cp one:/etc/fstab zero:/root/")?;
    ensure!(said.contains("one guest at a time"), "{said}");
    let said = refusal(&lab, &lab.file, "cp one:/etc/fstab .")?;
    ensure!(said.contains("there is no guest one"), "{said}");

    lab.vlab("down")?;
    for words in ["up", "down --disks"] {
        let said = refusal(&lab, &other, words)?;
        ensure!(said.contains("another lab of this name") && said.contains("lab.toml"), "{said}");
    }
    // A guest that would write under the clone.
    let writer = lab.path("writer.toml");
    let text = format!("name = \"{}w\"\n[guests.w]\ndisk = \"base.qcow2\"\n", lab.name);
    std::fs::write(&writer, text)?;
    let said = refusal(&lab, &writer, "up")?;
    ensure!(said.contains("is the base of") && said.contains("zero.qcow2"), "{said}");
    ensure!(clone.exists());

    lab.vlab("down --disks")?;
    ensure!(!clone.exists() && lab.traces()? == before, "{:?}", lab.traces()?);
    // A folder that was moved takes its lab along.
    lab.vlab("up")?;
    lab.vlab("down")?;
    std::fs::rename(&lab.file, lab.path("moved.toml"))?;
    let mut moved = lab.command("vlab")?;
    let moved = moved.arg("--lab").arg(lab.path("moved.toml")).args(["down", "--disks"]).output()?;
    ensure!(moved.status.success() && !clone.exists(), "{}", String::from_utf8_lossy(&moved.stderr));
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}
