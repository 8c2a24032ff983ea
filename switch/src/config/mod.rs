//! Configuration: a passive value. Start-up and live change are one thing,
//! [`diff`] of an old and a new [`Config`], applied by whoever owns the switch.
//!
//! Read in this order: this file (the value), `keys` (what may be written for
//! it), `file` and `flags` (from where), `check` (what is refused), `diff`.
//!
//! Deliberately absent: opening anything. A `Config` that passes
//! [`check`](Config::check) can still name an interface that does not exist.

mod check;
mod describe;
mod diff;
mod edit;
mod error;
mod file;
mod flags;
mod keys;
mod places;
mod trigger;
mod value;
mod write;

pub use crate::port::SOCKET_PATH_MAX;
pub use check::NAME_LEN_MAX;
pub use describe::{describe, needs_restart};
pub use diff::{Change, diff};
pub use error::{ConfigError, Origin};
pub use flags::Flags;
pub use keys::{LIVE_KEYS, PORT_KEYS, SWITCH_KEYS};
pub use places::{Invoker, uid_of_user, user_of_uid};
pub use trigger::Trigger;
pub use value::{Value, duration_text, parse_duration, parse_size, size_text};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bridge::{PortSettings, Settings};
use crate::frame::{MacAddr, VlanId};
use crate::port::{Kind, PortSpec};

/// Keys with their values, as a control message carries them.
pub type Keys = BTreeMap<String, Value>;

/// Everything a switch is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The switch's name: `[A-Za-z0-9._-]`, 1 … 32 bytes.
    pub name: String,
    /// The control socket.
    pub control: PathBuf,
    /// Uid that owns the TAPs we make and the control socket.
    pub owner: u32,
    /// What the bridge must know.
    pub settings: Settings,
    /// Pad frames under 60 bytes with zeroes.
    pub pad_runts: bool,
    /// How long to spin after the last frame before sleeping.
    pub busy_poll: Duration,
    /// Let the kernel forward between known stations of `netdev` ports.
    pub fast_path: bool,
    /// Bytes in which the last frames are kept; 0: no recorder.
    pub recorder: u64,
    /// What makes the recorder write a file by itself.
    pub recorder_trigger: Option<Trigger>,
    /// The directory of such files.
    pub recorder_write: Option<PathBuf>,
    /// How `netdev` ports are kept apart from the host's own stack.
    pub isolation: Isolation,
    /// Where metrics are read, if they are.
    pub metrics: Option<SocketAddr>,
    /// Ports, in the order of their creation.
    pub ports: Vec<PortConfig>,
    /// Static FDB entries.
    pub fdb: Vec<StaticEntry>,
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Unique in the switch; `[A-Za-z0-9._-]`, 1 … 32 bytes.
    pub name: String,
    /// Kind and target; of the options only those of that kind.
    pub spec: PortSpec,
    /// Bytes; `None`: what the device has.
    pub mtu: Option<u32>,
    /// Take an interface although the host uses it.
    pub takeover: bool,
    /// What the bridge must know.
    pub flags: PortSettings,
}

/// An address bound to a port by hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticEntry {
    /// A unicast address.
    pub mac: MacAddr,
    /// The VLAN; 0 on a VLAN-unaware switch.
    pub vid: VlanId,
    /// The port's name.
    pub port: String,
    /// Frames from `mac` on another port do not move it, and are counted as spoofed.
    pub sticky: bool,
}

/// How `netdev` ports are kept apart from the host's own stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// TCX links; clsact where the kernel has none.
    #[default]
    Auto,
    /// A clsact qdisc with the same program.
    Clsact,
    /// Not at all.
    Off,
}

impl Isolation {
    /// The word in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Isolation::Auto => "auto",
            Isolation::Clsact => "clsact",
            Isolation::Off => "off",
        }
    }
}

impl Config {
    /// The switch `default` of `invoker`, without ports.
    pub fn new(invoker: &Invoker) -> Config {
        Config {
            name: "default".to_owned(),
            control: invoker.control("default"),
            owner: invoker.owner,
            settings: Settings::default(),
            pad_runts: false,
            busy_poll: invoker.busy_poll(),
            fast_path: true,
            recorder: 0,
            recorder_trigger: None,
            recorder_write: None,
            isolation: Isolation::Auto,
            metrics: None,
            ports: Vec::new(),
            fdb: Vec::new(),
        }
    }

    /// The same switch before anything was done: no ports, no spin, defaults
    /// elsewhere. What a running switch cannot change is kept.
    #[must_use]
    pub fn empty(&self) -> Config {
        Config {
            name: self.name.clone(),
            control: self.control.clone(),
            owner: self.owner,
            settings: Settings { fdb_size: self.settings.fdb_size, ..Settings::default() },
            pad_runts: false,
            busy_poll: Duration::ZERO,
            fast_path: true,
            recorder: self.recorder,
            recorder_trigger: self.recorder_trigger.clone(),
            recorder_write: self.recorder_write.clone(),
            isolation: self.isolation,
            metrics: self.metrics,
            ports: Vec::new(),
            fdb: Vec::new(),
        }
    }

    /// The port called `name`.
    pub fn port(&self, name: &str) -> Option<&PortConfig> {
        self.ports.iter().find(|port| port.name == name)
    }
}

impl PortConfig {
    /// A port as the device gives it, named after its target's stem.
    pub fn new(spec: PortSpec) -> PortConfig {
        let name = match spec.kind {
            Kind::Auto | Kind::Netdev | Kind::Tap => spec.target.clone(),
            Kind::VhostUser | Kind::Stream | Kind::Dgram => Path::new(&spec.target)
                .file_stem()
                .map_or_else(|| spec.target.clone(), |stem| stem.to_string_lossy().into_owned()),
        };
        PortConfig { name, spec, mtu: None, takeover: false, flags: PortSettings::default() }
    }
}
