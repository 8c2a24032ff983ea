//! The keys of one guest, and of `[defaults]`, which has the same.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vswitch::frame::MacAddr;
use vswitch::port::{Kind, PortSpec, QUEUES_MAX};

use super::reader::{Item, Keys, LabError};
use super::{
    AccelChoice, Address, Boot, Configure, DiskBus, Display, Firmware, Forward, Guest, Machine, Model,
    NICS_MAX, Network, Nic, Ready,
};
use crate::disk;
use crate::identity::render::Renderer;
use crate::names;

/// What a guest's keys are read against.
pub struct Context<'c> {
    /// The lab's name.
    pub lab: &'c str,
    /// The guest's name.
    pub guest: &'c str,
    /// Where relative paths start.
    pub folder: &'c Path,
    /// The networks it may join.
    pub networks: &'c [Network],
}

/// Reads one guest. `None` when it boots from nothing, which `[defaults]` may.
/// Automatic addresses are left [`Address::None`] for `check` to choose.
pub fn read_guest(keys: &Keys<'_>, context: &Context<'_>) -> Result<Option<Guest>, LabError> {
    let boot = read_boot(keys, context.folder)?;
    let memory_mib = match keys.item("memory") {
        Some(item) => memory(item.text()?).map_err(|e| item.fault(e))?,
        None => 1024,
    };
    let cpus = match keys.item("cpus") {
        Some(item) => u16::try_from(item.integer(1..=255)?).unwrap_or(1),
        None => 1,
    };
    let words =
        [("auto", Some(AccelChoice::Auto)), ("kvm", Some(AccelChoice::Kvm)), ("tcg", Some(AccelChoice::Tcg))];
    let accel = keys.item("accel").map_or(Ok(AccelChoice::Auto), |item| item.word(&words))?;
    let cpu = match keys.item("cpu") {
        Some(item) => Some(item.text()?.to_owned()).filter(|text| text != "auto"),
        None => None,
    };
    let (machine, firmware) = read_board(keys)?;
    let words = [("virtio", Some(DiskBus::Virtio)), ("ide", Some(DiskBus::Ide))];
    let disk_bus = keys.item("disk_bus").map_or(Ok(DiskBus::Virtio), |item| item.word(&words))?;
    let words = Display::ALL.map(|(name, display)| (name, Some(display)));
    let display = keys.item("display").map_or(Ok(Display::None), |item| item.word(&words))?;
    let iso = keys.item("iso").map(|item| item.text().map(|text| context.folder.join(text))).transpose()?;
    let iso_sha256 = keys.item("iso_sha256").map(|item| sha256(&item)).transpose()?;
    let serial = keys.item("serial").map_or(Ok(true), |item| item.boolean())?;
    let internet = keys.item("internet").map_or(Ok(true), |item| item.boolean())?;
    let mut forwards = Vec::new();
    for item in keys.item("forwards").map_or(Ok(Vec::new()), |item| item.list())? {
        forwards.push(forward(item.text()?).map_err(|e| item.fault(e))?);
    }
    let ssh = read_ssh(keys, context.folder)?;
    if !internet && let Some(stray) = keys.own("forwards").or_else(|| keys.own("ssh")) {
        return Err(
            stray.fault("`forwards` and `ssh` go through the internet NIC: they need `internet = true`")
        );
    }
    let autostart = keys.item("autostart").map_or(Ok(true), |item| item.boolean())?;
    let ready = match keys.item("ready") {
        Some(item) => read_ready(&item, serial, internet)?,
        None => Ready::Auto,
    };
    let timeout = match keys.item("timeout") {
        Some(item) => parse_duration(item.text()?)
            .ok_or_else(|| item.fault("`timeout` is a duration: 120s, 2m or 500ms"))?,
        None => Duration::from_secs(120),
    };
    let told = read_configure(keys, context, boot.as_ref())?;
    let mut qemu_args = Vec::new();
    for item in keys.item("qemu_args").map_or(Ok(Vec::new()), |item| item.list())? {
        qemu_args.push(item.text()?.to_owned());
    }
    let nics = read_nics(keys, context)?;
    keys.finish()?;
    let Some(boot) = boot else { return Ok(None) };
    Ok(Some(Guest {
        name: context.guest.to_owned(),
        boot,
        iso,
        iso_sha256,
        display,
        memory_mib,
        cpus,
        accel,
        cpu,
        machine,
        firmware,
        disk_bus,
        serial,
        internet,
        forwards,
        ssh_port: ssh.port,
        ssh_user: ssh.user,
        ssh_key: ssh.key,
        autostart,
        ready,
        timeout,
        configure: told.configure,
        renderer: told.renderer,
        user_data: told.user_data,
        hostname: told.hostname,
        qemu_args,
        nics,
    }))
}

