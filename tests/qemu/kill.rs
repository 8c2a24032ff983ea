//! kill -9 of anything at any moment: `vlab down` then leaves nothing, and
//! `vlab up` works again.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::{now_nanos, wait_until};
use vswitch_tests::qemu::Turn;
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

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
    for round in 0..10 {
        round_of(&lab, &mut seed, &before).with_context(|| format!("round {round} of seed {first}"))?;
    }
    std::fs::write(&lab.file, text)?;
    lab.vlab("up").with_context(|| format!("after ten rounds of seed {first}"))?;
    let ping = lab.console("zero")?.run("ping -c 3 192.168.1.151", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

/// Kills vlab at a random moment of its `up`, and some of what runs then.
fn round_of(lab: &Lab, seed: &mut u64, before: &BTreeSet<String>) -> Result<()> {
    let mut up = lab
        .command("vlab")?
        .arg("--lab")
        .arg(&lab.file)
        .arg("up")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // The random moment: nothing is waited for here.
    let moment = Duration::from_micros(next(seed) % 2_500_000);
    std::thread::sleep(moment);
    let others: Vec<i32> = lab.processes()?.into_iter().collect();
    let victims: Vec<i32> = others.into_iter().filter(|_| next(seed).is_multiple_of(2)).collect();
    up.kill()?;
    up.wait()?;
    for pid in &victims {
        // One that has ended meanwhile is as good.
        let _ = Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL));
    }
    wait_until("the killed to be gone", LIMIT, || {
        lab.processes().is_ok_and(|left| victims.iter().all(|pid| !left.contains(pid)))
    })?;
    let context = || format!("vlab after {moment:?}, and {} others", victims.len());
    lab.vlab("status").with_context(context)?;
    lab.vlab("down").with_context(context)?;
    let after = lab.traces()?;
    ensure!(after == *before, "{}: {before:?} before, {after:?} after", context());
    Ok(())
}
