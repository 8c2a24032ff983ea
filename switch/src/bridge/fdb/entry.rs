//! What users see of the FDB: passive values and errors.

use std::time::Duration;

use crate::bridge::PortId;
use crate::frame::{MacAddr, VlanId};

/// How an entry came into the FDB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// Learned; ages, moves, and may be replaced.
    Dynamic,
    /// Set by the operator: neither ages nor moves.
    Static,
    /// Set by the operator to pin a station to its port: likewise.
    Sticky,
}

/// One entry, as users see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbEntry {
    /// VLAN; [`VlanId::UNAWARE`] on a VLAN-unaware switch.
    pub vid: VlanId,
    /// Address.
    pub mac: MacAddr,
    /// Port that the station is on.
    pub port: PortId,
    /// How it came here.
    pub kind: EntryKind,
    /// Since it was last refreshed (set, for static ones).
    pub age: Duration,
}

/// Whether somebody forwards by a copy of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lent {
    /// A copy is out, and is recalled when the entry changes.
    Yes,
    /// The bridge alone has it.
    No,
}

/// A live entry, as whoever forwards by a copy of it needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    /// Port that the station is on.
    pub port: PortId,
    /// Whether a copy of the entry is out.
    pub lent: Lent,
    /// Since it was last refreshed (set, for static ones).
    pub heard: Duration,
}

/// Whether a flush takes the entries that the operator set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlushKinds {
    /// Learned entries only.
    #[default]
    Dynamic,
    /// Static and sticky ones too.
    All,
}

/// Which entries to flush: those that match all that is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlushScope {
    /// Only this port's.
    pub port: Option<PortId>,
    /// Only this VLAN's.
    pub vid: Option<VlanId>,
    /// Only this address.
    pub mac: Option<MacAddr>,
    /// Dynamic, or all.
    pub kinds: FlushKinds,
}

/// Why the FDB was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FdbError {
    /// No station may have this address.
    #[error("{0} is no station's address: use one that is neither zero nor a group address")]
    BadMac(MacAddr),
    /// There is no such port.
    #[error("there is no port number {0}: add the port first")]
    UnknownPort(PortId),
    /// Only an operator sets entries with `fdb add`.
    #[error("dynamic entries are learned, not added: use static or sticky")]
    NotStatic,
    /// Every place is taken by static entries.
    #[error("all {0} places of the FDB hold static entries: raise fdb_size or delete some")]
    Full(u32),
    /// Fewer places than there are static entries.
    #[error("fdb_size {size} is less than the {fixed} static entries: delete some first")]
    TooSmall {
        /// Size asked for.
        size: u32,
        /// Static and sticky entries.
        fixed: u32,
    },
    /// No such entry.
    #[error("{mac} (VLAN {vid}) is not in the FDB: see `vswitch fdb show`")]
    NotFound {
        /// VLAN asked for.
        vid: VlanId,
        /// Address asked for.
        mac: MacAddr,
    },
}

/// How evenly the entries lie: what a look-up of each would cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// Entries.
    pub len: u32,
    /// Cache lines read to find each entry once.
    pub probes: u64,
    /// Cache lines read to find the worst of them.
    pub probes_max: u32,
}
