//! Looking at the machine: what [`crate::plan`] needs to know and may not ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::accel::{self, KvmFacts};
use crate::disk;
use crate::firmware::{self, Uefi};
use crate::guest::Qemu;
use crate::identity::cloud_init;
use crate::lab::{Boot, Configure, Firmware, Lab, Link, Network};
use crate::link;
use crate::names::{self, Subnet};
use crate::places::{Places, User};
use crate::plan::Facts;
use crate::state::State;

/// Everything about this machine that `lab` depends on. Ports that `recorded`
/// remembers are kept.
///
/// # Errors
/// A program or an image is missing, with what to do about it.
pub fn gather(lab: &Lab, user: &User, places: Places, recorded: Option<&State>) -> Result<Facts> {
    let mut formats = BTreeMap::new();
    let mut clones = BTreeSet::new();
    let mut user_data = BTreeMap::new();
    let mut roots = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    for guest in &lab.guests {
        if let Some(image) = guest.image() {
            let info = disk::info(image, &[]).map_err(|e| missing(image, &guest.name, &e))?;
            formats.insert(image.to_owned(), info.format);
            sizes.insert(image.to_owned(), info.virtual_size);
        }
        if let Boot::Disk(disk) = &guest.boot {
            check_no_base(disk, &guest.name, &places)?;
        }
        if let Boot::Kernel { kernel, initrd, .. } = &guest.boot {
            for file in [Some(kernel), initrd.as_ref()].into_iter().flatten() {
                fs::File::open(file).with_context(|| format!("guest {}: {}", guest.name, file.display()))?;
            }
        }
        clones.extend(Some(places.variables(&guest.name)).filter(|path| path.exists()));
        let clone = places.clone_of(&guest.name);
        if let Boot::Base(base, _) = &guest.boot
            && clone.exists()
        {
            check_clone(&clone, base)?;
            clones.insert(clone);
        } else if let (Boot::Base(base, _), Configure::Offline) = (&guest.boot, guest.configure) {
            let format = formats.get(base).map_or("raw", String::as_str);
            roots.insert(base.clone(), disk::root_partition(base, format)?);
        }
        if let Some(path) = &guest.user_data {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            cloud_init::check(&text).map_err(|e| anyhow!("{} {e}", path.display()))?;
            user_data.insert(path.clone(), text);
        }
        if let Some(key) = &guest.ssh_key {
            fs::File::open(key)
                .with_context(|| format!("ssh key of guest {}: {}", guest.name, key.display()))?;
            let public = public_key(key);
            fs::File::open(&public).with_context(|| public.display().to_string())?;
        }
    }
    let mut uefi = None;
    if lab.guests.iter().any(|guest| guest.firmware == Firmware::Uefi) {
        uefi = Some(Uefi::find(Path::is_file).context(firmware::MISSING)?);
    }
    let vswitch = vswitch()?;
    let no_taps = link::taps(user, &vswitch);
    let mut nics = lab.guests.iter().flat_map(|guest| &guest.nics);
    let wants_tap = |network: &Network| network.link == Link::Tap;
    if nics.any(|nic| lab.networks.iter().any(|it| it.name == nic.network && wants_tap(it))) {
        check_tun()?;
    }
    let kvm = KvmFacts::probe();
    let mut accels = BTreeMap::new();
    for guest in &lab.guests {
        let accel = accel::decide(guest.accel, &kvm).map_err(|e| anyhow!("guest {}: {e}", guest.name))?;
        accels.insert(guest.name.clone(), accel);
    }
    let has_ssh_key = places.ssh_key().exists();
    Ok(Facts {
        user: user.clone(),
        places,
        has_ssh_key,
        started: recorded
            .iter()
            .flat_map(|state| state.guests.iter().map(|guest| guest.name.clone()))
            .collect(),
        user_data,
        roots,
        vswitch,
        qemu: qemu()?,
        uefi,
        accels,
        ssh_ports: ssh_ports(lab, user.uid, recorded)?,
        formats,
        sizes,
        clones,
        no_taps,
    })
}

/// The public half of a private key.
pub fn public_key(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".pub");
    path.into()
}