/// UEFI is built for the newer board, which is the default with it.
fn read_board(keys: &Keys<'_>) -> Result<(Machine, Firmware), LabError> {
    let words = [("bios", Some(Firmware::Bios)), ("uefi", Some(Firmware::Uefi))];
    let firmware = keys.item("firmware").map_or(Ok(Firmware::Bios), |item| item.word(&words))?;
    let words = [("pc", Some(Machine::Pc)), ("q35", Some(Machine::Q35))];
    let machine = keys.item("machine").map(|item| Ok((item.word(&words)?, item))).transpose()?;
    match (firmware, machine) {
        (Firmware::Uefi, Some((Machine::Pc, item))) => {
            Err(item.fault("`firmware = \"uefi\"` is for machine q35: write that, or leave `machine` out"))
        }
        (_, Some((machine, _))) => Ok((machine, firmware)),
        (Firmware::Bios, None) => Ok((Machine::Pc, firmware)),
        (Firmware::Uefi, None) => Ok((Machine::Q35, firmware)),
    }
}

fn read_boot(keys: &Keys<'_>, folder: &Path) -> Result<Option<Boot>, LabError> {
    // A guest's own way to boot wins as a whole over the defaults' way.
    let own = ["base", "disk", "kernel"].map(|key| keys.own(key));
    let item = |key, index: usize| {
        if own.iter().any(Option::is_some) { own[index] } else { keys.item(key) }
    };
    let (base, disk, kernel) = (item("base", 0), item("disk", 1), item("kernel", 2));
    let (initrd, cmdline, size) = (keys.item("initrd"), keys.item("cmdline"), keys.item("size"));
    let path = |item: &Item<'_>| Ok(folder.join(item.text()?));
    let both = |item: Item<'_>| item.fault("a guest boots from one of `base`, `disk` and `kernel`");
    if kernel.is_none()
        && let Some(stray) = keys.own("initrd").or_else(|| keys.own("cmdline"))
    {
        return Err(stray.fault("`initrd` and `cmdline` go with `kernel`"));
    }
    if base.is_none()
        && let Some(stray) = keys.own("size").filter(|_| disk.is_some() || kernel.is_some())
    {
        return Err(stray.fault("`size` is a clone's: it goes with `base`"));
    }
    let size = size.map(|item| image_size(&item)).transpose()?;
    Ok(match (base, disk, kernel) {
        (None, None, None) => None,
        (Some(base), None, None) => Some(Boot::Base(path(&base)?, size)),
        (None, Some(disk), None) => Some(Boot::Disk(path(&disk)?)),
        (None, None, Some(kernel)) => Some(Boot::Kernel {
            kernel: path(&kernel)?,
            initrd: initrd.as_ref().map(path).transpose()?,
            cmdline: cmdline.map_or(Ok(""), |item| item.text())?.to_owned(),
        }),
        (_, Some(second), None) | (_, _, Some(second)) => return Err(both(second)),
    })
}

