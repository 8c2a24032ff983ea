//! Who a guest is, and what it is told of its networks. Pure.
//!
//! One value, [`Identity`], follows from the lab; four ways tell it to a guest:
//! a [`cloud_init`] seed, systemd [`credentials`], files in the guest's own
//! network configuration ([`render`]), and those files written into a clone
//! before its first start ([`offline`]). Interfaces are matched by MAC, never
//! by a name that depends on the board.

pub mod cloud_init;
pub mod credentials;
pub mod offline;
pub mod render;

use std::net::Ipv4Addr;

use serde::Serialize;
use vswitch::frame::MacAddr;

use crate::host_leg;
use crate::lab::{Address, FIRST_LAB_SLOT, Guest, INTERNET_SLOT, Lab};
use crate::names;

/// What stands for the lab's public ssh key until it is made: the plan is
/// written before there is one.
pub const SSH_KEY: &str = "@SSH_KEY@";

/// A guest as it is told about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub hostname: String,
    /// Its UUID, of which the machine id is the digits.
    pub uuid: String,
    /// The user that the lab's key opens.
    pub user: String,
    /// Its interfaces: the internet first, then the lab's.
    pub interfaces: Vec<Interface>,
    /// Names of the lab's guests, as it reaches them.
    pub hosts: Vec<(Ipv4Addr, Vec<String>)>,
}

/// One interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// `internet`, or the network (numbered from its second NIC there).
    pub name: String,
    /// What Linux calls it by its place on the board.
    pub device: String,
    /// How it is known.
    pub mac: MacAddr,
    /// Where its address comes from.
    pub address: Assigned,
    /// Bytes.
    pub mtu: u16,
}

/// Where an interface's address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assigned {
    /// A server tells it.
    Dhcp,
    /// This one, with the length of its network's prefix.
    Static(Ipv4Addr, u8),
    /// It has none.
    None,
}

/// A file of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Its path in the guest.
    pub path: String,
    /// Its permissions.
    pub mode: u16,
    /// What it says, or where the link leads.
    pub content: Content,
}

/// What a file of a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A file with this text.
    Text(String),
    /// A symbolic link to there.
    Link(String),
}

impl File {
    /// A file that everybody may read.
    pub fn text(path: impl Into<String>, text: impl Into<String>) -> File {
        File { path: path.into(), mode: 0o644, content: Content::Text(text.into()) }
    }

    /// The same for root alone.
    pub fn secret(path: impl Into<String>, text: impl Into<String>) -> File {
        File { mode: 0o600, ..File::text(path, text) }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, to: impl Into<String>) -> File {
        File { path: path.into(), mode: 0o777, content: Content::Link(to.into()) }
    }
}

/// The identity of `guest`.
pub fn of(lab: &Lab, guest: &Guest) -> Identity {
    let mut interfaces = Vec::new();
    if guest.internet {
        interfaces.push(Interface {
            name: "internet".to_owned(),
            device: guest.interface_name(INTERNET_SLOT),
            mac: names::mac(&lab.name, &guest.name, ":internet"),
            address: Assigned::Dhcp,
            mtu: 1500,
        });
    }
    for (position, nic) in guest.nics.iter().enumerate() {
        let network = lab.networks.iter().find(|network| network.name == nic.network);
        let prefix_len = network.and_then(|network| network.subnet).map_or(32, |subnet| subnet.prefix_len);
        interfaces.push(Interface {
            name: nic.net(),
            device: guest.interface_name(FIRST_LAB_SLOT + position),
            mac: nic.mac,
            address: match nic.address {
                Address::Static(address) => Assigned::Static(address, prefix_len),
                Address::Dhcp => Assigned::Dhcp,
                Address::Auto | Address::None => Assigned::None,
            },
            mtu: network.map_or(1500, |network| network.mtu),
        });
    }
    Identity {
        hostname: guest.hostname.clone(),
        uuid: names::uuid(&lab.name, &guest.name),
        user: guest.ssh_user.clone(),
        interfaces,
        hosts: hosts(lab, guest),
    }
}

/// Names of the guests on `guest`'s networks, its own with them: `one.lan` on
/// each network, and plain `one` where it is reached first. The host itself is
/// `host.lan` where it takes part.
fn hosts(lab: &Lab, guest: &Guest) -> Vec<(Ipv4Addr, Vec<String>)> {
    let mut hosts = Vec::new();
    for other in &lab.guests {
        let mut plain = Some(other.name.clone());
        for nic in &other.nics {
            let reached = guest.nics.iter().any(|own| own.network == nic.network);
            if let (true, Address::Static(address)) = (reached, nic.address) {
                let mut names = vec![format!("{}.{}", other.name, nic.net())];
                names.extend(plain.take());
                hosts.push((address, names));
            }
        }
    }
    for network in &lab.networks {
        let reached = guest.nics.iter().any(|own| own.network == network.name);
        if let Some(address) = network.host.filter(|_| reached) {
            hosts.push((address, vec![format!("{}.{}", host_leg::NAME, network.name)]));
        }
    }
    hosts
}

impl Identity {
    /// The machine id: 32 digits that only this guest has.
    pub fn machine_id(&self) -> String {
        self.uuid.replace('-', "")
    }

    /// Lines for `/etc/hosts`.
    pub fn hosts_lines(&self) -> String {
        self.hosts.iter().map(|(address, names)| format!("{address} {}\n", names.join(" "))).collect()
    }
}

#[cfg(test)]
pub(crate) fn example() -> Identity {
    let text = "name = \"ping\"\n[networks.lan]\nsubnet = \"192.168.1.0/24\"\n[networks.dmz]\nmtu = 9000\n\
        [defaults]\nbase = \"b\"\n[guests.zero]\nnics = [{ network = \"lan\", address = \"192.168.1.150\" }, \"dmz\"]\n\
        [guests.one]\nnics = [{ network = \"lan\", address = \"192.168.1.151\" }, { network = \"dmz\", address = \"dhcp\" }]\n";
    let lab = crate::lab::parse(text, std::path::Path::new("lab.toml"), std::path::Path::new("/l")).unwrap();
    of(&lab, &lab.guests[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_and_names_follow_from_the_lab() {
        let zero = example();
        let seen: Vec<_> =
            zero.interfaces.iter().map(|it| (it.name.as_str(), it.device.as_str(), it.address)).collect();
        assert_eq!(
            seen,
            [
                ("internet", "ens3", Assigned::Dhcp),
                ("lan", "ens4", Assigned::Static(Ipv4Addr::new(192, 168, 1, 150), 24)),
                ("dmz", "ens5", Assigned::None),
            ]
        );
        assert_eq!(zero.hosts_lines(), "192.168.1.150 zero.lan zero\n192.168.1.151 one.lan one\n");
        let text = "[networks.lan]\nsubnet = \"10.0.0.0/24\"\nhost = \"10.0.0.1\"\n\
            [guests.a]\nkernel = \"k\"\nnics = [{ network = \"lan\", address = \"10.0.0.2\" }]\n";
        let lab =
            crate::lab::parse(text, std::path::Path::new("lab.toml"), std::path::Path::new("/l")).unwrap();
        assert_eq!(of(&lab, &lab.guests[0]).hosts_lines(), "10.0.0.2 a.lan a\n10.0.0.1 host.lan\n");
        assert!(zero.machine_id().len() == 32 && !zero.machine_id().contains('-'));
    }
}
