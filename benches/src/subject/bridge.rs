//! The kernel's bridge, without addresses, STP or multicast snooping: what
//! remains is forwarding.

use anyhow::Result;

use vswitch_tests::netns::Netns;

use super::Running;

pub(super) fn start(ns: &Netns, ports: [&str; 2]) -> Result<Running> {
    ns.run("ip link add br0 type bridge stp_state 0 mcast_snooping 0")?;
    for port in ports {
        ns.run(&format!("ip link set {port} master br0"))?;
        ns.up(port)?;
    }
    ns.up("br0")?;
    Ok(Running::default())
}
