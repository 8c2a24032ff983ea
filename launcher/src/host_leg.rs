//! The host's own leg on a network: one more port of its switch, on a TAP whose
//! other side is the host's stack. Pure.
//!
//! The switch makes the TAP, gives it the address and holds it, so that the leg
//! is gone as soon as the switch is, however that ends.

use crate::lab::{Lab, Network};
use crate::names;
use crate::state::PortRecord;

/// What the port is called, and the name by which guests find the host; a
/// guest beside it cannot have it.
pub const NAME: &str = "host";

/// The interface that the host has on `network`.
pub fn interface(uid: u32, lab: &str, network: &Network) -> String {
    // A colon keeps it apart from a guest of that name.
    names::interface(uid, lab, &network.name, ":host")
}

/// The port for `network`, where it has a host's leg.
pub fn port(uid: u32, lab: &Lab, network: &Network) -> Option<PortRecord> {
    let address = network.host?;
    let prefix_len = network.subnet?.prefix_len;
    let interface = interface(uid, &lab.name, network);
    Some(PortRecord { spec: format!("tap:{interface},address={address}/{prefix_len}"), mtu: network.mtu })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_leg_has_the_networks_prefix_and_a_name_of_its_own() {
        let text = "[networks.lan]\nsubnet = \"10.0.0.0/22\"\nhost = \"10.0.1.1\"\n[networks.dmz]\n\
            [guests.lan]\nkernel = \"k\"\nnics = [\"lan\"]\n";
        let lab = crate::lab::parse(text, Path::new("lab.toml"), Path::new("/l/ping")).unwrap();
        let spec = port(1000, &lab, &lab.networks[0]).unwrap().spec;
        let parsed: vswitch::port::PortSpec = spec.parse().unwrap();
        assert_eq!(parsed.options["address"], "10.0.1.1/22");
        assert!(parsed.target.starts_with("vl-lan-"), "{spec}");
        assert_ne!(parsed.target, lab.guests[0].nics[0].interface(1000, "ping", "lan"));
        assert_eq!(port(1000, &lab, &lab.networks[1]), None);
    }
}
