//! The kernel's bridge, without addresses, STP or multicast snooping: what
//! remains is forwarding.

use anyhow::Result;

use super::Running;
use crate::wiring::Wiring;

pub(super) fn start(wiring: &Wiring) -> Result<Running> {
    let ns = &wiring.switch_ns;
    ns.run("ip link add br0 type bridge stp_state 0 mcast_snooping 0")?;
    for port in wiring.ports {
        ns.run(&format!("ip link set {port} master br0"))?;
        ns.up(port)?;
    }
    ns.up("br0")?;
    Ok(Running::default())
}
