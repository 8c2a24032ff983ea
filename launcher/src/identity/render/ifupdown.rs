//! ifupdown: one file that `/etc/network/interfaces` sources.

use std::net::Ipv4Addr;

use super::super::{Assigned, File, Identity};
use super::link_file;

pub fn files(identity: &Identity) -> Vec<File> {
    let mut text = String::new();
    let mut files = Vec::new();
    for interface in &identity.interfaces {
        let device = &interface.device;
        text.push_str(&format!("# {}: {}\nauto {device}\n", interface.name, interface.mac));
        text.push_str(&match interface.address {
            Assigned::Dhcp => format!("iface {device} inet dhcp\n"),
            Assigned::Static(address, prefix_len) => {
                // busybox's ifup takes no prefix behind the address.
                let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0));
                format!("iface {device} inet static\n    address {address}\n    netmask {mask}\n")
            }
            Assigned::None => {
                format!("iface {device} inet manual\n    up ip link set {device} up\n")
            }
        });
        if interface.mtu != 1500 {
            text.push_str(&format!("    pre-up ip link set {device} mtu {}\n", interface.mtu));
        }
        files.push(link_file(interface));
    }
    files.insert(0, File::text("/etc/network/interfaces.d/vlab", text));
    files
}

#[cfg(test)]
mod tests {
    use super::super::super::{Content, example};
    use super::*;

    #[test]
    fn stanzas() {
        let zero = example();
        let Content::Text(text) = &files(&zero)[0].content else { panic!("a file") };
        assert!(
            text.contains("auto ens4\niface ens4 inet static\n    address 192.168.1.150\n    netmask 255.255.255.0\n# dmz"),
            "{text}"
        );
        assert!(text.contains(
            "iface ens5 inet manual\n    up ip link set ens5 up\n    pre-up ip link set ens5 mtu 9000\n"
        ));
    }
}
