//! Invariant 3, read live: while frames pour in and an egress segments,
//! refuses and is deleted, every snapshot of `vswitch stats` balances, for
//! each port and in total, and no counter goes back.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use vswitch::control::{PortState, PortStats, Stats};
use vswitch_tests::clock::wait_until;
use vswitch_tests::flow::{self, Flow, Pace, QUIET, Sink, Until, generate};
use vswitch_tests::require;

use crate::lan::{Kind, Lan, SOON, flow_between};

/// One snapshot against the one before.
fn check(stats: &Stats, before: &Stats) -> Result<()> {
    for port in stats.ports.iter().chain([&stats.retired, &stats.total]) {
        ensure!(port.balance(), "{port:?}");
    }
    let summed = Stats::new(String::new(), 0, stats.ports.clone(), stats.retired.clone());
    ensure!(numbers(&summed.total) == numbers(&stats.total), "the total is not the sum: {stats:?}");
    for (new, old) in numbers(&stats.total).iter().zip(numbers(&before.total)) {
        ensure!(*new >= old, "a counter went back: {before:?} then {stats:?}");
    }
    Ok(())
}

/// Every counter, with the losses that stand outside the law.
fn numbers(port: &PortStats) -> Vec<u64> {
    let numbers = port.numbers().into_iter().map(|(_, number)| number);
    numbers.chain(port.drops.values().copied()).chain(port.refused.values().copied()).collect()
}

/// Reads and counts snapshots until `stop`.
fn watch(lan: &Lan, stop: &AtomicBool, count: &AtomicU32) -> Result<()> {
    let mut before = lan.stats()?;
    while !stop.load(Ordering::Relaxed) {
        let now = lan.stats()?;
        check(&now, &before)?;
        before = now;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn wait_total(lan: &Lan, what: &str, of: impl Fn(&PortStats) -> u64) -> Result<()> {
    let start = of(&lan.stats()?.total);
    wait_until(&format!("{what} to grow"), SOON, || lan.stats().is_ok_and(|s| of(&s.total) > start + 10))
}

#[test]
fn invariant_3_the_sums_hold_while_an_egress_segments_refuses_and_goes() -> Result<()> {
    require!(root, tun);
    // Super-frames from p0 flood to all: p1 takes them whole, p2 in segments,
    // p3 will go.
    let lan = Lan::new(&[Kind::Guest, Kind::Guest, Kind::PlainTap, Kind::Netdev])?;
    let from = lan.hosts[0].measure()?;
    let big = flow_between(1, 9, 30_000).with_segments(1_400);
    let small = flow_between(2, 8, 512);
    let (stop, snapshots) = (AtomicBool::new(false), AtomicU32::new(0));
    let (loads, events, watched) = std::thread::scope(|scope| {
        let load = |flow: &Flow| {
            let (flow, from, stop) = (flow.clone(), from.clone(), &stop);
            scope.spawn(move || generate(&from, &flow, Pace::Rate(3_000.0), Until::Stopped(stop), None))
        };
        let loads = [load(&big), load(&small)];
        let watched = scope.spawn(|| watch(&lan, &stop, &snapshots));
        let events = (|| {
            wait_total(&lan, "segments", |t| t.segments).context("p2 segments")?;
            // Refuses: p3 becomes too narrow for what floods to it.
            let narrow = &lan.hosts[3].port_device;
            lan.switch_ns.run(&format!("ip link set {narrow} mtu 200"))?;
            wait_total(&lan, "oversize", |t| t.refused["oversize"])?;
            // Is set down, comes back, and is deleted as a device.
            lan.switch_ns.run(&format!("ip link set {narrow} down"))?;
            lan.switch_ns.up(narrow)?;
            lan.switch_ns.run(&format!("ip link del {narrow}"))?;
            wait_total(&lan, "forwarded", |t| t.forwarded)?;
            // Is deleted as a port.
            lan.switch.json(&["port", "del", "p3"])?;
            lan.switch.json(&["port", "del", "p2"])?;
            wait_total(&lan, "forwarded", |t| t.forwarded)?;
            wait_until("enough snapshots", SOON, || snapshots.load(Ordering::Relaxed) >= 20)
        })();
        stop.store(true, Ordering::Relaxed);
        (loads.map(std::thread::ScopedJoinHandle::join), events, watched.join())
    });
    let joined = "a thread of the test does not panic";
    watched.expect(joined)?;
    events.with_context(|| lan.switch.stderr())?;
    let mut sent = 0;
    for load in loads {
        sent += load.expect(joined)?.frames;
    }
    // After it: everything that was sent is accounted for.
    wait_until("the last frames to be judged", SOON, || {
        lan.stats().is_ok_and(|s| s.ports[0].rx + s.ports[0].rx_missed >= sent)
    })
    .with_context(|| format!("sent {sent}: {:?}", lan.stats()))?;
    let stats = lan.stats()?;
    check(&stats, &stats)?;
    ensure!(stats.ports.len() == 2 && stats.retired.segments > 0, "{stats:?}");
    ensure!(stats.retired.refused["oversize"] > 0, "{:?}", stats.retired);
    Ok(())
}

/// What devices have lost is still counted when they are gone, and their ports
/// after them.
#[test]
fn losses_outlive_the_device_and_the_port() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Guest, Kind::Guest, Kind::Tap])?;
    // Nobody reads what floods to p1.
    lan.switch_ns.run(&format!("ip link set {} txqueuelen 10", lan.hosts[1].port_device))?;
    let flood = flow_between(1, 9, 60);
    let send = |number: usize| -> Result<()> {
        generate(&lan.hosts[number].measure()?, &flood, Pace::Rate(20_000.0), Until::Count(3_000), None)?;
        Ok(())
    };
    send(0)?;
    wait_until("p1 to lose frames", SOON, || lan.stats().is_ok_and(|s| s.total.tx_lost > 1_000))?;
    // Nor what p2's host sends, for a while.
    let paused = lan.switch.pause()?;
    send(2)?;
    drop(paused);
    wait_until("p2 to lose frames", SOON, || lan.stats().is_ok_and(|s| s.total.rx_missed > 1_000))?;
    let before = lan.stats()?;
    // The devices go, of which one is the guest's.
    lan.switch_ns.run(&format!("ip link del {}", lan.hosts[1].port_device))?;
    lan.hosts[2].ns.run(&format!("ip link del {}", lan.hosts[2].device))?;
    for number in [1, 2] {
        lan.wait_state(number, PortState::Fault)?;
    }
    check(&lan.stats()?, &before)?;
    lan.switch.json(&["port", "del", "p1"])?;
    lan.switch.json(&["port", "del", "p2"])?;
    let after = lan.stats()?;
    check(&after, &before)?;
    ensure!(after.retired.tx_lost > 1_000 && after.retired.rx_missed > 1_000, "{:?}", after.retired);
    let ended = lan.switch.client(&["stats"])?;
    ensure!(String::from_utf8(ended.stdout)?.contains("\nretired\n"));
    Ok(())
}