/// QEMU opens its TAPs as the lab's user. Everywhere but in some containers
/// anybody may open this device; what a TAP's owner may do is asked later.
fn check_tun() -> Result<()> {
    let tun = "/dev/net/tun";
    let opened = fs::OpenOptions::new().read(true).write(true).open(tun);
    let Err(e) = opened else { return Ok(()) };
    let fix = match e.kind() == std::io::ErrorKind::PermissionDenied {
        true => format!(
            "QEMU opens its TAPs without privilege, for which it has mode 0666 as a rule: sudo chmod 666 {tun}"
        ),
        false => "load the kernel's TUN/TAP driver: sudo modprobe tun".to_owned(),
    };
    Err(anyhow!("{tun}: {e}\n  {fix}"))
}

fn missing(image: &Path, guest: &str, error: &anyhow::Error) -> anyhow::Error {
    if image.exists() {
        return anyhow!("{error:#}");
    }
    let path = image.display();
    anyhow!(
        "{path} is missing\n  make it: vlab disk create {path} --size 8G, then vlab install {guest} --iso FILE"
    )
}

/// Images of the lab in which nothing was ever written: their guests would start
/// into nothing, and be waited for in vain.
pub fn empty_images(lab: &Lab) -> Vec<String> {
    let mut warnings = Vec::new();
    for guest in &lab.guests {
        let Some(image) = guest.image() else { continue };
        // The smallest boot loader and file system take more.
        let empty = disk::info(image, &[]).is_ok_and(|info| info.base.is_none() && info.disk_size < 1 << 20);
        if empty && !warnings.iter().any(|(known, _)| *known == image) {
            warnings.push((image, guest.name.as_str()));
        }
    }
    let text = |(image, guest): (&Path, &str)| {
        format!("{} is empty; install a system into it: vlab install {guest} --iso FILE", image.display())
    };
    warnings.into_iter().map(text).collect()
}

/// Clones whose size is another than the lab says: it counts when a clone is made.
pub fn stale_sizes(lab: &Lab, facts: &Facts) -> Vec<String> {
    let mut warnings = Vec::new();
    for guest in &lab.guests {
        let Boot::Base(base, Some(size)) = &guest.boot else { continue };
        let clone = facts.places.clone_of(&guest.name);
        let Some(wanted) = disk::bytes_of(size).filter(|_| facts.clones.contains(&clone)) else { continue };
        let wanted = wanted.max(facts.sizes.get(base).copied().unwrap_or(0));
        if disk::info(&clone, &[]).is_ok_and(|info| info.virtual_size < wanted) {
            warnings.push(format!(
                "{0} is smaller than {size}, which is for clones that are made anew; make it larger: vlab disk resize {0} {size}",
                clone.display()
            ));
        }
    }
    warnings
}

/// Fails where clones hang on the image that guest `name` is to write.
fn check_no_base(image: &Path, name: &str, places: &Places) -> Result<()> {
    let labs = places.data.parent().and_then(|labs| fs::read_dir(labs).ok()).into_iter().flatten().flatten();
    let folders: Vec<PathBuf> = labs.map(|folder| folder.path()).collect();
    let clones = disk::clones_of(&fs::canonicalize(image)?, &folders);
    let Some(clone) = clones.first() else { return Ok(()) };
    bail!(
        "disk of guest {name}: {} is the base of {}, and that clone is lost when it is written\n  give the guest a clone: base = \"…\", or delete those there are: vlab down --disks",
        image.display(),
        clone.display()
    )
}

fn check_clone(clone: &Path, base: &Path) -> Result<()> {
    let info = disk::info(clone, &[])?;
    let was = info.base.as_deref().and_then(|path| fs::canonicalize(path).ok());
    if was != fs::canonicalize(base).ok() {
        bail!(
            "{} is a clone of {}, not of {}\n  make it anew: vlab down --disks",
            clone.display(),
            info.base.as_deref().unwrap_or(Path::new("nothing")).display(),
            base.display()
        );
    }
    Ok(())
}

/// The switch: `VSWITCH`, else beside this program, else on PATH.
fn vswitch() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VSWITCH") {
        return Ok(path.into());
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("vswitch"));
    beside.filter(|path| is_program(path)).or_else(|| on_path("vswitch")).ok_or_else(|| {
        anyhow!(
            "there is no vswitch program\n  put it beside vlab or on PATH, or say where it is: VSWITCH=PATH"
        )
    })
}

/// QEMU: `QEMU`, else qemu-system-x86_64 on PATH.
fn qemu() -> Result<Qemu> {
    let named = std::env::var_os("QEMU").map(PathBuf::from);
    let program = named.or_else(|| on_path("qemu-system-x86_64")).ok_or_else(|| {
        anyhow!("there is no qemu-system-x86_64\n  install it (package qemu-system-x86), or say where it is: QEMU=PATH")
    })?;
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text)
        .with_context(|| format!("{} names no version: {}", program.display(), text.trim()))?;
    Ok(Qemu { program, version })
}

