//! A01: frames longer than anything. A15: the host's own stack and the ports
//! know nothing of each other.

use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch_tests::clock::{Deadline, wait_until};
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::Switch;
use vswitch_tests::require;

use crate::lan::{Kind, Lan, SOON, flow_between};

/// TAPs take frames of any length up to 131,072 bytes, whatever their MTU.
#[test]
fn a01_giants_are_dropped_by_name_and_leave_no_corpse() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::PlainGuest, Kind::PlainGuest, Kind::Netdev])?;
    let (from, to) = (lan.hosts[0].measure()?, lan.hosts[1].measure()?);
    let flow = flow_between(1, 2, 60);
    lan.teach(&flow, &from, &to)?;
    // Not before: the first frame floods.
    let third = lan.hosts[2].measure()?;
    let sinks = [to, third].map(|d| vswitch_tests::flow::Sink::start(d, std::slice::from_ref(&flow), None));
    let before = (lan.stats()?, lan.switch.resident_bytes()?);

    const EACH: u64 = 50;
    let lengths = [70_000, 131_072, 65_536, 9_014, 1_519];
    for len in lengths {
        let mut giant = flow.blank();
        giant.resize(len, 0xa5);
        for number in 0..EACH {
            flow.stamp(&mut giant, number, 0);
            ensure!(from.write(&giant)?, "the TAP is full");
        }
    }
    let total = EACH * u64::try_from(lengths.len())?;
    let rx = |lan: &Lan| Ok::<u64, anyhow::Error>(lan.stats()?.ports[0].rx - before.0.ports[0].rx);
    wait_until("the giants to be judged", SOON, || rx(&lan).is_ok_and(|rx| rx >= total))?;
    let after = lan.stats()?;
    let (old, new) = (&before.0, &after);
    ensure!(new.ports[1].tx == old.ports[1].tx && new.ports[2].tx == old.ports[2].tx, "{new:?}");
    let ended = |s: &vswitch::control::Stats| s.ports[0].drops["truncated"] + s.total.refused["oversize"];
    ensure!(ended(new) - ended(old) == total, "every one has a name: {new:?}");
    ensure!(new.ports.iter().all(vswitch::control::PortStats::balance), "{new:?}");
    for sink in sinks {
        let sink = sink?;
        ensure!(sink.others() == 0, "{} corpses", sink.others());
        let received = &sink.finish(0, Duration::from_millis(200))?[0];
        ensure!(received.frames == 0 && received.corrupted == 0, "{received}");
    }
    let grown = lan.switch.resident_bytes()?.saturating_sub(before.1);
    // The receive slots of a burst are touched once, and stay: 64 of 65 KiB.
    ensure!(grown < 6 << 20, "grew by {grown} bytes");
    Ok(())
}

/// A host with IPv6 and an address elsewhere; a guest on a port asks for it.
fn host_and_guest() -> Result<(Netns, Netns, Switch)> {
    let (host, guest) = (Netns::with_ipv6("host")?, Netns::with_ipv6("guest")?);
    host.run("ip address add 10.77.0.1/32 dev lo")?;
    host.run("ip address add fd77::1/128 dev lo")?;
    veth(&host, "sw0", &guest, "e0")?;
    veth(&host, "sw1", &guest, "e1")?;
    for name in ["sw0", "sw1"] {
        host.up(name)?;
    }
    guest.run("ip address add fd77::2/64 dev e0 nodad")?;
    guest.address("e0", "10.77.0.2/24")?;
    guest.up("e1")?;
    let switch = Switch::with_ports(&host, &["netdev:sw0", "netdev:sw1"])?;
    Ok((host, guest, switch))
}

#[test]
fn a15_the_host_answers_nothing_through_a_port() -> Result<()> {
    require!(root, "ping");
    let (host, guest, switch) = host_and_guest()?;
    let link_local = |ns: &Netns| -> Result<Option<String>> {
        let text = ns.run("ip -6 -o address show dev sw0 scope link")?;
        Ok(text
            .split_whitespace()
            .find(|w| w.starts_with("fe80"))
            .map(|a| a.trim_end_matches("/64").to_owned()))
    };
    let asked = |address: &str| guest.ping(address, 2);
    ensure!(asked("10.77.0.1")? == 0 && asked("fd77::1")? == 0, "the host answered a ping");
    if let Some(address) = link_local(&host)? {
        ensure!(asked(&format!("{address}%e0"))? == 0, "the host answered its link-local address");
    }
    let resolved = || -> Result<bool> { Ok(guest.run("ip neigh show 10.77.0.1")?.contains("lladdr")) };
    ensure!(!resolved()?, "the host answered ARP");
    // With its MAC known, it gets the frames themselves.
    let mac = host.device("sw0")?.mac();
    guest.run(&format!("ip neigh replace 10.77.0.1 lladdr {mac} dev e0"))?;
    guest.run(&format!("ip neigh replace fd77::1 lladdr {mac} dev e0"))?;
    ensure!(asked("10.77.0.1")? == 0 && asked("fd77::1")? == 0, "the host answered");
    guest.run("ip neigh flush dev e0 nud permanent")?;

    // The same questions without the switch: they are answered, so the test
    // can fail.
    switch.stop()?;
    wait_until("the host's own answer to ARP", SOON, || {
        let _ = guest.ping("10.77.0.1", 1);
        resolved().unwrap_or(false)
    })
}

#[test]
fn a15_no_frame_of_the_host_leaves_by_a_port() -> Result<()> {
    require!(root);
    silent_for(Duration::from_secs(3))
}

#[test]
#[ignore = "a minute of silence; `./dev test --long` runs it"]
fn a15_no_frame_of_the_host_leaves_by_a_port_in_a_minute() -> Result<()> {
    require!(root);
    silent_for(Duration::from_secs(60))
}

fn silent_for(length: Duration) -> Result<()> {
    let (host, guest, switch) = host_and_guest()?;
    // The guest's own stack must not speak either.
    guest.run("sysctl -q -w net.ipv6.conf.e0.disable_ipv6=1 net.ipv6.conf.e1.disable_ipv6=1")?;
    let devices = [Device::packet(&guest, "e0")?, Device::packet(&guest, "e1")?];
    let count = || -> Result<u32> {
        let mut buffer = [0; 2048];
        let mut count = 0;
        for device in &devices {
            while device.read(&mut buffer)?.is_some() {
                count += 1;
            }
        }
        Ok(count)
    };
    let provoke = || -> Result<()> {
        // Duplicate address detection, MLD, router solicitation.
        for name in ["sw0", "sw1"] {
            host.run(&format!("ip link set {name} down"))?;
            host.up(name)?;
        }
        Ok(())
    };
    // What was said before the switch was ready is not its doing; and the veth
    // pair delivers at once.
    count()?;
    provoke()?;
    let silence = Deadline::after(length);
    while !silence.passed() {
        std::thread::sleep(silence.left().min(Duration::from_millis(100)));
        let heard = count()?;
        ensure!(heard == 0, "{heard} frames of the host\n{}", switch.stderr());
    }
    // Without the switch the same is heard, so the test can fail.
    switch.stop()?;
    provoke()?;
    wait_until("the host to speak", SOON, || count().is_ok_and(|n| n > 0))
}
