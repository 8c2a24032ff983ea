//! The commands that go on showing a running switch, as types.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Target;
use crate::config::parse_duration;
use crate::events::Kind;

/// What shows a running switch as it goes on.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum LiveCommand {
    /// What happened: ports, peers, addresses, faults, changes.
    Events(EventsArgs),
    /// Ports, addresses and events at a glance, live.
    Top(TopArgs),
}

impl LiveCommand {
    /// Which switch is meant.
    pub fn target(&self) -> &Target {
        match self {
            LiveCommand::Events(args) => &args.target,
            LiveCommand::Top(args) => &args.target,
        }
    }
}

/// The flags of `vswitch events`.
#[derive(Clone, PartialEq, Debug, Args)]
pub struct EventsArgs {
    /// Go on, with each event as it happens.
    #[arg(long, short)]
    pub follow: bool,
    /// Only what happened in the last TIME, as 5m; or after event NUMBER.
    #[arg(long, value_name = "TIME|NUMBER")]
    pub since: Option<Since>,
    /// Only events of this kind, as port_down; may be repeated.
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<Kind>,
    /// Which switch.
    #[command(flatten)]
    pub target: Target,
}

/// The flags of `vswitch top`.
#[derive(Clone, PartialEq, Debug, Args)]
pub struct TopArgs {
    /// Time between two looks, at least 100ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print one look as plain text and end; so does an output that is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Which switch.
    #[command(flatten)]
    pub target: Target,
}

/// Where events begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// After the event of this number.
    Number(u64),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        let number = text.parse().map(Since::Number).ok();
        let ago = || parse_duration(text).map(Since::Ago);
        number
            .or_else(ago)
            .ok_or_else(|| "write a time with its unit, as 5m, or an event's number".to_owned())
    }
}

/// The shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Reads the time between two looks.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).filter(|interval| *interval >= INTERVAL_MIN);
    interval.ok_or_else(|| "write a time with its unit, at least 100ms, as 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_told_apart() {
        assert_eq!("5m".parse(), Ok(Since::Ago(Duration::from_secs(300))));
        assert_eq!("12".parse(), Ok(Since::Number(12)));
        assert!(["", "m", "-1", "yesterday"].iter().all(|text| text.parse::<Since>().is_err()));
        assert_eq!(interval("100ms"), Ok(INTERVAL_MIN));
        assert!(["99ms", "0", "1", "soon"].iter().all(|text| interval(text).is_err()));
    }
}