/// `QEMU emulator version 10.0.2 (Debian…)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("version ")?;
    let mut parts = rest.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A port for each guest with internet: the file's, the recorded one, or the
/// first free one from where the guest's name points.
fn ssh_ports(lab: &Lab, uid: u32, recorded: Option<&State>) -> Result<BTreeMap<String, u16>> {
    let mut ports: BTreeMap<String, u16> = BTreeMap::new();
    let mut taken: Vec<u16> = lab
        .guests
        .iter()
        .flat_map(|guest| guest.forwards.iter().map(|forward| forward.host).chain(guest.ssh_port))
        .collect();
    for guest in lab.guests.iter().filter(|guest| guest.internet) {
        let was =
            recorded.and_then(|state| state.guests.iter().find(|record| record.name == guest.name)?.ssh_port);
        let port = match guest.ssh_port.or(was) {
            Some(port) => port,
            None => {
                let start = names::ssh_port(uid, &lab.name, &guest.name);
                (start..start + 500)
                    .find(|port| {
                        !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
                    })
                    .with_context(|| format!("no free port for ssh to {} from {start} on", guest.name))?
            }
        };
        taken.push(port);
        ports.insert(guest.name.clone(), port);
    }
    Ok(ports)
}

/// Routes of the host that overlap a network of the lab: guests would reach the
/// lab, and the host something else, under one address.
pub fn overlapping_routes(lab: &Lab) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let routes: Vec<(String, Subnet)> = table.lines().skip(1).filter_map(parse_route).collect();
    let mut warnings = Vec::new();
    for network in &lab.networks {
        let Some(subnet) = network.subnet else { continue };
        for (interface, route) in &routes {
            if route.overlaps(subnet) {
                let name = &network.name;
                warnings.push(format!(
                    "network {name} {subnet} overlaps this host's route to {route} ({interface})"
                ));
            }
        }
    }
    warnings
}

/// One line of /proc/net/route; addresses are in the host's byte order.
fn parse_route(line: &str) -> Option<(String, Subnet)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok().map(u32::from_be);
    let (network, mask) = (number(1)?, number(7)?);
    let prefix_len = u8::try_from(mask.count_ones()).ok()?;
    // The default route overlaps everything and means nothing.
    (prefix_len > 0).then(|| {
        (
            (*fields.first().unwrap_or(&"")).to_owned(),
            Subnet { network: Ipv4Addr::from_bits(network), prefix_len },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_routes() {
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)"), Some((10, 0)));
        assert_eq!(parse_version("QEMU emulator version 7.2.17"), Some((7, 2)));
        assert_eq!(parse_version("nonsense"), None);
        let line = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        let (interface, subnet) = parse_route(line).unwrap();
        assert_eq!((interface.as_str(), subnet.to_string()), ("eth0", "192.168.1.0/24".to_owned()));
        assert_eq!(parse_route("eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"), None);
    }

    #[test]
    fn an_empty_image_is_named_once_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        disk::create(&path, "8M", disk::Existing::Keep, &[]).unwrap();
        fs::write(folder.path().join("b.img"), vec![7; 2 << 20]).unwrap();
        let text =
            "[guests.a]\nbase = \"a.qcow2\"\n[guests.b]\nbase = \"a.qcow2\"\n[guests.c]\ndisk = \"b.img\"\n";
        let lab = crate::lab::parse(text, Path::new("lab.toml"), folder.path()).unwrap();
        let said = empty_images(&lab);
        let expected = format!("{} is empty; install a system into it: vlab install a", path.display());
        assert!(said.len() == 1 && said[0].starts_with(&expected), "{said:?}");
    }

    #[test]
    fn ssh_ports_are_free_distinct_and_stay() {
        let text = "[defaults]\nkernel = \"k\"\n[guests.a]\n[guests.b]\nssh = { port = 2222 }\n[guests.c]\ninternet = false\n";
        let lab = crate::lab::parse(text, Path::new("lab.toml"), Path::new("/l")).unwrap();
        let first = ssh_ports(&lab, 4_000_000, None).unwrap();
        assert_eq!(first["b"], 2222);
        assert!(!first.contains_key("c") && (20_000..33_000).contains(&first["a"]));
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, first["a"]));
        assert_ne!(ssh_ports(&lab, 4_000_000, None).unwrap()["a"], first["a"], "somebody has it");
    }
}
