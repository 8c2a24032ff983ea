//! What must hold between guests: nothing that can exist once is claimed
//! twice. Automatic addresses are chosen here, as only here all that is taken
//! is known, and then the placeholders of kernel command lines are filled in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::reader::{LabError, Source};
use super::{Address, Boot, Guest, Link, Model, Network, Ready};
use crate::host_leg;

/// Checks `guests` (each with its place in the file) against each other and
/// completes them.
pub fn between(
    guests: &mut [(usize, Guest)],
    networks: &[Network],
    source: Source<'_>,
) -> Result<(), LabError> {
    claimed_once(guests, source)?;
    leave_the_host_its_own(guests, networks, source)?;
    fit_their_links(guests, networks, source)?;
    can_be_ready(guests, source)?;
    choose_addresses(guests, networks, source)?;
    for (at, guest) in guests {
        fill_placeholders(guest).map_err(|e| source.fault(*at, e))?;
    }
    Ok(())
}

fn claimed_once(guests: &[(usize, Guest)], source: Source<'_>) -> Result<(), LabError> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    let mut claim = |at: usize, guest, what: String| match owners.insert(what.clone(), guest) {
        None => Ok(()),
        Some(first) if first == guest => Err(source.fault(at, format!("guest {guest} has {what} twice"))),
        Some(first) => Err(source.fault(at, format!("guests {first} and {guest} both have {what}"))),
    };
    for (at, guest) in guests {
        for nic in &guest.nics {
            claim(*at, &guest.name, format!("MAC {}", nic.mac))?;
            if let Some(ifname) = &nic.ifname {
                claim(*at, &guest.name, format!("interface {ifname}"))?;
            }
            if let Address::Static(address) = nic.address {
                claim(*at, &guest.name, format!("address {address} on {}", nic.network))?;
            }
        }
        if let Boot::Disk(path) = &guest.boot {
            claim(*at, &guest.name, format!("disk {}", path.display()))?;
        }
        for forward in &guest.forwards {
            let kind = if forward.udp { "udp" } else { "tcp" };
            claim(*at, &guest.name, format!("host port {}:{}/{kind}", forward.ip, forward.host))?;
        }
        if let Some(port) = guest.ssh_port {
            claim(*at, &guest.name, format!("host port {}:{port}/tcp", Ipv4Addr::LOCALHOST))?;
        }
    }
    let bases: Vec<&PathBuf> = guests
        .iter()
        .filter_map(|(_, guest)| match &guest.boot {
            Boot::Base(path, _) => Some(path),
            Boot::Disk(_) | Boot::Kernel { .. } => None,
        })
        .collect();
    for (at, guest) in guests {
        if let Boot::Disk(path) = &guest.boot
            && bases.contains(&path)
        {
            let message = format!("{} is other guests' base and must not be written", path.display());
            return Err(source.fault(*at, format!("disk of guest {}: {message}", guest.name)));
        }
    }
    Ok(())
}

/// Where the host has a leg, its address and its port's name are taken.
fn leave_the_host_its_own(
    guests: &[(usize, Guest)],
    networks: &[Network],
    source: Source<'_>,
) -> Result<(), LabError> {
    for network in networks {
        let Some(host) = network.host else { continue };
        for (at, guest) in guests {
            let mut nics = guest.nics.iter().filter(|nic| nic.network == network.name).peekable();
            if nics.peek().is_some() && guest.name == host_leg::NAME {
                let message = format!("network {} calls the host itself so (`host`)", network.name);
                return Err(
                    source.fault(*at, format!("guest {}: {message}: choose another name", guest.name))
                );
            }
            if nics.any(|nic| nic.address == Address::Static(host)) {
                let message = format!("{host} is the host's own address on {} (`host`)", network.name);
                return Err(source.fault(*at, format!("guest {}: {message}", guest.name)));
            }
        }
    }
    Ok(())
}

/// A frame comes only by a cable that is in.
fn can_be_ready(guests: &[(usize, Guest)], source: Source<'_>) -> Result<(), LabError> {
    for (at, guest) in guests {
        if guest.ready == Ready::Frame && !guest.nics.iter().any(|nic| nic.carrier) {
            let message = "`ready` waits for a frame, and no NIC of it has its cable in: choose running";
            return Err(source.fault(*at, format!("guest {}: {message}", guest.name)));
        }
    }
    Ok(())
}

