//! Why a port cannot be opened, with what to do about it.
//!
//! Deliberately absent: the search for the reason (`open`).

use std::io;

use super::socket_file::SocketFileError;

/// The `setcap` line that gives a program every right it needs.
const SETCAP: &str = "sudo setcap cap_net_admin,cap_net_raw,cap_bpf+ep $(command -v vswitch)";

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such interface.
    #[error("there is no interface {name}{}; a bare {name} makes a TAP of that name", list(there))]
    Missing {
        /// The interface.
        name: String,
        /// The Ethernet interfaces that there are.
        there: Vec<String>,
    },
    /// A right is missing.
    #[error(
        "{action} needs {capability}\n  once:    {SETCAP}\n  or:      run it with sudo\n  no root: vlab up, or --port stream:PATH"
    )]
    Permission {
        /// What was being done.
        action: String,
        /// The capability.
        capability: &'static str,
    },
    /// /dev/net/tun itself cannot be opened.
    #[error("opening /dev/net/tun: {error}\n  {}", tun_fix(error))]
    NoTun {
        /// What the kernel said.
        error: io::Error,
    },
    /// Somebody else holds the descriptor.
    #[error("{holder} holds {name}; did you mean --port {name}?")]
    Busy {
        /// The interface.
        name: String,
        /// The process, if it can be told.
        holder: String,
    },
    /// The host uses the interface.
    #[error("{name} {use_}: free it with {fix}, or add takeover=true")]
    InUse {
        /// The interface.
        name: String,
        /// Why, as a verb and its object.
        use_: String,
        /// The command that frees it.
        fix: String,
    },
    /// Another switch made the TAP.
    #[error("{name} belongs to switch {other}: stop that switch, or remove the TAP with ip link del {name}")]
    OtherSwitch {
        /// The interface.
        name: String,
        /// The other switch.
        other: String,
    },
    /// `tap:` on something else.
    #[error("{0} is no TAP: did you mean --port netdev:{0}?")]
    NotTap(String),
    /// `address=` on a TAP that was there before.
    #[error(
        "{name} is there already: only a TAP that the switch makes is given an address; leave it out, and: ip addr add {address} dev {name}"
    )]
    NotOurs {
        /// The interface.
        name: String,
        /// The address.
        address: String,
    },
    /// A TUN, or a TAP whose queues are several descriptors.
    #[error(
        "{0} is a TUN, or a TAP with several queues: a port holds neither; make a plain one with ip tuntap add {0} mode tap"
    )]
    OtherTun(String),
    /// The loopback interface, a tunnel of layer 3.
    #[error("{0} carries no Ethernet frames: a port needs an interface that ip link shows as link/ether")]
    NotEthernet(String),
    /// The socket cannot be made.
    #[error("{path}: {}", socket_fix(error))]
    Socket {
        /// Its path.
        path: String,
        /// What is in the way.
        error: SocketFileError,
    },
    /// An option that this kind of port does not know.
    #[error("{0}")]
    Option(String),
    /// Anything else.
    #[error("{action}: {error}")]
    Os {
        /// What was being done.
        action: String,
        /// What the kernel said.
        error: io::Error,
    },
}

fn tun_fix(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "everywhere else all may: sudo chmod 0666 /dev/net/tun",
        _ => "load the driver: sudo modprobe tun; in a container, start it with --device /dev/net/tun",
    }
}

fn socket_fix(error: &SocketFileError) -> String {
    match error {
        SocketFileError::InUse { pid } => {
            let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            format!("another process listens there{pid}\n  end it, or choose another path")
        }
        SocketFileError::NotASocket => {
            "it exists and is not a socket\n  remove it, or choose another path".to_owned()
        }
        SocketFileError::Owner { owner } => {
            format!("cannot give it to uid {owner}\n  run as root, or leave `owner` out")
        }
        SocketFileError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            "its directory does not exist\n  make it, or choose another path".to_owned()
        }
        SocketFileError::Io(error) => error.to_string(),
    }
}

/// Names shown of the interfaces that there are.
const NAMES_MAX: usize = 16;

fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [_, ..] if names.len() > NAMES_MAX => format!("; there are: {}, …", names[..NAMES_MAX].join(", ")),
        [_, ..] => format!("; there are: {}", names.join(", ")),
    }
}

/// There is no interface `name`; says which there are instead.
pub(super) fn missing(name: &str) -> OpenError {
    // By getifaddrs(3), and not over netlink: this must answer whatever failed.
    let all = pnet_datalink::interfaces().into_iter();
    let ethernet = all.filter(|interface| interface.mac.is_some() && !interface.is_loopback());
    let mut there: Vec<String> = ethernet.map(|interface| interface.name).collect();
    there.sort_unstable();
    there.dedup();
    OpenError::Missing { name: name.to_owned(), there }
}

/// Explains an error number of `action`, which needs `capability`.
pub(super) fn explain(action: String, capability: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::Permission { action, capability },
        _ => OpenError::Os { action, error },
    }
}

pub(super) const NET_ADMIN: &str = "CAP_NET_ADMIN";
pub(super) const NET_RAW: &str = "CAP_NET_RAW";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_names_those_there_are() {
        let text = |there: Vec<String>| OpenError::Missing { name: "eth9".to_owned(), there }.to_string();
        let end = "a bare eth9 makes a TAP of that name";
        assert_eq!(text(Vec::new()), format!("there is no interface eth9; {end}"));
        let two = vec!["eth0".to_owned(), "tap0".to_owned()];
        assert_eq!(text(two), format!("there is no interface eth9; there are: eth0, tap0; {end}"));
        let many: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
        assert!(text(many).contains("e14, e15, …; a bare"));
    }
}
