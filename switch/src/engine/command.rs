//! What crosses between the control thread and the data thread: commands one
//! way, reports the other. Everything that can change the bridge is here.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::TurnTimes;
use super::observe::Want;
use super::trace::Traced;
use crate::bridge::{
    EntryKind, FdbEntry, FdbError, FlushScope, Move, PortCounters, PortId, PortSettings, Settings, Time,
};
use crate::frame::{MacAddr, VlanId};
use crate::offload::VnetHeader;
use crate::port::{Fault, Link, Losses, Port};

/// How the engine itself behaves; may change while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// How long the data thread keeps looking for frames after the last one
    /// before it sleeps; zero sleeps at once.
    pub busy_poll: Duration,
    /// Fill frames under 60 bytes with zeroes on their way out.
    pub pad_runts: bool,
    /// Let the kernel forward between stations that are known.
    pub fast_path: bool,
}

/// An order to the data thread, carried out between two turns.
#[derive(Debug)]
pub enum Command {
    /// A new port, link state as its own `link()` says.
    AddPort {
        /// Its number, not in use.
        id: PortId,
        /// What frames come from; `None` while its device is missing.
        port: Option<Box<dyn Port>>,
        /// Its flags.
        settings: PortSettings,
        /// Says whether epoll took it.
        reply: Sender<std::io::Result<()>>,
    },
    /// Puts a reopened device (or none) behind a port that exists; what was
    /// there comes back to be closed off the data thread.
    SwapPort {
        /// The port's number.
        id: PortId,
        /// The new device.
        port: Option<Box<dyn Port>>,
        /// What was there, or epoll's refusal of the new device.
        reply: Sender<std::io::Result<Option<Box<dyn Port>>>>,
    },
    /// Deletes a port with its entries; its counters join the retired ones.
    RemovePort {
        /// The port's number.
        id: PortId,
        /// What was there.
        reply: Sender<Option<Box<dyn Port>>>,
    },
    /// Changes a port's flags.
    SetPort {
        /// The port's number.
        id: PortId,
        /// The flags from now on.
        settings: PortSettings,
    },
    /// The device's link changed.
    SetLink {
        /// The port's number.
        id: PortId,
        /// The link from now on; its `offloads` are the port's own.
        up: bool,
        /// The device's MTU in bytes.
        mtu: u32,
    },
    /// Changes the switch's settings.
    Configure {
        /// The bridge's part.
        settings: Settings,
        /// The engine's part.
        tuning: Tuning,
        /// The bridge's answer; nothing has changed if it refuses.
        reply: Sender<Result<(), FdbError>>,
    },
    /// Adds a static or sticky entry.
    FdbAdd {
        /// VLAN of the entry.
        vid: VlanId,
        /// Address of the entry.
        mac: MacAddr,
        /// Where the address is.
        port: PortId,
        /// Static or sticky.
        kind: EntryKind,
        /// The bridge's answer.
        reply: Sender<Result<(), FdbError>>,
    },
    /// Deletes one entry of any kind.
    FdbDel {
        /// VLAN of the entry.
        vid: VlanId,
        /// Address of the entry.
        mac: MacAddr,
        /// The bridge's answer.
        reply: Sender<Result<(), FdbError>>,
    },
    /// Deletes the entries of a scope.
    FdbFlush {
        /// Which entries.
        scope: FlushScope,
        /// How many went.
        reply: Sender<usize>,
    },
    /// Lists some of the FDB, so many that forwarding does not notice.
    FdbRead {
        /// Where to begin: 0, or where the call before said to go on.
        start: u32,
        /// Live entries, and where to go on.
        reply: Sender<(Vec<FdbEntry>, Option<u32>)>,
    },
    /// Says what would become of a frame, and changes nothing.
    Trace {
        /// Where it would come in.
        ingress: PortId,
        /// Its bytes.
        frame: Vec<u8>,
        /// Its virtio-net header.
        vnet: VnetHeader,
        /// What, and why.
        reply: Sender<Box<Traced>>,
    },
    /// Takes a snapshot between two turns.
    Read {
        /// Every counter at one instant.
        reply: Sender<Snapshot>,
    },
    /// Begins a capture, or ends one: a mark is told, and every frame between
    /// the two marks. While any is under way, all frames come to the engine.
    Observe {
        /// The capture.
        id: u64,
        /// What it wants; `None` ends it.
        want: Option<Want>,
    },
    /// From now on a capture that is under way wants the frames of a port, or does
    /// not: a port is about to be added under that number.
    ObservePort {
        /// The capture.
        id: u64,
        /// The port's number.
        port: PortId,
        /// Whether it wants them.
        is_wanted: bool,
    },
    /// Tells capture `id` some more of the FDB.
    ObserveFdb {
        /// The capture.
        id: u64,
        /// Where to begin: where the part before said to go on.
        start: u32,
    },
    /// Ends the loop; frames that have arrived are still forwarded.
    Stop,
}

/// All counters at one instant, between two turns.
#[derive(Debug)]
pub struct Snapshot {
    /// When.
    pub now: Time,
    /// Ports in ascending order.
    pub ports: Vec<PortSnapshot>,
    /// Sums of the ports deleted since the start.
    pub retired: PortCounters,
    /// Their losses outside the sums.
    pub retired_losses: Losses,
    /// Entries in the FDB.
    pub fdb_len: u32,
    /// Addresses that went to and fro between ports.
    pub moves: Vec<Move>,
    /// How long turns took, that brought frames.
    pub turns: TurnTimes,
}

/// One port in a [`Snapshot`].
#[derive(Debug)]
pub struct PortSnapshot {
    /// Its number.
    pub id: PortId,
    /// Its link; `None` while its device is missing.
    pub link: Option<Link>,
    /// Its counters.
    pub counters: PortCounters,
    /// Losses outside the sums.
    pub losses: Losses,
    /// Addresses learned and bound there.
    pub macs: u32,
}

/// What the data thread tells the control thread unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// A device failed; its port is down.
    Fault {
        /// The port's number.
        id: PortId,
        /// What happened.
        fault: Fault,
    },
    /// The port's own link is another now.
    Link {
        /// The port's number.
        id: PortId,
        /// What it can carry.
        link: Link,
    },
}
