//! Good files, and each fault with its exact text.

use std::time::Duration;

use super::*;
use crate::bridge::PortSettings;
use crate::port::Kind;

fn invoker() -> Invoker {
    Invoker { uid: 1000, owner: 1000, run_dir: "/run/user/1000/vswitch".into(), search: Vec::new(), cores: 2 }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new("lan/vswitch.toml"), &invoker())
}

const FULL: &str = r#"
ports = [
  "tap0",
  "tap:t1,offloads=off,mtu=9000",
  { spec = "netdev:eth1", name = "uplink", isolated = true, max_macs = 64 },
]

[switch]
name = "lab-lan"
control = "lan.sock"
owner = "root"
ageing = "5m"
fdb_size = 1_000
transparent = true
pad_runts = true
busy_poll = "0s"
isolation = "clsact"

[[fdb]]
mac = "02:00:00:00:00:01"
port = "tap0"
sticky = true
[[fdb]]
mac = "02-00-00-00-00-02"
port = "uplink"
"#;

#[test]
fn a_full_file_means_what_it_says() {
    let config = parse(FULL).unwrap();
    assert_eq!((config.name.as_str(), config.owner), ("lab-lan", 0));
    assert_eq!(config.control, Path::new("lan/lan.sock"), "relative paths start at the file");
    assert_eq!(config.settings.ageing, Duration::from_secs(300));
    assert_eq!((config.settings.fdb_size, config.settings.transparent), (1000, true));
    assert_eq!((config.pad_runts, config.busy_poll), (true, Duration::ZERO));
    assert_eq!(config.isolation, super::super::Isolation::Clsact);
    let [tap0, t1, uplink] = config.ports.as_slice() else { panic!("{:?}", config.ports) };
    assert_eq!(
        (tap0.name.as_str(), tap0.spec.kind, tap0.flags),
        ("tap0", Kind::Auto, PortSettings::default())
    );
    assert_eq!((t1.name.as_str(), t1.spec.kind, t1.mtu), ("t1", Kind::Tap, Some(9000)));
    assert_eq!(t1.spec.to_string(), "tap:t1,offloads=off", "options of the kind stay in the specification");
    assert_eq!((uplink.name.as_str(), uplink.spec.to_string().as_str()), ("uplink", "netdev:eth1"));
    assert_eq!((uplink.flags.isolated, uplink.flags.max_macs), (true, Some(64)));
    let ports: Vec<_> = config.fdb.iter().map(|e| (e.port.as_str(), e.sticky)).collect();
    assert_eq!(ports, [("tap0", true), ("uplink", false)]);
}

#[test]
fn files_read_back_what_they_are_written_from() {
    for text in ["", "ports = [\"tap0,flood=false,learning=off,takeover=true\"]", FULL] {
        let mut config = parse(text).unwrap();
        config.control = Path::new("/run/a \"quoted\\path\"\u{7f}.sock").to_owned();
        assert_eq!(parse(&config.to_toml()), Ok(config.clone()), "{}", config.to_toml());
    }
}

#[test]
fn an_empty_file_is_a_switch_without_ports() {
    let config = parse("").unwrap();
    assert_eq!(config, Config::new(&invoker()));
    assert_eq!(config.control, Path::new("/run/user/1000/vswitch/default.sock"));
    let named = parse("[switch]\nname = \"b\"").unwrap();
    assert_eq!(named.control, Path::new("/run/user/1000/vswitch/b.sock"), "the socket follows the name");
}

