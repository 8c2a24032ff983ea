//! What each egress did with the copies of a frame, out of what is recorded of its
//! turn.
//!
//! Deliberately absent: any choice. What was padded, finished and refused was noted
//! when it was; figures are those of the frame.

use super::Turn;
use crate::bridge::PortId;
use crate::engine::Fate;
use crate::engine::fate::{Outline, Work};
use crate::frame::HEAD_MAX;

impl Turn<'_> {
    /// What each egress did with its copy of frame number `index`, ascending by
    /// number. All of the frame's head must be kept, as it is with accounts.
    pub fn fates(&self, index: u8) -> Vec<(PortId, Fate)> {
        let Some(seen) = self.frame(index) else { return Vec::new() };
        let head = &seen.bytes[..seen.bytes.len().min(HEAD_MAX)];
        let outline = Outline::of_recorded(head, seen.len, seen.vnet);
        let (mut fates, mut refusals, bit) = (Vec::new(), self.refusals, 1u64 << index);
        for copies in self.copies {
            let (refused, rest) = refusals.split_at(copies.refused_len.into());
            refusals = rest;
            if copies.chosen & bit == 0 {
                continue;
            }
            let fate = match refused.iter().find(|(frame, _)| *frame == index) {
                Some((_, reason)) => outline.refused(*reason, copies.mtu),
                None if copies.padded & bit != 0 => outline.sent(Work::Pad),
                None if copies.finished & bit != 0 => outline.sent(Work::Finish),
                None => outline.sent(Work::None),
            };
            fates.push((copies.egress, fate));
        }
        fates
    }
}
