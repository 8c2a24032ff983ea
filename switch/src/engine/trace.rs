//! What would become of a frame that is only asked about: the bridge's account of
//! it, and what each egress would make of it, by the functions that forward.
//!
//! It is carried out between two turns, as every command, and takes about as long
//! as forwarding the frame would. Nothing is sent, counted or learned.
//!
//! Deliberately absent: what only a device knows. Whether its queue is full then,
//! or it refuses the frame as invalid, shows when the frame is sent.

use super::Engine;
use super::egress::{Treatment, longest};
use crate::bridge::{Account, DropReason, PortId, Refusal, Time, Verdict};
use crate::frame::{FRAME_MIN, Frame, HEAD_MAX, Piece};
use crate::offload::{Offload, VnetHeader};
use crate::port::Slots;

/// What would become of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traced {
    /// What the bridge would decide.
    pub account: Account,
    /// What each egress would do, ascending by number.
    pub egress: Vec<(PortId, Fate)>,
}

/// What an egress would do with its copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Refuse it.
    Refused {
        /// Why.
        reason: Refusal,
        /// Bytes of the longest frame of this kind that its MTU allows.
        longest: u32,
        /// Bytes that would reach the wire at a time.
        wire_len: u32,
    },
    /// Send it as it came, so many bytes; its receiver finishes what is left.
    AsIs {
        /// Bytes.
        len: u32,
        /// What is left.
        offload: Offload,
    },
    /// Send it with zeroes behind it.
    Padded {
        /// Bytes then.
        len: u32,
    },
    /// Complete its checksum here, and send it.
    Completed {
        /// Bytes.
        len: u32,
    },
    /// Cut it into segments here, and send these.
    Cut {
        /// Segments.
        segments: u32,
        /// Bytes of the longest.
        wire_len: u32,
    },
}

impl Engine {
    /// What would become of a frame that came in by `ingress` now.
    pub(super) fn trace(&mut self, now: Time, ingress: PortId, bytes: &[u8], vnet: VnetHeader) -> Traced {
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_MAX));
        let pieces = [Piece::from_slice(rest)];
        let frame = if bytes.len() > Slots::ROOM {
            // No port takes it whole.
            Frame::broken(head, DropReason::Truncated)
        } else {
            Frame::new(head, if rest.is_empty() { &[] } else { &pieces }, vnet)
        };
        let account = self.bridge.trace(now, ingress, &frame);
        let egress = match account.story.verdict {
            Verdict::Forward { to, .. } => to.iter().map(|id| (id, self.fate(id, &frame))).collect(),
            Verdict::Drop(_) => Vec::new(),
        };
        Traced { account, egress }
    }

    fn fate(&mut self, id: PortId, frame: &Frame<'_>) -> Fate {
        let slot = self.ports[id.index()].as_ref();
        let Some(link) = slot.filter(|slot| slot.port.is_some()).map(|slot| slot.link) else {
            return Fate::Refused { reason: Refusal::Gone, longest: 0, wire_len: frame.wire_len() };
        };
        let refused =
            |reason| Fate::Refused { reason, longest: longest(frame, link), wire_len: frame.wire_len() };
        match Treatment::of(frame, link, self.tuning.pad_runts) {
            Treatment::Oversize => refused(Refusal::Oversize),
            Treatment::AsIs(_) => Fate::AsIs { len: frame.len(), offload: frame.offload() },
            // 60 bytes.
            Treatment::Pad(_) => Fate::Padded { len: u32::try_from(FRAME_MIN).unwrap_or(u32::MAX) },
            Treatment::Finish => match self.finisher.finish(frame, link.offloads) {
                Err(reason) => refused(reason),
                Ok(finished) if finished.is_cut() => Fate::Cut {
                    segments: u32::try_from(finished.len()).unwrap_or(u32::MAX),
                    wire_len: frame.wire_len(),
                },
                Ok(_) => Fate::Completed { len: frame.len() },
            },
        }
    }
}
