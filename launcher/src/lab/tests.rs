//! Tables of lab files and what they mean.

use std::net::Ipv4Addr;
use std::path::Path;

use super::*;

const MINIMAL: &str = r#"
name = "ping"

[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
base = "arch.qcow2"

[guests.zero]
nics = [{ network = "lan", address = "192.168.1.150" }]
[guests.one]
nics = [{ network = "lan", address = "192.168.1.151" }]
"#;

fn read(text: &str) -> Result<Lab, LabError> {
    parse(text, Path::new("lab.toml"), Path::new("/labs/ping"))
}

fn guest(keys: &str) -> Result<Guest, LabError> {
    let text = format!("[networks.lan]\nsubnet = \"10.0.0.0/24\"\n[networks.dmz]\n[guests.a]\n{keys}");
    read(&text).map(|mut lab| lab.guests.remove(0))
}

#[test]
fn the_minimal_lab() {
    let lab = read(MINIMAL).unwrap();
    assert_eq!(lab.name, "ping");
    let names: Vec<_> = lab.guests.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["zero", "one"], "in the file's order");
    let zero = &lab.guests[0];
    assert_eq!(zero.boot, Boot::Base("/labs/ping/arch.qcow2".into(), None));
    assert_eq!((zero.memory_mib, zero.cpus, zero.internet), (1024, 1, true));
    assert_eq!(zero.nics[0].address, Address::Static(Ipv4Addr::new(192, 168, 1, 150)));
    assert_eq!(zero.nics[0].mac.to_string(), "02:bb:79:c6:45:9b");
}

#[test]
fn the_examples_are_labs() {
    for text in [
        include_str!("../../../docs/examples/tutorial/lab.toml"),
        include_str!("../../../docs/examples/demo/lab.toml"),
        include_str!("../../../docs/examples/arch/lab.toml"),
    ] {
        let lab = read(text).unwrap();
        assert_eq!(lab.guests.len(), 2);
        assert!(lab.guests.iter().all(|guest| guest.internet && guest.nics.len() == 1));
    }
}

#[test]
fn a_guests_own_keys_win_over_the_defaults() {
    let lab = read(
        "[defaults]\nbase = \"b.qcow2\"\nmemory = \"2G\"\n[guests.a]\n[guests.b]\nmemory = \"512M\"\nkernel = \"k\"\n",
    )
    .unwrap();
    assert_eq!(lab.guests[0].memory_mib, 2048);
    assert_eq!(lab.guests[1].memory_mib, 512);
    assert!(matches!(lab.guests[1].boot, Boot::Kernel { .. }), "kernel replaces the default base");
    assert_eq!(lab.name, "ping", "the folder's name");
}

#[test]
fn placeholders_of_the_command_line() {
    let read = guest("kernel = \"k\"\ncmdline = \"ip={lan.address} id={name} m={lan.mac}\"\nnics = [{ network = \"lan\", address = \"10.0.0.7\", mac = \"02:00:00:00:00:07\" }]").unwrap();
    let Boot::Kernel { cmdline, .. } = read.boot else { panic!("boots a kernel") };
    assert_eq!(cmdline, "ip=10.0.0.7 id=a m=02:00:00:00:00:07");
}

#[test]
fn automatic_addresses_are_chosen_once() {
    let text = "[networks.lan]\nsubnet = \"10.0.0.0/30\"\n[defaults]\nkernel = \"k\"\nnics = [\"lan\"]\n[guests.a]\n[guests.b]\n";
    let lab = read(text).unwrap();
    let addresses: Vec<_> = lab.guests.iter().map(|guest| guest.nics[0].address).collect();
    assert!(addresses.iter().all(|a| matches!(a, Address::Static(_))) && addresses[0] != addresses[1]);
    let full = read(&format!("{text}[guests.c]\n")).unwrap_err();
    assert!(full.message.contains("no address left"), "{full}");
}

