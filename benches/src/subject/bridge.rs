//! The kernel's bridge, without addresses, STP or multicast snooping: what
//! remains is forwarding.

use anyhow::Result;

use vswitch_tests::netns::Netns;

use super::Running;

pub(super) fn start<T: AsRef<str>>(ns: &Netns, ports: &[T]) -> Result<Running> {
    ns.run("ip link add br0 type bridge stp_state 0 mcast_snooping 0")?;
    ns.batch(ports.iter().map(|port| format!("link set {} master br0 up", port.as_ref())))?;
    ns.up("br0")?;
    let flush = "ip link set dev br0 type bridge fdb_flush".split(' ').map(String::from).collect();
    Ok(Running { flush, ..Running::default() })
}
