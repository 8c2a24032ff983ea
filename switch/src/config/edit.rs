//! Live changes: each makes a new [`Config`] out of the running one, checked
//! whole, so that nothing is ever half applied.

use super::error::Fault;
use super::keys::{port_of_spec, set_port_key, set_switch_key};
use super::{Config, ConfigError, Keys, LIVE_KEYS, Origin, PortConfig, StaticEntry};
use crate::frame::{MacAddr, VlanId};

impl Config {
    /// With one port more: a specification, and keys that win over its own.
    ///
    /// # Errors
    /// What cannot be read, or clashes with the ports there are.
    pub fn with_port(&self, spec: &str, keys: &Keys) -> Result<Config, ConfigError> {
        self.edited(|config| {
            let mut port = port_of_spec(spec)?;
            for (key, value) in keys {
                set_port_key(&mut port, key, value)?;
            }
            config.ports.push(port);
            Ok(())
        })
    }

    /// The port called `name`.
    ///
    /// # Errors
    /// There is none; says which there are.
    pub fn known_port(&self, name: &str) -> Result<&PortConfig, ConfigError> {
        self.port(name).ok_or_else(|| self.no_port(name).at(Origin::Request))
    }

    /// Without port `name` and the addresses bound to it.
    ///
    /// # Errors
    /// There is no such port.
    pub fn without_port(&self, name: &str) -> Result<Config, ConfigError> {
        self.edited(|config| {
            config.port(name).ok_or_else(|| config.no_port(name))?;
            config.ports.retain(|port| port.name != name);
            config.fdb.retain(|entry| entry.port != name);
            Ok(())
        })
    }

    /// With other settings of port `name`.
    ///
    /// # Errors
    /// There is no such port, a key is unknown or its value is wrong.
    pub fn with_port_keys(&self, name: &str, keys: &Keys) -> Result<Config, ConfigError> {
        self.edited(|config| {
            let missing = config.no_port(name);
            let port = config.ports.iter_mut().find(|port| port.name == name).ok_or(missing)?;
            for (key, value) in keys {
                if key == "name" {
                    let fix = format!("vswitch port del {name}, then vswitch port add with name=");
                    return Err(Fault::new("a port keeps its name for life", fix));
                }
                set_port_key(port, key, value)?;
            }
            Ok(())
        })
    }

    /// With other settings of the switch.
    ///
    /// # Errors
    /// A key is unknown or needs a restart, or its value is wrong.
    pub fn with_keys(&self, keys: &Keys) -> Result<Config, ConfigError> {
        self.edited(|config| {
            for (key, value) in keys {
                set_switch_key(config, key, value)?;
                if !LIVE_KEYS.contains(&key.as_str()) {
                    let fix = format!("restart it with vswitch run --{} {value}", key.replace('_', "-"));
                    return Err(Fault::new(format!("`{key}` cannot change in a running switch"), fix));
                }
            }
            Ok(())
        })
    }

    /// With `entry` bound, in the place of an older binding of its address.
    ///
    /// # Errors
    /// It names no port, or no station's address.
    pub fn with_static(&self, entry: StaticEntry) -> Result<Config, ConfigError> {
        self.edited(|config| {
            config.fdb.retain(|other| (other.mac, other.vid) != (entry.mac, entry.vid));
            config.fdb.push(entry);
            Ok(())
        })
    }

    /// Without the binding of `mac`; the same if there is none.
    #[must_use]
    pub fn without_static(&self, mac: MacAddr, vid: VlanId) -> Config {
        let mut config = self.clone();
        config.fdb.retain(|entry| (entry.mac, entry.vid) != (mac, vid));
        config
    }

    fn edited(&self, edit: impl FnOnce(&mut Config) -> Result<(), Fault>) -> Result<Config, ConfigError> {
        let mut config = self.clone();
        edit(&mut config).map_err(|fault| fault.at(Origin::Request))?;
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, Invoker, Value};
    use super::*;

    fn config() -> Config {
        let invoker =
            Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 2 };
        Config::from_flags(&Flags::default(), &invoker).unwrap()
    }

    fn keys(pairs: &[(&str, Value)]) -> Keys {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    #[test]
    fn edits_make_a_new_configuration() {
        let config = config();
        let more = config.with_port("tap2,mtu=9000", &keys(&[("isolated", Value::Bool(true))])).unwrap();
        assert_eq!(more.port("tap2").map(|port| (port.mtu, port.flags.isolated)), Some((Some(9000), true)));
        assert_eq!(more.without_port("tap2").unwrap(), config);

        let set = config
            .with_port_keys("tap0", &keys(&[("mtu", Value::Number(1400)), ("flood", "off".into())]))
            .unwrap();
        assert_eq!(set.port("tap0").map(|port| (port.mtu, port.flags.flood)), Some((Some(1400), false)));
        let reset =
            set.with_port_keys("tap0", &keys(&[("mtu", "auto".into()), ("flood", "on".into())])).unwrap();
        assert_eq!(reset, config);

        let hub = config.with_keys(&keys(&[("ageing", "0s".into())])).unwrap();
        assert!(hub.settings.ageing.is_zero());
    }

    #[test]
    fn a_binding_replaces_the_older_one_and_goes_with_its_port() {
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let on = |port: &str| StaticEntry { mac, vid: VlanId::UNAWARE, port: port.to_owned(), sticky: true };
        let bound = config().with_static(on("tap0")).unwrap().with_static(on("tap1")).unwrap();
        assert_eq!(bound.fdb, [on("tap1")]);
        assert_eq!(bound.without_port("tap1").unwrap().fdb, []);
        assert_eq!(bound.without_static(mac, VlanId::UNAWARE), config());
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_fix() {
        let config = config();
        let none = Keys::new();
        for (result, expected) in [
            (
                config.with_port("tap0", &none),
                "two ports are called `tap0`\n  give one of them another name, as name=uplink",
            ),
            (config.without_port("x"), "there is no port `x`\n  ports: tap0, tap1"),
            (config.with_port_keys("x", &none), "there is no port `x`\n  ports: tap0, tap1"),
            (
                config.with_port_keys("tap0", &keys(&[("name", "b".into())])),
                "a port keeps its name for life\n  vswitch port del tap0, then vswitch port add with name=",
            ),
            (
                config.with_keys(&keys(&[("fdb_size", Value::Number(9))])),
                "`fdb_size` cannot change in a running switch\n  restart it with vswitch run --fdb-size 9",
            ),
            (
                config.with_keys(&keys(&[("agein", "9s".into())])),
                "unknown key `agein` in [switch]\n  did you mean `ageing`?",
            ),
        ] {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
    }
}
