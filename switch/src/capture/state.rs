//! What a capture says beside its frames, as JSON in blocks of our own: what the
//! switch was when it began, what changed it besides frames, and the sums at the
//! end. It is all that [`replay`](crate) needs to judge the frames once more.
//!
//! Ports are named by the number of their interface in the file, which no other
//! port ever gets. Times are the bridge's: nanoseconds since the switch's start;
//! a frame's is its date less `epoch_ns`.
//!
//! Deliberately absent: the verdicts. They are in the frames' comments; how each came
//! about is told here if that was asked for, and no replay needs it.

use serde::{Deserialize, Serialize};

use crate::bridge::{EntryKind, PortSettings};
use crate::control::Trace;
use crate::frame::MacAddr;

/// The version of these values; raised when a reader of the old one would go
/// wrong.
pub const VERSION: u32 = 1;

/// One block.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Before the first frame.
    Start(Start),
    /// More of the FDB, as it was at this point of the file.
    Fdb(Fdb),
    /// Something but a frame changed the bridge at this point.
    Change(Changed),
    /// Why the frame before it went where it went, if somebody asked for that.
    Trace(Told),
    /// After the last frame.
    End(Summary),
}

/// What the switch was when the capture began.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`].
    pub version: u32,
    /// The switch's name.
    pub switch: String,
    /// The version of the program.
    pub program: String,
    /// Nanoseconds since 1970 at the switch's start.
    pub epoch_ns: u64,
    /// When the capture began.
    pub time_ns: u64,
    /// Whether every frame that the switch judges is in the file, or counted as
    /// lost: no filter, no choice of ports or directions.
    pub complete: bool,
    /// The configuration, as vswitch.toml.
    pub config: String,
    /// Settings of the bridge.
    pub settings: Settings,
    /// The ports, in the order of the file's interfaces.
    pub ports: Vec<Port>,
    /// The entries read at the same instant.
    pub fdb: Vec<Entry>,
    /// Whether these are all; `Fdb` blocks follow if not.
    pub fdb_complete: bool,
}

/// Settings of the bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Nanoseconds.
    pub ageing_ns: u64,
    /// The most entries.
    pub fdb_size: u32,
    /// Whether reserved addresses pass on every port.
    pub transparent: bool,
}

impl From<crate::bridge::Settings> for Settings {
    fn from(settings: crate::bridge::Settings) -> Settings {
        Settings {
            ageing_ns: u64::try_from(settings.ageing.as_nanos()).unwrap_or(u64::MAX),
            fdb_size: settings.fdb_size,
            transparent: settings.transparent,
        }
    }
}

impl From<Settings> for crate::bridge::Settings {
    fn from(settings: Settings) -> crate::bridge::Settings {
        crate::bridge::Settings {
            ageing: std::time::Duration::from_nanos(settings.ageing_ns),
            fdb_size: settings.fdb_size,
            transparent: settings.transparent,
        }
    }
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    /// Number of its interface.
    pub interface: u32,
    /// Its number in the switch, which another port may get later.
    pub id: u8,
    /// Its name.
    pub name: String,
    /// Whether its link is up.
    pub up: bool,
    /// Its flags.
    #[serde(with = "PortFlags")]
    pub flags: PortSettings,
}

/// [`PortSettings`], as it is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "PortSettings")]
struct PortFlags {
    learning: bool,
    flood: bool,
    mcast_flood: bool,
    bcast_flood: bool,
    isolated: bool,
    locked: bool,
    transparent: bool,
    max_macs: Option<u32>,
}

/// Some of the FDB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fdb {
    /// When it was read.
    pub time_ns: u64,
    /// Entries.
    pub entries: Vec<Entry>,
    /// Whether no other follow.
    pub last: bool,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its address.
    pub mac: MacAddr,
    /// Its VLAN; 0 on a VLAN-unaware switch.
    pub vid: u16,
    /// Interface of its port.
    pub interface: u32,
    /// How it came there.
    #[serde(with = "Kind")]
    pub kind: EntryKind,
    /// Milliseconds since it was refreshed.
    pub age_ms: u64,
}

/// [`EntryKind`], as it is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "EntryKind", rename_all = "snake_case")]
enum Kind {
    Dynamic,
    Static,
    Sticky,
}

/// A change, and when it was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// When.
    pub time_ns: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What changes the bridge besides frames.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum What {
    /// A port came, its link down; its interface's description comes first.
    PortAdded(Port),
    /// A port went, with its entries.
    PortRemoved {
        /// Its interface.
        interface: u32,
    },
    /// A port has other flags.
    PortSet {
        /// Its interface.
        interface: u32,
        /// Its flags.
        #[serde(with = "PortFlags")]
        flags: PortSettings,
    },
    /// A link is up, or is not, and its learned entries are gone then.
    Link {
        /// Its interface.
        interface: u32,
        /// Whether it is up.
        up: bool,
    },
    /// The switch has other settings.
    Settings(Settings),
    /// An address was bound.
    EntrySet(Entry),
    /// An entry was deleted.
    EntryDeleted {
        /// Its address.
        mac: MacAddr,
        /// Its VLAN.
        vid: u16,
    },
    /// Entries that match all that is given went.
    Flushed {
        /// Of this port's interface.
        interface: Option<u32>,
        /// Of this VLAN.
        vid: Option<u16>,
        /// Of this address.
        mac: Option<MacAddr>,
        /// Static ones too.
        statics: bool,
    },
    /// Entries that had aged were taken out.
    Swept,
}

/// The decision on one frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its number: `epb_packetid`.
    pub frame: u64,
    /// Nanoseconds since 1970.
    pub date_ns: u64,
    /// What was decided, in words, and what each egress did.
    #[serde(flatten)]
    pub trace: Trace,
}

/// The sums at the end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Frames and copies written.
    pub written: u64,
    /// Of those wanted, the ones that were not, whatever the reason.
    pub missed: u64,
    /// Changes besides frames that are not in the file, because the capture thread
    /// or the reader was too slow: a replay does not know of them.
    #[serde(default)]
    pub changes_missed: u64,
    /// Why it ended: `asked`, `count`, `stopped`.
    pub why: String,
    /// By interface.
    pub ports: Vec<PortSums>,
}

/// The sums of one interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortSums {
    /// The port.
    pub name: String,
    /// Frames that came in and were forwarded.
    pub forwarded: Sums,
    /// Frames that came in and were dropped.
    pub dropped: Sums,
    /// Copies that were sent.
    pub sent: Sums,
    /// Copies that were refused.
    pub refused: Sums,
}

/// What became of frames of one kind. If the capture ended between two turns
/// (not by `count`), `counted` is what the switch's counters say, and
/// `counted = lost + passed + slow + written` holds exactly; if it wanted no such
/// frames, all is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sums {
    /// By the switch's own counters.
    pub counted: u64,
    /// Not recorded, because the capture thread had not emptied a block in time,
    /// or the kernel forwarded them before its fast path was closed.
    pub lost: u64,
    /// Rejected by the filter.
    pub passed: u64,
    /// Not written, because the reader was too slow.
    pub slow: u64,
    /// Written.
    pub written: u64,
}

impl Sums {
    /// Whether every frame that was counted is accounted for.
    pub fn balance(&self) -> bool {
        self.counted == self.lost + self.passed + self.slow + self.written
    }
}
