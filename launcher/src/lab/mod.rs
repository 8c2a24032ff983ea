//! A lab as a passive value: what `lab.toml` says after defaults are filled in
//! and everything that can be checked without looking at the machine has been.
//!
//! Paths are absolute. Nothing here touches a disk, a process or a clock; see
//! [`parse`] for the file's grammar and `plan` for what is made of it.

mod check;
mod guest_keys;
mod parse;
mod reader;
mod schema;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vswitch::frame::MacAddr;

pub use guest_keys::parse_duration;
pub use parse::parse;
pub use reader::LabError;
pub use schema::SCHEMA;

#[cfg(test)]
mod tests;

use crate::identity::render::Renderer;
use crate::names::{self, Subnet};

/// Guests on their networks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lab {
    /// Its name, unique per user while it is up.
    pub name: String,
    /// In the file's order.
    pub networks: Vec<Network>,
    /// In the file's order.
    pub guests: Vec<Guest>,
}

/// One Ethernet: one switch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Network {
    /// At most 10 bytes.
    pub name: String,
    /// How guests are joined to it.
    pub link: Link,
    /// Absent: layer 2 only.
    pub subnet: Option<Subnet>,
    /// Largest layer-3 packet in bytes, on ports and guests.
    pub mtu: u16,
    /// The host's own address here, if it takes part.
    pub host: Option<Ipv4Addr>,
    /// Further switch ports, as in `vswitch.toml`.
    pub ports: Vec<toml::Value>,
    /// `[switch]` keys passed on to `vswitch.toml`.
    pub switch: toml::Table,
}

/// How guests are joined to a network's switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// By TAPs where they can be had, else by sockets.
    Auto,
    /// By TAPs.
    Tap,
    /// By virtqueues in shared memory.
    VhostUser,
    /// By stream sockets.
    Stream,
    /// By datagram sockets.
    Dgram,
}

/// What a guest boots from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Boot {
    /// A linked clone of this image; with a size in qemu-img's notation.
    Base(PathBuf, Option<String>),
    /// This very image, written.
    Disk(PathBuf),
    /// A kernel that QEMU loads.
    Kernel {
        /// The kernel image.
        kernel: PathBuf,
        /// The initial RAM file system.
        initrd: Option<PathBuf>,
        /// With `{name}`, `{NET.address}` and `{NET.mac}` already replaced.
        cmdline: String,
    },
}

/// Which accelerator was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum AccelChoice {
    /// KVM where it can run a stock kernel, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// The emulated board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Machine {
    /// i440FX.
    Pc,
    /// Q35.
    Q35,
}

/// What a guest's board starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings.
    Bios,
    /// OVMF, which the distribution packs by itself.
    Uefi,
}

/// Where a guest's screen is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Display {
    /// Nowhere.
    None,
    /// In a window of QEMU's own.
    Window,
    /// By VNC, on a unix socket in RUN.
    Vnc,
}

impl Display {
    /// Their names in lab files and on the command line.
    pub const ALL: [(&'static str, Display); 3] =
        [("none", Display::None), ("window", Display::Window), ("vnc", Display::Vnc)];
}

/// How the disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DiskBus {
    /// `/dev/vda`.
    Virtio,
    /// `/dev/sda`.
    Ide,
}

/// How a guest is told its name, keys and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Configure {
    /// Guests with a disk are given a seed and credentials, which images that
    /// know neither ignore; guests with a kernel are told on its command line.
    Auto,
    /// A NoCloud seed.
    CloudInit,
    /// systemd credentials over SMBIOS.
    Credentials,
    /// Files written into the clone when it is made.
    Offline,
    /// Not at all.
    None,
}

/// How a guest is known to be up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// By the first frame from a lab MAC; without a lab NIC by running.
    Auto,
    /// A TCP connection to the forwarded ssh port is answered.
    Ssh,
    /// This regular expression matches the console.
    Console(String),
    /// The switch saw a frame from a lab MAC.
    Frame,
    /// QEMU says that the machine runs.
    Running,
}

