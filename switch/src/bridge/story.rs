//! How one decision came about, as a value: what captures comment, what `trace`
//! explains and what `replay` compares.
//!
//! A story is written by the functions that decide, while they do (see
//! `witness`), so that it cannot disagree with the verdict. It is small and
//! `Copy`, and is made without allocation.
//!
//! Deliberately absent: words. [`explain`](crate::explain) has them.

use super::{Learned, PortId, PortSet, Verdict, Withheld};
use crate::frame::{MacAddr, VlanId};

/// What became of one frame, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Story {
    /// What learning the source came to.
    pub learning: Learning,
    /// The port that the operator bound the source to, which is another.
    pub bound: Option<PortId>,
    /// What the destination was found to be.
    pub look_up: LookUp,
    /// How it ended.
    pub verdict: Verdict,
}

/// Whether the source was learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learning {
    /// The frame ended before.
    NotReached,
    /// The port does not learn.
    Off,
    /// The switch is a hub (its ageing time is zero).
    Hub,
    /// The FDB was told, and this came of it.
    Told(Learned),
}

/// What the destination is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookUp {
    /// The frame ended before.
    NotReached,
    /// A reserved address that is not opened, by its last octet.
    Reserved(u8),
    /// Everybody.
    Broadcast,
    /// A group.
    Multicast,
    /// The frame's own source.
    Source,
    /// A station that is not in the FDB.
    Unknown,
    /// A station on this port.
    Known(PortId),
}

/// A [`Story`] with everything that explains it: what `trace` shows, and too much
/// to note for each frame of a capture unless that asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// The story.
    pub story: Story,
    /// The VLAN that the frame travels in; `None` if it ended before.
    pub vid: Option<VlanId>,
    /// On a locked port: where the FDB has the source.
    pub source: Option<PortId>,
    /// Another station's entry, which gives its place to the source.
    pub victim: Option<(VlanId, MacAddr)>,
    /// Ports that would have been an egress, and why they are not.
    pub withheld: [PortSet; Withheld::COUNT],
}

impl Account {
    /// The ports that are no egress because of `why`.
    pub fn withheld(&self, why: Withheld) -> PortSet {
        self.withheld[why.index()]
    }
}
