//! TCP inside VXLAN between two hosts: its super-frames arrive labelled as
//! plain TCP with the inner offsets, and forwarding them as they are collapses
//! to nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch_tests::iperf::{Server, transfer};
use vswitch_tests::require;

use crate::lan::{Kind, Lan};

fn through(from: Kind, to: Kind) -> Result<()> {
    require!(root, tun, "iperf3", "ping");
    let lan = Lan::new(&[from, to])?;
    lan.wait_ping(0, 1)?;
    for (here, there, address) in [(0, 1, "10.97.0.1"), (1, 0, "10.97.0.2")] {
        let (local, remote) = (&lan.hosts[here], &lan.hosts[there]);
        let (device, ns) = (&local.device, &local.ns);
        ns.run(&format!(
            "ip link add vx0 type vxlan id 7 local {} remote {} dstport 4789 dev {device}",
            local.address, remote.address
        ))?;
        ns.address("vx0", &format!("{address}/24"))?;
    }
    let [a, b] = &lan.hosts[..] else { unreachable!("two ports") };
    let answers = a.ns.ping("10.97.0.2", 10)?;
    ensure!(answers >= 9, "{answers} of 10 pings through the tunnel");
    let _server = Server::start(&b.ns)?;
    let rate = transfer(&a.ns, "10.97.0.2", "64M", Duration::from_secs(30))?;
    ensure!(rate > 50e6, "{:.1} Mbit/s through the tunnel\n{:?}", rate / 1e6, lan.stats()?);
    ensure!(lan.stats()?.total.balance(), "{:?}", lan.stats()?.total);
    Ok(())
}

#[test]
fn tcp_in_vxlan_between_netdevs() -> Result<()> {
    through(Kind::Netdev, Kind::Netdev)
}

#[test]
fn tcp_in_vxlan_between_taps() -> Result<()> {
    through(Kind::Tap, Kind::Tap)
}

#[test]
fn tcp_in_vxlan_to_a_plain_tap() -> Result<()> {
    through(Kind::Netdev, Kind::PlainTap)
}
