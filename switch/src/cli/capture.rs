//! `vswitch capture` and what belongs to it, as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::Target;
use crate::capture::rotate::Rotation;
use crate::config::parse_duration;
use crate::control::Direction;

const EXAMPLES: &str = "\
Examples:
  vswitch capture -w lan.pcapng                      everything, until Ctrl-C
  vswitch capture --port tap0 -w - | tshark -r -     live; or | wireshark -k -i -
  vswitch capture --direction dropped --count 10 -w - | tshark -r - -T fields -e frame.comment
  vswitch capture --filter 'arp or icmp' --rotate 100M,keep=10 -w ring.pcapng
  vswitch capture --last 5s -w past.pcapng           what the recorder has kept";

/// What is recorded, and where it goes.
#[derive(Clone, PartialEq, Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub struct CaptureArgs {
    /// Only frames at this port; may be given again.
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<String>,
    /// Only what came in, went out, or was dropped or refused; may be given again.
    #[arg(long = "direction", value_name = "DIRECTION", value_enum)]
    pub directions: Vec<Direction>,
    /// Only what this filter accepts, in the words of man pcap-filter.
    #[arg(long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// Only the first bytes of each frame.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..=262_144))]
    pub snaplen: Option<u32>,
    /// End after so many frames and copies.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time, as 10s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Not what comes, but what the recorder has kept of this time, as 5s.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "duration")]
    pub last: Option<Duration>,
    /// Begin another file after a size or a time, as 100M, or 1h,keep=24.
    #[arg(long, value_name = "SIZE|TIME[,keep=N]")]
    pub rotate: Option<Rotation>,
    /// Finish checksums and cut super-frames into segments, as they would be on a wire.
    #[arg(long)]
    pub segment: bool,
    /// The file; - is stdout.
    #[arg(short, long = "write", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub write: PathBuf,
    /// Which switch.
    #[command(flatten)]
    pub target: Target,
}

/// What is shown of a port in Wireshark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Shown {
    /// Everything.
    #[default]
    All,
    /// What comes in.
    In,
    /// What goes out.
    Out,
    /// What is dropped or refused.
    Dropped,
}

/// Wireshark's questions, and what puts us where it asks.
#[derive(Clone, PartialEq, Debug, Default, Args)]
pub struct ExtcapArgs {
    /// Make every port of every running switch an interface of Wireshark and tshark.
    #[arg(long, conflicts_with = "uninstall")]
    pub install: bool,
    /// Undo --install.
    #[arg(long)]
    pub uninstall: bool,
    /// Answer with JSON, for machines.
    #[arg(long)]
    pub json: bool,
    /// Wireshark asks: which interfaces?
    #[arg(long, hide = true)]
    pub extcap_interfaces: bool,
    /// Wireshark's version.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    pub extcap_version: Option<Option<String>>,
    /// Wireshark asks: which link types?
    #[arg(long, hide = true)]
    pub extcap_dlts: bool,
    /// Wireshark asks: what can be chosen?
    #[arg(long, hide = true)]
    pub extcap_config: bool,
    /// The interface that it asks of.
    #[arg(long, hide = true)]
    pub extcap_interface: Option<String>,
    /// Its capture filter.
    #[arg(long, hide = true)]
    pub extcap_capture_filter: Option<String>,
    /// Capture.
    #[arg(long, hide = true)]
    pub capture: bool,
    /// Into this pipe.
    #[arg(long, hide = true)]
    pub fifo: Option<PathBuf>,
    /// Chosen: what is shown.
    #[arg(long, hide = true, value_enum, default_value = "all")]
    pub direction: Shown,
    /// Chosen: only the first bytes of each frame.
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(14..=262_144))]
    pub snaplen: Option<u32>,
    /// Chosen: checksums finished, super-frames cut.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set)]
    pub segment: bool,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "write a time with its unit: ms, s, m or h, as 10s".to_owned())
}