/// A size in qemu-img's notation.
fn image_size(item: &Item<'_>) -> Result<String, LabError> {
    let text = item.text()?;
    match disk::check_size(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(e) => Err(item.fault(e.to_string())),
    }
}

fn sha256(item: &Item<'_>) -> Result<String, LabError> {
    let text = item.text()?.to_ascii_lowercase();
    let whole = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if whole { Ok(text) } else { Err(item.fault("a SHA-256 has 64 hexadecimal digits")) }
}

struct Ssh {
    port: Option<u16>,
    user: String,
    key: Option<PathBuf>,
}

/// `ssh = { user = "arch", key = "FILE", port = N }`; absent or "auto": root,
/// the lab's key, a port that is chosen.
fn read_ssh(keys: &Keys<'_>, folder: &Path) -> Result<Ssh, LabError> {
    let mut read = Ssh { port: None, user: "root".to_owned(), key: None };
    let Some(item) = keys.item("ssh") else { return Ok(read) };
    let ssh = item.table("ssh")?;
    if let Some(item) = ssh.item("user") {
        let user = item.text()?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.');
        if !user.bytes().all(plain) || user.is_empty() || user.starts_with('-') {
            return Err(item.fault(format!("`{user}` is no user's name")));
        }
        user.clone_into(&mut read.user);
    }
    if let Some(item) = ssh.item("key")
        && item.text()? != "auto"
    {
        read.key = Some(folder.join(item.text()?));
    }
    read.port = match ssh.item("port") {
        Some(item) if item.is_text() => item.word(&[("auto", Some(None))])?,
        Some(item) => u16::try_from(item.integer(1..=65_535)?).ok(),
        None => None,
    };
    ssh.finish()?;
    Ok(read)
}

/// What a guest is told, and how.
struct Told {
    configure: Configure,
    renderer: Option<Renderer>,
    user_data: Option<PathBuf>,
    hostname: String,
}

fn read_configure(keys: &Keys<'_>, context: &Context<'_>, boot: Option<&Boot>) -> Result<Told, LabError> {
    let words = [
        ("auto", Some(Configure::Auto)),
        ("cloud-init", Some(Configure::CloudInit)),
        ("credentials", Some(Configure::Credentials)),
        ("offline", Some(Configure::Offline)),
        ("none", Some(Configure::None)),
    ];
    let configure = keys.item("configure").map_or(Ok(Configure::Auto), |item| item.word(&words))?;
    let mut words = vec![("auto", Some(None))];
    words.extend(Renderer::ALL.map(|(name, renderer)| (name, Some(Some(renderer)))));
    let renderer = keys.item("renderer").map_or(Ok(None), |item| item.word(&words))?;
    if configure == Configure::Offline
        && let Some(item) = keys.item("configure")
    {
        if boot.is_some_and(|boot| !matches!(boot, Boot::Base(..))) {
            return Err(item.fault("`offline` is written into a clone: it goes with `base`"));
        }
        if renderer.is_none() {
            return Err(item.fault("`offline` needs `renderer`: what configures networks in this guest"));
        }
    }
    let user_data = keys.item("user_data");
    if let Some(item) = user_data.filter(|_| !matches!(configure, Configure::Auto | Configure::CloudInit)) {
        return Err(item.fault("`user_data` is for cloud-init: it goes with `configure = \"cloud-init\"`"));
    }
    let hostname = match keys.item("hostname") {
        Some(item) => {
            let name = item.text()?;
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
            if !plain || name.is_empty() || name.len() > 63 || name.starts_with(['-', '.']) {
                return Err(item.fault(format!("`{name}` is no host name")));
            }
            name.to_owned()
        }
        None => context.guest.to_owned(),
    };
    let user_data = user_data.map(|item| item.text().map(|text| context.folder.join(text))).transpose()?;
    Ok(Told { configure, renderer, user_data, hostname })
}

