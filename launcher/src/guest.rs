//! QEMU's command line for one guest. Pure.
//!
//! The strings are a contract: `vlab plan` prints them for pasting. Devices sit
//! in fixed PCI slots, since Linux names NICs after them: internet in 3
//! (`ens3`), lab NICs from 4 (`ens4`…), the display adapter in 2, the disk in
//! 29, out of the way.

use std::path::{Path, PathBuf};

use crate::accel::Accel;
use crate::command::{Command, option};
use crate::firmware::Uefi;
use crate::install::Install;
use crate::lab::{Boot, DiskBus, Display, FIRST_LAB_SLOT, Guest, INTERNET_SLOT, Lab, Machine, Model, Nic};
use crate::link::Attachment;
use crate::names;
use crate::places::{Drop, Places};

/// PCI slot of a virtio disk.
const DISK_SLOT: usize = 29;
/// PCI slot of cloud-init's drive, where disks are virtio: behind the disk, which
/// is `/dev/vda` only as the first.
const SEED_SLOT: usize = 30;

/// The QEMU that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
}

/// What a guest's command line depends on beside the lab file.
#[derive(Debug)]
pub struct GuestFacts<'f> {
    /// How each of its lab NICs is joined to its switch.
    pub links: &'f [Attachment],
    /// How root is shed.
    pub drop: &'f Drop,
    /// The lab's directories.
    pub places: &'f Places,
    /// The QEMU to run.
    pub qemu: &'f Qemu,
    /// What runs the guest's code.
    pub accel: Accel,
    /// What its board starts with, where that is UEFI.
    pub uefi: Option<&'f Uefi>,
    /// The host's port that leads to the guest's port 22.
    pub ssh_port: Option<u16>,
    /// The image it writes to, with its format.
    pub disk: Option<(&'f Path, &'f str)>,
    /// How many credentials are written for it.
    pub credentials: usize,
    /// What it is booted from once, instead of its disk.
    pub install: Option<&'f Install>,
}

/// The command that starts `guest` of `lab`.
pub fn command(lab: &Lab, guest: &Guest, facts: &GuestFacts<'_>) -> Command {
    let mut argv = vec!["setsid".to_owned()];
    if let Drop::To { uid, gid } = facts.drop {
        argv.extend(["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")]);
        // /dev/kvm is the group kvm's.
        argv.push("--init-groups".to_owned());
    }
    argv.push(facts.qemu.program.to_string_lossy().into_owned());
    argv.extend(arguments(lab, guest, facts));
    Command { argv, stdout: None, log: Some(facts.places.qemu_log(&guest.name)) }
}

fn arguments(lab: &Lab, guest: &Guest, facts: &GuestFacts<'_>) -> Vec<String> {
    let mut line = Line::default();
    line.pair("-name", format!("{}-{}", lab.name, guest.name));
    line.pair("-uuid", names::uuid(&lab.name, &guest.name));
    let machine = match guest.machine {
        Machine::Pc => "pc",
        Machine::Q35 => "q35",
    };
    let shares = facts.links.iter().any(Attachment::shares_memory);
    // Sealed, as QEMU makes it: whoever shares it cannot cut it short.
    let memory = if shares { ",memory-backend=ram" } else { "" };
    line.pair("-machine", format!("{machine},accel={}{memory}", facts.accel.name()));
    if shares {
        line.pair("-object", format!("memory-backend-memfd,id=ram,size={}M,share=on", guest.memory_mib));
    }
    line.pair("-cpu", guest.cpu.as_deref().unwrap_or_else(|| facts.accel.cpu()));
    line.pair("-smp", guest.cpus.to_string());
    line.pair("-m", guest.memory_mib.to_string());
    line.0.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
    match facts.install.map_or(guest.display, |install| install.display) {
        Display::None => line.pair("-display", "none"),
        // QEMU takes whichever window it was built with.
        Display::Window => {}
        Display::Vnc => {
            line.pair("-display", "none");
            line.pair("-vnc", format!("unix:{}", option(facts.places.vnc(&guest.name))));
        }
    }
    shed_rights(&mut line, facts);
    firmware(&mut line, guest, facts);
    monitor_and_console(&mut line, guest, facts);
    if let Some(install) = facts.install {
        install_from(&mut line, guest, install, facts);
        line.0.extend(guest.qemu_args.iter().cloned());
        return line.0;
    }
    boot(&mut line, guest, facts.disk);
    told(&mut line, guest, facts);
    internet(&mut line, lab, guest, facts.ssh_port);
    for (position, (nic, link)) in guest.nics.iter().zip(facts.links).enumerate() {
        lab_nic(&mut line, lab, (position, nic), link, facts.qemu);
    }
    line.0.extend(guest.qemu_args.iter().cloned());
    line.0
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.0.extend([flag.to_owned(), value.into()]);
    }
}

