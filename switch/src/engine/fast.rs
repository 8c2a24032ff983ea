//! The kernel's fast path, as the engine uses it: which stations it lends to the
//! kernel, how it takes them back, and how what the kernel forwarded is counted
//! and refreshes ages.
//!
//! A pair of stations is lent when a second frame between them comes to the
//! engine: a flood of sources that each speak once costs nothing here. Whatever
//! the bridge changes of a lent station is recalled before the frame that caused
//! it leaves.
//!
//! Deliberately absent: the kernel's side (`port::fast`), and VLANs, whose
//! frames the kernel could not tell apart yet: stations of VLAN-unaware switches
//! are lent, no others.

use std::time::Duration;

use super::Slot as PortSlot;
use crate::bridge::{Bridge, Lent, PORTS_MAX, PortId, Time, Verdict};
use crate::frame::{EtherHeader, Frame, MacAddr, VlanId};
use crate::port::{FastFace, FastTable, Passed, Slot};

/// Pairs lent in one turn at most: two system calls each, some 2 µs.
const LOANS_PER_TURN: usize = 4;

/// Stations whose age is asked for at a time: a system call each, some 100 µs
/// together.
const REFRESHES: usize = 256;

/// Pairs that were seen once are remembered in so many places.
const SIGHTINGS: usize = 256;

/// The engine's use of the fast path.
#[derive(Debug)]
pub(super) struct Fast {
    table: FastTable,
    /// Whether the user wants it.
    enabled: bool,
    slots: Box<[Option<Slot>; PORTS_MAX]>,
    ports: Box<[Option<PortId>; PORTS_MAX]>,
    lent: Vec<MacAddr>,
    /// Where the next refresh goes on in `lent`.
    next_refresh: usize,
    /// Fingerprints of pairs.
    sighted: Box<[u64; SIGHTINGS]>,
}

impl Fast {
    pub fn new(table: FastTable) -> Fast {
        Fast {
            table,
            enabled: false,
            slots: Box::new([None; PORTS_MAX]),
            ports: Box::new([None; PORTS_MAX]),
            lent: Vec::new(),
            next_refresh: 0,
            sighted: Box::new([0; SIGHTINGS]),
        }
    }

    /// Uses it from now on, or lets every frame come to the engine.
    pub fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Leaves frames that are to be padded to the engine.
    pub fn set_padding(&mut self, pads: bool) {
        self.table.set_padding(pads);
    }

    /// Whether any station is lent.
    pub fn is_used(&self) -> bool {
        !self.lent.is_empty()
    }

    /// How `port` looks now, with what is in its slot of the engine; called
    /// whenever one of these changes.
    pub fn look_at(&mut self, bridge: &mut Bridge, id: PortId, port: Option<&PortSlot>) {
        let now = port.and_then(|slot| Some((slot.port.as_ref()?.fast()?, slot.link)));
        let before = self.slots[id.index()];
        let slot = now.map(|((slot, _), _)| slot);
        if before != slot {
            self.leave(bridge, id);
        }
        let Some(((slot, ifindex), link)) = now else { return };
        self.slots[id.index()] = Some(slot);
        self.ports[slot.index()] = Some(id);
        let up = link.up && self.enabled;
        self.table
            .set_port(slot, FastFace { ifindex, mtu: link.mtu, up, isolated: bridge.port(id).isolated });
    }

    /// The device behind `id` goes: nothing may point to its slot any more.
    fn leave(&mut self, bridge: &mut Bridge, id: PortId) {
        let Some(slot) = self.slots[id.index()].take() else { return };
        self.table.set_port(slot, FastFace { ifindex: 0, mtu: 0, up: false, isolated: false });
        let Fast { table, lent, .. } = self;
        lent.retain(|mac| {
            // The oldest there is: of no entry does it matter whether it has aged.
            let station = bridge.station(Time::START, VlanId::UNAWARE, *mac);
            let stays = station.is_some_and(|station| station.port != id);
            if !stays {
                table.withdraw(*mac);
                bridge.set_lent(VlanId::UNAWARE, *mac, Lent::No);
            }
            stays
        });
        self.count(bridge);
        self.ports[slot.index()] = None;
    }

