//! What is compared: our switch and its peers, each started on a wiring and
//! gone when dropped.

mod bridge;
mod ovs;
mod vde;

pub(crate) mod guests;
pub(crate) mod vhost;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use vswitch_tests::netns::{self, Netns};
use vswitch_tests::process::{Switch, binary, resident_bytes};
use vswitch_tests::qemu::images;
use vswitch_tests::skip::find_program;

use crate::child::Daemon;
use crate::host;
use crate::rig::{Card, Rig, Variant};
use crate::testpmd::{self, Testpmd};
use crate::wiring::Wiring;

const QEMU: &str = "qemu-system-x86_64";

/// A switch to measure.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// Ours.
    Vswitch,
    /// Ours with every frame through its own process.
    Engine,
    /// Ours, with guests on TAPs.
    Tap,
    /// Ours, with guests on stream sockets.
    Stream,
    /// Ours, with guests on datagram sockets.
    Dgram,
    /// The kernel's own.
    Bridge,
    /// Open vSwitch with its userspace datapath.
    Ovs,
    /// Open vSwitch with DPDK.
    #[value(name = "ovs-dpdk")]
    #[serde(rename = "ovs-dpdk")]
    OvsDpdk,
    /// DPDK's loop from one vhost-user socket to another.
    #[value(name = "dpdk")]
    #[serde(rename = "dpdk")]
    DpdkVhost,
    /// `vde_switch`.
    Vde,
    /// No switch: two QEMUs' datagram sockets, each the other's peer.
    Qemu,
}

impl Subject {
    /// All of them, in the order of the columns.
    pub(crate) const ALL: [Subject; 11] = [
        Subject::Vswitch,
        Subject::Engine,
        Subject::Tap,
        Subject::Stream,
        Subject::Dgram,
        Subject::Bridge,
        Subject::Ovs,
        Subject::OvsDpdk,
        Subject::DpdkVhost,
        Subject::Vde,
        Subject::Qemu,
    ];