/// What is sent to a guest with offloads arrives as it left: gso_size and all.
#[test]
fn super_frames_cross_whole() -> Result<()> {
    require!(root, tun);
    for kinds in [[Kind::Guest, Kind::Guest], [Kind::Netdev, Kind::Guest], [Kind::Tap, Kind::Guest]] {
        let lan = Lan::new(&kinds)?;
        let to = lan.hosts[1].measure()?;
        let from = match kinds[0] {
            Kind::Guest => lan.hosts[0].measure()?,
            Kind::Netdev | Kind::Tap | Kind::PlainTap | Kind::PlainGuest | Kind::Stream | Kind::Dgram => {
                flow::Device::packet_with_offloads(&lan.hosts[0].ns, &lan.hosts[0].device)?
            }
        };
        let flow = flow_between(1, 2, 54 + 40 * 1_448).with_segments(1_448);
        lan.teach(&flow_between(1, 2, 60), &from, &to)?;
        let sink = Sink::start(to, std::slice::from_ref(&flow), None)?;
        let sent = generate(&from, &flow, Pace::Rate(2_000.0), Until::Count(1_000), None)?;
        let received = &sink.finish(sent.frames, QUIET)?[0];
        received.assert_clean(&sent);
        ensure!(received.super_frames == sent.frames, "{kinds:?}: {received}");
        let stats = lan.stats()?;
        ensure!(stats.total.segments == 0 && stats.total.balance(), "{stats:?}");
    }
    Ok(())
}

/// Towards a port without offloads the same frames arrive cut, each whole and
/// within the MTU; nothing is left over.
#[test]
fn super_frames_are_cut_for_a_port_without_offloads() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Guest, Kind::PlainTap])?;
    let from = lan.hosts[0].measure()?;
    let to = lan.hosts[1].measure()?;
    let flow = flow_between(1, 2, 54 + 40 * 1_448).with_segments(1_448);
    lan.teach(&flow_between(1, 2, 60), &from, &to)?;
    let before = lan.stats()?;
    let sink = Sink::start(to, std::slice::from_ref(&flow), None)?;
    let sent = generate(&from, &flow, Pace::Rate(200.0), Until::Count(100), None)?;
    // Only a super-frame's first segment has its stamp; a stamp on a shorter
    // frame counts as harmed.
    wait_until("the segments to arrive", SOON, || sink.others() >= 39 * sent.frames)
        .with_context(|| format!("{} came: {:?}", sink.others(), lan.stats()))?;
    let received = &sink.finish(sent.frames, QUIET)?[0];
    ensure!(received.super_frames == 0 && received.corrupted == sent.frames, "{received}");
    let stats = lan.stats()?;
    ensure!(stats.total.segments - before.total.segments == 40 * sent.frames, "{stats:?}");
    Ok(())
}
