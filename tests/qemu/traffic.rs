//! What guests send each other: TCP both ways between every pair of models, and
//! jumbo frames. "Ping works, TCP does not" is how offloads fail.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vswitch_tests::clock::wait_until;
use vswitch_tests::iperf::is_between_tests;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::Switch;
use vswitch_tests::qemu::{Boot, Guest, Turn, start_all};
use vswitch_tests::require;

const FIRST: &str = "192.168.1.150";
const SECOND: &str = "192.168.1.151";

/// Runs two seconds of TCP from `guest` to the iperf3 server at `peer`, or the
/// other way round; returns the received Mbit/s.
pub fn tcp(guest: &mut Guest, peer: &str, options: &str) -> Result<f64> {
    let line = format!("iperf3 -J -t 2 --connect-timeout 5000 -c {peer} {options}");
    let mut text = String::new();
    let mut json = Value::Null;
    wait_until("an iperf3 server that is not between two tests", Duration::from_secs(30), || {
        // What cannot be run, or read, is told below.
        text = guest.console().run(&line, Duration::from_secs(60)).unwrap_or_else(|e| format!("{e:#}"));
        json = serde_json::from_str(&text).unwrap_or_default();
        !json["error"].as_str().is_some_and(is_between_tests)
    })?;
    let bits = json["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.map(|bits| bits / 1e6).with_context(|| format!("no sum in {text}"))
}

/// Starts two guests of the given models and ends; both are checked by ping
/// and TCP both ways.
fn exchange(models: [&str; 2], ports: [&str; 2], mtu: u32) -> Result<()> {
    let _turn = Turn::take();
    let ns = Netns::new("traffic")?;
    let switch = Switch::with_ports(&ns, &ports)?;
    let append = format!("mtu={mtu} role=iperf-server");
    let boot = |tap, model, mac, address| Boot { tap, model, mac, address, append: &append };
    let mut guests = start_all(
        &ns,
        &[
            boot("tap0", models[0], "02:00:00:00:00:01", "192.168.1.150/24"),
            boot("tap1", models[1], "02:00:00:00:00:02", "192.168.1.151/24"),
        ],
    )?;
    guests[0].ping(SECOND)?;
    guests[1].ping(FIRST)?;
    for (from, peer) in [(0, SECOND), (1, FIRST)] {
        for options in ["", "-R"] {
            let mbits = tcp(&mut guests[from], peer, options).with_context(|| switch.stderr())?;
            // Emulated guests reach hundreds; without working offloads a
            // connection stalls at a few segments a second.
            ensure!(mbits > 20.0, "{models:?} guest {from} {options}: {mbits:.1} Mbit/s");
        }
    }
    if mtu > 1500 {
        whole_frames_cross(&mut guests[0], SECOND, mtu)?;
    }
    Ok(())
}

/// Pings with the largest payload of one frame; nothing may be fragmented.
fn whole_frames_cross(guest: &mut Guest, peer: &str, mtu: u32) -> Result<()> {
    // Headers of IPv4 and ICMP.
    let payload = mtu - 28;
    guest.run(&format!("ping -c 3 -s {payload} {peer}"))?;
    let created = guest.run("awk '/^Ip: [0-9]/ {print $19}' /proc/net/snmp")?;
    ensure!(created.trim() == "0", "{} fragments were made", created.trim());
    Ok(())
}

#[test]
fn two_e1000_guests_exchange_tcp() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    exchange(["e1000", "e1000"], ["tap0", "tap1"], 1500)
}

#[test]
fn two_virtio_guests_exchange_tcp() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    exchange(["virtio-net-pci", "virtio-net-pci"], ["tap0", "tap1"], 1500)
}

#[test]
fn a_virtio_guest_exchanges_tcp_with_an_e1000_guest() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    exchange(["virtio-net-pci", "e1000"], ["tap0", "tap1"], 1500)
}

#[test]
fn guests_with_jumbo_frames_exchange_tcp() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    exchange(["virtio-net-pci", "e1000"], ["tap0,mtu=9000", "tap1,mtu=9000"], 9000)
}