    /// As shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Subject::Vswitch => "vswitch",
            Subject::Engine => "fast path off",
            Subject::Tap => "vswitch, TAP",
            Subject::Stream => "vswitch, stream",
            Subject::Dgram => "vswitch, dgram",
            Subject::Bridge => "kernel bridge",
            Subject::Ovs => "OVS userspace",
            Subject::OvsDpdk => "OVS-DPDK",
            Subject::DpdkVhost => "DPDK vhost loop",
            Subject::Vde => "VDE",
            Subject::Qemu => "QEMU dgram pair",
        }
    }

    /// As its program says; empty if it is not there.
    pub(crate) fn version(self) -> String {
        match self {
            Subject::Vswitch | Subject::Engine | Subject::Tap | Subject::Stream | Subject::Dgram => {
                host::vswitch_version()
            }
            Subject::Bridge => host::first_line("uname", &["-r"]),
            Subject::Ovs => host::first_line("ovs-vswitchd", &["--version"]),
            Subject::OvsDpdk => host::first_line(ovs::DPDK_DAEMON, &["--version"]),
            Subject::DpdkVhost => testpmd::version(),
            Subject::Vde => host::first_line("vde_switch", &["--version"]),
            Subject::Qemu => host::first_line(QEMU, &["--version"]),
        }
    }

    /// Whether `rig` has a place for it.
    pub(crate) const fn belongs_to(self, rig: Rig) -> bool {
        match rig {
            Rig::Netns | Rig::OwnedTaps | Rig::Direct => matches!(
                self,
                Subject::Vswitch | Subject::Engine | Subject::Bridge | Subject::Ovs | Subject::Vde
            ),
            // Its process does what is new, and many ports are all it has.
            Rig::Ports => matches!(self, Subject::Vswitch | Subject::Bridge | Subject::Ovs | Subject::Vde),
            Rig::Queues => matches!(self, Subject::Vswitch | Subject::OvsDpdk | Subject::DpdkVhost),
            Rig::Core => matches!(self, Subject::Vswitch),
            Rig::Guests => !matches!(self, Subject::Engine | Subject::Ovs | Subject::DpdkVhost),
        }
    }

    /// Whether a quick look at `rig` has it, if nobody says what to look at.
    pub(crate) const fn is_headline(self, rig: Rig) -> bool {
        match self {
            Subject::Engine | Subject::Stream | Subject::Dgram | Subject::Qemu => false,
            Subject::Vde => !matches!(rig, Rig::Guests),
            Subject::Vswitch
            | Subject::Tap
            | Subject::Bridge
            | Subject::Ovs
            | Subject::OvsDpdk
            | Subject::DpdkVhost => true,
        }
    }

    /// Whether it is vswitch in some form.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Subject::Vswitch | Subject::Engine | Subject::Tap | Subject::Stream | Subject::Dgram)
    }

    /// Whether it carries unfinished checksums and super-frames: what has no virtio-net
    /// header cannot.
    pub(crate) const fn has_offloads(self) -> bool {
        !matches!(self, Subject::Stream | Subject::Dgram | Subject::OvsDpdk | Subject::Vde | Subject::Qemu)
    }

    /// Whether it takes huge pages.
    pub(crate) const fn is_dpdk(self) -> bool {
        matches!(self, Subject::OvsDpdk | Subject::DpdkVhost)
    }

    /// Why it cannot take part in `rig`, to which it belongs, on this machine;
    /// `None`: it can.
    pub(crate) fn absence(self, rig: Rig) -> Option<String> {
        let missing = |programs: &[&str]| {
            programs.iter().find(|p| !find_program(p)).map(|p| format!("not installed ({p})"))
        };
        if rig == Rig::Queues
            && let Some(why) = vhost::absence().or_else(|| missing(&["dpdk-testpmd", "stdbuf", "taskset"]))
        {
            return Some(why);
        }
        if rig == Rig::Guests
            && let Some(why) = missing(&[QEMU]).or_else(|| images().err().map(|error| error.to_string()))
        {
            return Some(why);
        }
        match self {
            Subject::Vswitch | Subject::Tap | Subject::Stream | Subject::Dgram => {
                binary("vswitch").err().map(|error| error.to_string())
            }
            Subject::Engine if rig == Rig::OwnedTaps => Some("`tap:` ports have no fast path".into()),
            Subject::Engine => Subject::Vswitch.absence(rig),
            Subject::Bridge | Subject::DpdkVhost | Subject::Qemu => None,
            Subject::Ovs => missing(&["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-tool"]),
            Subject::OvsDpdk => missing(&[ovs::DPDK_DAEMON, "ovsdb-server", "ovs-vsctl", "ovsdb-tool"]),
            Subject::Vde if matches!(rig, Rig::OwnedTaps | Rig::Guests) => missing(&["vde_switch"]),
            Subject::Vde => Some("it has no port for an existing interface".into()),
        }
    }

    /// Why it cannot take part where `rig`, to which it belongs, is set up as
    /// `variant`; `None`: it can.
    pub(crate) fn absence_in(self, variant: Variant) -> Option<String> {
        let Variant::Guests(card) = variant else { return None };
        let is_vhost_user = matches!(self, Subject::Vswitch | Subject::OvsDpdk);
        match card {
            Card::Virtio if self == Subject::OvsDpdk => {
                Some("with `userspace-tso-enable` no TCP connection comes about between its guests".into())
            }
            Card::Virtio if !self.has_offloads() => Some("it carries no super-frames".into()),
            Card::E1000 if is_vhost_user => Some("the guest of a `vhost-user` port has virtio-net".into()),
            Card::Virtio | Card::Plain | Card::E1000 => None,
        }
    }

    /// Starts it as `wiring` says and leaves its interfaces up; `run` are
    /// further words for our own.
    pub(crate) fn start(self, wiring: &Wiring, run: &[String]) -> Result<Running> {
        match self {
            Subject::Vswitch | Subject::Engine => {
                let prefix = if wiring.owns_taps() { "tap" } else { "netdev" };
                let ports: Vec<String> =
                    wiring.ports.iter().map(|port| format!("--port={prefix}:{port}")).collect();
                let mut args: Vec<&str> = ports.iter().chain(run).map(String::as_str).collect();
                if wiring.needs_large_table {
                    args.push("--fdb-size=1048575");
                }
                if self == Subject::Engine {
                    args.push("--fast-path=off");
                }
                let switch = Switch::start(&wiring.switch_ns, &args)?;
                Ok(Running::ours(switch))
            }
            Subject::Bridge => bridge::start(&wiring.switch_ns, &wiring.ports),
            Subject::Ovs => ovs::start(wiring),
            Subject::Vde => vde::start(&wiring.switch_ns, &wiring.ports).map(|(running, _)| running),
            Subject::Tap
            | Subject::Stream
            | Subject::Dgram
            | Subject::OvsDpdk
            | Subject::DpdkVhost
            | Subject::Qemu => bail!("{} has no interfaces", self.name()),
        }
    }
}

/// A switch at work.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Processes that forward frames; none for the kernel's bridge.
    pub(crate) pids: Vec<u32>,
    switch: Option<Switch>,
    /// Another's command that empties its table of stations.
    flush: Vec<String>,
    /// In the order in which they are to end.
    daemons: Vec<Daemon>,
    _forwarder: Option<Testpmd>,
    /// Holds their sockets; removed after them.
    _directory: Option<tempfile::TempDir>,
}

impl Running {
    /// A switch of ours.
    fn ours(switch: Switch) -> Running {
        Running { pids: vec![switch.pid()], switch: Some(switch), ..Running::default() }
    }

    /// A command of our own client to it.
    pub(crate) fn client(&self, words: &[&str]) -> Result<Command> {
        Ok(self.switch.as_ref().context("it is not ours")?.client_command(words))
    }

    /// Resident memory of its processes in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.pids.iter().map(|pid| resident_bytes(*pid)).sum()
    }

    /// Has it forget every station, in its namespace `ns`.
    pub(crate) fn flush(&self, ns: &Netns) -> Result<()> {
        if let Some(switch) = &self.switch {
            return switch.json(&["fdb", "flush"]).map(drop);
        }
        let (program, words) = self.flush.split_first().context("nobody knows how to empty its table")?;
        netns::run(ns.command(program).args(words)).map(drop)
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
