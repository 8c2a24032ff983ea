//! The command line as types, and nothing else: what was typed, not what it
//! does. Every flag of `run` has the name of its configuration key.

mod capture;
mod live;
mod pairs;
mod trace;

pub use capture::{CaptureArgs, ExtcapArgs, Shown};
pub use live::{EventsArgs, LiveCommand, Since, TopArgs};
pub use pairs::Pairs;
pub use trace::TraceArgs;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::config::Flags;
use crate::frame::MacAddr;

/// A userspace Ethernet switch for virtual machines.
#[derive(Clone, PartialEq, Debug, Parser)]
#[command(name = "vswitch", version, after_help = EXAMPLES, max_term_width = 100, propagate_version = true)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What to log on stderr: error, warn, info, debug, trace, or MODULE=LEVEL,...
    #[arg(long, global = true, env = "VSWITCH_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sudo vswitch run                          two guests: QEMU opens tap0 and tap1
    qemu-system-x86_64 … -netdev tap,id=t0,ifname=tap0,script=no,downscript=no
  vswitch show                              what runs, and what it carried
  vswitch port add netdev:eth1,name=uplink  one port more, while it runs
  vswitch fdb show --port tap0              who was seen behind a port
  vswitch top                               all of it, live
  vswitch capture -w lan.pcapng             every frame, and what became of it
  vswitch trace --port tap0 --frame arp who-has 192.168.1.2 tell 192.168.1.1";

