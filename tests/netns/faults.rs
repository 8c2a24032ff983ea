//! A17: what happens to one device is that port's own affair. Two hosts
//! exchange 10,000 numbered frames a second and lose none, while the third
//! port's device is deleted, set down, renamed, resized, or goes with its
//! namespace; the port comes back by itself, and the switch is idle after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::control::PortState;
use vswitch_tests::clock::{Deadline, now_nanos, wait_until};
use vswitch_tests::flow::{Pace, QUIET, Sink, Until, generate};
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::require;

use crate::lan::{Kind, Lan, SOON, flow_between};

/// Frames a second that the others exchange, each way.
const RATE: f64 = 10_000.0;
/// Share of a core that an idle switch may use.
const IDLE_MAX: f64 = 0.01;
/// How long idleness is watched.
const IDLE_WATCH: Duration = Duration::from_secs(2);

/// Runs `fault` under load, then checks what the others saw and that the
/// switch comes to rest.
fn under_load(lan: &Lan, fault: impl FnOnce(&Lan) -> Result<()>) -> Result<()> {
    let (a, b) = (lan.hosts[0].measure()?, lan.hosts[1].measure()?);
    let (there, back) = (flow_between(1, 2, 60), flow_between(2, 1, 60));
    lan.teach(&there, &a, &b)?;
    lan.teach(&back, &b, &a)?;
    let (a, b, there, back) = (&a, &b, &there, &back);
    let at_b = Sink::start(b.clone(), std::slice::from_ref(there), None)?;
    let at_a = Sink::start(a.clone(), std::slice::from_ref(back), None)?;
    let stop = AtomicBool::new(false);
    let (sent_there, sent_back, fault) = std::thread::scope(|scope| {
        let until = Until::Stopped(&stop);
        let there = scope.spawn(move || generate(a, there, Pace::Rate(RATE), until, None));
        let back = scope.spawn(move || generate(b, back, Pace::Rate(RATE), until, None));
        let fault = wait_until("the load to run", SOON, || at_b.frames() > 500 && at_a.frames() > 500)
            .and_then(|()| fault(lan));
        stop.store(true, Ordering::Relaxed);
        (there.join(), back.join(), fault)
    });
    fault.with_context(|| lan.switch.stderr())?;
    let joined = "a generator does not panic";
    for (sink, sent) in [(at_b, sent_there), (at_a, sent_back)] {
        let sent = sent.expect(joined)?;
        sink.finish(sent.frames, QUIET)?[0].assert_clean(&sent);
    }
    for port in &lan.stats()?.ports {
        ensure!(port.balance(), "{port:?}");
    }
    idle(lan)
}

/// The best of a few watches: on a busy machine a single one may catch the
/// tail of the load.
fn idle(lan: &Lan) -> Result<()> {
    let mut shares = Vec::new();
    for _ in 0..3 {
        let (before, start) = (lan.switch.cpu_time()?, now_nanos());
        let watch = Deadline::after(IDLE_WATCH);
        std::thread::sleep(watch.left());
        let used = lan.switch.cpu_time()?.saturating_sub(before);
        shares.push(used.as_secs_f64() / Duration::from_nanos(now_nanos() - start).as_secs_f64());
        if shares.last().is_some_and(|share| *share < IDLE_MAX) {
            return Ok(());
        }
    }
    anyhow::bail!("not idle afterwards: {shares:?} of a core\n{}", lan.switch.stderr())
}

fn three(kind: Kind) -> Result<Lan> {
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev, kind])?;
    lan.wait_ping(0, 2)?;
    Ok(lan)
}

#[test]
fn a17_a_deleted_veth_comes_back() -> Result<()> {
    require!(root, "ping");
    let lan = three(Kind::Netdev)?;
    under_load(&lan, |lan| {
        let third = &lan.hosts[2];
        lan.switch_ns.run(&format!("ip link del {}", third.port_device))?;
        lan.wait_state(2, PortState::Fault)?;
        veth(&lan.switch_ns, &third.port_device, &third.ns, &third.device)?;
        lan.switch_ns.up(&third.port_device)?;
        third.ns.address(&third.device, &format!("{}/24", third.address))?;
        lan.wait_state(2, PortState::Up)?;
        // The new veth has a new address, of which its neighbours know nothing.
        lan.hosts[0].ns.run("ip neigh flush all")?;
        lan.wait_ping(0, 2)
    })
}

#[test]
fn a17_a_deleted_owned_tap_takes_down_its_port_only() -> Result<()> {
    require!(root, tun, "ping");
    let lan = three(Kind::Tap)?;
    under_load(&lan, |lan| {
        let third = &lan.hosts[2];
        third.ns.run(&format!("ip link del {}", third.device))?;
        wait_until("the port to leave", SOON, || {
            lan.show().is_ok_and(|s| s.ports.iter().any(|p| p.name == "p2" && p.state != PortState::Up))
        })
    })
}

#[test]
fn a17_down_and_up_a_hundred_times() -> Result<()> {
    require!(root, tun, "ping");
    for kind in [Kind::Netdev, Kind::Tap] {
        let lan = three(kind)?;
        under_load(&lan, |lan| {
            let third = &lan.hosts[2];
            for _ in 0..100 {
                third.ns.run(&format!("ip link set {} down", third.device))?;
                third.ns.up(&third.device)?;
            }
            lan.wait_state(2, PortState::Up)?;
            lan.wait_ping(0, 2)
        })?;
    }
    Ok(())
}

#[test]
fn a17_a_renamed_device_keeps_working_under_its_own_name_again() -> Result<()> {
    require!(root, "ping");
    let lan = three(Kind::Netdev)?;
    under_load(&lan, |lan| {
        let name = &lan.hosts[2].port_device;
        let rename = |from: &str, to: &str| {
            lan.switch_ns.run(&format!("ip link set {from} down"))?;
            lan.switch_ns.run(&format!("ip link set {from} name {to}"))?;
            lan.switch_ns.up(to)
        };
        rename(name, "elsewhere")?;
        rename("elsewhere", name)?;
        lan.wait_state(2, PortState::Up)?;
        lan.wait_ping(0, 2)
    })
}

#[test]
fn a17_an_mtu_change_is_followed() -> Result<()> {
    require!(root, "ping");
    let lan = three(Kind::Netdev)?;
    under_load(&lan, |lan| {
        let third = &lan.hosts[2];
        for mtu in [9000, 1280, 1500] {
            lan.switch_ns.run(&format!("ip link set {} mtu {mtu}", third.port_device))?;
            third.ns.run(&format!("ip link set {} mtu {mtu}", third.device))?;
            wait_until(&format!("the port's MTU to be {mtu}"), SOON, || {
                lan.show().is_ok_and(|s| s.ports.iter().any(|p| p.name == "p2" && p.mtu == mtu))
            })?;
        }
        lan.wait_ping(0, 2)
    })
}

#[test]
fn a17_a_namespace_that_goes_takes_one_port() -> Result<()> {
    require!(root, tun, "ping");
    for kind in [Kind::Netdev, Kind::Tap] {
        let mut lan = three(kind)?;
        // Taken out, so that it can go while the others stay.
        let spare = Netns::new("spare")?;
        let doomed = std::mem::replace(&mut lan.hosts[2].ns, spare);
        under_load(&lan, |lan| {
            drop(doomed);
            wait_until("the port to leave", SOON, || {
                lan.show().is_ok_and(|s| s.ports.iter().any(|p| p.name == "p2" && p.state != PortState::Up))
            })
        })?;
    }
    Ok(())
}
