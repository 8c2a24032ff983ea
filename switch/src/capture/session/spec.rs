//! What a capture is to hold, as it was asked for.
//!
//! Deliberately absent: whether it can be had (the supervisor's), and how a frame
//! is held against it ([`Session`](super::Session)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::{PortId, PortSet};
use crate::capture::bpf::{self, Program};
use crate::engine::observe::Want;
use crate::frame::HEAD_MAX;

/// Bytes of a frame that are kept unless told otherwise: all of any frame.
pub const SNAPLEN_MAX: u32 = 262_144;

/// What can become of a frame or a copy: the four kinds of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It came in and was sent on.
    Forwarded = 0,
    /// It came in and was not.
    Dropped = 1,
    /// A copy was sent.
    Sent = 2,
    /// A copy was refused.
    Refused = 3,
}

/// Which kinds are wanted, by [`Kind`].
pub type Kinds = [bool; 4];

/// What was asked for.
#[derive(Debug)]
pub struct Spec {
    /// The switch's name.
    pub switch: String,
    /// Its configuration, as vswitch.toml.
    pub config: String,
    /// Frames of the ports with these names, whenever there are such; `None`: of all.
    pub ports: Option<Arc<Names>>,
    /// Records of these kinds.
    pub kinds: Kinds,
    /// Of those, what it accepts.
    pub filter: Option<Program>,
    /// The filter in words.
    pub filter_text: String,
    /// Bytes of each frame that are kept.
    pub snaplen: u32,
    /// Ends after so many records.
    pub count: Option<u64>,
    /// Finishes checksums and cuts super-frames.
    pub segment: bool,
    /// With each frame that came in, every step of the decision on it.
    pub steps: bool,
    /// Out of the recorder: frames of this last time, and no others.
    pub last: Option<Duration>,
}

impl Spec {
    /// Every frame and copy of the switch called `switch` with the configuration
    /// `config`, whole, from now on; what less is wanted, its fields say.
    pub fn everything(switch: impl Into<String>, config: impl Into<String>) -> Spec {
        Spec {
            switch: switch.into(),
            config: config.into(),
            ports: None,
            kinds: [true; 4],
            filter: None,
            filter_text: String::new(),
            snaplen: SNAPLEN_MAX,
            count: None,
            segment: false,
            steps: false,
            last: None,
        }
    }

    /// What the data thread has to tell for it while the ports are those of
    /// `labels`.
    pub fn want(&self, labels: &Labels) -> Want {
        let filtered = if self.filter.is_some() { bpf::REACH } else { 0 };
        // What explains a frame is read in its head.
        let explained = if self.steps { u32::try_from(HEAD_MAX).unwrap_or(SNAPLEN_MAX) } else { 0 };
        let least = filtered.max(explained);
        let snaplen = if self.segment { SNAPLEN_MAX } else { self.snaplen.max(least) };
        let ports = match &self.ports {
            None => PortSet::ALL,
            Some(names) => {
                labels.iter().filter(|(_, label)| names.contains(&label.name)).map(|(id, _)| *id).collect()
            }
        };
        Want { ports, snaplen, accounts: self.steps }
    }
}

/// A port, as users know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// Kind and target.
    pub description: String,
}

/// Names of ports: their numbers are given again when they are gone.
pub type Names = BTreeSet<String>;

/// Ports by number.
pub type Labels = BTreeMap<PortId, Label>;
