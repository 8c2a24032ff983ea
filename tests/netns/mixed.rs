//! Every ordered pair of port kinds on one switch, at the MTUs of Ethernet and
//! of jumbo frames: ping, TCP with offloads on and off, and UDP, whole and in
//! fragments.
//!
//! Between a port that hands over super-frames and one whose peer takes none,
//! all segmentation and every checksum is the switch's work.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::iperf::{Server, transfer};
use vswitch_tests::netns::Netns;
use vswitch_tests::require;

use crate::lan::{Kind, Lan};

/// Time in which a datagram is answered.
const LIMIT: Duration = Duration::from_secs(5);

fn pass(from: Kind, to: Kind) -> Result<()> {
    require!(root, tun, "iperf3", "ethtool", "ping");
    for mtu in [1500, 9000] {
        let lan = Lan::with_mtu(&[from, to], mtu)?;
        let [a, b] = &lan.hosts[..] else { unreachable!("two ports") };
        lan.wait_ping(0, 1)?;
        // A frame of exactly the MTU, which nobody may cut.
        let whole = format!("ping -M do -s {} -c 3 -i 0.2 -W 5 {}", mtu - 28, b.address);
        a.ns.run(&whole).with_context(|| lan.switch.stderr())?;

        let _server = Server::start(&b.ns)?;
        for offloads in [true, false] {
            for host in [a, b] {
                host.ns.offloads(&host.device, offloads)?;
            }
            let rate = transfer(&a.ns, &b.address, "8M", Duration::from_secs(30))?;
            // Without checksums or segments it is next to nothing.
            ensure!(rate > 5e6, "mtu {mtu}: {:.1} Mbit/s with offloads {offloads}", rate / 1e6);
        }
        echo(&a.ns, &b.ns, &b.address, usize::try_from(mtu)?).with_context(|| format!("UDP at {mtu}"))?;
        let stats = lan.stats()?;
        // Super-frames came, and were cut here, where the egress takes none.
        let cut = matches!(from, Kind::Netdev | Kind::Tap) && matches!(to, Kind::Stream | Kind::Dgram);
        ensure!((stats.ports[1].segments > 0) == cut, "{:?}", stats.ports[1]);
        for port in stats.ports.iter().chain([&stats.total]) {
            ensure!(port.balance(), "{port:?}");
            let harmless = ["full", "down"];
            let bad = port
                .refused
                .iter()
                .find(|(name, number)| **number != 0 && !harmless.contains(&name.as_str()));
            ensure!(bad.is_none() && port.drops["bad_offload"] == 0, "{port:?}");
        }
    }
    Ok(())
}

/// Datagrams of every size there and back again, with every byte.
fn echo(from: &Netns, to: &Netns, address: &str, mtu: usize) -> Result<()> {
    let bind = |ns: &Netns| -> Result<UdpSocket> {
        let socket = ns.enter(|| UdpSocket::bind("0.0.0.0:7000"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    };
    let (near, far) = (bind(from)?, bind(to)?);
    let mut buffer = vec![0; 65_536];
    // The largest that fits one frame, one more, and four frames' worth.
    for len in [0, 1, 17, 1000, mtu - 28, mtu - 27, 4 * mtu] {
        let sent: Vec<u8> = (0..=u8::MAX).cycle().skip(len % 7).take(len).collect();
        near.send_to(&sent, format!("{address}:7000"))?;
        let (got, peer) = far.recv_from(&mut buffer).with_context(|| format!("{len} bytes out"))?;
        ensure!(buffer[..got] == sent, "{len} bytes out");
        far.send_to(&sent, peer)?;
        let got = near.recv(&mut buffer).with_context(|| format!("{len} bytes back"))?;
        ensure!(buffer[..got] == sent, "{len} bytes back");
    }
    Ok(())
}

macro_rules! pairs {
    ($($name:ident = $from:ident, $to:ident;)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            pass(Kind::$from, Kind::$to)
        })+
    };
}

pairs! {
    netdev_to_netdev = Netdev, Netdev;
    netdev_to_tap = Netdev, Tap;
    netdev_to_stream = Netdev, Stream;
    netdev_to_dgram = Netdev, Dgram;
    tap_to_netdev = Tap, Netdev;
    tap_to_tap = Tap, Tap;
    tap_to_stream = Tap, Stream;
    tap_to_dgram = Tap, Dgram;
    stream_to_netdev = Stream, Netdev;
    stream_to_tap = Stream, Tap;
    stream_to_stream = Stream, Stream;
    stream_to_dgram = Stream, Dgram;
    dgram_to_netdev = Dgram, Netdev;
    dgram_to_tap = Dgram, Tap;
    dgram_to_stream = Dgram, Stream;
    dgram_to_dgram = Dgram, Dgram;
}

/// One switch with all of them.
#[test]
fn all_kinds_reach_each_other_on_one_switch() -> Result<()> {
    require!(root, tun, "ping");
    let lan = Lan::new(&[Kind::Netdev, Kind::Tap, Kind::PlainTap, Kind::Stream, Kind::Dgram])?;
    for from in 0..5 {
        for to in (0..5).filter(|to| *to != from) {
            lan.wait_ping(from, to)?;
        }
    }
    Ok(())
}
