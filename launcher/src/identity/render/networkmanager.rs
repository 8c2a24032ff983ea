//! NetworkManager: one keyfile an interface, which only root may read, else it
//! is ignored.

use super::super::{Assigned, File, Identity, Interface};
use crate::names;

pub fn files(identity: &Identity) -> Vec<File> {
    identity
        .interfaces
        .iter()
        .map(|interface| {
            let name = format!("vlab-{}", interface.name);
            let path = format!("/etc/NetworkManager/system-connections/{name}.nmconnection");
            File::secret(path, text(identity, interface, &name))
        })
        .collect()
}

fn text(identity: &Identity, interface: &Interface, name: &str) -> String {
    let uuid = names::uuid(&identity.uuid, &interface.name);
    let mut text = format!(
        "[connection]\nid={name}\nuuid={uuid}\ntype=ethernet\n\n[ethernet]\nmac-address={}\n",
        interface.mac
    );
    if interface.mtu != 1500 {
        text.push_str(&format!("mtu={}\n", interface.mtu));
    }
    text.push_str("\n[ipv4]\n");
    text.push_str(&match interface.address {
        Assigned::Dhcp => "method=auto\n".to_owned(),
        Assigned::Static(address, prefix_len) => format!("method=manual\naddress1={address}/{prefix_len}\n"),
        Assigned::None => "method=disabled\n".to_owned(),
    });
    text + "\n[ipv6]\nmethod=link-local\n"
}
