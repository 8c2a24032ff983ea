//! Every key of `lab.toml`, one by one: taken with effect or refused by name,
//! never ignored; known to the schema, the guide and the reader alike.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use vlab::accel::{KvmFacts, decide};
use vlab::firmware::Uefi;
use vlab::guest::Qemu;
use vlab::identity::render;
use vlab::install::Install;
use vlab::lab::{self, Boot, Configure, Firmware, Lab, LabError};
use vlab::places::{Drop, Roots, User};
use vlab::plan::{Facts, install, plan, script};

/// What is to be seen when a key's value changes.
enum Effect {
    /// `up`, `install` or `guest-config` do something else.
    Differs,
    /// A clear refusal that names the key.
    Refused,
    /// The one or the other, as this version is built.
    DiffersOrIsRefused,
}
use Effect::{Differs, DiffersOrIsRefused, Refused};

/// A key, a lab without it or with another value, and one with it. `KEYS` in a
/// frame is where the two go.
struct Row {
    key: &'static str,
    frame: &'static str,
    values: [&'static str; 2],
    effect: Effect,
}

const TOP: &str =
    "KEYS\n[networks.lan]\nsubnet = \"10.0.0.0/24\"\n[guests.a]\nkernel = \"k\"\nnics = [\"lan\"]\n";
const NETWORK: &str = "[networks.lan]\nKEYS\n[guests.a]\nbase = \"b\"\nnics = [\"lan\"]\n";
const GUEST: &str =
    "[networks.lan]\nsubnet = \"10.0.0.0/24\"\n[guests.a]\nbase = \"b\"\nnics = [\"lan\"]\nKEYS\n";
const BOOT: &str = "[networks.lan]\nsubnet = \"10.0.0.0/24\"\n[guests.a]\nKEYS\nnics = [\"lan\"]\n";
const NIC: &str = "[networks.lan]\nsubnet = \"10.0.0.0/24\"\n[networks.dmz]\nsubnet = \"10.1.0.0/24\"\n\
    [guests.a]\nkernel = \"k\"\nnics = [{ KEYS }]\n";

const fn row(key: &'static str, frame: &'static str, values: [&'static str; 2], effect: Effect) -> Row {
    Row { key, frame, values, effect }
}

fn rows() -> Vec<Row> {
    let guest = |key, values| row(key, GUEST, values, Differs);
    let nic = |key, values| row(key, NIC, values, Differs);
    let network = |key, values| row(key, NETWORK, values, Differs);
    vec![
        row("version", TOP, ["version = 1", "version = 2"], Refused),
        row("name", TOP, ["", "name = \"other\""], Differs),
        row("defaults", TOP, ["", "[defaults]\nmemory = \"2G\""], Differs),
        row("networks", TOP, ["", "[networks.dmz]"], Differs),
        row("guests", TOP, ["", "[guests.b]\nkernel = \"k\""], Differs),
        network("link", ["", "link = \"stream\""]),
        network("subnet", ["", "subnet = \"10.0.0.0/24\""]),
        network("mtu", ["", "mtu = 9000"]),
        network("host", ["subnet = \"10.0.0.0/24\"", "subnet = \"10.0.0.0/24\"\nhost = \"10.0.0.1\""]),
        network("ports", ["", "ports = [\"netdev:eth1\"]"]),
        network("switch", ["", "switch = { ageing = \"9s\" }"]),
        row("base", BOOT, ["base = \"b\"", "base = \"c\""], Differs),
        row("disk", BOOT, ["base = \"b\"", "disk = \"b\""], Differs),
        row("kernel", BOOT, ["base = \"b\"", "kernel = \"k\""], Differs),
        row("initrd", BOOT, ["kernel = \"k\"", "kernel = \"k\"\ninitrd = \"i\""], Differs),
        row("cmdline", BOOT, ["kernel = \"k\"", "kernel = \"k\"\ncmdline = \"a={lan.address}\""], Differs),
        guest("size", ["", "size = \"16G\""]),
        guest("iso", ["", "iso = \"a.iso\""]),
        row(
            "iso_sha256",
            GUEST,
            ["", "iso_sha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\""],
            Differs,
        ),
        guest("memory", ["", "memory = \"2G\""]),
        guest("cpus", ["", "cpus = 2"]),
        guest("accel", ["", "accel = \"tcg\""]),
        guest("cpu", ["", "cpu = \"qemu64\""]),
        guest("machine", ["", "machine = \"q35\""]),
        guest("firmware", ["machine = \"q35\"", "firmware = \"uefi\""]),
        guest("disk_bus", ["", "disk_bus = \"ide\""]),
        guest("display", ["", "display = \"vnc\""]),
        guest("serial", ["", "serial = false"]),
        guest("internet", ["", "internet = false"]),
        guest("forwards", ["", "forwards = [\"8080:80\"]"]),
        guest("ssh", ["", "ssh = { user = \"arch\" }"]),
        guest("user", ["ssh = {}", "ssh = { user = \"arch\" }"]),
        guest("key", ["ssh = {}", "ssh = { key = \"id\" }"]),
        guest("port", ["ssh = {}", "ssh = { port = 2222 }"]),
        guest("ready", ["", "ready = \"running\""]),
        guest("timeout", ["", "timeout = \"1h\""]),
        guest("configure", ["", "configure = \"none\""]),
        guest(
            "renderer",
            [
                "configure = \"offline\"\nrenderer = \"netctl\"",
                "configure = \"offline\"\nrenderer = \"ifupdown\"",
            ],
        ),
        guest("user_data", ["", "user_data = \"u\""]),
        guest("hostname", ["", "hostname = \"other\""]),
        guest("autostart", ["", "autostart = false"]),
        guest("qemu_args", ["", "qemu_args = [\"-no-reboot\"]"]),
        guest("nics", ["", "[[guests.a.nics]]\nnetwork = \"lan\""]),
        nic("network", ["network = \"lan\"", "network = \"dmz\""]),
        nic("address", ["network = \"lan\"", "network = \"lan\", address = \"10.0.0.7\""]),
        nic("model", ["network = \"lan\"", "network = \"lan\", model = \"rtl8139\""]),
        nic("mac", ["network = \"lan\"", "network = \"lan\", mac = \"02:00:00:00:00:07\""]),
        nic("ifname", ["network = \"lan\"", "network = \"lan\", ifname = \"tap0\""]),
        nic("carrier", ["network = \"lan\"", "network = \"lan\", carrier = false"]),
        row("queues", NIC, ["network = \"lan\"", "network = \"lan\", queues = 2"], DiffersOrIsRefused),
        row("impair", NIC, ["network = \"lan\"", "network = \"lan\", impair = { delay = \"1ms\" }"], Refused),
    ]
}

fn read(text: &str) -> Result<Lab, LabError> {
    lab::parse(text, Path::new("lab.toml"), Path::new("/l/ping"))
}

/// The lab of a row; a guest's own list of NICs gives way to a longer one.
fn text(row: &Row, value: &str) -> String {
    let text = row.frame.replace("KEYS", value);
    if row.key == "nics" { text.replacen("nics = [\"lan\"]\n", "", 1) } else { text }
}

/// A machine that has everything.
fn facts(lab: &Lab) -> Facts {
    let roots = Roots { run: "/run/vlab".into(), state: "/s".into(), data: "/d".into() };
    let kvm = KvmFacts { device: Ok(()), intel: true, amd: false, pvm: false };
    let guests = || lab.guests.iter();
    let each = |keep: &dyn Fn(&lab::Guest) -> Option<PathBuf>| guests().filter_map(keep).collect::<Vec<_>>();
    Facts {
        user: User { uid: 1000, drop: Drop::Nothing },
        places: roots.lab(&lab.name),
        vswitch: "/bin/vswitch".into(),
        qemu: Qemu { program: "qemu-system-x86_64".into(), version: (10, 0) },
        uefi: guests()
            .any(|guest| guest.firmware == Firmware::Uefi)
            .then(|| Uefi { code: "/o/CODE.fd".into(), variables: "/o/VARS.fd".into() }),
        accels: guests().map(|guest| (guest.name.clone(), decide(guest.accel, &kvm).unwrap())).collect(),
        ssh_ports: guests()
            .zip(20_000..)
            .map(|(guest, free)| (guest.name.clone(), guest.ssh_port.unwrap_or(free)))
            .collect(),
        formats: BTreeMap::new(),
        sizes: BTreeMap::new(),
        started: BTreeSet::new(),
        clones: BTreeSet::new(),
        no_taps: None,
        has_ssh_key: false,
        user_data: each(&|guest| guest.user_data.clone())
            .into_iter()
            .map(|path| (path, "#!/bin/sh\n".to_owned()))
            .collect(),
        roots: each(&|guest| match &guest.boot {
            Boot::Base(base, _) if guest.configure == Configure::Offline => Some(base.clone()),
            Boot::Base(..) | Boot::Disk(_) | Boot::Kernel { .. } => None,
        })
        .into_iter()
        .map(|path| (path, 1 << 20))
        .collect(),
    }
}

/// All that vlab would do with `lab`, as text.
fn deeds(lab: &Lab) -> String {
    let facts = facts(lab);
    let steps = plan(lab, &facts).unwrap();
    let guest = &lab.guests[0];
    let iso = guest.iso.clone().unwrap_or_default();
    let from = Install { iso, kernel: None, seed: None, display: guest.display };
    let installed = install(lab, guest, &facts, &from).unwrap();
    let files = render::files(&vlab::identity::of(lab, guest), render::Renderer::Netctl);
    // The script is what a shell would do, the steps what is remembered of it;
    // an ISO's sum is asked for before there is a step.
    format!("{}{steps:?}{installed:?}{files:?}{:?}", script(&steps), guest.iso_sha256)
}

#[test]
fn no_key_is_ignored() {
    for row in rows() {
        let [without, with] = row.values.map(|value| read(&text(&row, value)));
        let without = without.unwrap_or_else(|fault| panic!("{}: {fault}", row.key));
        match (with, &row.effect) {
            (Ok(with), Differs | DiffersOrIsRefused) => {
                assert_ne!(deeds(&without), deeds(&with), "`{}` changes nothing", row.key);
            }
            (Err(fault), Refused | DiffersOrIsRefused) => {
                assert!(!fault.message.contains("unknown key"), "{fault}");
                let named = fault.message.contains(row.key)
                    // Words for what the key would bring.
                    || fault.message.contains(row.key.trim_end_matches('s'));
                assert!(named, "a refusal that does not say what is refused: {fault}");
            }
            (Ok(_), Refused) => panic!("`{}` is taken, and nothing is made of it", row.key),
            (Err(fault), Differs) => panic!("{fault}"),
        }
    }
}

#[test]
fn no_key_is_forgotten() {
    let schema: Value = serde_json::from_str(lab::SCHEMA).unwrap();
    let known = schema::keys(&schema);
    let tried: BTreeSet<String> = rows().iter().map(|row| row.key.to_owned()).collect();
    assert_eq!(tried, known, "rows above, and keys of the schema");
    let guide = include_str!("../../docs/vlab.md");
    let reference = reference(guide);
    for key in known {
        assert!(
            regex_lite::Regex::new(&format!(r"\b{key}( =|\])|\[\[?{key}\.")).unwrap().is_match(reference)
                || guide.contains(&format!("`{key}`")),
            "docs/vlab.md does not say what `{key}` is"
        );
    }
}

/// The commented reference in the guide.
fn reference(guide: &str) -> &str {
    let (_, section) = guide.split_once("\n## lab.toml\n").unwrap();
    let (_, block) = section.split_once("```toml\n").unwrap();
    block.split_once("```").unwrap().0
}

#[test]
fn the_reference_in_the_guide_is_a_lab() {
    let reference = reference(include_str!("../../docs/vlab.md"));
    let lab = read(reference).unwrap_or_else(|fault| panic!("{fault}\n{reference}"));
    assert_eq!(lab.guests[0].nics.len(), 1);
    assert!(schema::fault(&schema::of(reference)).is_none(), "{:?}", schema::fault(&schema::of(reference)));
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let examples = [
        include_str!("../../docs/examples/tutorial/lab.toml"),
        include_str!("../../docs/examples/demo/lab.toml"),
        include_str!("../../docs/examples/arch/lab.toml"),
        include_str!("../../docs/examples/router/lab.toml"),
    ];
    let rows = rows();
    let tried = rows.iter().flat_map(|row| row.values.map(|value| text(row, value)));
    for text in tried.chain(examples.map(str::to_owned)) {
        let (reader, schema) = (read(&text), schema::fault(&schema::of(&text)));
        if reader.is_ok() {
            assert_eq!(schema, None, "the schema refuses what vlab takes:\n{text}");
        }
    }
}

/// Every word that the schema lists is one that the reader knows, and no other is.
#[test]
fn the_schema_lists_the_readers_words() {
    let schema: Value = serde_json::from_str(lab::SCHEMA).unwrap();
    for (key, words) in schema::words(&schema) {
        let frames: Vec<&str> = rows().iter().filter(|row| row.key == key).map(|row| row.frame).collect();
        let frame = frames.first().unwrap();
        let with = |word: &str| {
            let inside = if *frame == NIC { "network = \"lan\", " } else { "" };
            read(&frame.replace("KEYS", &format!("{inside}{key} = \"{word}\"")))
        };
        for word in &words {
            // It may ask for a second key, but it is a word.
            let fault = with(word).err().map(|fault| fault.message).unwrap_or_default();
            assert!(!fault.contains("is one of") && !fault.contains("unknown key"), "{key}: {fault}");
        }
        let fault = with("nonsense").unwrap_err().message;
        let (_, listed) = fault.split_once("is one of ").unwrap();
        let (listed, _) = listed.split_once(", not `nonsense`").unwrap();
        assert_eq!(listed.split(", ").collect::<Vec<_>>(), words, "`{key}`");
    }
}

#[test]
fn what_is_malformed_is_refused_by_both() {
    for wrong in [
        "[guests.a]\nkernel = 1\n",
        "[guests.a]\nkernel = \"k\"\nmemory = 512\n",
        "[guests.a]\nkernel = \"k\"\nmemory = \"512\"\n",
        "[guests.a]\nkernel = \"k\"\ncpus = 0\n",
        "[guests.a]\nkernel = \"k\"\ncpus = 256\n",
        "[guests.a]\nkernel = \"k\"\ntimeout = \"10\"\n",
        "[guests.a]\nkernel = \"k\"\nready = \"soon\"\n",
        "[guests.a]\nkernel = \"k\"\ninternet = \"yes\"\n",
        "[guests.a]\nkernel = \"k\"\nforwards = \"8080:80\"\n",
        "[guests.a]\nkernel = \"k\"\nssh = { port = 70000 }\n",
        "[guests.a]\nkernel = \"k\"\nssh = { host = \"x\" }\n",
        "[guests.a]\nbase = \"b\"\nsize = \"huge\"\n",
        "[guests.a]\nbase = \"b\"\niso_sha256 = \"12\"\n",
        "[guests.A]\nkernel = \"k\"\n",
        "[guests]\n",
        "[networks.eleven-bytes]\n[guests.a]\nkernel = \"k\"\n",
        "[networks.lan]\nmtu = 67\n[guests.a]\nkernel = \"k\"\n",
        "[networks.lan]\nhost = 1\n[guests.a]\nkernel = \"k\"\n",
        "[networks.lan]\n[guests.a]\nkernel = \"k\"\nnics = [{ address = \"none\" }]\n",
        "version = 2\n[guests.a]\nkernel = \"k\"\n",
        "nmae = \"x\"\n[guests.a]\nkernel = \"k\"\n",
    ] {
        assert!(read(wrong).is_err(), "the reader takes\n{wrong}");
        assert!(schema::fault(&schema::of(wrong)).is_some(), "the schema takes\n{wrong}");
    }
}
