//! Who hears of a turn while it is made: nobody, which costs nothing since every call is
//! inlined and empty, or the [`Observer`], which notes it until the turn is recorded.
//!
//! Deliberately absent: influence. No call returns anything, and what judges is the
//! bridge.

use arrayvec::ArrayVec;

use super::{Copies, Observer, count};
use crate::bridge::{BURST, Bridge, PortId, Refusal, Time, Verdict};
use crate::frame::Frame;

/// Hears what is decided on a burst, and what is refused while copies leave.
pub(in crate::engine) trait Witness {
    /// Has `bridge` judge a burst.
    fn judge(
        &mut self,
        bridge: &mut Bridge,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    );
    /// Frames of the burst were chosen for `egress`, which has that MTU, as a bit
    /// mask.
    fn chosen(&mut self, egress: PortId, mask: u64, mtu: u32);
    /// The egress that was named last pads frame number `frame`.
    fn padded(&mut self, frame: u32);
    /// It completes the checksum of frame number `frame`, or cuts that.
    fn finished(&mut self, frame: u32);
    /// The egress that was named last does not send frame number `frame`.
    fn refused(&mut self, frame: u32, reason: Refusal);
}

/// Nobody looks.
impl Witness for () {
    #[inline(always)]
    fn judge(
        &mut self,
        bridge: &mut Bridge,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        bridge.forward_burst(now, ingress, frames, verdicts);
    }

    #[inline(always)]
    fn chosen(&mut self, _egress: PortId, _mask: u64, _mtu: u32) {}
    #[inline(always)]
    fn padded(&mut self, _frame: u32) {}
    #[inline(always)]
    fn finished(&mut self, _frame: u32) {}
    #[inline(always)]
    fn refused(&mut self, _frame: u32, _reason: Refusal) {}
}

impl Witness for Observer {
    fn judge(
        &mut self,
        bridge: &mut Bridge,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        self.misses = None;
        if !self.has_block() {
            // Nobody will hear how it came about.
            bridge.forward_burst(now, ingress, frames, verdicts);
            self.stories.clear();
            self.misses = Some(count(verdicts.iter()));
        } else if self.want.accounts {
            self.explain(bridge, now, ingress, frames, verdicts);
        } else {
            bridge.forward_burst_told(now, ingress, frames, verdicts, &mut self.stories);
        }
    }

    fn chosen(&mut self, egress: PortId, mask: u64, mtu: u32) {
        self.copies.push(Copies { egress, chosen: mask, padded: 0, finished: 0, mtu, refused_len: 0 });
    }

    fn padded(&mut self, frame: u32) {
        if let Some(copies) = self.copies.last_mut() {
            copies.padded |= 1 << frame;
        }
    }

    fn finished(&mut self, frame: u32) {
        if let Some(copies) = self.copies.last_mut() {
            copies.finished |= 1 << frame;
        }
    }

    fn refused(&mut self, frame: u32, reason: Refusal) {
        if let Some(copies) = self.copies.last_mut() {
            copies.refused_len += 1;
            // A burst has 64 frames.
            self.refusals.push((u8::try_from(frame).unwrap_or(u8::MAX), reason));
        }
    }
}

impl Observer {
    /// Has `bridge` judge a burst for somebody who wants to know everything.
    #[cold]
    #[inline(never)]
    fn explain(
        &mut self,
        bridge: &mut Bridge,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        let Observer { stories, accounts, .. } = self;
        stories.clear();
        bridge.forward_burst_explained(now, ingress, frames, verdicts, |account| {
            stories.push(account.story);
            accounts.push(account);
        });
    }
}