fn read_ready(item: &Item<'_>, serial: bool, internet: bool) -> Result<Ready, LabError> {
    let text = item.text()?;
    if let Some(pattern) = text.strip_prefix("console:") {
        if !serial {
            return Err(item.fault("`console:` needs `serial = true`"));
        }
        regex_lite::Regex::new(pattern).map_err(|e| item.fault(format!("`{pattern}`: {e}")))?;
        return Ok(Ready::Console(pattern.to_owned()));
    }
    Ok(match text {
        "auto" => Ready::Auto,
        "ssh" if internet => Ready::Ssh,
        "ssh" => {
            return Err(item.fault("`ssh` is asked for through the internet NIC: it needs `internet = true`"));
        }
        "frame" => Ready::Frame,
        "running" => Ready::Running,
        _ => {
            return Err(item
                .fault(format!("`ready` is one of auto, ssh, console:REGEX, frame, running, not `{text}`")));
        }
    })
}

fn read_nics(keys: &Keys<'_>, context: &Context<'_>) -> Result<Vec<Nic>, LabError> {
    let Some(list) = keys.item("nics") else { return Ok(Vec::new()) };
    let mut nics: Vec<Nic> = Vec::new();
    let items = list.list()?;
    if items.len() > NICS_MAX {
        return Err(list.fault(format!("a guest has at most {NICS_MAX} lab NICs")));
    }
    for item in items {
        let nic = read_nic(&item, context, &nics)?;
        nics.push(nic);
    }
    Ok(nics)
}

fn read_nic(item: &Item<'_>, context: &Context<'_>, earlier: &[Nic]) -> Result<Nic, LabError> {
    let keys = if item.is_text() { None } else { Some(item.table("nic")?) };
    let get = |key| keys.as_ref().and_then(|keys| keys.item(key));
    let network_item = match &keys {
        None => *item,
        Some(keys) => keys.item("network").ok_or_else(|| keys.fault("a NIC needs `network`"))?,
    };
    let name = network_item.text()?;
    let Some(network) = context.networks.iter().find(|network| network.name == name) else {
        let known: Vec<_> = context.networks.iter().map(|network| network.name.as_str()).collect();
        return Err(network_item.fault(format!("there is no network `{name}`; known: {}", known.join(", "))));
    };
    let index = earlier.iter().filter(|nic| nic.network == name).count();
    let address = match get("address") {
        None => Address::Auto,
        Some(item) => read_address(&item, network)?,
    };
    let words = [
        ("virtio", Some(Model::Virtio)),
        ("e1000", Some(Model::E1000)),
        ("e1000e", Some(Model::E1000e)),
        ("rtl8139", Some(Model::Rtl8139)),
    ];
    let model = get("model").map_or(Ok(Model::Virtio), |item| item.word(&words))?;
    let mac = match get("mac") {
        Some(item) if item.text()? != "auto" => read_mac(&item)?,
        Some(_) | None => names::mac(context.lab, context.guest, &names::numbered(name, index)),
    };
    let ifname = match get("ifname") {
        Some(item) if item.text()? != "auto" => Some(read_ifname(&item)?),
        Some(_) | None => None,
    };
    let queues = match get("queues") {
        None => 1,
        Some(item) => u32::try_from(item.integer(1..=QUEUES_MAX.into())?)
            .map_err(|_| item.fault("a number of queues".to_owned()))?,
    };
    let carrier = get("carrier").map_or(Ok(true), |item| item.boolean())?;
    if let Some(item) = get("impair") {
        return Err(item.unavailable("`impair`"));
    }
    if let Some(keys) = &keys {
        keys.finish()?;
    }
    Ok(Nic { network: name.to_owned(), index, address, model, mac, carrier, ifname, queues })
}

