//! systemd-networkd: one `.network` file an interface.

use super::super::{Assigned, File, Identity, Interface};

/// Each interface with the text of its unit; credentials use them as well.
pub fn units(identity: &Identity) -> Vec<(&Interface, String)> {
    let unit = |interface: &Interface| {
        let mut text = format!("[Match]\nMACAddress={}\n\n", interface.mac);
        if interface.mtu != 1500 {
            text.push_str(&format!("[Link]\nMTUBytes={}\n\n", interface.mtu));
        }
        text.push_str("[Network]\n");
        text.push_str(&match interface.address {
            Assigned::Dhcp => "DHCP=ipv4\n".to_owned(),
            Assigned::Static(address, prefix_len) => format!("Address={address}/{prefix_len}\n"),
            Assigned::None => "LinkLocalAddressing=no\n".to_owned(),
        });
        text
    };
    identity.interfaces.iter().map(|interface| (interface, unit(interface))).collect()
}

/// The files, and what starts the service.
pub fn files(identity: &Identity) -> Vec<File> {
    let mut files: Vec<File> = units(identity)
        .into_iter()
        .map(|(interface, text)| {
            File::text(format!("/etc/systemd/network/10-vlab-{}.network", interface.name), text)
        })
        .collect();
    files.push(File::link(
        "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/usr/lib/systemd/system/systemd-networkd.service",
    ));
    files
}
