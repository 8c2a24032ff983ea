//! The topologies: what is on both sides of the switch.
//!
//! Read first: the switch has a namespace of its own without addresses and
//! IPv6, so nothing but the generator speaks on its ports.

use std::time::Duration;

use anyhow::{Result, bail};
use vswitch::frame::MacAddr;
use vswitch_tests::clock::{Deadline, wait_until};
use vswitch_tests::flow::{Device, Flow};
use vswitch_tests::netns::{Netns, veth};

use crate::interrupt;
use crate::measure::frames::load::station;
use crate::rig::Rig;
use crate::subject::{Running, Subject};

/// Address of the first host.
pub(crate) const ADDRESS_1: &str = "10.99.0.1";
/// Address of the second host.
pub(crate) const ADDRESS_2: &str = "10.99.0.2";

/// EtherType of IEEE 802a for local experiments, the second one.
const SECOND_EXPERIMENT: [u8; 2] = [0x88, 0xb6];

/// A topology that stands, but for the switch.
#[derive(Debug)]
pub(crate) struct Wiring {
    /// Whose it is.
    pub(crate) rig: Rig,
    /// Where the switch runs.
    pub(crate) switch_ns: Netns,
    /// The switch's interfaces, by name.
    pub(crate) ports: Vec<String>,
    /// Whether what the hosts and generators send may be unfinished.
    pub(crate) offloads: bool,
    /// Whether the switch's table of stations should be as large as it can be made.
    pub(crate) needs_large_table: bool,
    ends: Ends,
}

#[derive(Debug)]
enum Ends {
    Hosts { hosts: [Netns; 2], devices: [&'static str; 2], owned: bool },
    Fds(Vec<Device>),
}

impl Wiring {
    /// Builds two hosts for `subject`, which is not started yet.
    pub(crate) fn hosts_for(rig: Rig, subject: Subject, offloads: bool) -> Result<Wiring> {
        let switch_ns = Netns::new("sw")?;
        let owned = rig == Rig::OwnedTaps && matches!(subject, Subject::Vswitch | Subject::Vde);
        let hosts = [Netns::new("h1")?, Netns::new("h2")?];
        let (ports, devices) =
            if owned { (["t0", "t1"], ["t0", "t1"]) } else { (["sw1", "sw2"], ["e0", "e0"]) };
        if !owned {
            for (port, host) in ports.iter().zip(&hosts) {
                veth(&switch_ns, port, host, "e0")?;
                switch_ns.up(port)?;
            }
        }
        let ends = Ends::Hosts { hosts, devices, owned };
        let ports = ports.map(String::from).into();
        Ok(Wiring { rig, switch_ns, ports, offloads, needs_large_table: false, ends })
    }

    /// Builds `count` TAPs whose descriptors we hold, with a virtio-net header if
    /// `offloads`.
    pub(crate) fn taps(rig: Rig, count: usize, offloads: bool) -> Result<Wiring> {
        let switch_ns = Netns::new("sw")?;
        let open = if offloads { Device::tap_with_offloads } else { Device::tap };
        let ports: Vec<String> = (0..count).map(|number| format!("t{number}")).collect();
        let fds = ports.iter().map(|port| open(&switch_ns, port)).collect::<Result<_, _>>()?;
        switch_ns.batch(ports.iter().map(|port| format!("link set {port} up")))?;
        let needs_large_table = rig == Rig::Ports && crate::measure::ports::needs_large_tables(count);
        Ok(Wiring { rig, switch_ns, ports, offloads, needs_large_table, ends: Ends::Fds(fds) })
    }

    /// Whether the switch makes its interfaces itself.
    pub(crate) fn owns_taps(&self) -> bool {
        matches!(self.ends, Ends::Hosts { owned: true, .. })
    }

    /// The hosts; none where the generator holds descriptors.
    pub(crate) fn hosts(&self) -> Option<&[Netns; 2]> {
        match &self.ends {
            Ends::Hosts { hosts, .. } => Some(hosts),
            Ends::Fds(_) => None,
        }
    }

    /// The descriptors, in the order of the ports; none where there are hosts.
    pub(crate) fn fds(&self) -> Option<&[Device]> {
        match &self.ends {
            Ends::Hosts { .. } => None,
            Ends::Fds(fds) => Some(fds),
        }
    }

    /// With the switch running: gives the hosts their devices and addresses,
    /// and waits until a first frame crosses.
    pub(crate) fn connect(&self, running: &mut Running) -> Result<()> {
        match &self.ends {
            Ends::Hosts { hosts, devices, owned } => {
                for ((host, device), address) in hosts.iter().zip(devices).zip([ADDRESS_1, ADDRESS_2]) {
                    if *owned {
                        self.switch_ns.move_to(device, host)?;
                    }
                    if !self.offloads {
                        host.offloads(device, false)?;
                    }
                    host.address(device, &format!("{address}/24"))?;
                }
                let deadline = Deadline::after(Duration::from_secs(15));
                while hosts[0].ping(ADDRESS_2, 1)? == 0 {
                    interrupt::check()?;
                    running.check()?;
                    if deadline.passed() {
                        bail!("no ping crosses the switch");
                    }
                }
                Ok(())
            }
            Ends::Fds(fds) => {
                for port in &self.ports {
                    self.switch_ns.wait_running(port)?;
                }
                let (Some(first), Some(others)) = (fds.first(), fds.get(1..)) else { return Ok(()) };
                for (other, port) in others.iter().zip(2..) {
                    cross(other, station(port), first, station(1))?;
                    // From here on the switch knows both, and floods for neither.
                    cross(first, station(1), other, station(port))?;
                    interrupt::check()?;
                    running.check()?;
                }
                // What was flooded meanwhile.
                let mut buffer = vec![0; 4096];
                for fd in fds {
                    while fd.read(&mut buffer)?.is_some() {}
                }
                Ok(())
            }
        }
    }
}

/// Sends frames from one station to another until one arrives: those sent while the
/// switch takes up its ports are lost.
fn cross(from: &Device, source: MacAddr, to: &Device, destination: MacAddr) -> Result<()> {
    let flow = Flow::new(1, destination, source, 60);
    let mut frame = flow.vnet_header()[..from.prefix_len()].to_vec();
    frame.extend(flow.blank());
    // One that comes late is not to be taken for a measured frame.
    let kind = from.prefix_len() + 12;
    frame[kind..kind + 2].copy_from_slice(&SECOND_EXPERIMENT);
    let mut buffer = vec![0; 4096];
    wait_until("a first frame to cross the switch", Duration::from_secs(15), || {
        let sent = from.write(&frame).unwrap_or(false);
        let arrived = to.wait_readable(Duration::from_millis(50)).is_ok();
        sent && arrived && matches!(to.read(&mut buffer), Ok(Some(_)))
    })
}
