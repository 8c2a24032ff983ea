//! What a switch costs over time: descriptors come back, a limit hits one
//! operation only, and devices that are absent, down or restless leave it idle.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::control::PortState;
use vswitch::offload::VnetHeader;
use vswitch_tests::clock::{Deadline, wait_for, wait_until};
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::{Switch, binary};
use vswitch_tests::require;

use crate::lifecycle::{name, start, state, wait_state};
use crate::opened::{SOON, numbered, read_one, write_one};

/// What the switch has open.
fn descriptors(switch: &Switch) -> Result<Vec<PathBuf>> {
    let dir = format!("/proc/{}/fd", switch.pid());
    // One that was closed meanwhile has no target any more.
    Ok(std::fs::read_dir(dir)?.flatten().filter_map(|entry| entry.path().read_link().ok()).collect())
}

/// Waits until it has no more than `before`: a client's connection closes a
/// moment after its answer.
fn wait_descriptors(switch: &Switch, before: usize) -> Result<()> {
    let mut now = Vec::new();
    wait_until(&format!("{before} descriptors"), SOON, || {
        now = descriptors(switch).unwrap_or_default();
        now.len() <= before
    })
    .with_context(|| format!("{now:?}"))
}

#[test]
fn ports_that_come_and_go_leave_no_descriptor() -> Result<()> {
    require!(root, tun);
    let (ns, away) = (Netns::new("fds")?, Netns::new("fds-away")?);
    veth(&ns, "sw", &ns, "e0")?;
    ns.up("sw")?;
    let switch = start(&ns, &name("fds"), "--port t0")?;
    switch.json(&["show"])?;
    let before = descriptors(&switch)?.len();
    let specs = ["netdev:sw", "t1", "tap:t2", "tap:t3,offloads=off"];
    for round in 0..50 {
        for spec in specs {
            switch.json(&["port", "add", spec, "name=x"])?;
            if spec.starts_with("tap:") && round % 10 == 0 {
                // A namespace to watch comes and goes with it.
                let (_, device) = spec.split_once(':').context("tap:NAME")?;
                ns.move_to(device.trim_end_matches(",offloads=off"), &away)?;
                wait_state(&switch, "x", PortState::Down)?;
            }
            switch.json(&["port", "del", "x"])?;
        }
        // One that fails on its way, at various depths.
        for spec in ["netdev:absent", "tap:sw", "lo", "t1,mtu=70000"] {
            ensure!(!switch.client(&["port", "add", spec])?.status.success(), "{spec}");
        }
    }
    wait_descriptors(&switch, before)?;
    ensure!(!ns.has("t1") && !ns.has("t2") && !away.has("t2"), "nor a device");
    // A device that comes and goes, the port staying.
    switch.json(&["port", "add", "netdev:sw", "name=x"])?;
    let before = descriptors(&switch)?.len();
    for _ in 0..20 {
        ns.run("ip link del sw")?;
        wait_state(&switch, "x", PortState::Fault)?;
        veth(&ns, "sw", &ns, "e0")?;
        ns.up("sw")?;
        ns.up("e0")?;
        wait_state(&switch, "x", PortState::Up)?;
    }
    wait_descriptors(&switch, before)
}

/// What a shell allows (1,024, mostly) would not do for 256 ports.
#[test]
fn as_many_descriptors_are_used_as_the_hard_limit_allows() -> Result<()> {
    require!(root, "prlimit");
    let ns = Netns::new("soft")?;
    let mut ports = Vec::new();
    for number in 0..8 {
        veth(&ns, &format!("sw{number}"), &ns, &format!("e{number}"))?;
        ports.extend(["--port".to_owned(), format!("netdev:sw{number}")]);
    }
    let program = binary("vswitch")?;
    let mut command = ns.command("prlimit");
    command.arg("--nofile=24:4096").arg(&program);
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let switch = Switch::spawn(command, program, &ports)?;
    ensure!(descriptors(&switch)?.len() > 24, "with less the test shows nothing");
    switch.stop()?;
    Ok(())
}

#[test]
fn a17_no_descriptor_left_fails_one_operation_only() -> Result<()> {
    require!(root, tun, "prlimit");
    let ns = Netns::new("nofile")?;
    for number in 0..2 {
        veth(&ns, &format!("sw{number}"), &ns, &format!("e{number}"))?;
        ns.up(&format!("sw{number}"))?;
        ns.up(&format!("e{number}"))?;
    }
    let switch = start(&ns, &name("nofile"), "--port netdev:sw0 --port netdev:sw1")?;
    wait_state(&switch, "sw0", PortState::Up)?;
    wait_state(&switch, "sw1", PortState::Up)?;
    let open = descriptors(&switch)?.len() as u64;
    let limit =
        |limit: u64| ns.run(&format!("prlimit --pid {} --nofile={limit}:{}", switch.pid(), 4_096.max(limit)));
    let (end0, end1) = (Device::packet(&ns, "e0")?, Device::packet(&ns, "e1")?);
    let mut failures = 0;
    // From a limit that leaves nothing but the client's connection to one at
    // which all is well: whichever step it hits, the port is there or is not.
    for spare in 1..16 {
        limit(open + spare)?;
        for spec in ["t0", "tap:t0"] {
            let output = switch.client(&["port", "add", spec])?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                let isolation = switch.json(&["port", "show", "t0"])?.to_string();
                ensure!(spec != "t0" || isolation.contains("tcx"), "opened with less: {isolation}");
                ensure!(switch.client(&["port", "del", "t0"])?.status.success());
            } else {
                failures += 1;
                ensure!(text.contains("Too many open files"), "{spare} {spec}: {text}");
                ensure!(!text.contains("needs CAP"), "{spare} {spec}: {text}");
            }
            wait_until("nothing to be left", SOON, || !ns.has("t0"))
                .with_context(|| format!("{spare} {spec}"))?;
        }
        // The others stay up through link events that cannot be looked into.
        ns.run("ip link set sw0 mtu 1400")?;
        ns.run("ip link set sw0 mtu 1500")?;
        for (from, to) in [(&end0, &end1), (&end1, &end0)] {
            write_one(from, &VnetHeader::PLAIN, &numbered(1, 60))?;
            ensure!(read_one(to)?.1 == numbered(1, 60), "{spare}");
        }
    }
    ensure!(failures >= 2, "the limit was hit {failures} times only");
    // An interface that goes down while there is no descriptor to ask with is
    // seen as soon as there is one.
    limit(open)?;
    ns.run("ip link set sw0 down")?;
    ns.run("ip link set sw1 mtu 1300")?;
    limit(1_024)?;
    wait_state(&switch, "sw0", PortState::Down)?;
    wait_until("the MTU", SOON, || {
        switch.json(&["port", "show", "sw1"]).unwrap_or_default().to_string().contains("1300")
    })?;
    ensure!(state(&switch, "sw1")? == PortState::Up);
    Ok(())
}

