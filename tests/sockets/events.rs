//! What a whole switch writes into its journal, and what a flood does to it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vswitch::control::{Client, PortState};
use vswitch::events::KIND_RATE;
use vswitch_tests::clock::wait_until;
use vswitch_tests::require;

use crate::ports::{Rig, SOON, UNKNOWN, connects, frame};

/// Kinds and particulars of the events after number `after`, without numbers and
/// times.
fn events(rig: &Rig, after: u64) -> Result<Vec<Value>> {
    let output = rig.switch().client(&["events", "--json", "--since", &after.to_string()])?;
    let lines = String::from_utf8(output.stdout)?;
    let plain = |line: &str| -> Result<Value> {
        let mut event: Value = serde_json::from_str(line)?;
        let fields = event.as_object_mut().context("an object")?;
        fields.retain(|key, _| !matches!(key.as_str(), "seq" | "time" | "uptime_ms"));
        Ok(event)
    };
    lines.lines().map(plain).collect()
}

/// Waits until `wanted` is among the events; returns all of them.
fn wait(rig: &Rig, wanted: &Value) -> Result<Vec<Value>> {
    let has = || events(rig, 0).is_ok_and(|events| events.contains(wanted));
    wait_until(&wanted.to_string(), SOON, has).with_context(|| format!("{:?}", events(rig, 0)))?;
    events(rig, 0)
}

const A: &str = "02:00:00:00:00:0a";

#[test]
fn a_guests_life_is_written_down() -> Result<()> {
    require!(root);
    let rig = Rig::new(&["stream", "stream"])?;
    let spec = format!("stream:{}", rig.path(0).display());
    wait(&rig, &json!({"event": "port_added", "port": "p0", "spec": spec}))?;
    let (mut a, mut b) = (rig.stream(0)?, rig.stream(1)?);
    let own = std::fs::read_to_string("/proc/self/comm")?;
    let peer = format!("{} {}", own.trim_end(), std::process::id());
    wait(&rig, &json!({"event": "peer_came", "port": "p0", "peer": peer}))?;
    wait(&rig, &json!({"event": "port_up", "port": "p0", "mtu": 1500, "peer": peer}))?;
    connects((&mut a, &rig.path(0)), &mut b, &frame(UNKNOWN, 0x0a, 60))?;
    wait(&rig, &json!({"event": "mac_learned", "mac": A, "vid": 0, "port": "p0"}))?;
    // The same address from the other port, and back, and back again.
    for round in 0..4 {
        let (from, to) = if round % 2 == 0 { (&mut b, &mut a) } else { (&mut a, &mut b) };
        connects((from, &rig.path(1 - round % 2)), to, &frame(UNKNOWN, 0x0a, 60))?;
    }
    let moved = json!({"event": "mac_moved", "mac": A, "vid": 0, "from": "p0", "port": "p1"});
    wait(&rig, &moved)?;
    let flapping =
        json!({"event": "mac_flapping", "mac": A, "vid": 0, "from": "p1", "port": "p0", "moves": 4});
    let all = wait(&rig, &flapping)?;
    ensure!(all.iter().filter(|event| **event == moved).count() == 2, "{all:?}");
    rig.switch().wait_stderr(&format!("{A} moves between p1 and p0"), SOON)?;
    // A limit, ageing, a change.
    rig.switch().json(&["port", "set", "p0", "max_macs=1"])?;
    connects((&mut a, &rig.path(0)), &mut b, &frame(UNKNOWN, 0x0c, 60))?;
    wait(&rig, &json!({"event": "port_full", "port": "p0", "mac": "02:00:00:00:00:0c", "vid": 0}))?;
    rig.switch().json(&["set", "ageing", "1s"])?;
    wait(&rig, &json!({"event": "config_changed", "changes": ["ageing: 300s -> 1s"]}))?;
    wait(&rig, &json!({"event": "mac_aged", "mac": A, "vid": 0, "port": "p0"}))?;
    drop(a);
    rig.wait_state(0, PortState::Down)?;
    let why = format!("{peer} has gone; the port is back when it is");
    wait(&rig, &json!({"event": "peer_gone", "port": "p0", "why": why}))?;
    wait(&rig, &json!({"event": "port_down", "port": "p0", "why": why}))?;
    rig.switch().json(&["port", "del", "p0"])?;
    wait(&rig, &json!({"event": "port_removed", "port": "p0"}))?;
    Ok(())
}

