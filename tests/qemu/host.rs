//! The host's own leg on a network of a lab: there while its switch is, reached
//! from both sides, and gone with it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::wait_until;
use vswitch_tests::qemu::{Turn, images};
use vswitch_tests::require;

use crate::internet::Internet;
use crate::rig::{LIMIT, Lab};

const HOST: &str = "192.168.1.1";

fn text(network: &str) -> Result<String> {
    let (kernel, initrd) = images()?;
    Ok(format!(
        r#"
[networks.lan]
subnet = "192.168.1.0/24"
{network}

[guests.zero]
kernel = "{}"
initrd = "{}"
cmdline = "console=ttyS0 quiet no_timer_check hostname={{name}} ip={{lan.address}} labmac={{lan.mac}}"
memory = "256M"
accel = "tcg"
internet = false
ready = "console:guest: ready"
nics = [{{ network = "lan", address = "192.168.1.150" }}]
"#,
        kernel.display(),
        initrd.display(),
    ))
}

/// The host's interface, where there is one.
fn leg(lab: &Lab) -> Result<Option<String>> {
    let shown = lab.ns.run("ip -o -4 addr show")?;
    let line = shown.lines().find(|line| line.contains(&format!("{HOST}/24")));
    Ok(line.and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned))
}

fn kill_switch(lab: &Lab) -> Result<()> {
    let is_switch = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "vswitch")
    };
    for pid in lab.processes()?.into_iter().filter(is_switch).filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL)?;
    }
    wait_until("the killed switch to be gone", LIMIT, || {
        lab.processes().is_ok_and(|left| !left.iter().any(is_switch))
    })
}

#[test]
fn the_hosts_leg_comes_and_goes_with_the_switch() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::of("host", &text(&format!("host = \"{HOST}\""))?)?;
    let before = lab.traces()?;
    let said = lab.vlab("up")?;
    let name = leg(&lab)?.context("the host has no address on the network")?;
    ensure!(name.starts_with("vl-lan-"), "{name}");
    ensure!(said.lines().any(|line| line.ends_with(&format!("host {HOST} ({name})"))), "{said}");

    // Both ways, and TCP: frames of the host's stack are super-frames.
    let internet = Internet::at(&lab.ns, HOST)?;
    let mut zero = lab.console("zero")?;
    lab.ns.run("ping -c 3 -W 5 192.168.1.150")?;
    internet.fetched(&zero.run(&internet.fetch(), LIMIT)?)?;

    // Without a switch there is no leg; with its successor there is again.
    kill_switch(&lab)?;
    wait_until("the leg to be gone", LIMIT, || leg(&lab).is_ok_and(|leg| leg.is_none()))?;
    lab.vlab("up").context("a killed switch is started again")?;
    ensure!(leg(&lab)?.as_ref() == Some(&name));
    lab.ns.run("ping -c 3 -W 5 192.168.1.150")?;

    // The file changes under a guest that goes on.
    let pid = |lab: &Lab| -> Result<i64> {
        let status: serde_json::Value = serde_json::from_str(&lab.vlab("status --json")?)?;
        status["guests"][0]["pid"].as_i64().context("zero is not up")
    };
    let first = pid(&lab)?;
    std::fs::write(&lab.file, format!("name = \"{}\"\n{}", lab.name, text("")?))?;
    lab.vlab("up").context("without a leg")?;
    ensure!(leg(&lab)?.is_none() && pid(&lab)? == first, "{:?}", leg(&lab)?);
    std::fs::write(&lab.file, format!("name = \"{}\"\n{}", lab.name, text(&format!("host = \"{HOST}\""))?))?;
    lab.vlab("up").context("with one again")?;
    ensure!(leg(&lab)?.as_ref() == Some(&name) && pid(&lab)? == first);
    internet.fetched(&zero.run(&internet.fetch(), LIMIT)?)?;
    drop(zero);

    // And after everything of the lab was killed, there is nothing to see.
    for pid in lab.processes()?.into_iter().filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL)?;
    }
    wait_until("the killed to be gone", LIMIT, || lab.processes().is_ok_and(|left| left.is_empty()))?;
    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    ensure!(!Path::new("/sys/class/net").join(&name).exists());
    Ok(())
}