/// One virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guest {
    /// Its name, unique in the lab.
    pub name: String,
    /// What it boots from.
    pub boot: Boot,
    /// What `vlab install` boots once, and the file's SHA-256.
    pub iso: Option<PathBuf>,
    /// In hexadecimal digits, lower case.
    pub iso_sha256: Option<String>,
    /// Where its screen is seen.
    pub display: Display,
    /// MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u16,
    /// Accelerator.
    pub accel: AccelChoice,
    /// QEMU's CPU model; `None`: host under KVM, max under TCG.
    pub cpu: Option<String>,
    /// Board.
    pub machine: Machine,
    /// What the board starts with.
    pub firmware: Firmware,
    /// Bus of the disk.
    pub disk_bus: DiskBus,
    /// Whether there is a serial console.
    pub serial: bool,
    /// Whether there is a NIC with user-mode networking, in PCI slot 3.
    pub internet: bool,
    /// Host ports that lead into the guest.
    pub forwards: Vec<Forward>,
    /// The host's port for ssh; `None`: chosen. Used with `internet` only.
    pub ssh_port: Option<u16>,
    /// The user that `vlab ssh` logs in as.
    pub ssh_user: String,
    /// The user's own private key; `None`: the lab's, which is made for it.
    pub ssh_key: Option<PathBuf>,
    /// Whether `up` starts it without being told to.
    pub autostart: bool,
    /// When it counts as up.
    pub ready: Ready,
    /// How long that may take.
    pub timeout: Duration,
    /// How it is told who it is.
    pub configure: Configure,
    /// The kind of its network configuration, for `offline`.
    pub renderer: Option<Renderer>,
    /// The user's own cloud-init data.
    pub user_data: Option<PathBuf>,
    /// What it calls itself.
    pub hostname: String,
    /// Appended to QEMU's command line.
    pub qemu_args: Vec<String>,
    /// NICs on lab networks, PCI slots 4, 5…
    pub nics: Vec<Nic>,
}

/// `[IP:]HOST:GUEST[/udp]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Address of the host that listens.
    pub ip: Ipv4Addr,
    /// Port on the host.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
    /// Whether it is UDP.
    pub udp: bool,
}

/// The model of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Model {
    /// virtio-net.
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Realtek 8139.
    Rtl8139,
}

impl Model {
    /// QEMU's `-device` name.
    pub const fn device(self) -> &'static str {
        match self {
            Model::Virtio => "virtio-net-pci",
            Model::E1000 => "e1000",
            Model::E1000e => "e1000e",
            Model::Rtl8139 => "rtl8139",
        }
    }
}

/// Where a NIC's address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Address {
    /// This one; said in the file, or chosen from the subnet.
    Static(Ipv4Addr),
    /// Still to be chosen: never in a lab that [`parse`] returned.
    Auto,
    /// A guest serves it.
    Dhcp,
    /// Layer 2 only.
    None,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Static(address) => write!(f, "{address}"),
            Address::Dhcp => f.write_str("dhcp"),
            Address::Auto | Address::None => f.write_str("-"),
        }
    }
}

/// A NIC on a lab network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// The network's name.
    pub network: String,
    /// Which of the guest's NICs on this network it is, from 0.
    pub index: usize,
    /// Its address.
    pub address: Address,
    /// Its model.
    pub model: Model,
    /// Its MAC.
    pub mac: MacAddr,
    /// Whether its cable is plugged in at the start.
    pub carrier: bool,
    /// The TAP's name; `None`: made by [`names::interface`].
    pub ifname: Option<String>,
    /// Pairs of queues; more than 1 only by vhost-user.
    pub queues: u32,
}

impl Nic {
    /// The network's name, numbered from the guest's second NIC on it: what
    /// hashes and placeholders use.
    pub fn net(&self) -> String {
        names::numbered(&self.network, self.index)
    }

    /// The TAP behind this NIC of `guest`.
    pub fn interface(&self, uid: u32, lab: &str, guest: &str) -> String {
        self.ifname.clone().unwrap_or_else(|| names::interface(uid, lab, guest, &self.net()))
    }
}

impl Guest {
    /// The image the guest writes to, or would clone from.
    pub fn image(&self) -> Option<&Path> {
        match &self.boot {
            Boot::Base(path, _) | Boot::Disk(path) => Some(path),
            Boot::Kernel { .. } => None,
        }
    }

    /// Whether it is given a NoCloud seed.
    pub fn seeded(&self) -> bool {
        match self.configure {
            Configure::Auto => !matches!(self.boot, Boot::Kernel { .. }),
            Configure::CloudInit => true,
            Configure::Credentials | Configure::Offline | Configure::None => false,
        }
    }

    /// Whether it is given systemd credentials.
    pub fn credentialed(&self) -> bool {
        match self.configure {
            Configure::Auto => !matches!(self.boot, Boot::Kernel { .. }),
            Configure::Credentials => true,
            Configure::CloudInit | Configure::Offline | Configure::None => false,
        }
    }

    /// Whether it is told the lab's ssh key in one way or another.
    pub fn keyed(&self) -> bool {
        self.seeded() || self.credentialed() || self.configure == Configure::Offline
    }

    /// Where Linux calls the NIC in PCI `slot` by that slot (i440FX only; on
    /// Q35 the name has the bus as well).
    pub fn interface_name(&self, slot: usize) -> String {
        match self.machine {
            Machine::Pc => format!("ens{slot}"),
            Machine::Q35 => format!("enp0s{slot}"),
        }
    }
}

/// PCI slot of the internet NIC.
pub const INTERNET_SLOT: usize = 3;
/// PCI slot of the first lab NIC.
pub const FIRST_LAB_SLOT: usize = 4;
/// Lab NICs a guest may have: slots 4 to 28 stay clear of the disk and of
/// what boards keep at the end.
pub const NICS_MAX: usize = 25;