fn shed_rights(line: &mut Line, facts: &GuestFacts<'_>) {
    // As libvirt confines QEMU. A QEMU that has yet to leave root must still
    // be allowed setuid; it is denied to all others.
    let elevate = match facts.drop {
        Drop::Nobody => "allow",
        Drop::Nothing | Drop::To { .. } => "deny",
    };
    line.pair(
        "-sandbox",
        format!("on,obsolete=deny,elevateprivileges={elevate},spawn=deny,resourcecontrol=deny"),
    );
    if *facts.drop == Drop::Nobody {
        match facts.qemu.version >= (9, 1) {
            true => line.pair("-run-with", "user=nobody"),
            false => line.pair("-runas", "nobody"),
        }
    }
}

/// OVMF in two flash chips: the code, and the guest's own variables.
fn firmware(line: &mut Line, guest: &Guest, facts: &GuestFacts<'_>) {
    let Some(uefi) = facts.uefi else { return };
    let flash = |unit, format, rest, path| format!("if=pflash,unit={unit},format={format}{rest},file={path}");
    line.pair("-drive", flash(0, "raw", ",readonly=on", option(&uefi.code)));
    line.pair("-drive", flash(1, "qcow2", "", option(facts.places.variables(&guest.name))));
}

fn monitor_and_console(line: &mut Line, guest: &Guest, facts: &GuestFacts<'_>) {
    let places = facts.places;
    let socket = |path: PathBuf| format!("path={},server=on,wait=off", option(path));
    line.pair("-chardev", format!("socket,id=qmp,{}", socket(places.qmp(&guest.name))));
    line.pair("-mon", "chardev=qmp,mode=control");
    if guest.serial {
        let log = option(places.console_log(&guest.name));
        let mut serial = socket(places.serial(&guest.name));
        if facts.install.is_some() {
            // Whoever talks to an installer must not miss how it begins.
            serial = serial.replace("wait=off", "wait=on");
        }
        line.pair("-chardev", format!("socket,id=serial,{serial},logfile={log}"));
        line.pair("-serial", "chardev:serial");
    }
}

/// The tutorial's installation: the ISO in the drive, booted first, the disk to
/// install to, and the internet. It ends when the guest would restart.
fn install_from(line: &mut Line, guest: &Guest, install: &Install, facts: &GuestFacts<'_>) {
    line.0.push("-no-reboot".to_owned());
    line.pair("-device", "VGA,addr=0x2");
    if let Some((path, format)) = facts.disk {
        let drive = format!("file={},format={format}", option(path));
        match guest.disk_bus {
            DiskBus::Ide => line.pair("-drive", format!("{drive},if=ide,index=0")),
            DiskBus::Virtio => {
                line.pair("-drive", format!("{drive},if=none,id=disk0"));
                line.pair("-device", format!("virtio-blk-pci,drive=disk0,addr={DISK_SLOT:#x}"));
            }
        }
    }
    let iso = format!("file={},format=raw,media=cdrom", option(&install.iso));
    match facts.uefi {
        None => line.pair("-drive", format!("{iso},if=ide,index=2,readonly=on")),
        // It knows no `-boot order`, and would start what the disk holds already.
        Some(_) => {
            line.pair("-drive", format!("{iso},if=none,id=iso,readonly=on"));
            line.pair("-device", "ide-cd,drive=iso,bus=ide.2,bootindex=0");
        }
    }
    if install.seed.is_some() {
        let seed = option(facts.places.seed(&guest.name));
        line.pair("-drive", format!("file={seed},format=raw,if=none,id=seed,readonly=on"));
        line.pair("-device", format!("virtio-blk-pci,drive=seed,addr={SEED_SLOT:#x}"));
    }
    match &install.kernel {
        None if facts.uefi.is_some() => {}
        None => line.pair("-boot", "order=d"),
        Some(kernel) => {
            line.pair("-kernel", kernel.kernel.to_string_lossy());
            line.pair("-initrd", kernel.initrd.to_string_lossy());
            line.pair("-append", kernel.cmdline.as_str());
        }
    }
    line.pair("-netdev", "user,id=internet");
    line.pair("-device", format!("virtio-net-pci,netdev=internet,addr={INTERNET_SLOT:#x},romfile="));
}

