//! The keys of ports and of the switch: one table for files, flags, port
//! specifications and requests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::error::Fault;
use super::places::uid_of_user;
use super::trigger::Trigger;
use super::value::{Value, nearest};
use super::{Config, Isolation, Keys, PortConfig};
use crate::port::{Kind, PortSpec, SOCKET_PATH_MAX, is_socket_path, parse_address};

/// Keys of a port of any kind.
pub const PORT_KEYS: &[&str] = &[
    "name",
    "mtu",
    "isolated",
    "locked",
    "learning",
    "flood",
    "bcast_flood",
    "mcast_flood",
    "max_macs",
    "transparent",
    "takeover",
];

/// Keys of `[switch]`.
pub const SWITCH_KEYS: &[&str] = &[
    "name",
    "control",
    "owner",
    "ageing",
    "fdb_size",
    "transparent",
    "pad_runts",
    "busy_poll",
    "fast_path",
    "recorder",
    "recorder_trigger",
    "recorder_write",
    "isolation",
    "metrics",
];

/// Keys of `[switch]` that a running switch can change.
pub const LIVE_KEYS: &[&str] = &["ageing", "transparent", "pad_runts", "busy_poll", "fast_path"];

/// The longest ageing time: the bound of 802.1Q table 8-6.
const AGEING_MAX: Duration = Duration::from_secs(1_000_000);

/// A longer spin would only heat the room: an idle second is idle.
const BUSY_POLL_MAX: Duration = Duration::from_secs(1);

/// A recorder smaller than this may have no room for one burst and its ports' names;
/// a larger one than that is a slip of the finger.
const RECORDER_MIN: u64 = 4 << 20;
const RECORDER_MAX: u64 = 64 << 30;

/// The word for a `dgram:` port's peer that is not said beforehand.
const ANYBODY: &str = "auto";
/// The word for a socket that is the switch's owner's.
const OWNER_OF_SWITCH: &str = "switch";
/// The word for a `tap:` port without an address of the host's.
const NO_ADDRESS: &str = "none";
/// The word for a socket that others connect to.
const SERVER: &str = "server";
/// The most queue pairs of a vhost-user port.
const QUEUES_MAX: u32 = crate::port::QUEUES_MAX;

/// Keys that only ports of `kind` have.
const fn kind_keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Tap => &["offloads", "address"],
        Kind::Stream => &["mode", "owner"],
        Kind::Dgram => &["peer", "owner"],
        Kind::VhostUser => &["queues", "mode", "owner"],
        Kind::Auto | Kind::Netdev => &[],
    }
}

/// Whether ports of `kind` have `key`.
pub(super) fn is_port_key(key: &str, kind: Kind) -> bool {
    PORT_KEYS.contains(&key) || kind_keys(kind).contains(&key)
}

/// Reads `KIND:TARGET[,key=value]...`.
pub(super) fn port_of_spec(text: &str) -> Result<PortConfig, Fault> {
    let mut spec: PortSpec = text.parse().map_err(|e: crate::port::ParseSpecError| {
        Fault::new(
            e.to_string(),
            "a port is NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value",
        )
    })?;
    let options = std::mem::take(&mut spec.options);
    let mut port = PortConfig::new(spec);
    for (key, value) in options {
        set_port_key(&mut port, &key, &Value::Text(value))?;
    }
    Ok(port)
}

