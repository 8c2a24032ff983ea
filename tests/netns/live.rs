//! Changes to a running switch: each answer is the state after it, and what was
//! bound by hand outlives what was learned.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use vswitch_tests::netns::Netns;
use vswitch_tests::require;

use crate::lifecycle::{name, start};

#[test]
fn the_answer_to_a_change_is_the_state_after_it() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("live")?;
    let switch = start(&ns, &name("live"), "--port t0 --port t1,mtu=9000")?;
    ensure!(switch.json(&["port", "show", "t1"])?["ports"][0]["mtu"] == 9000);
    for mtu in [1400, 1500, 4000] {
        let answer = switch.json(&["port", "set", "t0", &format!("mtu={mtu}")])?;
        ensure!(answer["ports"][0]["mtu"] == mtu, "{answer}");
        ensure!(ns.device("t0")?.mtu() == mtu);
    }
    let answer = switch.json(&["set", "ageing=10s", "transparent=true"])?;
    ensure!(answer["ageing"] == "10s" && answer["transparent"] == true, "{answer}");
    ensure!(switch.stop()?.status.success());
    Ok(())
}

#[test]
fn what_was_bound_by_hand_stays() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("bound")?;
    let switch = start(&ns, &name("bound"), "--port t0 --port t1")?;
    let bound = |count: usize| -> Result<()> {
        let answer = switch.json(&["fdb", "show"])?;
        ensure!(answer["entries"].as_array().is_some_and(|entries| entries.len() == count), "{answer}");
        Ok(())
    };
    switch.json(&["fdb", "add", "02:00:00:00:00:0a", "--port", "t0"])?;
    switch.json(&["fdb", "add", "02:00:00:00:00:0b", "--port", "t1", "--sticky"])?;
    switch.json(&["fdb", "flush"])?;
    switch.json(&["set", "ageing=0s"])?;
    bound(2)?;
    // An address has one place: bound again, it is there.
    switch.json(&["fdb", "add", "02:00:00:00:00:0a", "--port", "t1"])?;
    let answer = switch.json(&["fdb", "show", "--mac", "02:00:00:00:00:0a"])?;
    ensure!(answer["entries"][0]["port"] == "t1", "{answer}");
    bound(2)?;
    // They go with their port.
    switch.json(&["port", "del", "t1"])?;
    bound(0)?;
    ensure!(switch.stop()?.status.success());
    Ok(())
}

#[test]
fn a_missing_interface_is_told_with_those_there_are() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("missing")?;
    let switch = start(&ns, &name("missing"), "--port t0")?;
    let output = switch.client(&["port", "add", "netdev:absent"])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.contains("there is no interface absent; there are: t0; "), "{stderr}");
    ensure!(switch.stop()?.status.success());
    Ok(())
}

#[test]
fn ctrl_c_a_closed_terminal_and_a_service_manager_end_it_cleanly() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("end")?;
    for signal in [Signal::INT, Signal::HUP, Signal::TERM] {
        let switch = start(&ns, &name("end"), "--port t0")?;
        ensure!(ns.has("t0"));
        let ended = switch.end(signal)?;
        ensure!(ended.status.success(), "{signal:?}: {}", ended.stderr);
        ensure!(ended.stderr.contains("total"), "the summary: {}", ended.stderr);
        ensure!(!ns.has("t0"), "{signal:?} left t0 behind");
    }
    Ok(())
}