fn boot(line: &mut Line, guest: &Guest, disk: Option<(&Path, &str)>) {
    if let Boot::Kernel { kernel, initrd, cmdline } = &guest.boot {
        line.pair("-kernel", kernel.to_string_lossy());
        if let Some(initrd) = initrd {
            line.pair("-initrd", initrd.to_string_lossy());
        }
        if !cmdline.is_empty() {
            line.pair("-append", cmdline.as_str());
        }
        return;
    }
    // Boot loaders of installed systems expect one, even if nobody looks.
    line.pair("-device", "VGA,addr=0x2");
    let Some((path, format)) = disk else { return };
    let drive = format!("file={},format={format}", option(path));
    match guest.disk_bus {
        DiskBus::Ide => line.pair("-drive", format!("{drive},if=ide")),
        DiskBus::Virtio => {
            line.pair("-drive", format!("{drive},if=none,id=disk0"));
            line.pair("-device", format!("virtio-blk-pci,drive=disk0,bootindex=0,addr={DISK_SLOT:#x}"));
        }
    }
}

/// What the guest is told of itself: a drive for cloud-init, SMBIOS strings for
/// systemd.
fn told(line: &mut Line, guest: &Guest, facts: &GuestFacts<'_>) {
    if guest.seeded() {
        let drive = format!("file={},format=raw", option(facts.places.seed(&guest.name)));
        match guest.disk_bus {
            // An IDE disk cannot be read-only; the seed is made anew at every start.
            DiskBus::Ide => line.pair("-drive", format!("{drive},if=ide,index=1")),
            DiskBus::Virtio => {
                line.pair("-drive", format!("{drive},if=none,id=seed,readonly=on"));
                line.pair("-device", format!("virtio-blk-pci,drive=seed,addr={SEED_SLOT:#x}"));
            }
        }
    }
    for index in 0..facts.credentials {
        let path = facts.places.credential(&guest.name, index);
        line.pair("-smbios", format!("type=11,path={}", option(path)));
    }
}

fn internet(line: &mut Line, lab: &Lab, guest: &Guest, ssh_port: Option<u16>) {
    if !guest.internet {
        return;
    }
    let mut netdev = "user,id=internet".to_owned();
    if let Some(port) = ssh_port {
        netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{port}-:22"));
    }
    for forward in &guest.forwards {
        let kind = if forward.udp { "udp" } else { "tcp" };
        netdev.push_str(&format!(",hostfwd={kind}:{}:{}-:{}", forward.ip, forward.host, forward.guest));
    }
    line.pair("-netdev", netdev);
    // Each guest has a user-mode network of its own; a colon keeps this name
    // apart from every network of the lab.
    let mac = names::mac(&lab.name, &guest.name, ":internet");
    line.pair("-device", device(Model::Virtio, "internet", mac, INTERNET_SLOT, 1500));
}

fn lab_nic(line: &mut Line, lab: &Lab, (position, nic): (usize, &Nic), link: &Attachment, qemu: &Qemu) {
    let id = format!("lab{position}");
    for (flag, value) in link.arguments(&id, qemu) {
        line.pair(flag, value);
    }
    let mtu = lab.networks.iter().find(|network| network.name == nic.network).map_or(1500, |n| n.mtu);
    let mut device = device(nic.model, &id, nic.mac, FIRST_LAB_SLOT + position, mtu);
    if link.queues() > 1 {
        // An interrupt for each queue, for changes and for the control queue.
        device.push_str(&format!(",mq=on,vectors={}", 2 * link.queues() + 2));
    }
    line.pair("-device", device);
}

