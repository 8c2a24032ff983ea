//! Real guests on vhost-user ports: traffic both ways, a guest that is killed, a
//! switch that is started again under running guests.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::Switch;
use vswitch_tests::qemu::{Boot, Guest, Turn};
use vswitch_tests::require;

use crate::traffic::tcp;

const LIMIT: Duration = Duration::from_secs(20);

/// The state that `show` has of port `name`.
fn state(switch: &Switch, name: &str) -> Result<String> {
    let show = switch.json(&["show"])?;
    let ports = show["ports"].as_array().context("no ports")?;
    let port = ports.iter().find(|port| port["name"] == name).context("no such port")?;
    Ok(port["state"].as_str().unwrap_or_default().to_owned())
}

fn start(ns: &Netns, dir: &Path, model: &str, name: &str, number: u8) -> Result<Guest> {
    let (mac, address) = (format!("02:00:00:00:00:0{number}"), format!("192.168.1.15{number}/24"));
    let append = "role=iperf-server";
    let boot = Boot { tap: name, model, mac: &mac, address: &address, append };
    Guest::start_vhost_user(ns, &boot, &dir.join(format!("{name}.sock")))
}

#[test]
fn guests_on_vhost_user_ports_exchange_tcp_and_outlive_their_switch() -> Result<()> {
    require!(root, "qemu-system-x86_64");
    outlive("virtio-net-pci")
}

/// QEMU cannot tell a new switch where packed queues are: it finds that by itself.
#[test]
fn guests_with_packed_queues_exchange_tcp_and_outlive_their_switch() -> Result<()> {
    require!(root, "qemu-system-x86_64");
    outlive("virtio-net-pci,packed=on")
}

/// Two guests of `model` and their switch, of which each is replaced.
fn outlive(model: &str) -> Result<()> {
    let _turn = Turn::take();
    let ns = Netns::new("vhost")?;
    let dir = tempfile::Builder::new().prefix("vq-").tempdir()?;
    let ports = ["a", "b"].map(|name| format!("vhost-user:{}/{name}.sock", dir.path().display()));
    let switch = Switch::with_ports(&ns, &[&ports[0], &ports[1]])?;
    let start = |name, number| start(&ns, dir.path(), model, name, number);
    let (mut a, mut b) = (start("a", 0)?, start("b", 1)?);
    a.wait_ready()?;
    b.wait_ready()?;
    a.ping("192.168.1.151")?;
    for options in ["", "-R"] {
        let mbits = tcp(&mut a, "192.168.1.151", options).with_context(|| switch.stderr())?;
        eprintln!("{model} {options}: {mbits:.0} Mbit/s");
        ensure!(mbits > 50.0, "{options}: {mbits:.1} Mbit/s");
    }

    // Another switch in its place: QEMU connects again by itself.
    let ended = switch.stop()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    ensure!(!dir.path().join("a.sock").exists(), "its sockets were left");
    let switch = Switch::with_ports(&ns, &[&ports[0], &ports[1]])?;
    wait_until("both guests to be back", LIMIT, || {
        ["a", "b"].iter().all(|name| state(&switch, name).is_ok_and(|state| state == "up"))
    })?;
    a.ping("192.168.1.151")?;
    let mbits = tcp(&mut a, "192.168.1.151", "").with_context(|| switch.stderr())?;
    ensure!(mbits > 50.0, "by the new switch: {mbits:.1} Mbit/s");

    // One guest is killed, and another takes its port.
    drop(b);
    wait_until("the port to go down", LIMIT, || state(&switch, "b").is_ok_and(|state| state == "down"))?;
    let mut c = start("b", 2)?;
    c.wait_ready()?;
    c.ping("192.168.1.150")?;
    Ok(())
}