#[test]
fn two_nics_on_one_network_differ() {
    let read = guest("kernel = \"k\"\nnics = [\"lan\", \"dmz\", \"lan\"]").unwrap();
    let nets: Vec<_> = read.nics.iter().map(Nic::net).collect();
    assert_eq!(nets, ["lan", "dmz", "lan.1"]);
    assert_ne!(read.nics[0].mac, read.nics[2].mac);
    assert_ne!(read.nics[0].interface(0, "l", "a"), read.nics[2].interface(0, "l", "a"));
    assert_eq!(read.nics[1].address, Address::None, "dmz has no subnet");
}

#[test]
fn faults_name_their_place_and_the_nearest_key() {
    let e = read("name = \"ping\"\n[guests.zero]\nbase = \"x\"\n  memroy = \"1G\"\n").unwrap_err();
    assert_eq!(e.to_string(), "lab.toml:4:3: unknown key `memroy` in guest zero; did you mean `memory`?");
    let e = read("[networks.lan]\n[guests.a]\nkernel = \"k\"\nnics = [{ network = \"lam\" }]\n").unwrap_err();
    assert_eq!((e.line, e.column), (4, 21));
    assert!(e.message.contains("known: lan"), "{e}");
    let e = read("name = \n").unwrap_err();
    assert_eq!(e.line, 1, "{e}");
}

#[test]
fn wrong_values_are_refused() {
    for (keys, expected) in [
        ("memory = 5\nkernel = \"k\"", "must be a string"),
        ("memory = \"1X\"\nkernel = \"k\"", "such as 512M"),
        ("cpus = 0\nkernel = \"k\"", "between 1 and 255"),
        ("accel = \"xen\"\nkernel = \"k\"", "one of auto, kvm, tcg"),
        ("base = \"b\"\ndisk = \"d\"", "boots from one of"),
        ("memory = \"1G\"", "boots from nothing"),
        ("base = \"b\"\ncmdline = \"quiet\"", "go with `kernel`"),
        ("kernel = \"k\"\ncmdline = \"{lan.adress}\"\nnics = [\"lan\"]", "is none of {name}"),
        ("kernel = \"k\"\ncmdline = \"{lan.address}\"", "has no NIC on lan"),
        ("kernel = \"k\"\nnics = [{ network = \"lan\", address = \"10.0.1.1\" }]", "no host address"),
        ("kernel = \"k\"\nnics = [{ network = \"dmz\", address = \"10.0.1.1\" }]", "has no `subnet`"),
        ("kernel = \"k\"\nnics = [{ network = \"lan\", mac = \"01:00:00:00:00:01\" }]", "group address"),
        ("kernel = \"k\"\nnics = [{ network = \"lan\", mac = \"00:00:00:00:00:00\" }]", "is zero"),
        ("kernel = \"k\"\nnics = [{ network = \"lan\", ifname = \"a/b\" }]", "cannot name an interface"),
        ("kernel = \"k\"\nready = \"console:(\"", "open group"),
        ("kernel = \"k\"\nserial = false\nready = \"console:x\"", "serial = true"),
        ("kernel = \"k\"\ninternet = false\nready = \"ssh\"", "internet = true"),
        ("kernel = \"k\"\ninternet = false\nforwards = [\"8080:80\"]", "need `internet = true`"),
        ("disk = \"d\"\nsize = \"8G\"", "goes with `base`"),
        ("kernel = \"k\"\ntimeout = \"10\"", "a duration"),
        ("kernel = \"k\"\nforwards = [\"80\"]", "HOST:GUEST"),
        ("kernel = \"k\"\nconfigure = \"offline\"", "goes with `base`"),
        ("base = \"b\"\nconfigure = \"offline\"", "needs `renderer`"),
        ("base = \"b\"\nconfigure = \"ansible\"", "one of auto, cloud-init, credentials, offline, none"),
        ("base = \"b\"\nrenderer = \"wicked\"", "one of auto, netctl, networkd"),
        ("base = \"b\"\nconfigure = \"none\"\nuser_data = \"u\"", "goes with `configure"),
        ("base = \"b\"\ndisplay = \"cinema\"", "one of none, window, vnc"),
        ("base = \"b\"\niso_sha256 = \"12\"", "64 hexadecimal digits"),
        ("base = \"b\"\nhostname = \"-x\"", "is no host name"),
        ("base = \"b\"\nssh = { user = \"-oProxyCommand=x\" }", "is no user's name"),
    ] {
        let fault = guest(keys).map(|_| "accepted").map_err(|e| e.to_string());
        let fault = fault.unwrap_err();
        assert!(fault.contains(expected), "{keys}: {fault}");
    }
}

