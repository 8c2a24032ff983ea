//! The tutorial, with its bridge replaced by `vswitch run --port tap0 --port
//! tap1` and QEMU's network options left as they are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::Switch;
use vswitch_tests::qemu::{Boot, Turn, start_all};
use vswitch_tests::require;

use crate::internet::Internet;

const LIMIT: Duration = Duration::from_secs(30);

/// Standard output of a client command that must succeed.
fn ask(switch: &Switch, args: &[&str]) -> Result<String> {
    let output = switch.client(args)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Whether `fdb show` has `mac` on `port`.
fn fdb_has(switch: &Switch, mac: &str, port: &str) -> Result<bool> {
    let text = ask(switch, &["fdb", "show"])?;
    Ok(text.lines().any(|line| line.contains(mac) && line.split_whitespace().any(|word| word == port)))
}

fn boot<'a>(tap: &'a str, mac: &'a str, address: &'a str) -> Boot<'a> {
    Boot { tap, model: "e1000", mac, address, append: "" }
}

#[test]
fn the_tutorial_unchanged() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let ns = Netns::new("tutorial")?;
    let internet = Internet::new(&ns)?;
    let switch = Switch::with_ports(&ns, &["tap0", "tap1"])?;
    ensure!(switch.ready_line().starts_with("ready: 2 ports, control "), "{}", switch.ready_line());

    let mut guests = start_all(
        &ns,
        &[
            boot("tap0", "02:00:00:00:00:01", "192.168.1.150/24"),
            boot("tap1", "02:00:00:00:00:02", "192.168.1.151/24"),
        ],
    )?;
    guests[0].ping("192.168.1.151").context("from the first guest")?;
    guests[1].ping("192.168.1.150").context("from the second guest")?;
    for guest in &mut guests {
        internet.reach_from(guest)?;
    }
    ensure!(fdb_has(&switch, "02:00:00:00:00:01", "tap0")?, "{}", ask(&switch, &["fdb", "show"])?);
    ensure!(fdb_has(&switch, "02:00:00:00:00:02", "tap1")?, "{}", ask(&switch, &["fdb", "show"])?);
    let show = ask(&switch, &["show"])?;
    ensure!(!show.contains("warning"), "nothing to warn of: {show}");

    for guest in guests {
        guest.power_off()?;
    }
    let ended = switch.stop()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    ensure!(!ns.has("tap0") && !ns.has("tap1"), "the TAPs outlived their switch: {}", ended.stderr);
    Ok(())
}

#[test]
fn the_tutorials_own_macs_raise_the_duplicate_warning() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let ns = Netns::new("samemac")?;
    let switch = Switch::with_ports(&ns, &["tap0", "tap1"])?;
    // QEMU takes the all-zero address for "choose one", and chooses the same
    // for both.
    let zero = "00:00:00:00:00:00";
    let mut guests =
        start_all(&ns, &[boot("tap0", zero, "192.168.1.150/24"), boot("tap1", zero, "192.168.1.151/24")])?;
    // They may or may not hear each other; what counts is that both speak, in
    // turns.
    for (guest, peer) in guests.iter_mut().zip(["192.168.1.151", "192.168.1.150"]) {
        guest.run(&format!("(arping -q -c 20 -w 20 -I ens4 {peer} >/dev/null 2>&1 &)"))?;
    }
    wait_until("the duplicate-MAC warning", LIMIT, || {
        ask(&switch, &["show"]).is_ok_and(|text| {
            text.lines()
                .any(|line| line.starts_with("warning: 52:54:00:12:34:57") && line.contains("share a MAC"))
        })
    })
    .with_context(|| ask(&switch, &["show"]).unwrap_or_default())
}

#[test]
fn three_guests_on_one_switch() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let ns = Netns::new("three")?;
    let switch = Switch::with_ports(&ns, &["tap0", "tap1", "tap2"])?;
    let mut guests = start_all(
        &ns,
        &[
            boot("tap0", "02:00:00:00:00:01", "192.168.1.150/24"),
            boot("tap1", "02:00:00:00:00:02", "192.168.1.151/24"),
            boot("tap2", "02:00:00:00:00:03", "192.168.1.152/24"),
        ],
    )?;
    for (from, guest) in guests.iter_mut().enumerate() {
        for to in (0..3).filter(|&to| to != from) {
            guest.ping(&format!("192.168.1.15{to}"))?;
        }
    }
    for (mac, port) in
        [("02:00:00:00:00:01", "tap0"), ("02:00:00:00:00:02", "tap1"), ("02:00:00:00:00:03", "tap2")]
    {
        ensure!(fdb_has(&switch, mac, port)?, "{}", ask(&switch, &["fdb", "show"])?);
    }
    Ok(())
}

#[test]
fn guests_outlive_their_switch_and_its_successor_takes_them_back() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let ns = Netns::new("again")?;
    // One name, so that the second start knows the TAPs of the first.
    let name = format!("vt-again-{}", std::process::id());
    let args = ["--name", &name, "--port", "tap0", "--port", "tap1"];
    let switch = Switch::start(&ns, &args)?;
    let mut guests = start_all(
        &ns,
        &[
            boot("tap0", "02:00:00:00:00:01", "192.168.1.150/24"),
            boot("tap1", "02:00:00:00:00:02", "192.168.1.151/24"),
        ],
    )?;
    guests[0].ping("192.168.1.151")?;
    let ended = switch.stop()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    ensure!(ns.has("tap0") && ns.has("tap1"), "a TAP was taken from a running guest: {}", ended.stderr);

    let switch = Switch::start(&ns, &args)?;
    guests[0].ping("192.168.1.151")?;
    guests[1].ping("192.168.1.150")?;
    for guest in guests {
        guest.power_off()?;
    }
    let ended = switch.stop()?;
    ensure!(!ns.has("tap0") && !ns.has("tap1"), "the TAPs outlived their switch: {}", ended.stderr);
    Ok(())
}