/// Sets one key of `port`.
pub(super) fn set_port_key(port: &mut PortConfig, key: &str, value: &Value) -> Result<(), Fault> {
    let flags = &mut port.flags;
    match key {
        "name" => value.text(key)?.clone_into(&mut port.name),
        "mtu" => port.mtu = unless(value, "auto", |value| value.number(key, 68..=65_535))?,
        "isolated" => flags.isolated = value.bool(key)?,
        "locked" => flags.locked = value.bool(key)?,
        "learning" => flags.learning = value.bool(key)?,
        "flood" => flags.flood = value.bool(key)?,
        "bcast_flood" => flags.bcast_flood = value.bool(key)?,
        "mcast_flood" => flags.mcast_flood = value.bool(key)?,
        "max_macs" => flags.max_macs = unless(value, "none", |value| value.number(key, 0..=1_048_575))?,
        "transparent" => flags.transparent = value.bool(key)?,
        "takeover" => port.takeover = value.bool(key)?,
        "offloads" if is_port_key(key, port.spec.kind) => {
            let word = if value.bool(key)? { "on" } else { "off" };
            set_option(&mut port.spec, key, word, "on");
        }
        "address" if is_port_key(key, port.spec.kind) => {
            let text = value.text(key)?;
            if text == NO_ADDRESS || parse_address(text).is_some() {
                set_option(&mut port.spec, key, text, NO_ADDRESS);
            } else {
                let fix = "write ADDRESS/PREFIX, as in 192.168.1.1/24";
                return Err(Fault::new(format!("`address` cannot be `{}`", text.escape_debug()), fix));
            }
        }
        "mode" if is_port_key(key, port.spec.kind) => {
            let mode = value.text(key)?;
            if !matches!(mode, "server" | "client") {
                return Err(Fault::new(format!("`mode` cannot be `{mode}`"), "write server or client"));
            }
            set_option(&mut port.spec, key, mode, SERVER);
        }
        "peer" if is_port_key(key, port.spec.kind) => {
            let path = value.text(key)?;
            if path == ANYBODY || is_socket_path(path) && !path.contains(',') {
                set_option(&mut port.spec, key, path, ANYBODY);
            } else {
                let fix = format!("write the path of a socket, at most {SOCKET_PATH_MAX} bytes");
                return Err(Fault::new(format!("`peer` cannot be `{}`", path.escape_debug()), fix));
            }
        }
        "owner" if is_port_key(key, port.spec.kind) => {
            if *value == Value::from(OWNER_OF_SWITCH) {
                port.spec.options.remove(key);
            } else {
                port.spec.options.insert(key.to_owned(), owner(value)?.to_string());
            }
        }
        "queues" if is_port_key(key, port.spec.kind) => {
            let queues = value.number(key, 1..=QUEUES_MAX)?;
            set_option(&mut port.spec, key, &queues.to_string(), "1");
        }
        _ => return Err(unknown_port_key(key, port.spec.kind)),
    }
    Ok(())
}

/// Sets an option of `spec`; one at its default is left out, so that saying it
/// does not make another port of it, which would be opened anew.
fn set_option(spec: &mut PortSpec, key: &str, text: &str, default: &str) {
    if text == default {
        spec.options.remove(key);
    } else {
        spec.options.insert(key.to_owned(), text.to_owned());
    }
}

