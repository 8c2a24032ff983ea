//! From the text of `lab.toml` to a [`Lab`].
//!
//! Keys that the file format has and this version does not build are refused
//! at their place with "not available in this version"; they are never taken
//! and ignored. `docs/vlab.md` has the grammar; a guest's keys are read in
//! `guest_keys`, what holds between guests is checked in `check`.

use std::net::Ipv4Addr;
use std::path::Path;

use toml::de::DeTable;
use vswitch::port::PortSpec;

use super::guest_keys::{Context, read_guest};
use super::reader::{Item, Keys, LabError, Source};
use super::{Lab, Link, Network, check};
use crate::link::has_vhost_user;
use crate::names::{self, NAME_LEN_MAX, NETWORK_LEN_MAX, Subnet};

/// Reads `text`, which stands in `file` (named in errors) inside `folder`
/// (absolute: relative paths start there, and its name is the lab's where the
/// file gives none).
pub fn parse(text: &str, file: &Path, folder: &Path) -> Result<Lab, LabError> {
    let source = Source { file, text };
    let table = DeTable::parse(text)
        .map_err(|e| source.fault(e.span().map_or(0, |span| span.start), e.message().trim_end()))?;
    let top = Keys::new(source, table.get_ref(), 0, "the lab");
    if let Some(version) = top.item("version") {
        version.integer(1..=1)?;
    }
    let name = match top.item("name") {
        Some(item) => {
            let name = item.text()?;
            check_name(name, NAME_LEN_MAX, "lab").map_err(|e| item.fault(e))?;
            name.to_owned()
        }
        None => names::to_name(&folder.file_name().unwrap_or_default().to_string_lossy()),
    };
    let networks = entries(top.item("networks"), "networks")?
        .into_iter()
        .map(|(name, at, item)| {
            check_name(name, NETWORK_LEN_MAX, "network").map_err(|e| source.fault(at, e))?;
            read_network(name, &item)
        })
        .collect::<Result<Vec<_>, _>>()?;

    let context = |guest| Context { lab: &name, guest, folder, networks: &networks };
    let defaults = match top.item("defaults") {
        None => None,
        Some(item) => {
            // Read for its own sake first, so that its faults are found at
            // their place even where every guest overrides them.
            read_guest(&item.table("defaults")?, &context("defaults"))?;
            Some(item.raw_table()?)
        }
    };
    let mut guests = Vec::new();
    for (guest, at, item) in entries(top.item("guests"), "guests")? {
        check_name(guest, NAME_LEN_MAX, "guest").map_err(|e| source.fault(at, e))?;
        let keys = item.table(format!("guest {guest}"))?.or(defaults);
        let read = read_guest(&keys, &context(guest))?.ok_or_else(|| {
            source.fault(
                at,
                format!("guest {guest} boots from nothing: give it `base`, `disk` or `kernel`, or put `base` into [defaults]"),
            )
        })?;
        guests.push((at, read));
    }
    top.finish()?;
    if guests.is_empty() {
        return Err(top.fault("there is no guest: add [guests.NAME]"));
    }
    check::between(&mut guests, &networks, source)?;
    let guests = guests.into_iter().map(|(_, guest)| guest).collect();
    Ok(Lab { name, networks, guests })
}

fn entries<'a>(item: Option<Item<'a>>, what: &str) -> Result<Vec<(&'a str, usize, Item<'a>)>, LabError> {
    item.map_or(Ok(Vec::new()), |item| Ok(item.table(what)?.entries()))
}

fn check_name(name: &str, len_max: usize, what: &str) -> Result<(), String> {
    if names::is_name(name, len_max) {
        return Ok(());
    }
    Err(format!(
        "`{name}` cannot name a {what}: use a letter, then letters, digits and `-`, in lower case, at most {len_max}"
    ))
}

fn read_network(name: &str, item: &Item<'_>) -> Result<Network, LabError> {
    let keys = item.table(format!("network {name}"))?;
    let link = match keys.item("link") {
        Some(link) => link.word(&[
            ("auto", Some(Link::Auto)),
            ("tap", Some(Link::Tap)),
            ("vhost-user", has_vhost_user().then_some(Link::VhostUser)),
            ("stream", Some(Link::Stream)),
            ("dgram", Some(Link::Dgram)),
        ])?,
        None => Link::Auto,
    };
    let subnet = match keys.item("subnet") {
        Some(item) => Some(Subnet::parse(item.text()?).map_err(|e| item.fault(e))?),
        None => None,
    };
    let mtu = match keys.item("mtu") {
        // 68 is what IPv4 asks of any link; 65521 the most that a TAP takes.
        Some(item) => u16::try_from(item.integer(68..=65_521)?).unwrap_or(u16::MAX),
        None => 1500,
    };
    let host = keys.item("host").map(|item| read_host(&item, name, subnet)).transpose()?;
    let mut ports = Vec::new();
    for port in keys.item("ports").map_or(Ok(Vec::new()), |item| item.list())? {
        if port.is_text() {
            port.text()?.parse::<PortSpec>().map_err(|e| port.fault(e.to_string()))?;
        } else {
            port.raw_table()?;
        }
        ports.push(port.value()?);
    }
    let mut switch = toml::Table::new();
    for (key, at, value) in entries(keys.item("switch"), "switch")? {
        if matches!(key, "name" | "control" | "owner") {
            return Err(keys.fault_at(at, format!("vlab sets `{key}` of its switches: leave it out")));
        }
        switch.insert(key.to_owned(), value.value()?);
    }
    keys.finish()?;
    Ok(Network { name: name.to_owned(), link, subnet, mtu, host, ports, switch })
}

fn read_host(item: &Item<'_>, network: &str, subnet: Option<Subnet>) -> Result<Ipv4Addr, LabError> {
    let text = item.text()?;
    let address: Ipv4Addr =
        text.parse().map_err(|_| item.fault(format!("`host` is an IPv4 address, not `{text}`")))?;
    match subnet {
        Some(subnet) if subnet.holds(address) => Ok(address),
        Some(subnet) => Err(item.fault(format!("{address} is no host address of {network}'s {subnet}"))),
        None => Err(item.fault(format!("network {network} has no `subnet`, which `host` is an address of"))),
    }
}