/// What only some links have is not asked of others.
fn fit_their_links(
    guests: &[(usize, Guest)],
    networks: &[Network],
    source: Source<'_>,
) -> Result<(), LabError> {
    for (at, guest) in guests {
        for nic in &guest.nics {
            let Some(network) = networks.iter().find(|network| network.name == nic.network) else { continue };
            let fault = |text: String| Err(source.fault(*at, format!("guest {}: {text}", guest.name)));
            if nic.queues > 1 {
                let missing = match (network.link, nic.model, &nic.ifname) {
                    (Link::Tap | Link::Stream | Link::Dgram, ..) => Some("link vhost-user"),
                    (Link::Auto | Link::VhostUser, Model::Virtio, None) => None,
                    (Link::Auto | Link::VhostUser, Model::Virtio, Some(_)) => Some("no `ifname`"),
                    (Link::Auto | Link::VhostUser, ..) => Some("model virtio"),
                };
                if let Some(missing) = missing {
                    return fault(format!("`queues` of its NIC on {} needs {missing}", network.name));
                }
            }
            let link = match network.link {
                Link::Auto | Link::Tap => continue,
                Link::VhostUser if nic.model != Model::Virtio => {
                    return fault(format!(
                        "network {} has link vhost-user, which joins model virtio only: \
                         leave `model` out, or choose link stream",
                        network.name
                    ));
                }
                Link::VhostUser => "vhost-user",
                Link::Stream => "stream",
                Link::Dgram => "dgram",
            };
            if nic.ifname.is_some() {
                return fault(format!(
                    "network {} has link {link}, without interfaces: leave `ifname` out, or choose link tap",
                    network.name
                ));
            }
        }
    }
    Ok(())
}

fn choose_addresses(
    guests: &mut [(usize, Guest)],
    networks: &[Network],
    source: Source<'_>,
) -> Result<(), LabError> {
    for network in networks {
        let mut taken: Vec<Ipv4Addr> = guests
            .iter()
            .flat_map(|(_, guest)| &guest.nics)
            .filter(|nic| nic.network == network.name)
            .filter_map(|nic| match nic.address {
                Address::Static(address) => Some(address),
                Address::Auto | Address::Dhcp | Address::None => None,
            })
            .chain(network.host)
            .collect();
        for (at, guest) in &mut *guests {
            for nic in &mut guest.nics {
                if nic.network != network.name || nic.address != Address::Auto {
                    continue;
                }
                let Some(subnet) = network.subnet else {
                    nic.address = Address::None;
                    continue;
                };
                let address = subnet.choose(nic.mac, &taken).ok_or_else(|| {
                    source.fault(*at, format!("{subnet} has no address left for {}", guest.name))
                })?;
                taken.push(address);
                nic.address = Address::Static(address);
            }
        }
    }
    Ok(())
}

/// `{name}`, `{NET.address}` and `{NET.mac}` of a kernel command line.
fn fill_placeholders(guest: &mut Guest) -> Result<(), String> {
    let Boot::Kernel { cmdline, .. } = &mut guest.boot else { return Ok(()) };
    let mut filled = String::new();
    let mut rest = cmdline.as_str();
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        let close = rest[open..].find('}').ok_or("`{` without `}` in `cmdline`")? + open;
        let word = &rest[open + 1..close];
        filled.push_str(&placeholder(word, &guest.name, &guest.nics)?);
        rest = &rest[close + 1..];
    }
    filled.push_str(rest);
    *cmdline = filled;
    Ok(())
}

fn placeholder(word: &str, name: &str, nics: &[super::Nic]) -> Result<String, String> {
    if word == "name" {
        return Ok(name.to_owned());
    }
    let unknown = || format!("`{{{word}}}` in `cmdline` is none of {{name}}, {{NET.address}}, {{NET.mac}}");
    let (net, what) = word.rsplit_once('.').ok_or_else(unknown)?;
    let nic = nics
        .iter()
        .find(|nic| nic.net() == net)
        .ok_or_else(|| format!("`{{{word}}}` in `cmdline`: guest {name} has no NIC on {net}"))?;
    match (what, nic.address) {
        ("mac", _) => Ok(nic.mac.to_string()),
        ("address", Address::Static(address)) => Ok(address.to_string()),
        ("address", Address::Auto | Address::Dhcp | Address::None) => {
            Err(format!("`{{{word}}}` in `cmdline`: that NIC has no fixed address"))
        }
        _ => Err(unknown()),
    }
}