#[test]
fn what_is_not_built_is_refused_at_its_place() {
    let keys = "nics = [{ network = \"lan\", impair = { delay = \"10ms\" } }]";
    let text = format!("[networks.lan]\nsubnet = \"10.0.0.0/24\"\n\n[guests.a]\nkernel = \"k\"\n{keys}\n");
    let fault = read(&text).unwrap_err().to_string();
    assert!(fault.contains("not available in this version"), "{fault}");
    assert!(fault.starts_with("lab.toml:6:37:"), "{fault}");
}

#[test]
fn the_host_has_an_address_and_a_name_of_its_own() {
    let lab = |host: &str, guest: &str, address: &str| {
        read(&format!(
            "[networks.lan]\nsubnet = \"10.0.0.0/30\"\nhost = \"{host}\"\n[networks.dmz]\n\
             [guests.{guest}]\nkernel = \"k\"\nnics = [{{ network = \"lan\", address = \"{address}\" }}]\n"
        ))
    };
    let read_back = lab("10.0.0.1", "a", "auto").unwrap();
    assert_eq!(read_back.networks[0].host, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(
        read_back.guests[0].nics[0].address,
        Address::Static(Ipv4Addr::new(10, 0, 0, 2)),
        "what is left"
    );
    for (host, guest, address, place, expected) in [
        ("10.0.1.1", "a", "auto", (3, 8), "no host address of lan's 10.0.0.0/30"),
        ("10.0.0.0", "a", "auto", (3, 8), "no host address of lan's"),
        ("zero", "a", "auto", (3, 8), "`host` is an IPv4 address, not `zero`"),
        ("10.0.0.1", "a", "10.0.0.1", (5, 9), "10.0.0.1 is the host's own address on lan"),
        ("10.0.0.1", "host", "auto", (5, 9), "guest host: network lan calls the host itself so"),
    ] {
        let fault = lab(host, guest, address).unwrap_err();
        assert!(fault.message.contains(expected) && (fault.line, fault.column) == place, "{fault}");
    }
    let fault = read("[networks.lan]\nhost = \"10.0.0.1\"\n").unwrap_err();
    assert!(fault.message.contains("has no `subnet`") && fault.line == 2, "{fault}");
}

#[test]
fn uefi_brings_its_board() {
    for (keys, machine, firmware) in [
        ("", Machine::Pc, Firmware::Bios),
        ("firmware = \"bios\"", Machine::Pc, Firmware::Bios),
        ("firmware = \"uefi\"", Machine::Q35, Firmware::Uefi),
        ("firmware = \"uefi\"\nmachine = \"q35\"", Machine::Q35, Firmware::Uefi),
    ] {
        let read = guest(&format!("kernel = \"k\"\n{keys}")).unwrap();
        assert_eq!((read.machine, read.firmware), (machine, firmware), "{keys}");
    }
    let fault = guest("kernel = \"k\"\nmachine = \"pc\"\nfirmware = \"uefi\"").unwrap_err();
    assert!(fault.message.contains("is for machine q35") && fault.line == 6, "{fault}");
}

#[test]
fn links_are_read_and_what_they_cannot_carry_is_refused() {
    let lab = |link: &str, nic: &str| {
        read(&format!(
            "[networks.lan]\n{link}\n[guests.a]\nkernel = \"k\"\nnics = [{{ network = \"lan\"{nic} }}]\n"
        ))
    };
    for (text, link) in [
        ("", Link::Auto),
        ("link = \"auto\"", Link::Auto),
        ("link = \"tap\"", Link::Tap),
        ("link = \"stream\"", Link::Stream),
        ("link = \"dgram\"", Link::Dgram),
    ] {
        assert_eq!(lab(text, "").unwrap().networks[0].link, link);
    }
    for link in ["stream", "dgram"] {
        let e = lab(&format!("link = \"{link}\""), ", ifname = \"tap0\"").unwrap_err();
        assert!(
            e.message.contains(&format!("has link {link}, without interfaces: leave `ifname` out")),
            "{e}"
        );
    }
    let vhost_user = lab("link = \"vhost-user\"", ", model = \"e1000\"").unwrap_err();
    if crate::link::has_vhost_user() {
        assert!(vhost_user.message.contains("joins model virtio only"), "{vhost_user}");
        assert_eq!(lab("link = \"vhost-user\"", "").unwrap().networks[0].link, Link::VhostUser);
    } else {
        assert_eq!((vhost_user.line, vhost_user.column), (2, 8), "{vhost_user}");
        assert!(vhost_user.message.contains("not available in this version"), "{vhost_user}");
    }
    for (link, nic, expected) in [
        ("link = \"vhost-user\"", ", queues = 4", None),
        ("", ", queues = 16", None),
        ("link = \"stream\"", ", queues = 1", None),
        ("link = \"stream\"", ", queues = 2", Some("needs link vhost-user")),
        ("link = \"tap\"", ", queues = 2", Some("needs link vhost-user")),
        ("", ", queues = 2, model = \"e1000\"", Some("needs model virtio")),
        ("", ", queues = 2, ifname = \"tap0\"", Some("needs no `ifname`")),
        ("", ", queues = 17", Some("16")),
        ("", ", queues = 0", Some("1")),
    ] {
        let fault = lab(link, nic).err().map(|e| e.message);
        assert!(
            fault.as_deref().map_or(expected.is_none(), |it| it.contains(expected.unwrap_or("accepted"))),
            "{link}{nic}: {fault:?}"
        );
    }
    let e = lab("link = \"bridge\"", "").unwrap_err();
    assert!(e.message.contains("`link` is one of auto, tap, vhost-user, stream, dgram"), "{e}");
}

#[test]
fn keys_that_ask_for_nothing_are_taken() {
    guest(
        "kernel = \"k\"\nfirmware = \"bios\"\ndisplay = \"none\"\nconfigure = \"none\"\nrenderer = \"auto\"\nautostart = true\nssh = { port = 2222, key = \"auto\" }\nnics = [{ network = \"lan\", queues = 1, carrier = true }]",
    )
    .unwrap();
}

#[test]
fn nothing_is_claimed_twice() {
    for (a, b, expected) in [
        ("mac = \"02:00:00:00:00:01\"", "mac = \"02:00:00:00:00:01\"", "both have MAC 02:00:00:00:00:01"),
        ("ifname = \"tap0\"", "ifname = \"tap0\"", "both have interface tap0"),
        ("address = \"10.0.0.1\"", "address = \"10.0.0.1\"", "both have address 10.0.0.1 on lan"),
    ] {
        let text = format!(
            "[networks.lan]\nsubnet = \"10.0.0.0/24\"\n[defaults]\nkernel = \"k\"\n[guests.a]\nnics = [{{ network = \"lan\", {a} }}]\n[guests.b]\nnics = [{{ network = \"lan\", {b} }}]\n"
        );
        let fault = read(&text).unwrap_err();
        assert!(fault.message.contains(expected), "{fault}");
        assert_eq!(fault.line, 7, "{fault}");
    }
    let fault = read("[guests.a]\ndisk = \"d\"\n[guests.b]\nbase = \"d\"\n").unwrap_err();
    assert!(fault.message.contains("must not be written"), "{fault}");
}

#[test]
fn the_switch_keys_pass_through_except_what_vlab_sets() {
    let lab = read("[networks.lan]\nswitch = { ageing = \"10s\" }\nports = [\"netdev:eth1\"]\n[guests.a]\nkernel = \"k\"\n").unwrap();
    assert_eq!(lab.networks[0].switch["ageing"].as_str(), Some("10s"));
    let e = read("[networks.lan]\nswitch = { name = \"x\" }\n").unwrap_err();
    assert_eq!((e.line, e.column), (2, 12), "{e}");
}
