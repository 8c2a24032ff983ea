//! Writing a [`Config`] as vswitch.toml: what [`Config::from_toml`] reads back.

use std::fmt::Write as _;

use super::{Config, PortConfig, duration_text};
use crate::bridge::PortSettings;
use crate::frame::VlanId;

impl Config {
    /// The whole configuration as TOML, every key of the switch spelled out.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("ports = [\n");
        for port in &self.ports {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {},", quoted(&port.to_string()));
        }
        let settings = &self.settings;
        let _ = write!(
            text,
            "]\n\n[switch]\nname = {}\ncontrol = {}\nowner = {}\nageing = \"{}\"\nfdb_size = {}\n\
             transparent = {}\npad_runts = {}\nbusy_poll = \"{}\"\nfast_path = {}\nrecorder = \"{}\"\n\
             recorder_trigger = {}\nrecorder_write = {}\nisolation = \"{}\"\nmetrics = \"{}\"\n",
            quoted(&self.name),
            quoted(&self.control.to_string_lossy()),
            self.owner,
            duration_text(settings.ageing),
            settings.fdb_size,
            settings.transparent,
            self.pad_runts,
            duration_text(self.busy_poll),
            self.fast_path,
            self.recorder_text(),
            quoted(&self.trigger_text()),
            quoted(&self.recordings_text()),
            self.isolation.name(),
            self.metrics.map_or_else(|| "off".to_owned(), |at| at.to_string()),
        );
        for entry in &self.fdb {
            let _ = write!(text, "\n[[fdb]]\nmac = \"{}\"\nport = {}\n", entry.mac, quoted(&entry.port));
            if entry.vid != VlanId::UNAWARE {
                let _ = writeln!(text, "vid = {}", entry.vid);
            }
            if entry.sticky {
                text.push_str("sticky = true\n");
            }
        }
        text
    }
}

/// The specification with every option that is not the default: what
/// `--port` reads back as the same port.
impl std::fmt::Display for PortConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.spec.fmt(f)?;
        if self.name != PortConfig::new(self.spec.clone()).name {
            write!(f, ",name={}", self.name)?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, ",mtu={mtu}")?;
        }
        let plain = PortSettings::default();
        let flags = &self.flags;
        for (key, value, default) in [
            ("isolated", flags.isolated, plain.isolated),
            ("locked", flags.locked, plain.locked),
            ("learning", flags.learning, plain.learning),
            ("flood", flags.flood, plain.flood),
            ("bcast_flood", flags.bcast_flood, plain.bcast_flood),
            ("mcast_flood", flags.mcast_flood, plain.mcast_flood),
            ("transparent", flags.transparent, plain.transparent),
            ("takeover", self.takeover, false),
        ] {
            if value != default {
                write!(f, ",{key}={value}")?;
            }
        }
        if let Some(max) = flags.max_macs {
            write!(f, ",max_macs={max}")?;
        }
        Ok(())
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