    /// Takes back what the bridge has changed.
    #[inline]
    pub fn recall(&mut self, bridge: &mut Bridge) {
        for (_, mac) in bridge.take_recalled() {
            self.table.withdraw(mac);
            if let Some(at) = self.lent.iter().position(|lent| *lent == mac) {
                self.lent.swap_remove(at);
            }
        }
    }

    /// Lends the stations of frames that went from one port to one other, if
    /// they are seen for the second time.
    #[inline]
    pub fn consider(
        &mut self,
        bridge: &mut Bridge,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &[Verdict],
    ) {
        if !self.enabled || self.slots[ingress.index()].is_none() {
            return;
        }
        let mut loans = 0;
        for (frame, verdict) in frames.iter().zip(verdicts) {
            let Verdict::Forward { to, copies: 1, vid: VlanId::UNAWARE } = verdict else { continue };
            let Some(egress) = to.iter().next().filter(|port| self.slots[port.index()].is_some()) else {
                continue;
            };
            let Ok(EtherHeader { dst, src, .. }) = EtherHeader::parse(frame.head()) else { continue };
            if dst.is_group() || !self.is_second_sight(src, dst) {
                continue;
            }
            // A flood that only one other port takes looks like a unicast.
            let (from, to) = (station(bridge, now, src, ingress), station(bridge, now, dst, egress));
            let (Some(from), Some(to)) = (from, to) else { continue };
            self.lend(bridge, src, ingress, from);
            self.lend(bridge, dst, egress, to);
            loans += 1;
            if loans == LOANS_PER_TURN {
                return;
            }
        }
    }

    /// Whether a frame of this pair came to the engine before, as far as is
    /// remembered.
    fn is_second_sight(&mut self, src: MacAddr, dst: MacAddr) -> bool {
        let print = src.to_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ dst.to_u64().rotate_left(16) | 1;
        let [place, ..] = print.wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes();
        std::mem::replace(&mut self.sighted[usize::from(place)], print) == print
    }

    fn lend(&mut self, bridge: &mut Bridge, mac: MacAddr, port: PortId, known: (Lent, Duration)) {
        let (Lent::No, Some(slot)) = (known.0, self.slots[port.index()]) else { return };
        // Full, or short of memory: its frames go on coming here.
        if self.table.install(mac, slot, known.1).is_ok() {
            bridge.set_lent(VlanId::UNAWARE, mac, Lent::Yes);
            self.lent.push(mac);
        }
    }

    /// After each round: lets flows of settled stations go without waiting.
    #[inline]
    pub fn settle(&mut self) {
        self.table.settle();
    }

    /// Adds what the kernel has forwarded to the bridge's counters.
    pub fn count(&mut self, bridge: &mut Bridge) {
        let ports = &self.ports;
        self.table.passed(|Passed { from, to, frames, bytes }| {
            let (from, to) = (ports[from.index()], ports[to.index()]);
            bridge.counters_mut().count_passed(from, to, frames, bytes);
        });
    }

    /// Refreshes the entries of some lent stations; true if there are more.
    pub fn refresh(&mut self, bridge: &mut Bridge, now: Time) -> bool {
        let end = (self.next_refresh + REFRESHES).min(self.lent.len());
        let some = self.lent.get(self.next_refresh..end).unwrap_or_default();
        for mac in some {
            let Some(age) = self.table.age(*mac) else { continue };
            let Some(known) = bridge.station(now, VlanId::UNAWARE, *mac) else { continue };
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let then = Time::from_nanos(now.as_nanos().saturating_sub(age_ns));
            bridge.refresh(VlanId::UNAWARE, *mac, known.port, then);
        }
        self.next_refresh = if end < self.lent.len() { end } else { 0 };
        self.next_refresh != 0
    }
}

/// What is known of a station that should be on `port`.
fn station(bridge: &Bridge, now: Time, mac: MacAddr, port: PortId) -> Option<(Lent, Duration)> {
    let known = bridge.station(now, VlanId::UNAWARE, mac)?;
    (known.port == port).then_some((known.lent, known.heard))
}