fn read_address(item: &Item<'_>, network: &Network) -> Result<Address, LabError> {
    let text = item.text()?;
    let address: Ipv4Addr = match text {
        "auto" => return Ok(Address::Auto),
        "dhcp" => return Ok(Address::Dhcp),
        "none" => return Ok(Address::None),
        _ => text.parse().map_err(|_| {
            item.fault(format!("`address` is an IPv4 address, auto, dhcp or none, not `{text}`"))
        })?,
    };
    let name = &network.name;
    match network.subnet {
        Some(subnet) if subnet.holds(address) => Ok(Address::Static(address)),
        Some(subnet) => Err(item.fault(format!("{address} is no host address of {name}'s {subnet}"))),
        None => {
            Err(item.fault(format!("network {name} has no `subnet`: give it one, or leave the address out")))
        }
    }
}

fn read_mac(item: &Item<'_>) -> Result<MacAddr, LabError> {
    let text = item.text()?;
    let mac: MacAddr = text.parse().map_err(|_| item.fault(format!("`{text}` is not a MAC address")))?;
    // QEMU takes all zeroes as unset and gives every such guest the same MAC.
    if !mac.is_valid_source() {
        return Err(item.fault(format!("`{text}` cannot be a guest's MAC: it is zero or a group address")));
    }
    Ok(mac)
}

fn read_ifname(item: &Item<'_>) -> Result<String, LabError> {
    let text = item.text()?;
    match text.parse::<PortSpec>() {
        Ok(spec) if spec.kind == Kind::Auto && spec.options.is_empty() => Ok(spec.target),
        Ok(_) => Err(item.fault(format!("`{text}` is a port, not the name of an interface"))),
        Err(e) => Err(item.fault(e.to_string())),
    }
}

/// `1G`, `512M`, in MiB.
fn memory(text: &str) -> Result<u32, String> {
    let form = || format!("`memory` is a size such as 512M or 1G, not `{text}`");
    let (digits, unit) = text.split_at(text.len() - usize::from(text.ends_with(['M', 'G'])));
    let number: u32 = digits.parse().map_err(|_| form())?;
    let mib = match unit {
        "G" => number.checked_mul(1024).ok_or_else(form)?,
        "M" => number,
        _ => return Err(form()),
    };
    if (16..=4 * 1024 * 1024).contains(&mib) { Ok(mib) } else { Err(form()) }
}

/// `[IP:]HOST:GUEST[/udp]`.
fn forward(text: &str) -> Result<Forward, String> {
    let form = || format!("`{text}` is not [IP:]HOST:GUEST[/udp], as in 8080:80");
    let (ports, udp) = match text.strip_suffix("/udp") {
        Some(ports) => (ports, true),
        None => (text.strip_suffix("/tcp").unwrap_or(text), false),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (ip, host, guest) = match parts[..] {
        [host, guest] => (Ipv4Addr::LOCALHOST, host, guest),
        [ip, host, guest] => (ip.parse().map_err(|_| form())?, host, guest),
        _ => return Err(form()),
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(form);
    Ok(Forward { ip, host: port(host)?, guest: port(guest)?, udp })
}

/// Reads `120s`, `2m`, `1h`, `500ms`; at most a day.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(ms)?);
    (duration <= Duration::from_secs(86_400)).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(memory("1G"), Ok(1024));
        assert_eq!(memory("512M"), Ok(512));
        for bad in ["", "G", "1", "1T", "-1G", "9999999G", "1é"] {
            assert!(memory(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_duration("120s"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        for bad in ["", "s", "10", "10 s", "25h", "1é", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn forwards() {
        let local = Ipv4Addr::LOCALHOST;
        assert_eq!(forward("8080:80"), Ok(Forward { ip: local, host: 8080, guest: 80, udp: false }));
        assert_eq!(
            forward("0.0.0.0:53:5353/udp"),
            Ok(Forward { ip: Ipv4Addr::UNSPECIFIED, host: 53, guest: 5353, udp: true })
        );
        for bad in ["80", "0:80", "a:b", "1:2:3:4", "70000:1"] {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }
}
