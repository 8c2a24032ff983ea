//! Every ordered pair of port kinds: ping, TCP with offloads on and off, and a
//! numbered flow that loses, repeats and reorders nothing.
//!
//! "Ping works, TCP does not" is the classic failure of userspace switches, so
//! the transfer has a deadline: with broken checksums or lost super-frames it
//! takes minutes, or for ever.

use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch_tests::flow::{self, Pace, Until};
use vswitch_tests::iperf::{Server, transfer};
use vswitch_tests::require;

use crate::lan::{Kind, Lan, flow_between};

/// Frames a second of the numbered flow.
const RATE: f64 = 10_000.0;
/// Its length.
const FRAMES: u64 = 10_000;

fn hosts(from: Kind, to: Kind) -> Result<()> {
    require!(root, tun, "iperf3", "ethtool", "ping");
    let lan = Lan::new(&[from, to])?;
    let [a, b] = &lan.hosts[..] else { unreachable!("two ports") };
    lan.wait_ping(0, 1)?;
    let answers = a.ns.ping(&b.address, 50)?;
    ensure!(answers == 50, "{answers} of 50 pings answered\n{}", lan.switch.stderr());

    let _server = Server::start(&b.ns)?;
    for offloads in [true, false] {
        for host in [a, b] {
            host.ns.offloads(&host.device, offloads)?;
        }
        let rate = transfer(&a.ns, &b.address, "64M", Duration::from_secs(30))?;
        ensure!(rate > 50e6, "{:.0} Mbit/s with offloads {offloads}", rate / 1e6);
    }
    numbered(&lan, 60)?;
    numbered(&lan, 1514)?;
    let ended = lan.switch.stop()?;
    ensure!(ended.status.success(), "{:?}", ended);
    Ok(())
}

fn guests(from: Kind, to: Kind) -> Result<()> {
    require!(root, tun, "ping");
    let lan = Lan::new(&[from, to])?;
    numbered(&lan, 60)?;
    numbered(&lan, 1514)
}

fn numbered(lan: &Lan, len: usize) -> Result<()> {
    let flow = flow_between(1, 2, len);
    let (from, to) = (lan.hosts[0].measure()?, lan.hosts[1].measure()?);
    lan.teach(&flow, &from, &to)?;
    let (sent, received) = flow::run(&from, &to, &flow, Pace::Rate(RATE), Until::Count(FRAMES))?;
    received.assert_clean(&sent);
    let stats = lan.stats()?;
    for port in stats.ports.iter().chain([&stats.total]) {
        ensure!(port.balance(), "{port:?}");
    }
    Ok(())
}

macro_rules! pairs {
    ($run:ident: $($name:ident = $from:ident, $to:ident;)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            $run(Kind::$from, Kind::$to)
        })+
    };
}

pairs! { hosts:
    netdev_to_netdev = Netdev, Netdev;
    netdev_to_tap = Netdev, Tap;
    netdev_to_plain_tap = Netdev, PlainTap;
    tap_to_netdev = Tap, Netdev;
    tap_to_tap = Tap, Tap;
    tap_to_plain_tap = Tap, PlainTap;
    plain_tap_to_netdev = PlainTap, Netdev;
    plain_tap_to_tap = PlainTap, Tap;
    plain_tap_to_plain_tap = PlainTap, PlainTap;
}

pairs! { guests:
    guest_to_guest = Guest, Guest;
    guest_to_plain_guest = Guest, PlainGuest;
    plain_guest_to_guest = PlainGuest, Guest;
    plain_guest_to_plain_guest = PlainGuest, PlainGuest;
    guest_to_netdev = Guest, Netdev;
    netdev_to_guest = Netdev, Guest;
    guest_to_tap = Guest, Tap;
    tap_to_guest = Tap, Guest;
}
