//! A network's switch: its configuration, and the step that starts it.

use std::fmt::Write;
use std::path::Path;

use super::{Facts, Step, switch_name};
use crate::command::Command;
use crate::host_leg;
use crate::lab::{Guest, Lab, Network, Nic};
use crate::link::{self, Attachment};
use crate::names;
use crate::state::{HostRecord, PortRecord, SwitchRecord};

/// The configuration of the switch of `network`.
pub fn switch_toml(lab: &Lab, network: &Network, facts: &Facts) -> String {
    let mut text =
        format!("# Written by vlab for network {} of lab {}.\nports = [\n", network.name, lab.name);
    for (name, port) in ports(lab, network, facts) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "  {{ spec = {}, name = {}, mtu = {} }},",
            string(&port.spec),
            string(&name),
            port.mtu
        );
    }
    text + &settings_toml(lab, network, facts)
}

fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The ports that vlab knows by name: the guests' in their order, then the
/// host's own.
fn ports(lab: &Lab, network: &Network, facts: &Facts) -> Vec<(String, PortRecord)> {
    let guests = members(lab, network).map(|(guest, nic)| {
        let spec = Attachment::of(lab, guest, nic, facts).spec(&facts.user);
        (names::numbered(&guest.name, nic.index), PortRecord { spec, mtu: network.mtu })
    });
    let host = host_leg::port(facts.user.uid, lab, network);
    guests.chain(host.map(|port| (host_leg::NAME.to_owned(), port))).collect()
}

/// All of a switch's configuration but those ports.
fn settings_toml(lab: &Lab, network: &Network, facts: &Facts) -> String {
    let mut text = String::new();
    for port in &network.ports {
        let _ = writeln!(text, "  {},", inline(port));
    }
    let _ = writeln!(text, "]\n\n[switch]\nname = {}", string(&switch_name(&lab.name, &network.name)));
    let _ = writeln!(text, "owner = {}", string(&facts.user.uid.to_string()));
    for (key, value) in &network.switch {
        let _ = writeln!(text, "{} = {}", quote_key(key), inline(value));
    }
    text
}

fn inline(value: &toml::Value) -> String {
    match value {
        toml::Value::Table(table) => {
            let pairs: Vec<_> =
                table.iter().map(|(key, value)| format!("{} = {}", quote_key(key), inline(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        toml::Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => value.to_string(),
    }
}

fn quote_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { toml::Value::String(key.to_owned()).to_string() }
}

fn members<'l>(lab: &'l Lab, network: &'l Network) -> impl Iterator<Item = (&'l Guest, &'l Nic)> {
    lab.guests
        .iter()
        .flat_map(|guest| guest.nics.iter().map(move |nic| (guest, nic)))
        .filter(|(_, nic)| nic.network == network.name)
}

/// Starts the switch of `network`.
pub fn switch_step(lab: &Lab, network: &Network, facts: &Facts) -> Step {
    let places = &facts.places;
    let name = switch_name(&lab.name, &network.name);
    let config = places.switch_config(&network.name);
    let (out, log) = (places.switch_out(&network.name), places.switch_log(&network.name));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let argv = ["setsid", &text(&facts.vswitch), "run", "--config", &text(&config), "--name", &name];
    let command = Command {
        argv: argv.into_iter().map(str::to_owned).collect(),
        stdout: Some(out.clone()),
        log: Some(log.clone()),
    };
    let interfaces = members(lab, network)
        .filter_map(|(guest, nic)| match Attachment::of(lab, guest, nic, facts) {
            Attachment::Tap(interface) => Some(interface),
            Attachment::VhostUser { .. } | Attachment::Stream(_) | Attachment::Dgram(_) => None,
        })
        .collect();
    let record = SwitchRecord {
        network: network.name.clone(),
        name,
        link: link::words(lab, network, facts).join("+"),
        process: None,
        control: None,
        argv: command.argv.clone(),
        config,
        interfaces,
        host: network.host.map(|address| HostRecord {
            address,
            interface: host_leg::interface(facts.user.uid, &lab.name, network),
        }),
        ports: ports(lab, network, facts).into_iter().collect(),
        settings: settings_toml(lab, network, facts),
        out,
        log,
    };
    Step::Switch { record: Box::new(record), command }
}
