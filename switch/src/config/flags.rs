//! The command line of `vswitch run`, over a file if it names one.

use std::path::PathBuf;

use super::file::{Draft, read_file};
use super::keys::port_of_spec;
use super::{Config, ConfigError, Invoker, Origin, Value};

/// The flags of `vswitch run` that configure, as typed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Each `--port`.
    pub ports: Vec<String>,
    /// Keys of `[switch]` with their values.
    pub keys: Vec<(&'static str, String)>,
}

/// The ports of a bare `vswitch run`: the tutorial's.
const BARE_PORTS: [&str; 2] = ["tap0", "tap1"];

impl Config {
    /// The file that `flags` name, if they do, and the flags over it. Without
    /// file and ports: tap0 and tap1.
    ///
    /// # Errors
    /// The first fault, with file, line and column, or the flag.
    pub fn from_flags(flags: &Flags, invoker: &Invoker) -> Result<Config, ConfigError> {
        let mut draft = Draft::new(invoker);
        if let Some(path) = &flags.file {
            read_file(path, &mut draft)?;
        }
        for (key, value) in &flags.keys {
            let origin = Origin::Flag(format!("--{} {value}", key.replace('_', "-")));
            draft.set(key, &Value::from(value.as_str()), origin)?;
        }
        for spec in &flags.ports {
            add_port(spec, &mut draft)?;
        }
        if flags.file.is_none() && flags.ports.is_empty() {
            for spec in BARE_PORTS {
                add_port(spec, &mut draft)?;
            }
        }
        draft.finish(invoker)
    }
}

/// A port of the command line wins over the file's port of the same name.
fn add_port(spec: &str, draft: &mut Draft) -> Result<(), ConfigError> {
    let origin = Origin::Flag(format!("--port {spec}"));
    let port = port_of_spec(spec).map_err(|fault| fault.at(origin.clone()))?;
    let of_file = |n: usize| matches!(draft.ports.get(n), Some(Origin::File { .. }));
    match (0..draft.config.ports.len()).find(|n| draft.config.ports[*n].name == port.name && of_file(*n)) {
        Some(n) => {
            draft.config.ports[n] = port;
            draft.ports[n] = origin;
        }
        None => {
            draft.config.ports.push(port);
            draft.ports.push(origin);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn invoker() -> Invoker {
        Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 1 }
    }

    fn flags(ports: &[&str], keys: &[(&'static str, &str)]) -> Flags {
        Flags {
            file: None,
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            keys: keys.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn bare_is_the_tutorial() {
        let config = Config::from_flags(&Flags::default(), &invoker()).unwrap();
        let ports: Vec<_> = config.ports.iter().map(|port| port.spec.to_string()).collect();
        assert_eq!(ports, ["tap0", "tap1"]);
        assert_eq!(config.control, Path::new("/run/vswitch/default.sock"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vswitch.toml");
        let text = "ports = [\"tap0\", \"netdev:eth1,name=up\"]\n[switch]\nname = \"a\"\nageing = \"9s\"\n";
        std::fs::write(&file, text).unwrap();
        let mut flags = flags(&["netdev:eth2,name=up", "tap9"], &[("name", "b"), ("pad_runts", "true")]);
        flags.file = Some(file);
        let config = Config::from_flags(&flags, &invoker()).unwrap();
        let ports: Vec<_> = config.ports.iter().map(|port| port.spec.to_string()).collect();
        assert_eq!(ports, ["tap0", "netdev:eth2", "tap9"]);
        assert_eq!(
            (config.name.as_str(), config.settings.ageing.as_secs(), config.pad_runts),
            ("b", 9, true)
        );
        assert_eq!(config.control, Path::new("/run/vswitch/b.sock"));
    }

    #[test]
    fn faults_name_their_flag() {
        for (ports, keys, expected) in [
            (
                vec!["tap0,isolatd=true"],
                vec![],
                "--port tap0,isolatd=true: unknown key `isolatd` of a port\n  did you mean `isolated`?",
            ),
            (
                vec!["tap0", "tap0"],
                vec![],
                "--port tap0: two ports are called `tap0`\n  give one of them another name, as name=uplink",
            ),
            (
                vec![],
                vec![("ageing", "30")],
                "--ageing 30: `ageing` cannot be `30`\n  write the unit too, as 30s",
            ),
            (
                vec![],
                vec![("fdb_size", "many")],
                "--fdb-size many: `fdb_size` cannot be `many`\n  write a number from 1 to 1048575",
            ),
            (
                vec!["a\0b"],
                vec![],
                "--port a\\0b: `a\0b` cannot name an interface: use 1 to 15 bytes without `/`, `:`, `%` and spaces\n  \
                 a port is NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value",
            ),
        ] {
            let error = Config::from_flags(&flags(&ports, &keys), &invoker()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn hostile_names_and_long_paths_are_refused() {
        for name in ["", "../x", "a/b", "a\0b", "%d", ".hidden", "-flag", "a b", "ünï", &"x".repeat(33)] {
            let error = Config::from_flags(&flags(&[], &[("name", name)]), &invoker()).unwrap_err();
            assert!(error.message().ends_with("cannot name a switch"), "{error}");
        }
        let path = format!("/{}", "x".repeat(106));
        assert!(Config::from_flags(&flags(&[], &[("control", &path)]), &invoker()).is_ok());
        let error =
            Config::from_flags(&flags(&[], &[("control", &format!("{path}x"))]), &invoker()).unwrap_err();
        assert!(error.message().contains("the control socket's path has 108 bytes"), "{error}");
        assert_eq!(error.fix(), "a unix socket's path has at most 107 bytes: choose a shorter `control`");
        for path in ["", "a\0b"] {
            let error = Config::from_flags(&flags(&[], &[("control", path)]), &invoker()).unwrap_err();
            assert_eq!(error.fix(), "write the path of a unix socket");
        }
    }

    #[test]
    fn a_switch_has_at_most_256_ports() {
        let ports: Vec<String> = (0..257).map(|n| format!("t{n}")).collect();
        let mut flags = Flags { ports, ..Flags::default() };
        let error = Config::from_flags(&flags, &invoker()).unwrap_err();
        assert_eq!(error.message(), "--port t256: port `t256` is one too many");
        flags.ports.pop();
        assert_eq!(Config::from_flags(&flags, &invoker()).unwrap().ports.len(), 256);
    }
}
