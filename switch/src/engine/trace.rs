//! What would become of a frame that is only asked about: the bridge's account of
//! it, and what each egress would make of it, by the functions that forward.
//!
//! It is carried out between two turns, as every command, and takes about as long
//! as forwarding the frame would. Nothing is sent, counted or learned.
//!
//! Deliberately absent: what only a device knows. Whether its queue is full then,
//! or it refuses the frame as invalid, shows when the frame is sent.

use super::Engine;
use super::Fate;
use super::egress::Treatment;
use super::fate::{Outline, Work};
use crate::bridge::{Account, DropReason, PortId, Refusal, Time, Verdict};
use crate::frame::{Frame, HEAD_MAX, Piece};
use crate::offload::VnetHeader;
use crate::port::Slots;

/// What would become of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traced {
    /// What the bridge would decide.
    pub account: Account,
    /// What each egress would do, ascending by number.
    pub egress: Vec<(PortId, Fate)>,
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
        let outline = Outline::of(frame);
        let slot = self.ports[id.index()].as_ref();
        let Some(link) = slot.filter(|slot| slot.port.is_some()).map(|slot| slot.link) else {
            return outline.refused(Refusal::Gone, 0);
        };
        match Treatment::of(frame, link, self.tuning.pad_runts) {
            Treatment::Oversize => outline.refused(Refusal::Oversize, link.mtu),
            Treatment::AsIs(_) => outline.sent(Work::None),
            Treatment::Pad(_) => outline.sent(Work::Pad),
            Treatment::Finish => match self.finisher.finish(frame, link.offloads) {
                Err(reason) => outline.refused(reason, link.mtu),
                Ok(_) => outline.sent(Work::Finish),
            },
        }
    }
}
