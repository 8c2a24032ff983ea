//! Scenarios: what happens to a switch, one step a line, in words that are the
//! same in a file, in a random run and in the report of a failure.
//!
//! ```text
//! switch ageing=10s fdb_size=8 transparent    # settings; what is left out is default
//! ports  a b c                                # added, up
//! port   d isolated -flood max_macs=2         # added, or changed; flags as in `bridge link set`
//! down a   up a   delete a
//! send   a  0a > *                  expect b c
//! send   b  0b > 0a size=13         drop runt
//! send   b  0b > 0a tag=8100:6005 tag=88a8:0 fault=truncated
//! after  301s                                 # or ms
//! sweep
//! static 0c on c   sticky 0c on c   forget 0c
//! flush  port=a mac=0a all                    # dynamic entries only, without `all`
//! fdb    0a on a   fdb 0b absent   fdb len 3
//! count  a learned 2                          # any counter or drop reason
//! ```
//! Ports are letters. Addresses are the last octet of 02:00:00:00:00:xx, `*`
//! (broadcast), `mxx` (01:00:5e:00:00:xx), `rxx` (reserved, 01:80:c2:00:00:xx),
//! `zero`, or twelve digits with colons.
//!
//! Deliberately absent: any rule of what ought to happen; that is in the
//! expectations, and in the [`model`](crate::model).

mod parse;
mod print;
mod random;
mod rig;
mod shrink;

pub use random::{Random, random_steps};
pub use rig::{Outcome, PORTS, Rig, compare};
pub use shrink::{report, shrink};

use std::path::Path;
use std::time::Duration;

use vswitch::bridge::{DropReason, EntryKind, FlushScope, PortId, PortSet, PortSettings, Settings};
use vswitch::frame::{HEAD_MAX, MacAddr};

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The switch is configured.
    Switch(Settings),
    /// A port is added with these settings (link up), or, if it is there, changed.
    Port(PortId, PortSettings),
    /// A port is removed.
    Delete(PortId),
    /// A port's link goes up (`true`) or down.
    Link(PortId, bool),
    /// A frame arrives.
    Send(Sent),
    /// Time passes.
    After(Duration),
    /// The sweep runs once.
    Sweep,
    /// The operator binds an address to a port.
    Fix(EntryKind, MacAddr, PortId),
    /// The operator deletes an entry.
    Forget(MacAddr),
    /// The operator flushes.
    Flush(FlushScope),
}

/// A frame that arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Ingress.
    pub port: PortId,
    /// Source.
    pub src: MacAddr,
    /// Destination.
    pub dst: MacAddr,
    /// Bytes; headers are cut, or zeroes follow.
    pub size: usize,
    /// TPID and TCI of each tag, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// What its port says is wrong with it.
    pub fault: Option<DropReason>,
}

impl Sent {
    /// Bytes that are counted: of a frame that its port could not take whole
    /// there is only a head.
    pub fn counted(&self) -> usize {
        if self.fault.is_some() { self.size.min(HEAD_MAX) } else { self.size }
    }

    /// The bytes of the frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.dst.octets(), self.src.octets()].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
        }
        bytes.extend([0x08, 0x00]);
        bytes.resize(self.size, 0);
        bytes
    }
}

/// What a line says must be so, after its step if it has one.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// The frame leaves by exactly these ports.
    Leaves(PortSet),
    /// The frame is dropped.
    Drops(DropReason),
    /// The address is on the port, or on none.
    On(MacAddr, Option<PortId>),
    /// So many entries.
    Len(u32),
    /// A counter of a port has this value.
    Count(PortId, String, u64),
}

/// One line of a scenario: something happens, or is expected, or both.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Line number in the file, from 1.
    pub number: usize,
    /// What happens.
    pub steps: Vec<Step>,
    /// What must be so.
    pub expect: Option<Expect>,
}

/// Runs a scenario on the bridge with the model beside it.
///
/// # Panics
/// With the line, at the first thing that is not as it says, or where bridge
/// and model differ.
pub fn check(text: &str) {
    run(text).unwrap_or_else(|error| panic!("{error}"));
}

/// Runs every scenario file of a directory.
///
/// # Panics
/// As [`check`], naming the file; or if there is none.
pub fn check_files(directory: &Path) {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap_or_else(|error| panic!("{error}")).path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no scenario in {}", directory.display());
    for file in files {
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        run(&text).unwrap_or_else(|error| panic!("{}, {error}", file.display()));
    }
}

fn run(text: &str) -> Result<(), String> {
    let mut rig = Rig::new([1, 2]);
    for Line { number, steps, expect } in parse::lines(text)? {
        let at =
            |error| format!("line {number}: {}\n{error}", text.lines().nth(number - 1).unwrap_or_default());
        let mut outcome = Outcome::Done;
        for step in &steps {
            outcome = rig.step(step).map_err(at)?;
        }
        if let Some(expect) = &expect {
            rig.expect(expect, &outcome).map_err(at)?;
        }
    }
    rig.catch_up()
}