fn device(model: Model, netdev: &str, mac: impl std::fmt::Display, slot: usize, mtu: u16) -> String {
    // No boot ROM: these guests boot from disks and kernels, and PXE would only
    // delay the fault of a disk without a system.
    let mut text = format!("{},netdev={netdev},mac={mac},addr={slot:#x},romfile=", model.device());
    // Other models have no way to tell their guest.
    if model == Model::Virtio && mtu != 1500 {
        text.push_str(&format!(",host_mtu={mtu}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Roots;

    fn line(keys: &str, drop: &Drop, version: (u32, u32)) -> String {
        line_with(keys, &[Attachment::Tap("tap0".to_owned())], drop, version)
    }

    fn line_with(keys: &str, links: &[Attachment], drop: &Drop, version: (u32, u32)) -> String {
        let text = format!("[networks.lan]\nsubnet = \"192.168.1.0/24\"\nmtu = 9000\n[guests.zero]\n{keys}");
        let lab = crate::lab::parse(&text, Path::new("lab.toml"), Path::new("/labs/ping")).unwrap();
        let roots = Roots { run: "/run/vlab".into(), state: "/s".into(), data: "/d".into() };
        let qemu = Qemu { program: "qemu-system-x86_64".into(), version };
        let guest = &lab.guests[0];
        let uefi = Uefi { code: "/o/CODE.fd".into(), variables: "/o/VARS.fd".into() };
        let facts = GuestFacts {
            links,
            drop,
            places: &roots.lab("ping"),
            qemu: &qemu,
            accel: Accel::Tcg,
            uefi: (guest.firmware == crate::lab::Firmware::Uefi).then_some(&uefi),
            ssh_port: guest.internet.then_some(20_022),
            disk: guest.image().map(|_| (Path::new("/d/ping/zero,1.qcow2"), "qcow2")),
            credentials: if guest.credentialed() { 2 } else { 0 },
            install: None,
        };
        command(&lab, guest, &facts).line()
    }

    #[test]
    fn a_kernel_guest_in_full() {
        let keys = "kernel = \"k\"\ninitrd = \"i\"\ncmdline = \"console=ttyS0 ip={lan.address}\"\nforwards = [\"8080:80\"]\nnics = [{ network = \"lan\", address = \"192.168.1.150\", ifname = \"tap0\" }]\nqemu_args = [\"-no-reboot\"]";
        let expected = "setsid qemu-system-x86_64 -name ping-zero -uuid UUID -machine pc,accel=tcg -cpu max \
            -smp 1 -m 1024 -nodefaults -no-user-config -display none \
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
            -chardev socket,id=qmp,path=/run/vlab/ping/zero.qmp,server=on,wait=off -mon chardev=qmp,mode=control \
            -chardev socket,id=serial,path=/run/vlab/ping/zero.serial,server=on,wait=off,logfile=/s/ping/zero.console.log \
            -serial chardev:serial \
            -kernel /labs/ping/k -initrd /labs/ping/i -append 'console=ttyS0 ip=192.168.1.150' \
            -netdev user,id=internet,hostfwd=tcp:127.0.0.1:20022-:22,hostfwd=tcp:127.0.0.1:8080-:80 \
            -device virtio-net-pci,netdev=internet,mac=MAC,addr=0x3,romfile= \
            -netdev tap,id=lab0,ifname=tap0,script=no,downscript=no \
            -device virtio-net-pci,netdev=lab0,mac=02:bb:79:c6:45:9b,addr=0x4,romfile=,host_mtu=9000 \
            -no-reboot </dev/null >/s/ping/zero.qemu.log 2>&1 &"
            .replace("UUID", &names::uuid("ping", "zero"))
            .replace("MAC", &names::mac("ping", "zero", ":internet").to_string());
        assert_eq!(line(keys, &Drop::Nothing, (10, 0)), expected);
    }

    #[test]
    fn vhost_user_shares_the_memory_once() {
        let keys = "kernel = \"k\"\nmemory = \"512M\"\ninternet = false\nnics = [\"lan\", \"lan\"]";
        let links = [("/r/a", 1), ("/r/b", 2)]
            .map(|(path, queues)| Attachment::VhostUser { path: path.into(), queues });
        let line = line_with(keys, &links, &Drop::Nothing, (10, 0));
        assert!(line.contains(" -machine pc,accel=tcg,memory-backend=ram "), "{line}");
        assert_eq!(line.matches(" -object memory-backend-memfd,id=ram,size=512M,share=on ").count(), 1);
        assert!(line.contains("addr=0x4,romfile=,host_mtu=9000 -chardev "), "{line}");
        assert!(line.contains("addr=0x5,romfile=,host_mtu=9000,mq=on,vectors=6 "), "{line}");
        for (number, path, queues) in [(0, "/r/a", ""), (1, "/r/b", ",queues=2")] {
            let chardev = format!(" -chardev socket,id=lab{number}c,path={path},reconnect-ms=500 ");
            let netdev = format!(" -netdev vhost-user,id=lab{number},chardev=lab{number}c{queues} ");
            assert!(line.contains(&chardev) && line.contains(&netdev), "{line}");
        }
        let stream = [Attachment::Stream("/r/a".into()), Attachment::Stream("/r/b".into())];
        assert!(!line_with(keys, &stream, &Drop::Nothing, (10, 0)).contains("memory-backend"));
    }

    #[test]
    fn disks_and_models() {
        let ide = line(
            "disk = \"0.img\"\ndisk_bus = \"ide\"\ninternet = false\nnics = [{ network = \"lan\", model = \"e1000\" }]",
            &Drop::Nothing,
            (10, 0),
        );
        assert!(ide.contains("-drive file=/d/ping/zero,,1.qcow2,format=qcow2,if=ide"), "{ide}");
        assert!(ide.contains("-drive file=/run/vlab/ping/zero.seed,format=raw,if=ide,index=1 "), "{ide}");
        assert!(ide.contains("-device e1000,netdev=lab0,") && !ide.contains("host_mtu"), "{ide}");
        assert!(!ide.contains("-netdev user"), "{ide}");
        let virtio = line("base = \"b.qcow2\"\nserial = false\nmachine = \"q35\"", &Drop::Nothing, (10, 0));
        assert!(
            virtio.contains("if=none,id=disk0 -device virtio-blk-pci,drive=disk0,bootindex=0,addr=0x1d"),
            "{virtio}"
        );
        assert!(
            virtio.contains("id=seed,readonly=on -device virtio-blk-pci,drive=seed,addr=0x1e -smbios type=11,path=/run/vlab/ping/zero.credential.0 -smbios"),
            "{virtio}"
        );
        assert!(virtio.contains("-machine q35,accel=tcg") && !virtio.contains("serial"), "{virtio}");
    }

    #[test]
    fn uefi_is_a_chip_for_all_and_one_of_its_own() {
        let line = line("base = \"b\"\nfirmware = \"uefi\"", &Drop::Nothing, (10, 0));
        assert!(line.contains(" -machine q35,"), "{line}");
        let chips = " -drive if=pflash,unit=0,format=raw,readonly=on,file=/o/CODE.fd \
            -drive if=pflash,unit=1,format=qcow2,file=/d/ping/zero.uefi.qcow2 ";
        assert!(line.contains(chips), "{line}");
    }

    #[test]
    fn qemu_is_never_root() {
        let keys = "kernel = \"k\"";
        let sudo = line(keys, &Drop::To { uid: 1000, gid: 100 }, (10, 0));
        assert!(
            sudo.starts_with("setsid setpriv --reuid=1000 --regid=100 --init-groups qemu-system-x86_64 "),
            "{sudo}"
        );
        let root = line(keys, &Drop::Nobody, (9, 1));
        assert!(root.contains("elevateprivileges=allow") && root.contains("-run-with user=nobody"), "{root}");
        assert!(line(keys, &Drop::Nobody, (7, 2)).contains(" -runas nobody "));
    }
}
