//! Opening what a change adds before it closes anything. A device that is closed
//! may be gone with all that its user did to it (a `tap:` port's has addresses),
//! so that nothing is closed for a change that is refused after all.
//!
//! Deliberately absent: frames. What is opened here joins the switch when what
//! it replaces has left: two uplinks at a time would be a loop.

use std::net::IpAddr;
use std::path::Path;

use super::{ApplyError, Leaving, Supervisor};
use crate::bridge::PORTS_MAX;
use crate::config::{Change, PortConfig};
use crate::port::{Opened, PortSpec, parse_address};

/// Ports that are open and not in the switch yet, by name.
#[derive(Debug, Default)]
pub(super) struct Early(Vec<(String, Opened)>);

impl Early {
    /// What was opened for `change`.
    pub fn take(&mut self, change: &Change) -> Option<Opened> {
        let Change::AddPort(port) = change else { return None };
        let position = self.0.iter().position(|(name, _)| *name == port.name)?;
        Some(self.0.swap_remove(position).1)
    }

    /// Closes what nobody took.
    pub fn close(self) {
        let mut leaving = Leaving::default();
        for (name, Opened { port, device, .. }) in self.0 {
            leaving.ports.extend(port);
            leaving.devices.push((name, device));
        }
        // The refusal is what is told.
        let _ = leaving.close();
    }
}

impl Supervisor {
    /// Opens the ports that `changes` adds, but those that need what a port gives
    /// up which `changes` removes.
    ///
    /// # Errors
    /// The first that does not open; the others are closed again.
    pub(super) fn open_early(&self, changes: &[Change]) -> Result<Early, ApplyError> {
        let mut early = Early::default();
        if changes.iter().any(|change| matches!(change, Change::NeedsRestart(_))) {
            return Ok(early);
        }
        let removed: Vec<&PortConfig> = (changes.iter())
            .filter_map(|change| if let Change::RemovePort(name) = change { Some(name) } else { None })
            .filter_map(|name| self.config.port(name))
            .collect();
        // There are no more places on the fast path than ports.
        let room = PORTS_MAX.saturating_sub(self.config.ports.len());
        let added = (changes.iter())
            .filter_map(|change| if let Change::AddPort(port) = change { Some(port) } else { None })
            .filter(|port| !removed.iter().any(|removed| excludes(port, removed)));
        for port in added.take(room) {
            match self.open_to_add(port) {
                Ok(opened) => early.0.push((port.name.clone(), opened)),
                Err(error) => {
                    early.close();
                    return Err(error);
                }
            }
        }
        Ok(early)
    }
}

/// Whether two ports cannot both be open: they have one device, or one address.
fn excludes(one: &PortConfig, other: &PortConfig) -> bool {
    let (one, other) = (&one.spec, &other.spec);
    let same_device = one.kind.is_socket() == other.kind.is_socket()
        // `/run//a.sock` is `/run/a.sock`.
        && Path::new(&one.target) == Path::new(&other.target);
    same_device || address(one).is_some_and(|address_of_one| address(other) == Some(address_of_one))
}

/// The host's address that a port gives to its device.
fn address(spec: &PortSpec) -> Option<IpAddr> {
    spec.options.get("address").and_then(|text| parse_address(text)).map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Invoker, Keys};

    fn port(spec: &str) -> PortConfig {
        let invoker =
            Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 2 };
        Config::new(&invoker).with_port(spec, &Keys::new()).unwrap().ports.remove(0)
    }

    #[test]
    fn only_what_exchanges_a_device_or_an_address_has_to_wait() {
        for (one, other, waits) in [
            ("tap0", "netdev:tap0,name=b", true),
            ("tap:tap0,name=a", "netdev:tap0", true),
            ("tap0,name=a", "tap1,name=a", false),
            ("tap:t0,address=10.0.0.1/24", "tap:t1,address=10.0.0.1/16", true),
            ("tap:t0,address=10.0.0.1/24", "tap:t1,address=10.0.0.2/24", false),
            ("tap:t0", "tap:t1", false),
            ("stream:/run/a.sock", "dgram:/run//a.sock", true),
            ("stream:/run/a.sock", "stream:/run/b.sock", false),
        ] {
            assert_eq!(excludes(&port(one), &port(other)), waits, "{one} {other}");
            assert_eq!(excludes(&port(other), &port(one)), waits, "{other} {one}");
        }
    }
}
