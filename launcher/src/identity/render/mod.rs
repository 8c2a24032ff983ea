//! A guest's own network configuration, one file here for each kind there is.
//!
//! netctl and ifupdown know interfaces by name only; for them udev is told, by a
//! `.link` file, to name the interface with that MAC so.

mod ifupdown;
mod netctl;
mod netplan;
pub mod networkd;
mod networkmanager;

use serde::Serialize;

use super::{File, Identity, Interface};

/// A kind of network configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Renderer {
    /// Arch Linux's profiles, the tutorial's.
    Netctl,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager's keyfiles.
    NetworkManager,
    /// Netplan.
    Netplan,
    /// Debian's `interfaces`.
    Ifupdown,
}

impl Renderer {
    /// All of them, with their names in lab files and on the command line.
    pub const ALL: [(&'static str, Renderer); 5] = [
        ("netctl", Renderer::Netctl),
        ("networkd", Renderer::Networkd),
        ("networkmanager", Renderer::NetworkManager),
        ("netplan", Renderer::Netplan),
        ("ifupdown", Renderer::Ifupdown),
    ];
}

/// The files that configure the interfaces of `identity`, and start them at
/// boot.
pub fn files(identity: &Identity, renderer: Renderer) -> Vec<File> {
    match renderer {
        Renderer::Netctl => netctl::files(identity),
        Renderer::Networkd => networkd::files(identity),
        Renderer::NetworkManager => networkmanager::files(identity),
        Renderer::Netplan => netplan::files(identity),
        Renderer::Ifupdown => ifupdown::files(identity),
    }
}

/// Names the interface by its MAC (systemd.link(5)).
fn link_file(interface: &Interface) -> File {
    File::text(
        format!("/etc/systemd/network/10-vlab-{}.link", interface.device),
        format!("[Match]\nPermanentMACAddress={}\n\n[Link]\nName={}\n", interface.mac, interface.device),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Content, example};
    use super::*;

    #[test]
    fn every_kind_knows_every_interface_by_its_mac() {
        let zero = example();
        for (name, renderer) in Renderer::ALL {
            let files = files(&zero, renderer);
            let all: String = files
                .iter()
                .map(|file| match &file.content {
                    Content::Text(text) => text.as_str(),
                    Content::Link(_) => "",
                })
                .collect();
            for interface in &zero.interfaces {
                let mac = interface.mac.to_string();
                assert!(all.to_lowercase().contains(&mac), "{name} does not know {}", interface.name);
            }
            assert!(all.contains("192.168.1.150"), "{name}: {all}");
            assert!(files.iter().all(|file| file.path.starts_with("/etc/")), "{name}");
            let again = super::files(&zero, renderer);
            assert_eq!(again, files, "{name}");
        }
    }
}