/// Who holds a TAP is found by a walk through all processes, which is made once
/// for however many ports: a large host has thousands of processes.
#[test]
fn showing_many_ports_is_one_search() -> Result<()> {
    require!(root, tun);
    const PORTS: usize = 32;
    let ns = Netns::new("search")?;
    let ports: String = (0..PORTS).map(|number| format!("--port t{number} ")).collect();
    let switch = start(&ns, &name("search"), &ports)?;
    let guests: Vec<Device> =
        (0..PORTS).map(|number| Device::tap(&ns, &format!("t{number}"))).collect::<Result<_, _>>()?;
    for number in 0..PORTS {
        wait_state(&switch, &format!("t{number}"), PortState::Up)?;
    }
    let reads = || -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/io", switch.pid()))?;
        let count = text.lines().find_map(|line| line.strip_prefix("syscr: ")).context("syscr")?;
        Ok(count.parse()?)
    };
    let before = reads()?;
    let shown = switch.json(&["show"])?.to_string();
    let reads = reads()? - before;
    let own = format!(" {}\"", std::process::id());
    ensure!(shown.matches(&own).count() == PORTS, "each holder is named: {shown}");
    // Each of the descriptors takes some three, as do those of other tests.
    ensure!(reads < 1_000, "{reads} reads for {PORTS} ports");
    drop(guests);
    ensure!(switch.stop()?.status.success());
    Ok(())
}

/// The least share of a core that `switch` used in one of three watches; a
/// single one may catch the tail of what was before.
fn idle_share(switch: &Switch) -> Result<f64> {
    let mut least = 1.0f64;
    for _ in 0..3 {
        let before = switch.cpu_time()?;
        let watch = Duration::from_secs(2);
        std::thread::sleep(Deadline::after(watch).left());
        let used = switch.cpu_time()?.saturating_sub(before);
        least = least.min(used.as_secs_f64() / watch.as_secs_f64());
        if least < 0.01 {
            break;
        }
    }
    Ok(least)
}

#[test]
fn a17_absent_held_and_restless_devices_leave_the_switch_idle() -> Result<()> {
    require!(root, tun);
    let (ns, away) = (Netns::new("idle")?, Netns::new("idle-away")?);
    for number in 0..4 {
        veth(&ns, &format!("sw{number}"), &ns, &format!("e{number}"))?;
        ns.up(&format!("sw{number}"))?;
        ns.up(&format!("e{number}"))?;
    }
    let ports = "--port netdev:sw0 --port netdev:sw1 --port netdev:sw2 --port netdev:sw3 --port t0 --port tap:t1 --port tap:t2";
    let switch = start(&ns, &name("idle"), ports)?;
    // Absent; in use by the host; down; restless; no guest; held by another;
    // deleted in another namespace.
    ns.run("ip link del sw0")?;
    ns.run("ip link del sw1")?;
    veth(&ns, "used", &ns, "e1")?;
    ns.run("ip addr add 192.0.2.1/24 dev used")?;
    ns.run("ip link set used name sw1")?;
    ns.run("ip link set sw2 down")?;
    ns.run("ip link del t1")?;
    let _held = wait_for("t1 to be free", SOON, || Device::tap(&ns, "t1").ok())?;
    ns.move_to("t2", &away)?;
    wait_state(&switch, "t2", PortState::Down)?;
    away.run("ip link del t2")?;
    for (port, wanted) in [
        ("sw0", PortState::Fault),
        ("sw1", PortState::Fault),
        ("sw2", PortState::Down),
        ("t0", PortState::Down),
        ("t1", PortState::Fault),
        ("t2", PortState::Fault),
    ] {
        wait_state(&switch, port, wanted)?;
    }
    for _ in 0..50 {
        ns.run("ip link set sw3 down")?;
        ns.up("sw3")?;
    }
    wait_state(&switch, "sw3", PortState::Up)?;
    let share = idle_share(&switch)?;
    ensure!(share < 0.01, "{share} of a core\n{}", switch.stderr());
    // What keeps it from its device is said once, not at each retry.
    ensure!(switch.stderr().matches("it is back, but").count() <= 4, "{}", switch.stderr());
    // And each comes back when its time has come.
    ns.run("ip addr flush dev sw1")?;
    ns.up("sw1")?;
    ns.up("e1")?;
    wait_state(&switch, "sw1", PortState::Up)?;
    drop(_held);
    ns.run("ip tuntap add t1 mode tap")?;
    ns.up("t1")?;
    wait_state(&switch, "t1", PortState::Up)?;
    ensure!(switch.stop()?.status.success());
    Ok(())
}
