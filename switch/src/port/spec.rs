//! Port specifications as users type them: `KIND:TARGET[,key=value]...`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// How a port reaches its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A bare interface name: the netdev side of a TAP that is made if missing.
    Auto,
    /// `netdev:`: the netdev side of an interface that exists.
    Netdev,
    /// `tap:`: the file descriptor side of a TAP.
    Tap,
    /// `stream:`: a unix stream socket, as QEMU's `-netdev stream`.
    Stream,
    /// `dgram:`: a unix datagram socket, as QEMU's `-netdev dgram`.
    Dgram,
    /// `vhost-user:`: a guest's virtqueues, by a unix socket.
    VhostUser,
}

impl Kind {
    /// The word before the colon; empty for a bare name.
    pub const fn prefix(self) -> &'static str {
        match self {
            Kind::Auto => "",
            Kind::Netdev => "netdev",
            Kind::Tap => "tap",
            Kind::Stream => "stream",
            Kind::Dgram => "dgram",
            Kind::VhostUser => "vhost-user",
        }
    }

    /// The kind that `show` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Auto | Kind::Netdev => "netdev",
            Kind::Tap => "tap",
            Kind::Stream => "stream",
            Kind::Dgram => "dgram",
            Kind::VhostUser => "vhost-user",
        }
    }

    /// Whether its target is the path of a unix socket, and no interface.
    pub const fn is_socket(self) -> bool {
        match self {
            Kind::Auto | Kind::Netdev | Kind::Tap => false,
            Kind::Stream | Kind::Dgram | Kind::VhostUser => true,
        }
    }
}

/// A port as the user names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// How the device is reached.
    pub kind: Kind,
    /// The interface's name, or the socket's path.
    pub target: String,
    /// `key=value` pairs behind the target, as typed.
    pub options: BTreeMap<String, String>,
}

/// Text that names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSpecError {
    /// The word before the colon is unknown.
    #[error(
        "unknown port kind `{0}`: use NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH"
    )]
    Kind(String),
    /// The interface name is empty, too long, or has a forbidden character.
    #[error("`{0}` cannot name an interface: use 1 to 15 bytes without `/`, `:`, `%` and spaces")]
    Interface(String),
    /// The path of a socket is empty, too long, or has a NUL.
    #[error("`{0}` cannot be the path of a socket: use 1 to {SOCKET_PATH_MAX} bytes")]
    Path(String),
    /// An option without `=`.
    #[error("`{0}` is not KEY=VALUE")]
    Option(String),
    /// The same key twice.
    #[error("`{0}` is given twice")]
    Twice(String),
}

/// Whether the kernel's `dev_valid_name` takes `name`, and no format character
/// (`%d` makes the kernel choose a number) is in it.
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%' | b','))
}

/// The longest path of a unix socket, in bytes: `sun_path` without its NUL.
pub const SOCKET_PATH_MAX: usize = 107;

/// Whether a unix socket can be at `path`.
pub fn is_socket_path(path: &str) -> bool {
    (1..=SOCKET_PATH_MAX).contains(&path.len()) && !path.contains('\0')
}

/// Reads `ADDRESS/PREFIX` as a host on its network: 192.168.1.1/24, fd00::1/64.
pub fn parse_address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix_len) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix_len: u8 = prefix_len.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let for_one = !address.is_unspecified() && !address.is_multicast();
    (for_one && (1..=bits).contains(&prefix_len)).then_some((address, prefix_len))
}

impl FromStr for PortSpec {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<PortSpec, ParseSpecError> {
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let (kind, target) = match place.split_once(':') {
            None => (Kind::Auto, place),
            Some(("netdev", target)) => (Kind::Netdev, target),
            Some(("tap", target)) => (Kind::Tap, target),
            Some(("stream", target)) => (Kind::Stream, target),
            Some(("dgram", target)) => (Kind::Dgram, target),
            Some(("vhost-user", target)) => (Kind::VhostUser, target),
            Some((kind, _)) => return Err(ParseSpecError::Kind(kind.to_owned())),
        };
        if kind.is_socket() {
            if !is_socket_path(target) {
                return Err(ParseSpecError::Path(target.escape_debug().to_string()));
            }
        } else if !is_interface_name(target) {
            return Err(ParseSpecError::Interface(target.to_owned()));
        }
        let mut options = BTreeMap::new();
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| ParseSpecError::Option(part.to_owned()))?;
            if options.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(ParseSpecError::Twice(key.to_owned()));
            }
        }
        Ok(PortSpec { kind, target: target.to_owned(), options })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Auto => f.write_str(&self.target)?,
            Kind::Netdev | Kind::Tap | Kind::Stream | Kind::Dgram | Kind::VhostUser => {
                write!(f, "{}:{}", self.kind.prefix(), self.target)?
            }
        }
        for (key, value) in &self.options {
            write!(f, ",{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_read_back_what_they_print() {
        for text in [
            "tap0",
            "netdev:eth1",
            "tap:t0",
            "netdev:eth1,isolated=true,max_macs=64",
            "stream:/run/user/1000/a b.sock",
            "dgram:a.sock,peer=/b/c.sock",
            "vhost-user:/run/a.sock,queues=2",
        ] {
            assert_eq!(text.parse::<PortSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn addresses_are_a_hosts_on_its_network() {
        assert_eq!(parse_address("192.168.1.1/24"), Some(([192, 168, 1, 1].into(), 24)));
        assert_eq!(parse_address("fd00::1/64").map(|(_, prefix_len)| prefix_len), Some(64));
        for text in ["", "192.168.1.1", "192.168.1.1/33", "192.168.1.1/0", "0.0.0.0/8", "224.0.0.1/4", "a/24"]
        {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "",
            "../x",
            "sixteen-letters-",
            "a\0b",
            "%d",
            "tap:",
            "netdev:a b",
            "foo:tap0",
            "vhost-user:",
            "vhost-user:a\0b",
            "tap0,x",
            "tap0,a=1,a=2",
            "stream:",
            "dgram:a\0b",
        ] {
            assert!(text.parse::<PortSpec>().is_err(), "{text:?}");
        }
        let fits = format!("stream:/{}", "x".repeat(SOCKET_PATH_MAX - 1));
        assert!(fits.parse::<PortSpec>().is_ok());
        let error = format!("{fits}x").parse::<PortSpec>().unwrap_err().to_string();
        assert!(error.ends_with("use 1 to 107 bytes"), "{error}");
    }
}
