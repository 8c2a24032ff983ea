//! `vswitch trace`, as typed.

use std::time::Duration;

use clap::Args;

use super::Target;
use super::capture::duration;

const FORMS: &str = "\
Frames:
  ffffffffffff 020000000001 0806…              hex, with or without separators
  FILE#N                                       frame N of a pcap or pcapng
  arp who-has 192.168.1.2 tell 192.168.1.1     arp IP is-at MAC
  icmp 10.0.0.1 > 10.0.0.2                     also IPv6
  udp 10.0.0.1:1000 > 10.0.0.2:53              tcp likewise; mss BYTES makes a super-frame
  ether 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff  any header
  … src MAC, dst MAC, vlan VID, type HEX, len BYTES

Examples:
  vswitch trace --port tap0 --frame arp who-has 192.168.1.2 tell 192.168.1.1
  vswitch trace --live --port tap0 --count 10
  vswitch trace --live --filter 'udp port 67' --duration 1m";

/// Whoever says one of these wants no invented frame; `--live` may have been forgotten.
const OF_LIVE: [&str; 4] = ["live", "filter", "count", "duration"];

/// Which frames are explained: an invented one, or those that come.
#[derive(Clone, PartialEq, Debug, Default, Args)]
#[command(after_help = FORMS)]
pub struct TraceArgs {
    /// The port where the frame would come in; with --live, where frames do.
    #[arg(long, required_unless_present_any = OF_LIVE)]
    pub port: Option<String>,
    /// The frame: see below.
    #[arg(
        long, required_unless_present_any = OF_LIVE, conflicts_with = "live",
        num_args = 1.., value_name = "FORM", allow_hyphen_values = false
    )]
    pub frame: Vec<String>,
    /// Explain real frames as they come in, until Ctrl-C.
    #[arg(long)]
    pub live: bool,
    /// With --live: only frames that this filter accepts, in the words of man pcap-filter.
    #[arg(long, value_name = "EXPR", requires = "live")]
    pub filter: Option<String>,
    /// With --live: end after so many frames.
    #[arg(long, value_name = "NUMBER", requires = "live", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// With --live: end after this time, as 10s.
    #[arg(long, value_name = "TIME", requires = "live", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Which switch.
    #[command(flatten)]
    pub target: Target,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn whoever_forgets_live_is_asked_for_that_and_not_for_a_frame() {
        for [flag, value] in [["--count", "3"], ["--filter", "arp"], ["--duration", "5s"]] {
            let parsed = Cli::try_parse_from(["vswitch", "trace", "--port", "tap0", flag, value]);
            let said = parsed.unwrap_err().to_string();
            assert!(said.contains("--live") && !said.contains("--frame"), "{said}");
        }
    }
}
