//! A switch with hosts on ports of chosen kinds, as most tests here need it.
//!
//! The switch runs in a namespace of its own; port N is called `pN`, and the
//! host behind it has the address 10.98.0.N+1.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use vswitch::control::{PortState, Show, Stats};
use vswitch::frame::MacAddr;
use vswitch_tests::clock::{wait_for, wait_until};
use vswitch_tests::flow::{self, Device, Flow, Pace, Until};
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::Switch;

use crate::pump::Pump;

/// Time for a port to come up, or to be noticed gone.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A kind of port, with what is behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `netdev:` on a veth whose other end is the host's.
    Netdev,
    /// `tap:`, moved into the host's namespace.
    Tap,
    /// The same with `offloads=off`.
    PlainTap,
    /// `netdev:` on a TAP whose fd we hold, with a virtio-net header, as QEMU
    /// does for a virtio-net guest.
    Guest,
    /// The same without the header, as for an e1000 guest.
    PlainGuest,
    /// `stream:`, with a guest without QEMU.
    Stream,
    /// `dgram:`, with the same.
    Dgram,
}

/// A host, or a guest, at a port.
#[derive(Debug)]
pub(crate) struct Host {
    /// Where its stack is; a guest has none, and this namespace is empty.
    pub(crate) ns: Netns,
    /// Its interface, by name.
    pub(crate) device: String,
    /// Its address.
    pub(crate) address: String,
    /// The switch's end of it, by name.
    pub(crate) port_device: String,
    /// A guest's descriptor.
    fd: Option<Device>,
    /// What carries its frames to a socket port at that path.
    pump: Option<Pump>,
    socket: PathBuf,
}

/// Hosts on a switch. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Lan {
    pub(crate) switch: Switch,
    pub(crate) hosts: Vec<Host>,
    pub(crate) switch_ns: Netns,
    /// Where sockets are.
    _dir: TempDir,
}

impl Lan {
    /// A switch with a port of each of `kinds`, everything up.
    pub(crate) fn new(kinds: &[Kind]) -> Result<Lan> {
        Lan::with_mtu(kinds, 1500)
    }

    /// The same with ports and hosts of that MTU.
    pub(crate) fn with_mtu(kinds: &[Kind], mtu: u32) -> Result<Lan> {
        Lan::with_flags(kinds, mtu, &[])
    }

    /// The same with more flags of `vswitch run`.
    pub(crate) fn with_flags(kinds: &[Kind], mtu: u32, flags: &[&str]) -> Result<Lan> {
        let switch_ns = Netns::new("sw")?;
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        let mut specs = Vec::new();
        let mut hosts = Vec::new();
        for (number, kind) in kinds.iter().enumerate() {
            let (host, target) = Host::new(&switch_ns, number, *kind, dir.path())?;
            hosts.push(host);
            let mtu = if mtu == 1500 { String::new() } else { format!(",mtu={mtu}") };
            specs.push(format!("{target},name=p{number}{mtu}"));
        }
        let ports = specs.iter().flat_map(|spec| ["--port", spec]);
        let args: Vec<&str> = flags.iter().copied().chain(ports).collect();
        let switch = Switch::start(&switch_ns, &args)?;
        let mut lan = Lan { switch, hosts, switch_ns, _dir: dir };
        for (host, kind) in lan.hosts.iter_mut().zip(kinds) {
            match kind {
                Kind::Tap | Kind::PlainTap => lan.switch_ns.move_to(&host.device, &host.ns)?,
                Kind::Stream | Kind::Dgram => host.plug_in(*kind)?,
                Kind::Netdev | Kind::Guest | Kind::PlainGuest => {}
            }
            if host.fd.is_none() {
                if mtu != 1500 {
                    host.ns.run(&format!("ip link set {} mtu {mtu}", host.device))?;
                }
                host.ns.address(&host.device, &format!("{}/24", host.address))?;
            }
        }
        for number in 0..kinds.len() {
            lan.wait_state(number, PortState::Up)?;
        }
        Ok(lan)
    }

    /// `vswitch show`.
    pub(crate) fn show(&self) -> Result<Show> {
        serde_json::from_value(self.switch.json(&["show"])?).context("show --json")
    }

    /// `vswitch stats`.
    pub(crate) fn stats(&self) -> Result<Stats> {
        serde_json::from_value(self.switch.json(&["stats"])?).context("stats --json")
    }

