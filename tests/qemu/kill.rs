//! kill -9 of anything at any moment: `vlab status` then tells the truth, `vlab
//! down` leaves nothing, and `vlab up` works again.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::{now_nanos, wait_for, wait_until};
use vswitch_tests::qemu::Turn;
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

/// Who is killed in each round: everyone alone, together, and in between.
const ROUNDS: [&[&str]; 10] = [
    &["vlab"],
    &["vswitch"],
    &["zero"],
    &["one"],
    &["vlab", "vswitch"],
    &["vlab", "zero"],
    &["vlab", "one"],
    &["vswitch", "zero", "one"],
    &["vlab", "zero", "one"],
    &["vlab", "vswitch", "zero", "one"],
];

/// A multiplier of Knuth's MMIX generator, and what it adds.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
#[ignore = "ten starts that are killed: --long"]
fn whatever_is_killed_at_whatever_moment_down_leaves_nothing() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::new("kill9")?;
    let text = std::fs::read_to_string(&lab.file)?;
    // Started counts as up: it is the starting that is to be cut short.
    std::fs::write(&lab.file, text.replace("console:guest: ready", "running"))?;
    let before = lab.traces()?;
    let mut seed = now_nanos();
    let first = seed;
    for victims in ROUNDS {
        let context = || format!("killing {victims:?}, seed {first}");
        round_of(&lab, victims, &mut seed, &before).with_context(context)?;
    }
    std::fs::write(&lab.file, text)?;
    lab.vlab("up").with_context(|| format!("after ten rounds of seed {first}"))?;
    let ping = lab.console("zero")?.run("ping -c 3 192.168.1.151", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

/// The process of a guest's QEMU, or of the switch, as soon as there is one.
fn process_of(lab: &Lab, who: &str) -> Option<i32> {
    let (program, argument) = match who {
        "vswitch" => ("vswitch", "run".to_owned()),
        guest => ("qemu-system-x86", format!("{}-{guest}", lab.name)),
    };
    lab.processes().ok()?.into_iter().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        name.trim() == program && line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    })
}

/// Kills `victims` at a random moment of `vlab up` or after it.
fn round_of(lab: &Lab, victims: &[&str], seed: &mut u64, before: &BTreeSet<String>) -> Result<()> {
    let mut command = lab.command("vlab")?;
    command.arg("--lab").arg(&lab.file).arg("up");
    let mut up = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let outcome = killed(lab, &mut up, victims, seed);
    // Whatever happened, it is not left to itself.
    let _ = up.kill();
    up.wait()?;
    let moment = outcome?;

    let status: serde_json::Value = serde_json::from_str(&lab.vlab("status --json")?)?;
    for guest in status["guests"].as_array().into_iter().flatten() {
        let is_victim = victims.iter().any(|who| guest["name"] == *who);
        ensure!(!(is_victim && guest["state"] == "up"), "after {moment:?} a killed guest is up: {status}");
    }
    lab.vlab("down").with_context(|| format!("after {moment:?}"))?;
    let after = lab.traces()?;
    ensure!(after == *before, "after {moment:?}: {before:?} before, {after:?} after");
    Ok(())
}

fn killed(lab: &Lab, up: &mut Child, victims: &[&str], seed: &mut u64) -> Result<Duration> {
    let mut pids = Vec::new();
    for who in victims.iter().filter(|who| **who != "vlab") {
        pids.push(wait_for(&format!("{who} to start"), LIMIT, || process_of(lab, who))?);
    }
    // The random moment: nothing is waited for here. A start takes two seconds.
    let moment = Duration::from_micros(next(seed) % if pids.is_empty() { 2_500_000 } else { 1_000_000 });
    std::thread::sleep(moment);
    if victims.contains(&"vlab") {
        up.kill()?;
    }
    for pid in &pids {
        // One that has ended meanwhile is as good.
        let _ = Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL));
    }
    wait_until("the killed to be gone", LIMIT, || {
        lab.processes().is_ok_and(|left| pids.iter().all(|pid| !left.contains(pid)))
    })?;
    // Alive, it sees what happened, and ends: by itself, and not for ever.
    wait_until("vlab to end", LIMIT, || up.try_wait().is_ok_and(|status| status.is_some()))?;
    Ok(moment)
}