/// What to do.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum Command {
    /// Run a switch in the foreground until Ctrl-C, a signal or `vswitch stop`.
    Run(Box<RunArgs>),
    /// Ask a running switch.
    #[command(flatten)]
    Client(ClientCommand),
    /// Watch a running switch.
    #[command(flatten)]
    Live(LiveCommand),
    /// Explain, step by step, what would become of a frame, or with --live what becomes
    /// of real ones; changes nothing.
    Trace(TraceArgs),
    /// Judge the frames of a capture once more; exit code 1 if a verdict differs.
    Replay(ReplayArgs),
    /// Record frames with their verdicts, as pcapng.
    Capture(CaptureArgs),
    /// Show ports as interfaces in Wireshark and tshark.
    Extcap(ExtcapArgs),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the man pages into a directory.
    Man {
        /// The directory.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// What can be asked of a running switch.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum ClientCommand {
    /// Identity, ports and totals.
    Show {
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Add, remove, change or describe ports.
    #[command(subcommand)]
    Port(PortCommand),
    /// Change a running switch: ageing, transparent, pad_runts, busy_poll, fast_path.
    Set {
        /// As ageing=60s, or ageing 60s.
        #[command(flatten)]
        keys: Pairs,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Read the configuration file again, and change what it changed.
    Reload {
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Show, bind, remove or flush addresses.
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Every counter of every port.
    Stats {
        /// Print rates and differences every INTERVAL, as 5s, until it is ended.
        #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s", value_parser = live::interval)]
        watch: Option<Duration>,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// End a switch.
    Stop {
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
}

/// What can be done with ports.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum PortCommand {
    /// Open a port.
    Add {
        /// NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value.
        #[arg(value_name = "SPEC")]
        spec: String,
        /// Further keys, which win over those of SPEC.
        #[arg(value_name = "KEY=VALUE", value_parser = pair)]
        keys: Vec<(String, String)>,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Close a port.
    Del {
        /// The port.
        #[arg(value_name = "PORT")]
        port: String,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Change an open port.
    Set {
        /// The port.
        #[arg(value_name = "PORT")]
        port: String,
        /// As isolated=true, or mtu 9000.
        #[command(flatten)]
        keys: Pairs,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Settings and state of one port, or of all.
    Show {
        /// The port.
        #[arg(value_name = "PORT")]
        port: Option<String>,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
}

/// What can be done with the FDB.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum FdbCommand {
    /// Addresses and their ports.
    Show {
        /// Which entries.
        #[command(flatten)]
        filter: Filter,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Bind an address to a port.
    Add {
        /// As 02:00:00:00:00:01.
        mac: MacAddr,
        /// The port.
        #[arg(long)]
        port: String,
        /// The VLAN; leave it out on a VLAN-unaware switch.
        #[arg(long, value_parser = clap::value_parser!(u16).range(0..=4094))]
        vid: Option<u16>,
        /// Count frames that claim it on another port as spoofed.
        #[arg(long)]
        sticky: bool,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Remove an address.
    Del {
        /// As 02:00:00:00:00:01.
        mac: MacAddr,
        /// Its VLAN.
        #[arg(long, value_parser = clap::value_parser!(u16).range(0..=4094))]
        vid: Option<u16>,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
    /// Forget what was learned.
    Flush {
        /// Which entries.
        #[command(flatten)]
        filter: Filter,
        /// Remove static entries, too.
        #[arg(long)]
        statics: bool,
        /// Which switch.
        #[command(flatten)]
        target: Target,
    },
}

/// The flags of `vswitch replay`.
#[derive(Clone, PartialEq, Debug, Args)]
pub struct ReplayArgs {
    /// A capture of ours, or any pcap or pcapng.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Judge by this vswitch.toml, not by what was configured then.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The ports of a capture that is not ours, in the order of its interfaces.
    #[arg(long = "port", value_name = "NAME")]
    pub ports: Vec<String>,
    /// Print every frame that came in, not only those that differ.
    #[arg(long)]
    pub all: bool,
    /// Answer with JSON, a line for each frame and one for the sums.
    #[arg(long)]
    pub json: bool,
}

/// Which FDB entries; all that is given must match.
#[derive(Clone, PartialEq, Debug, Default, Args)]
pub struct Filter {
    /// Only entries of this port.
    #[arg(long)]
    pub port: Option<String>,
    /// Only entries of this VLAN.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=4094))]
    pub vid: Option<u16>,
    /// Only this address.
    #[arg(long)]
    pub mac: Option<MacAddr>,
}

/// Which running switch, and how it should answer.
#[derive(Clone, PartialEq, Debug, Default, Args)]
pub struct Target {
    /// The switch's name; a single one needs none.
    #[arg(long, conflicts_with = "control")]
    pub name: Option<String>,
    /// Its control socket.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub control: Option<PathBuf>,
    /// Answer with JSON, for machines.
    #[arg(long)]
    pub json: bool,
}

/// The flags of `vswitch run`.
#[derive(Clone, PartialEq, Debug, Default, Args)]
pub struct RunArgs {
    /// A vswitch.toml; flags win over it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// NAME, netdev:NAME, tap:NAME, vhost-user:PATH, stream:PATH or dgram:PATH, then ,key=value; without any: tap0 and tap1.
    #[arg(long = "port", value_name = "SPEC")]
    pub ports: Vec<String>,
    /// The switch's name [default: default].
    #[arg(long)]
    pub name: Option<String>,
    /// The control socket [default: NAME.sock in $XDG_RUNTIME_DIR/vswitch, for root in /run/vswitch].
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub control: Option<String>,
    /// User or uid that owns TAPs and control socket [default: who typed it, also under sudo].
    #[arg(long, value_name = "USER", value_hint = ValueHint::Username)]
    pub owner: Option<String>,
    /// Forget addresses not seen for this long; 0s: a hub [default: 300s].
    #[arg(long, value_name = "TIME")]
    pub ageing: Option<String>,
    /// The most addresses, 1 to 1048575 [default: 8192].
    #[arg(long, value_name = "NUMBER")]
    pub fdb_size: Option<String>,
    /// Forward LLDP, LACP, STP and the like.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub transparent: Option<String>,
    /// Pad frames under 60 bytes with zeroes.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub pad_runts: Option<String>,
    /// Spin this long after the last frame before sleeping [default: 50us, on one core 0s].
    #[arg(long, value_name = "TIME")]
    pub busy_poll: Option<String>,
    /// Let the kernel forward between known stations, where it can [default: on].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fast_path: Option<String>,
    /// Keep the last frames with their verdicts in so much memory, as 64M, for capture --last [default: off].
    #[arg(long, value_name = "SIZE")]
    pub recorder: Option<String>,
    /// Write what the recorder has kept to a file at drop:REASON, event:KIND or filter:EXPR [default: off].
    #[arg(long, value_name = "WHAT")]
    pub recorder_trigger: Option<String>,
    /// The directory of such files.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub recorder_write: Option<String>,
    /// Keep ports apart from the host's own stack: auto, clsact, off [default: auto].
    #[arg(long, value_name = "HOW")]
    pub isolation: Option<String>,
    /// Where Prometheus reads counters, as 127.0.0.1:9436; without an address: loopback [default: off].
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<String>,
    /// Print the ready line, the summary and errors as lines of JSON.
    #[arg(long)]
    pub json: bool,
}

impl RunArgs {
    /// What of it configures.
    pub fn flags(&self) -> Flags {
        let keys = [
            ("name", &self.name),
            ("control", &self.control),
            ("owner", &self.owner),
            ("ageing", &self.ageing),
            ("fdb_size", &self.fdb_size),
            ("transparent", &self.transparent),
            ("pad_runts", &self.pad_runts),
            ("busy_poll", &self.busy_poll),
            ("fast_path", &self.fast_path),
            ("recorder", &self.recorder),
            ("recorder_trigger", &self.recorder_trigger),
            ("recorder_write", &self.recorder_write),
            ("isolation", &self.isolation),
            ("metrics", &self.metrics),
        ];
        let keys = keys.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
        Flags { file: self.config.clone(), ports: self.ports.clone(), keys }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::config::{Config, Invoker, SWITCH_KEYS};

    fn invoker() -> Invoker {
        Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 2 }
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    fn run() -> clap::Command {
        RunArgs::augment_args(clap::Command::new("run"))
    }

    #[test]
    fn every_key_of_the_switch_is_a_flag_of_run() {
        let run = run();
        for key in SWITCH_KEYS {
            let flag = key.replace('_', "-");
            assert!(run.get_arguments().any(|arg| arg.get_long() == Some(&flag)), "--{flag}");
        }
    }

    #[test]
    fn run_makes_a_configuration() {
        let words = [
            "run",
            "--port",
            "tap0,mtu=9000",
            "--port",
            "tap:t1",
            "--name",
            "a",
            "--ageing",
            "5m",
            "--fdb-size",
            "100",
            "--transparent",
            "--pad-runts=false",
            "--busy-poll",
            "0s",
            "--isolation",
            "off",
            "--owner",
            "7",
        ];
        let matches = run().try_get_matches_from(words).unwrap();
        let args = RunArgs::from_arg_matches(&matches).unwrap();
        let config = Config::from_flags(&args.flags(), &invoker()).unwrap();
        assert_eq!((config.ports.len(), config.name.as_str(), config.owner), (2, "a", 7));
        assert_eq!((config.settings.ageing.as_secs(), config.settings.fdb_size), (300, 100));
        assert_eq!((config.settings.transparent, config.pad_runts), (true, false));
        assert_eq!((config.busy_poll.is_zero(), config.isolation.name()), (true, "off"));
        assert_eq!(config.control, std::path::Path::new("/run/vswitch/a.sock"));
    }

    #[test]
    fn what_is_no_command_is_a_usage_error() {
        for words in [
            vec!["vswitch"],
            vec!["vswitch", "nonsense"],
            vec!["vswitch", "show", "extra"],
            vec!["vswitch", "show", "--name", "a", "--control", "b"],
            vec!["vswitch", "set"],
            vec!["vswitch", "set", "ageing"],
            vec!["vswitch", "set", "ageing", "60s", "pad_runts"],
            vec!["vswitch", "stats", "--watch", "1"],
            vec!["vswitch", "events", "--since", "yesterday"],
            vec!["vswitch", "events", "--kind", "nonsense"],
            vec!["vswitch", "port", "set", "tap0"],
            vec!["vswitch", "fdb", "add", "02:00:00:00:00:01"],
            vec!["vswitch", "fdb", "del", "nonsense"],
            vec!["vswitch", "fdb", "show", "--vid", "4095"],
        ] {
            assert_eq!(Cli::try_parse_from(&words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