#[test]
fn a_flood_of_sources_costs_no_memory_and_hides_nothing() -> Result<()> {
    require!(root);
    let rig = Rig::new(&["stream", "stream", "stream,max_macs=32"])?;
    let (mut flood, mut victim) = (rig.stream(0)?, rig.stream(1)?);
    // Somebody follows, and reads nothing.
    let asleep = Client::connect(rig.switch().control())?.follow(0)?;
    connects((&mut victim, &rig.path(1)), &mut flood, &frame(UNKNOWN, 0x0b, 60))?;
    let bytes = |from: u64| {
        let mut bytes = frame(0x0b, 0, 60);
        bytes[6..12].copy_from_slice(&(0x0600_0000_0000 | from).to_be_bytes()[2..]);
        bytes
    };
    // The table fills and stays full; what is allotted at first is not counted.
    let mut sent = 0;
    let mut send = |until: u64| -> Result<()> {
        while sent < until {
            sent += 1;
            flood.send(&bytes(sent), &rig.path(0))?;
            victim.receive()?;
        }
        Ok(())
    };
    send(10_000)?;
    let before = rig.switch().resident_bytes()?;
    send(60_000)?;
    let grown = rig.switch().resident_bytes()?.saturating_sub(before);
    ensure!(grown < 4 << 20, "{grown} bytes more after 50,000 sources");
    // Not a frame was lost, and the journal says how much it left out.
    let stats = rig.stats(0)?;
    ensure!(stats.rx == 60_000 && stats.forwarded == 60_000, "{stats:?}");
    let mut client = Client::connect(rig.switch().control())?;
    let told = |kind: &str| -> Result<(u64, u64)> {
        let all = events(&rig, 0)?;
        let count = |event: &Value| event["count"].as_u64().filter(|_| event["of"] == kind).unwrap_or(0);
        Ok((all.iter().filter(|event| event["event"] == kind).count() as u64, all.iter().map(count).sum()))
    };
    let settled = || told("mac_learned").is_ok_and(|(written, left_out)| written > 0 && left_out > 0);
    wait_until("the journal to settle", SOON, settled)?;
    let kept = client.events(0)?;
    ensure!(
        kept.events.len() <= 1024 && kept.next < 20 * KIND_RATE * (1 + kept.uptime_ms / 1000),
        "{}",
        kept.next
    );
    // What is rare is still there.
    wait(
        &rig,
        &json!({"event": "port_added", "port": "p2", "spec": format!("stream:{},max_macs=32", rig.path(2).display())}),
    )?;
    drop(asleep);
    Ok(())
}

#[test]
fn events_are_followed_as_lines_until_the_switch_ends() -> Result<()> {
    require!(root);
    let mut rig = Rig::new(&["stream"])?;
    let program = vswitch_tests::process::binary("vswitch")?;
    let mut command = std::process::Command::new(program);
    command.args(["events", "-f", "--json", "--control"]).arg(rig.switch().control());
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    let watcher = std::thread::spawn(move || child.wait_with_output());
    let guest = rig.stream(0)?;
    drop(guest);
    rig.wait_state(0, PortState::Down)?;
    let Some(switch) = rig.switch.take() else { return Ok(()) };
    ensure!(switch.stop()?.status.success());
    wait_until("the watcher's end", Duration::from_secs(20), || watcher.is_finished())?;
    let output = watcher.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
    let lines = String::from_utf8(output.stdout)?;
    let kinds: Vec<Value> = (lines.lines())
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["event"].clone()))
        .collect::<Result<_>>()?;
    ensure!(kinds == ["port_added", "peer_came", "port_up", "peer_gone", "port_down"], "{kinds:?}");
    ensure!(output.status.success() && output.stderr == b"the switch has ended\n");
    Ok(())
}
