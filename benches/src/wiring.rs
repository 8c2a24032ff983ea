//! The topologies: what is on both sides of the switch.
//!
//! Read first: the switch has a namespace of its own without addresses and
//! IPv6, so nothing but the generator speaks on its ports.

use std::time::Duration;

use anyhow::{Result, bail};
use vswitch_tests::clock::{Deadline, wait_until};
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};

use crate::interrupt;
use crate::rig::Rig;
use crate::subject::{Running, Subject};

/// Address of the first host.
pub(crate) const ADDRESS_1: &str = "10.99.0.1";
/// Address of the second host.
pub(crate) const ADDRESS_2: &str = "10.99.0.2";

/// A topology that stands, but for the switch.
#[derive(Debug)]
pub(crate) struct Wiring {
    /// Where the switch runs.
    pub(crate) switch_ns: Netns,
    /// The switch's interfaces, by name.
    pub(crate) ports: [&'static str; 2],
    /// Whether what the hosts and generators send may be unfinished.
    pub(crate) offloads: bool,
    ends: Ends,
}

#[derive(Debug)]
enum Ends {
    Hosts { hosts: [Netns; 2], devices: [&'static str; 2], owned: bool },
    Fds([Device; 2]),
}

impl Wiring {
    /// Builds `rig` for `subject`, which is not started yet.
    pub(crate) fn new(rig: Rig, subject: Subject, offloads: bool) -> Result<Wiring> {
        let switch_ns = Netns::new("sw")?;
        let owned = rig == Rig::OwnedTaps && matches!(subject, Subject::Vswitch | Subject::Vde);
        if rig == Rig::Direct {
            let open = |name| {
                if offloads {
                    Device::tap_with_offloads(&switch_ns, name)
                } else {
                    Device::tap(&switch_ns, name)
                }
            };
            let fds = [open("t0")?, open("t1")?];
            for name in ["t0", "t1"] {
                switch_ns.up(name)?;
            }
            return Ok(Wiring { switch_ns, ports: ["t0", "t1"], offloads, ends: Ends::Fds(fds) });
        }
        let hosts = [Netns::new("h1")?, Netns::new("h2")?];
        if owned {
            let ends = Ends::Hosts { hosts, devices: ["t0", "t1"], owned };
            return Ok(Wiring { switch_ns, ports: ["t0", "t1"], offloads, ends });
        }
        for (port, host) in ["sw1", "sw2"].iter().zip(&hosts) {
            veth(&switch_ns, port, host, "e0")?;
            switch_ns.up(port)?;
        }
        let ends = Ends::Hosts { hosts, devices: ["e0", "e0"], owned };
        Ok(Wiring { switch_ns, ports: ["sw1", "sw2"], offloads, ends })
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

    /// The descriptors; none where there are hosts.
    pub(crate) fn fds(&self) -> Option<&[Device; 2]> {
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
            Ends::Fds([a, b]) => {
                for port in self.ports {
                    self.switch_ns.wait_running(port)?;
                }
                let back = crate::measure::frames::flow(1, 60).reversed();
                let mut frame = vec![0; b.prefix_len()];
                frame.extend(back.blank());
                let mut buffer = vec![0; 4096];
                let crossed =
                    wait_until("a first frame to cross the switch", Duration::from_secs(15), || {
                        // Frames sent while the switch takes up its ports are lost.
                        let sent = b.write(&frame).unwrap_or(false);
                        let arrived = a.wait_readable(Duration::from_millis(50)).is_ok();
                        sent && arrived && matches!(a.read(&mut buffer), Ok(Some(_)))
                    });
                interrupt::check()?;
                running.check()?;
                crossed
            }
        }
    }
}