    /// Waits until port `number` is in `state`.
    pub(crate) fn wait_state(&self, number: usize, state: PortState) -> Result<()> {
        let name = format!("p{number}");
        let mut last = None;
        wait_until(&format!("port {name} to be {}", state.name()), SOON, || {
            last = self.show().ok();
            last.iter().flat_map(|show| &show.ports).any(|port| port.name == name && port.state == state)
        })
        .with_context(|| format!("{:?}\n{}", last.map(|show| show.ports), self.switch.stderr()))
    }

    /// Waits until host `to` answers host `from`.
    pub(crate) fn wait_ping(&self, from: usize, to: usize) -> Result<()> {
        let (from, to) = (&self.hosts[from], &self.hosts[to]);
        wait_for(&format!("{} to answer", to.address), SOON, || {
            from.ns.ping(&to.address, 1).ok().filter(|answers| *answers == 1).map(drop)
        })
        .with_context(|| self.switch.stderr())
    }

    /// Sends one frame of `flow` backwards, so that the switch knows where the
    /// flow goes and floods none of it.
    pub(crate) fn teach(&self, flow: &Flow, from: &Device, to: &Device) -> Result<()> {
        let back = flow.clone().reversed();
        let (_, received) = flow::run(to, from, &back, Pace::Saturate, Until::Count(1))?;
        anyhow::ensure!(received.frames == 1, "the first frame got lost\n{}", self.switch.stderr());
        Ok(())
    }
}

impl Host {
    fn new(switch_ns: &Netns, number: usize, kind: Kind, dir: &Path) -> Result<(Host, String)> {
        let ns = Netns::new(&format!("h{number}"))?;
        let (device, port_device) = match kind {
            Kind::Netdev => ("e0".to_owned(), format!("sw{number}")),
            Kind::Tap | Kind::PlainTap | Kind::Guest | Kind::PlainGuest => {
                (format!("t{number}"), format!("t{number}"))
            }
            Kind::Stream | Kind::Dgram => ("e0".to_owned(), String::new()),
        };
        let fd = match kind {
            Kind::Netdev | Kind::Tap | Kind::PlainTap | Kind::Stream | Kind::Dgram => None,
            Kind::Guest => Some(Device::tap_with_offloads(switch_ns, &device)?),
            Kind::PlainGuest => Some(Device::tap(switch_ns, &device)?),
        };
        if fd.is_some() {
            // A sink that is not scheduled for 100 ms must not cost frames:
            // the default of 1,000 is less than that at 10,000 a second.
            switch_ns.run(&format!("ip link set {device} txqueuelen 20000"))?;
        }
        if kind == Kind::Netdev {
            veth(switch_ns, &port_device, &ns, &device)?;
        }
        let socket = dir.join(format!("p{number}"));
        let path = socket.display();
        let spec = match kind {
            Kind::Netdev | Kind::Guest | Kind::PlainGuest => {
                switch_ns.up(&port_device)?;
                format!("netdev:{port_device}")
            }
            Kind::Tap => format!("tap:{port_device}"),
            Kind::PlainTap => format!("tap:{port_device},offloads=off"),
            Kind::Stream => format!("stream:{path}"),
            // It is up before its host has said anything.
            Kind::Dgram => format!("dgram:{path},peer={path}.g"),
        };
        let address = format!("10.98.0.{}", number + 1);
        Ok((Host { ns, device, address, port_device, fd, pump: None, socket }, spec))
    }

    /// Joins the host's stack to its socket port.
    fn plug_in(&mut self, kind: Kind) -> Result<()> {
        let tap = Device::tap(&self.ns, &self.device)?;
        let mut own = self.socket.clone().into_os_string();
        own.push(".g");
        let socket = if kind == Kind::Dgram {
            GuestSocket::dgram(Path::new(&own), &self.socket)?
        } else {
            GuestSocket::stream(&self.socket)?
        };
        self.pump = Some(Pump::start(&tap, &socket, self.socket.clone())?);
        Ok(())
    }

    /// Where measured frames enter and leave at this host.
    pub(crate) fn measure(&self) -> Result<Device> {
        match &self.fd {
            Some(fd) => Ok(fd.clone()),
            None => Ok(Device::packet(&self.ns, &self.device)?),
        }
    }
}

/// A flow from station `from` to station `to`, which no stack answers for.
pub(crate) fn flow_between(from: u8, to: u8, len: usize) -> Flow {
    let station = |number| MacAddr::new([2, 0x77, 0, 0, 0, number]);
    Flow::new(u16::from(from) << 8 | u16::from(to), station(to), station(from), len)
}
