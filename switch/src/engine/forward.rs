//! The heart of a turn: a burst is judged, its verdicts are grouped by egress, and
//! each egress sends its copies at once.
//!
//! Deliberately absent: receiving, and whose turn it is (the engine).

use arrayvec::ArrayVec;

use super::Slot;
use super::egress::{Egress, each_bit};
use super::fast::Fast;
use super::observe::{Observer, Witness};
use crate::bridge::{Bridge, PORTS_MAX, PortId, PortSet, Refusal, Time, Verdict};
use crate::frame::Frame;
use crate::port::{BURST_FRAMES, Fault, Finisher};

/// What of the engine a burst needs, while the engine lends its memory to the
/// port that the burst came from.
pub(super) struct Forwarding<'e> {
    pub bridge: &'e mut Bridge,
    pub fast: Option<&'e mut Fast>,
    pub ports: &'e mut [Option<Slot>],
    /// Per egress port, which frames leave by it; all zero before and after.
    pub masks: &'e mut [u64; PORTS_MAX],
    pub finisher: &'e mut Finisher,
    pub pad_runts: bool,
    pub verdicts: ArrayVec<Verdict, BURST_FRAMES>,
    /// Devices that failed on the way.
    pub faults: &'e mut ArrayVec<(PortId, Fault), PORTS_MAX>,
}

impl Forwarding<'_> {
    /// Judges a burst and sends its copies; `witness` hears of each.
    #[inline(always)]
    pub fn forward<W: Witness>(&mut self, now: Time, id: PortId, frames: &[Frame<'_>], witness: &mut W) {
        witness.judge(self.bridge, now, id, frames, &mut self.verdicts);
        if let Some(fast) = self.fast.as_mut() {
            // Before any of these frames is sent, and with it what it taught.
            fast.recall(self.bridge);
            fast.consider(self.bridge, now, id, frames, &self.verdicts);
        }
        let touched = group(&self.verdicts, self.masks);
        for egress in touched.iter() {
            let mask = std::mem::take(&mut self.masks[egress.index()]);
            let slot = self.ports[egress.index()].as_mut();
            witness.chosen(egress, mask, slot.as_ref().map_or(0, |slot| slot.link.mtu));
            let Some(Slot { port: Some(port), link, .. }) = slot else {
                let refused = &mut self.bridge.counters_mut().port_mut(egress).refused;
                refused[Refusal::Gone.index()] += u64::from(mask.count_ones());
                each_bit(mask, |frame| witness.refused(frame, Refusal::Gone));
                continue;
            };
            let mut sending = Egress {
                id: egress,
                port: port.as_mut(),
                link: *link,
                bridge: self.bridge,
                finisher: self.finisher,
                pad_runts: self.pad_runts,
                fault: None,
                witness,
            };
            sending.send(frames, mask);
            if let Some(fault) = sending.fault {
                self.faults.push((egress, fault));
            }
        }
    }

    /// The same, recorded for who looks.
    #[inline(never)]
    pub fn forward_watched(&mut self, now: Time, id: PortId, frames: &[Frame<'_>], observer: &mut Observer) {
        self.forward(now, id, frames, observer);
        observer.record(now, id, frames);
    }
}

/// Turns verdicts into a bit mask of frames for each egress port; returns the
/// ports whose masks are not zero.
#[inline]
fn group(verdicts: &[Verdict], masks: &mut [u64; PORTS_MAX]) -> PortSet {
    let mut touched = PortSet::EMPTY;
    // Most frames go where the one before went: those are noted together.
    let mut last = PortSet::EMPTY;
    let mut alike = 0u64;
    let mut note = |to: &PortSet, frames: u64| {
        for port in to.iter() {
            masks[port.index()] |= frames;
        }
        touched = touched | *to;
    };
    for (index, verdict) in verdicts.iter().enumerate() {
        let Verdict::Forward { to, .. } = verdict else { continue };
        if *to != last {
            note(&last, alike);
            (last, alike) = (*to, 0);
        }
        alike |= 1 << index;
    }
    note(&last, alike);
    touched
}
