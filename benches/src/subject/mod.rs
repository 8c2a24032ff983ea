//! What is compared: our switch and its peers, each started on a wiring and
//! gone when dropped.

mod bridge;
mod ovs;
mod vde;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use vswitch_tests::process::{Switch, binary, resident_bytes};
use vswitch_tests::skip::find_program;

use crate::child::Daemon;
use crate::host;
use crate::wiring::{Rig, Wiring};

/// A switch to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// Ours.
    Vswitch,
    /// Ours with every frame through its own process.
    Engine,
    /// The kernel's own.
    Bridge,
    /// Open vSwitch with its userspace datapath.
    Ovs,
    /// `vde_switch`.
    Vde,
}

impl Subject {
    /// As shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Subject::Vswitch => "vswitch",
            Subject::Engine => "fast path off",
            Subject::Bridge => "kernel bridge",
            Subject::Ovs => "OVS userspace",
            Subject::Vde => "VDE",
        }
    }

    /// As its program says; empty if it is not there.
    pub(crate) fn version(self) -> String {
        match self {
            Subject::Vswitch | Subject::Engine => host::vswitch_version(),
            Subject::Bridge => host::first_line("uname", &["-r"]),
            Subject::Ovs => host::first_line("ovs-vswitchd", &["--version"]),
            Subject::Vde => host::first_line("vde_switch", &["--version"]),
        }
    }

    /// Why it cannot take part in `rig` on this machine; `None`: it can.
    pub(crate) fn absence(self, rig: Rig) -> Option<String> {
        let missing = |programs: &[&str]| {
            programs.iter().find(|p| !find_program(p)).map(|p| format!("not installed ({p})"))
        };
        match self {
            Subject::Vswitch => binary("vswitch").err().map(|error| error.to_string()),
            Subject::Engine => match rig {
                Rig::OwnedTaps => Some("`tap:` ports have no fast path".into()),
                Rig::Netns | Rig::Direct => Subject::Vswitch.absence(rig),
            },
            Subject::Bridge => None,
            Subject::Ovs => missing(&["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-tool"]),
            Subject::Vde => match rig {
                Rig::OwnedTaps => missing(&["vde_switch"]),
                Rig::Netns | Rig::Direct => Some("it has no port for an existing interface".into()),
            },
        }
    }

    /// Starts it as `wiring` says and leaves its interfaces up; `run` are
    /// further words for our own.
    pub(crate) fn start(self, wiring: &Wiring, run: &[String]) -> Result<Running> {
        match self {
            Subject::Vswitch | Subject::Engine => {
                let prefix = if wiring.owns_taps() { "tap" } else { "netdev" };
                let ports = wiring.ports.map(|port| format!("--port={prefix}:{port}"));
                let mut args: Vec<&str> = ports.iter().chain(run).map(String::as_str).collect();
                if self == Subject::Engine {
                    args.push("--fast-path=off");
                }
                let switch = Switch::start(&wiring.switch_ns, &args)?;
                Ok(Running { pids: vec![switch.pid()], switch: Some(switch), ..Running::default() })
            }
            Subject::Bridge => bridge::start(wiring),
            Subject::Ovs => ovs::start(wiring),
            Subject::Vde => vde::start(wiring),
        }
    }
}

/// A switch at work.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Processes that forward frames; none for the kernel's bridge.
    pub(crate) pids: Vec<u32>,
    switch: Option<Switch>,
    /// In the order in which they are to end.
    daemons: Vec<Daemon>,
    /// Holds their sockets; removed after them.
    _directory: Option<tempfile::TempDir>,
}

impl Running {
    /// Resident memory of its processes in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.pids.iter().map(|pid| resident_bytes(*pid)).sum()
    }

    /// An error if it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.check()?;
        }
        if let Some(switch) = &mut self.switch
            && !switch.is_running()
        {
            bail!("vswitch ended by itself: {}", switch.stderr());
        }
        Ok(())
    }
}
