//! What would become of a frame, as a switch answers it. Field names are stable.

use serde::{Deserialize, Serialize};

use crate::bridge::{Account, LookUp, PortId, Verdict};
use crate::engine::Fate;
use crate::explain::{Comment, Names, Step, fate, steps};
use crate::offload::VnetHeader;

/// The work that a frame's sender left to others: its virtio-net header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfinished {
    /// `flags`.
    #[serde(default)]
    pub flags: u8,
    /// `gso_type`.
    #[serde(default)]
    pub gso_type: u8,
    /// `hdr_len`.
    #[serde(default)]
    pub hdr_len: u16,
    /// `gso_size`.
    #[serde(default)]
    pub gso_size: u16,
    /// `csum_start`.
    #[serde(default)]
    pub csum_start: u16,
    /// `csum_offset`.
    #[serde(default)]
    pub csum_offset: u16,
}

impl From<VnetHeader> for Unfinished {
    fn from(vnet: VnetHeader) -> Unfinished {
        let VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = vnet;
        Unfinished { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset }
    }
}

impl From<Unfinished> for VnetHeader {
    fn from(unfinished: Unfinished) -> VnetHeader {
        let Unfinished { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = unfinished;
        VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset }
    }
}

/// What would become of a frame, and why: `vswitch trace`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// Where it would come in.
    pub port: String,
    /// Its length in bytes.
    pub len: u32,
    /// Each step of the decision, in order.
    pub steps: Vec<Step>,
    /// `forwarded` (to one known station), `flooded` or `dropped`.
    pub verdict: String,
    /// Why it would be dropped, by the name of the counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// As a capture would comment the frame.
    pub comment: String,
    /// What each egress would do with its copy.
    pub egress: Vec<TraceEgress>,
}

/// What one egress would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceEgress {
    /// The port.
    pub port: String,
    /// Why it would refuse, by the name of the counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// In words.
    pub text: String,
}

/// A frame, what was or would be decided on it, and what its egresses do.
#[derive(Clone, Copy, Debug)]
pub struct Explained<'e> {
    /// Where it came in.
    pub ingress: PortId,
    /// Its first bytes.
    pub head: &'e [u8],
    /// Its length in bytes.
    pub len: u32,
    /// The decision.
    pub account: &'e Account,
    /// What each egress does with its copy.
    pub egress: &'e [(PortId, Fate)],
}

impl Explained<'_> {
    /// The same in words: of a frame that was only asked about, and of one that came.
    pub fn in_words(&self, names: &dyn Names) -> Trace {
        let Explained { ingress, head, len, account, .. } = *self;
        let story = &account.story;
        let (verdict, reason) = match (story.verdict, story.look_up) {
            (Verdict::Drop(reason), _) => ("dropped", Some(reason.name().to_owned())),
            (Verdict::Forward { .. }, LookUp::Known(_)) => ("forwarded", None),
            (Verdict::Forward { .. }, _) => ("flooded", None),
        };
        let egress = |&(id, outcome): &(PortId, Fate)| TraceEgress {
            port: names.name(id).to_owned(),
            refused: match outcome {
                Fate::Refused { reason, .. } => Some(reason.name().to_owned()),
                Fate::AsIs { .. } | Fate::Padded { .. } | Fate::Completed { .. } | Fate::Cut { .. } => None,
            },
            text: fate(outcome),
        };
        Trace {
            port: names.name(ingress).to_owned(),
            len,
            steps: steps(account, ingress, head, names),
            verdict: verdict.to_owned(),
            reason,
            comment: Comment { story, ingress, names }.to_string(),
            egress: self.egress.iter().map(egress).collect(),
        }
    }
}
