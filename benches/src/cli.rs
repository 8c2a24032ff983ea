//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::rig::Rig;
use crate::schedule::Plan;
use crate::subject::Subject;

/// Measures vswitch beside the kernel bridge, Open vSwitch, DPDK and VDE.
///
/// Needs root, iperf3, ping and ethtool. Everything happens in network
/// namespaces of its own, which are removed at the end, also after Ctrl-C.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// One round of short runs, and of each rig only what matters most, unless
    /// `--only` says what: a look, not a measurement.
    #[arg(long)]
    pub(crate) quick: bool,

    /// 1: namespaces over veth. 2: TAPs the switch owns. 3: TAP to TAP, held
    /// as QEMU holds them. 4: virtqueues of dpdk-testpmd. 5: two QEMU
    /// guests. 6: the decision alone, in memory. 7: many TAPs and stations.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6,7")]
    pub(crate) rig: Vec<Rig>,

    /// Rounds of each rig; in each, everyone runs twice (A B C C B A).
    #[arg(long)]
    pub(crate) rounds: Option<u32>,

    /// Peers to compare with; those not installed are named and left out.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "engine,tap,stream,dgram,bridge,ovs,ovs-dpdk,dpdk,vde,qemu"
    )]
    pub(crate) peers: Vec<Subject>,

    /// Leaves vswitch out: checks the rigs with the peers alone.
    #[arg(long)]
    pub(crate) peers_only: bool,

    /// More words for `vswitch run`, as `--run=--busy-poll=10ms`.
    #[arg(long, value_name = "WORD")]
    pub(crate) run: Vec<String>,

    /// Only cases whose name holds this text, as `TCP` or `60 B`; may be given
    /// again for further ones.
    #[arg(long)]
    pub(crate) only: Vec<String>,

    /// Keeps every single figure in this file, which is written whenever a topology is
    /// through.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Puts the tables into this Markdown file, between its two markers
    /// `<!-- vbench -->`.
    #[arg(long, value_name = "FILE")]
    pub(crate) into: Option<PathBuf>,

    /// Draws each rig into this folder, as an SVG.
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prints the tables of kept records.
    Report {
        /// What `--json` wrote; several of one commit and machine together.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Only these of its rigs.
        #[arg(long, value_delimiter = ',')]
        rig: Vec<Rig>,
        /// Puts them into this Markdown file, between its two markers
        /// `<!-- vbench -->`.
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
        /// Draws each rig into this folder, as an SVG.
        #[arg(long, value_name = "DIR")]
        svg: Option<PathBuf>,
    },
    /// Holds a second run against a first one: how many of its ratios are within the
    /// noise that the first one states, and which are not.
    Agree {
        /// What `--json` wrote.
        first: PathBuf,
        /// The same of a run on the same machine.
        second: PathBuf,
    },
}

impl Args {
    /// What to do.
    pub(crate) fn plan(&self) -> Plan {
        let mut subjects: Vec<Subject> = if self.peers_only { vec![] } else { vec![Subject::Vswitch] };
        subjects.extend(self.peers.iter().filter(|peer| **peer != Subject::Vswitch));
        Plan {
            quick: self.quick,
            rigs: self.rig.clone(),
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1),
            subjects,
            run: self.run.clone(),
            only: self.only.clone(),
        }
    }
}