impl PortConfig {
    /// Every key of the port with its value, as requests and files give them.
    pub fn keys(&self) -> Keys {
        let flags = &self.flags;
        let number =
            |number: Option<u32>, word| number.map_or(Value::from(word), |n| Value::Number(n.into()));
        let mut keys: Keys = [
            ("name", Value::from(self.name.as_str())),
            ("mtu", number(self.mtu, "auto")),
            ("isolated", Value::Bool(flags.isolated)),
            ("locked", Value::Bool(flags.locked)),
            ("learning", Value::Bool(flags.learning)),
            ("flood", Value::Bool(flags.flood)),
            ("bcast_flood", Value::Bool(flags.bcast_flood)),
            ("mcast_flood", Value::Bool(flags.mcast_flood)),
            ("max_macs", number(flags.max_macs, "none")),
            ("transparent", Value::Bool(flags.transparent)),
            ("takeover", Value::Bool(self.takeover)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        for key in kind_keys(self.spec.kind) {
            let set = self.spec.options.get(*key).map(String::as_str);
            let value = match *key {
                "queues" => Value::Number(set.and_then(|text| text.parse().ok()).unwrap_or(1)),
                "mode" => Value::from(set.unwrap_or(SERVER)),
                "peer" => Value::from(set.unwrap_or(ANYBODY)),
                "owner" => {
                    set.and_then(|text| text.parse().ok()).map_or(Value::from(OWNER_OF_SWITCH), Value::Number)
                }
                "address" => Value::from(set.unwrap_or(NO_ADDRESS)),
                _ => Value::Bool(set.unwrap_or("on") == "on"),
            };
            keys.insert((*key).to_owned(), value);
        }
        keys
    }
}

/// Sets one key of `[switch]`.
pub(super) fn set_switch_key(config: &mut Config, key: &str, value: &Value) -> Result<(), Fault> {
    match key {
        "name" => value.text(key)?.clone_into(&mut config.name),
        "control" => config.control = PathBuf::from(value.text(key)?),
        "owner" => config.owner = owner(value)?,
        "ageing" => config.settings.ageing = value.duration(key, AGEING_MAX)?,
        "fdb_size" => config.settings.fdb_size = value.number(key, 1..=1_048_575)?,
        "transparent" => config.settings.transparent = value.bool(key)?,
        "pad_runts" => config.pad_runts = value.bool(key)?,
        "busy_poll" => config.busy_poll = value.duration(key, BUSY_POLL_MAX)?,
        "fast_path" => config.fast_path = value.bool(key)?,
        "recorder" => config.recorder = value.size(key, RECORDER_MIN..=RECORDER_MAX)?,
        "recorder_trigger" => {
            config.recorder_trigger = unless(value, "off", |value| Trigger::parse(value.text(key)?))?;
        }
        "recorder_write" => {
            config.recorder_write = unless(value, "off", |value| Ok(PathBuf::from(value.text(key)?)))?;
        }
        "isolation" => config.isolation = isolation(value)?,
        "metrics" => config.metrics = metrics(value)?,
        _ => return Err(unknown_key(key, SWITCH_KEYS, "in [switch]")),
    }
    Ok(())
}

/// A key that is in none of `known`, with the one that was probably meant.
pub(super) fn unknown_key(key: &str, known: &[&str], place: &str) -> Fault {
    let message = format!("unknown key `{}` {place}", key.escape_debug());
    match nearest(key, known) {
        Some(meant) => Fault::new(message, format!("did you mean `{meant}`?")),
        None => Fault::new(message, format!("keys: {}", known.join(", "))),
    }
}

fn unknown_port_key(key: &str, kind: Kind) -> Fault {
    let own = kind_keys(kind);
    let others = [Kind::Tap, Kind::VhostUser, Kind::Stream, Kind::Dgram].into_iter();
    if let Some(other) = others.filter(|other| *other != kind).find(|other| kind_keys(*other).contains(&key))
    {
        return Fault::new(format!("only {}: ports have `{key}`", other.prefix()), "leave it out");
    }
    unknown_key(key, &[PORT_KEYS, own].concat(), "of a port")
}

/// `None` for the word that means "not set".
fn unless<T>(
    value: &Value,
    word: &str,
    read: impl Fn(&Value) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    if *value == Value::from(word) { Ok(None) } else { read(value).map(Some) }
}

fn owner(value: &Value) -> Result<u32, Fault> {
    let uid = match value {
        Value::Number(uid) => u32::try_from(*uid).ok(),
        Value::Text(user) => user.parse().ok().or_else(|| uid_of_user(user)),
        Value::Bool(_) => None,
    };
    // -1 means "leave it as it is" to chown and "nobody in particular" to TUNSETOWNER.
    uid.filter(|uid| *uid != u32::MAX).ok_or_else(|| {
        Fault::new(format!("no user `{value}` in /etc/passwd"), "write the uid instead: id -u USER")
    })
}

fn isolation(value: &Value) -> Result<Isolation, Fault> {
    [Isolation::Auto, Isolation::Clsact, Isolation::Off]
        .into_iter()
        .find(|isolation| *value == Value::from(isolation.name()))
        .ok_or_else(|| Fault::new(format!("`isolation` cannot be `{value}`"), "write auto, clsact or off"))
}

/// An address to serve metrics at; a port alone is one of the loopback's, which
/// nobody else reaches.
fn metrics(value: &Value) -> Result<Option<SocketAddr>, Fault> {
    let loopback = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let address = match value {
        Value::Text(text) if text == "off" => return Ok(None),
        Value::Text(text) => {
            let port = text.strip_prefix(':').unwrap_or(text).parse().map(loopback).ok();
            text.parse().ok().or(port)
        }
        Value::Number(port) => u16::try_from(*port).ok().map(loopback),
        Value::Bool(_) => None,
    };
    address.map(Some).ok_or_else(|| {
        let fix = "write an address and a port, as 127.0.0.1:9436 or [::1]:9436, or off";
        Fault::new(format!("`metrics` cannot be `{value}`"), fix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_at_the_loopback_unless_told_otherwise() {
        let read = |text: &str| metrics(&Value::from(text)).map(|at| at.map(|at| at.to_string()));
        for (text, address) in [
            ("9436", "127.0.0.1:9436"),
            (":9436", "127.0.0.1:9436"),
            ("0.0.0.0:9436", "0.0.0.0:9436"),
            ("[::1]:9436", "[::1]:9436"),
        ] {
            assert_eq!(read(text), Ok(Some(address.to_owned())));
        }
        assert_eq!(read("off"), Ok(None));
        assert_eq!(metrics(&Value::Number(9436)), Ok(Some(([127, 0, 0, 1], 9436).into())));
        for bad in ["", "on", "localhost", "127.0.0.1", "1.2.3.4:99999", "::1:5"] {
            assert!(read(bad).unwrap_err().fix.contains("127.0.0.1:9436"), "{bad}");
        }
    }

    #[test]
    fn what_is_at_its_default_is_as_if_it_was_not_said() {
        for (text, plain) in [
            ("tap:t1,offloads=on", "tap:t1"),
            ("tap:t1,address=none", "tap:t1"),
            ("stream:/a.sock,mode=server,owner=switch", "stream:/a.sock"),
            ("dgram:/a.sock,peer=auto", "dgram:/a.sock"),
            ("vhost-user:/a.sock,queues=1,mode=server", "vhost-user:/a.sock"),
        ] {
            assert_eq!(port_of_spec(text), port_of_spec(plain), "{text}");
            // Nor does it matter that each is said.
            let mut port = port_of_spec(plain).unwrap();
            for (key, value) in port.keys() {
                set_port_key(&mut port, &key, &value).unwrap();
            }
            assert_eq!(Ok(port), port_of_spec(plain), "{plain}");
        }
        let mut port = port_of_spec("tap:t1,offloads=off").unwrap();
        set_port_key(&mut port, "offloads", &Value::Bool(true)).unwrap();
        assert_eq!(port.spec.to_string(), "tap:t1");
    }

    #[test]
    fn ports_read_back_the_keys_and_the_text_they_give() {
        for text in [
            "tap0",
            "tap:t1,offloads=off,name=uplink,mtu=9000,max_macs=0",
            "tap:t2,address=192.168.1.1/24",
            "tap:t3,address=fd00::1/64",
            "stream:/run/a.sock,mode=client,mtu=9000",
            "dgram:/run/b.sock,peer=/run/c.sock,name=zero",
            "netdev:eth0,isolated=on,locked=on,learning=off,flood=off,bcast_flood=off,mcast_flood=off,\
             transparent=on,takeover=on,max_macs=64",
            "vhost-user:/run/x/a.sock",
            "vhost-user:/run/x/a.sock,queues=2,mode=client,name=b",
            "stream:/run/a.sock,owner=65534",
        ] {
            let port = port_of_spec(text).unwrap();
            assert_eq!(port_of_spec(&port.to_string()), Ok(port.clone()), "{port}");

            let mut again = PortConfig::new(PortSpec { options: Default::default(), ..port.spec.clone() });
            let keys = port.keys();
            assert!(PORT_KEYS.iter().all(|key| keys.contains_key(*key)), "{keys:?}");
            for (key, value) in &keys {
                set_port_key(&mut again, key, value).unwrap();
            }
            assert_eq!(again.keys(), keys);
            assert_eq!((&again.name, again.mtu, again.flags), (&port.name, port.mtu, port.flags));
        }
    }
}