/// Text of a file, what is said about it after its path, and the fix.
const FAULTS: &[(&str, &str, &str)] = &[
    ("[switch]\nagein = \"300s\"", "2:1: unknown key `agein` in [switch]", "did you mean `ageing`?"),
    ("[switch]\n  ageing = 300", "2:12: `ageing` cannot be `300`", "write the unit too, as \"300s\""),
    ("[switch]\nageing = \"300\"", "2:10: `ageing` cannot be `300`", "write the unit too, as 300s"),
    ("[switch]\nageing = \"2000000s\"", "2:10: `ageing` cannot be `2000000s`", "write at most 1000000s"),
    ("[switch]\nageing = true", "2:10: `ageing` cannot be `true`", "write a time with its unit, as \"300s\""),
    ("[switch]\nbusy_poll = \"1h\"", "2:13: `busy_poll` cannot be `1h`", "write at most 1s"),
    ("[switch]\nfdb_size = 0", "2:12: `fdb_size` cannot be `0`", "write a number from 1 to 1048575"),
    (
        "[switch]\nfdb_size = 1048576",
        "2:12: `fdb_size` cannot be `1048576`",
        "write a number from 1 to 1048575",
    ),
    ("[switch]\nfdb_size = -1", "2:12: `fdb_size` cannot be `-1`", "write a number from 1 to 1048575"),
    (
        "[switch]\nfdb_size = 1.5",
        "2:12: `fdb_size` cannot be of type float",
        "write a number, true, false, or text in quotes",
    ),
    ("[switch]\npad_runts = \"maybe\"", "2:13: `pad_runts` cannot be `maybe`", "write true or false"),
    ("[switch]\nisolation = \"on\"", "2:13: `isolation` cannot be `on`", "write auto, clsact or off"),
    ("[switch]\nname = 5", "2:8: `name` cannot be `5`", "write text: \"5\""),
    (
        "[switch]\nname = \"../x\"",
        "2:8: `../x` cannot name a switch",
        "use 1 to 32 letters, digits, `.`, `_` or `-`, first a letter, digit or `_`",
    ),
    (
        "[switch]\nowner = \"nobody like this\"",
        "2:9: no user `nobody like this` in /etc/passwd",
        "write the uid instead: id -u USER",
    ),
    (
        "[switch]\nports = [\"tap0\"]",
        "2:1: `ports` stands inside [switch]",
        "move it above the line [switch]",
    ),
    ("ageing = \"300s\"", "1:1: `ageing` stands outside [switch]", "write [switch] on a line above it"),
    ("port = [\"tap0\"]", "1:1: unknown key `port` in this file", "did you mean `ports`?"),
    ("colour = 1", "1:1: unknown key `colour` in this file", "keys: ports, switch, fdb"),
    ("ports = \"tap0\"", "1:9: `ports` cannot be of type string", "write ports = [\"tap0\", \"tap1\"]"),
    ("ports = [1]", "1:10: `ports` cannot be of type integer", "write \"tap0\" or { spec = \"tap0\" }"),
    ("ports = [{ name = \"a\" }]", "1:10: `spec` is missing", "add spec = \"…\""),
    (
        "ports = [\n  \"tap0\",\n  \"foo:x\",\n]",
        "3:3: unknown port kind `foo`: use NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH",
        "a port is NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value",
    ),
    (
        "ports = [{ spec = \"%d\" }]",
        "1:19: `%d` cannot name an interface: use 1 to 15 bytes without `/`, `:`, `%` and spaces",
        "a port is NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value",
    ),
    (
        "ports = [{ spec = \"tap0\", isolate = true }]",
        "1:27: unknown key `isolate` of a port",
        "did you mean `isolated`?",
    ),
    (
        "ports = [{ spec = \"tap0\", mtu = 67 }]",
        "1:33: `mtu` cannot be `67`",
        "write a number from 68 to 65535",
    ),
    ("ports = [\"tap0,mtu=65536\"]", "1:10: `mtu` cannot be `65536`", "write a number from 68 to 65535"),
    ("ports = [\"tap0,offloads=off\"]", "1:10: only tap: ports have `offloads`", "leave it out"),
    (
        "ports = [\"tap0\", \"é\", \"tap1,x=1\"]",
        "1:18: `é` cannot name an interface: use 1 to 15 bytes without `/`, `:`, `%` and spaces",
        "a port is NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value",
    ),
    (
        "ports = [\"tap0\", \"tap1,name=tap0\"]",
        "1:18: two ports are called `tap0`",
        "give one of them another name, as name=uplink",
    ),
    (
        "ports = [\"tap0\", \"tap1,name=total\"]",
        "1:18: a port cannot be called `total`: `stats` and metrics name a sum so",
        "give it another name, as name=uplink",
    ),
    (
        "ports = [\"retired\"]",
        "1:10: a port cannot be called `retired`: `stats` and metrics name a sum so",
        "give it another name, as name=uplink",
    ),
    (
        "ports = [\"tap0\",\n\"netdev:tap0,name=b\"]",
        "2:1: ports `tap0` and `b` both take tap0",
        "it is one port: take one of them away",
    ),
    (
        "ports = [\"tap0,name=a/b\"]",
        "1:10: `a/b` cannot name a port",
        "use 1 to 32 letters, digits, `.`, `_` or `-`, first a letter, digit or `_`",
    ),
    ("[fdb]\nmac = \"02:00:00:00:00:01\"", "1:1: `fdb` cannot be of type table", "write [[fdb]]"),
    ("[[fdb]]\nport = \"tap0\"", "1:1: `mac` is missing", "add mac = \"…\""),
    (
        "[[fdb]]\nmac = \"2:0\"\nport = \"tap0\"",
        "2:7: `2:0` is not a MAC address: write six pairs of hex digits, as 02:00:00:00:00:01",
        "",
    ),
    (
        "ports = [\"tap0\"]\n[[fdb]]\nmac = \"02:00:00:00:00:01\"\nport = \"tap1\"",
        "2:1: there is no port `tap1`",
        "ports: tap0",
    ),
    (
        "ports = [\"tap0\"]\n[[fdb]]\nmac = \"01:00:5e:00:00:01\"\nport = \"tap0\"",
        "2:1: 01:00:5e:00:00:01 cannot be a static address",
        "write a unicast address, neither all-zero nor a group",
    ),
    (
        "ports = [\"tap0\"]\n[[fdb]]\nmac = \"02:00:00:00:00:01\"\nport = \"tap0\"\nvid = 5",
        "2:1: 02:00:00:00:00:01 cannot be in VLAN 5",
        "this switch is VLAN-unaware: leave vid out",
    ),
    ("[[fdb]]\nstick = true", "2:1: unknown key `stick` in [[fdb]]", "did you mean `sticky`?"),
    (
        "ports = [\"tap0\"",
        "1:16: unclosed array, expected `]`",
        "write it as TOML: key = value, text in \"quotes\"",
    ),
];

#[test]
fn faults_point_at_their_place_and_say_what_to_do() {
    for (text, message, fix) in FAULTS {
        let error = parse(text).expect_err(text);
        let expected = format!("lan/vswitch.toml:{message}");
        assert_eq!((error.message().as_str(), error.fix()), (expected.as_str(), *fix), "{text}");
    }
}

#[test]
fn a_fault_prints_its_fix_on_a_line_of_its_own() {
    let error = parse("[switch]\nagein = 1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "lan/vswitch.toml:2:1: unknown key `agein` in [switch]\n  did you mean `ageing`?"
    );
    let error = Config::from_flags(
        &super::super::Flags { file: Some("/nowhere/x.toml".into()), ..Default::default() },
        &invoker(),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "/nowhere/x.toml: No such file or directory (os error 2)\n  \
         --config names a vswitch.toml; without one, name ports: --port tap0"
    );
}
