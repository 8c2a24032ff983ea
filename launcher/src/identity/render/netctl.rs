//! netctl profiles, called as in the tutorial: `dhcp` is the internet, `local`
//! the first lab network; further ones are `local-NET`.

use super::super::{Assigned, File, Identity, Interface};
use super::link_file;

const UNITS: &str = "/etc/systemd/system";

pub fn files(identity: &Identity) -> Vec<File> {
    let mut files = Vec::new();
    let mut labs = 0;
    for interface in &identity.interfaces {
        let profile = if interface.name == "internet" {
            "dhcp".to_owned()
        } else {
            labs += 1;
            if labs == 1 { "local".to_owned() } else { format!("local-{}", interface.name) }
        };
        files.push(File::text(format!("/etc/netctl/{profile}"), text(interface)));
        // What `netctl enable` writes.
        files.push(File::link(
            format!("{UNITS}/multi-user.target.wants/netctl@{profile}.service"),
            "/usr/lib/systemd/system/netctl@.service",
        ));
        let device = &interface.device;
        files.push(File::text(
            format!("{UNITS}/netctl@{profile}.service.d/profile.conf"),
            format!(
                "[Unit]\nBindsTo=sys-subsystem-net-devices-{device}.device\nAfter=sys-subsystem-net-devices-{device}.device\n"
            ),
        ));
        files.push(link_file(interface));
    }
    files
}

fn text(interface: &Interface) -> String {
    let mut text = format!("Interface={}\nConnection=ethernet\n", interface.device);
    text.push_str(&match interface.address {
        Assigned::Dhcp => "IP=dhcp\n".to_owned(),
        Assigned::Static(address, prefix_len) => {
            format!("IP=static\nAddress=('{address}/{prefix_len}')\n")
        }
        Assigned::None => "IP=no\n".to_owned(),
    });
    if interface.mtu != 1500 {
        text.push_str(&format!(
            "ExecUpPost='ip link set {} mtu {} || true'\n",
            interface.device, interface.mtu
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::example;
    use super::*;

    #[test]
    fn the_tutorials_profiles() {
        let files = files(&example());
        let at = |path: &str| files.iter().find(|file| file.path == path).unwrap().content.clone();
        assert_eq!(
            at("/etc/netctl/dhcp"),
            super::super::super::Content::Text("Interface=ens3\nConnection=ethernet\nIP=dhcp\n".to_owned())
        );
        assert_eq!(
            at("/etc/netctl/local"),
            super::super::super::Content::Text(
                "Interface=ens4\nConnection=ethernet\nIP=static\nAddress=('192.168.1.150/24')\n".to_owned()
            )
        );
        assert!(files.iter().any(|file| file.path == "/etc/netctl/local-dmz"));
    }
}
