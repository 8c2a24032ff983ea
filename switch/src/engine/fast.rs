//! The kernel's fast path, as the engine uses it: which stations it lends to the
//! kernel, how it takes them back, and how what the kernel forwarded is counted
//! and refreshes ages.
//!
//! A pair of stations is lent when the second frame of its source comes to the
//! engine: a flood of sources that each speak once lends nothing unless somebody
//! answers, and then no more than their port's share of the places. Whatever
//! the bridge changes of a lent station is recalled before the frame that caused
//! it leaves.
//!
//! Deliberately absent: the kernel's side (`port::fast`), and VLANs, whose
//! frames the kernel could not tell apart yet: stations of VLAN-unaware switches
//! are lent, no others.

use std::time::Duration;

use indexmap::IndexMap;

use super::{SWEEP_PAUSE, Slot as PortSlot};
use crate::bridge::{Bridge, Lent, PORTS_MAX, PortId, Station, Time, Verdict};
use crate::frame::{EtherHeader, Frame, MacAddr, VlanId};
use crate::port::{FastFace, FastTable, Passed, Slot};

/// Pairs lent in one turn at most: two system calls each, some 2 µs.
const LOANS_PER_TURN: usize = 16;

/// Stations whose age is asked for at a time, if that is often enough: a system
/// call each, some 100 µs together.
const REFRESHES: usize = 256;

/// The most of them at a time, however many there are and however soon they age.
const REFRESHES_MAX: usize = 4096;

/// The engine's use of the fast path.
#[derive(Debug)]
pub(super) struct Fast {
    table: FastTable,
    /// Whether the user wants it.
    enabled: bool,
    slots: Box<[Option<Slot>; PORTS_MAX]>,
    ports: Box<[Option<PortId>; PORTS_MAX]>,
    /// The stations that are lent, and where they are.
    lent: IndexMap<MacAddr, PortId>,
    /// How many of them are on each port.
    lent_on: Box<[u32; PORTS_MAX]>,
    /// Ports that have slots.
    members: usize,
    /// The next refresh goes on below this in `lent`, towards its beginning: what is
    /// taken out there is replaced by the last, which has had its turn.
    refresh_below: usize,
}

impl Fast {
    pub fn new(table: FastTable) -> Fast {
        // Twice the room, so that its index never asks for more, whatever places were
        // given up.
        let lent = IndexMap::with_capacity(2 * table.capacity());
        Fast {
            table,
            enabled: false,
            slots: Box::new([None; PORTS_MAX]),
            ports: Box::new([None; PORTS_MAX]),
            lent,
            lent_on: Box::new([0; PORTS_MAX]),
            members: 0,
            refresh_below: 0,
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
        self.members += usize::from(self.slots[id.index()].replace(slot).is_none());
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
        lent.retain(|mac, port| {
            if *port == id {
                table.withdraw(*mac);
                bridge.set_lent(VlanId::UNAWARE, *mac, Lent::No);
            }
            *port != id
        });
        self.lent_on[id.index()] = 0;
        self.members -= 1;
        self.count_pairs(bridge, Some(slot));
        self.ports[slot.index()] = None;
    }

    /// Takes back what the bridge has changed.
    #[inline]
    pub fn recall(&mut self, bridge: &mut Bridge) {
        for (_, mac) in bridge.take_recalled() {
            self.table.withdraw(mac);
            if let Some(port) = self.lent.swap_remove(&mac) {
                self.lent_on[port.index()] -= 1;
            }
        }
    }

    /// Lends the stations of frames that went from one port to one other, if
    /// the source is seen for the second time.
    #[inline]
    pub fn consider(
        &mut self,
        bridge: &mut Bridge,
        now: Time,
        ingress: PortId,
        frames: &[Frame<'_>],
        verdicts: &[Verdict],
    ) {
        if !self.enabled || self.slots[ingress.index()].is_none() || !self.has_room(ingress) {
            return;
        }
        let mut loans = 0;
        for (frame, verdict) in frames.iter().zip(verdicts) {
            let Verdict::Forward { to, copies: 1, vid: VlanId::UNAWARE } = verdict else { continue };
            let Some(egress) = to.iter().next().filter(|port| self.slots[port.index()].is_some()) else {
                continue;
            };
            let Ok(EtherHeader { dst, src, .. }) = EtherHeader::parse(frame.head()) else { continue };
            if dst.is_group() {
                continue;
            }
            let Some(from) = bridge.sight(now, VlanId::UNAWARE, src) else { continue };
            // A flood that only one other port takes looks like a unicast.
            let Some(to) = bridge.station(now, VlanId::UNAWARE, dst) else { continue };
            if (from.port, to.port) != (ingress, egress) || (from.lent, to.lent) == (Lent::Yes, Lent::Yes) {
                continue;
            }
            if !self.has_room(ingress) || !self.has_room(egress) {
                return;
            }
            self.lend(bridge, src, from);
            self.lend(bridge, dst, to);
            loans += 1;
            if loans == LOANS_PER_TURN {
                return;
            }
        }
    }

    /// Whether a station on `port`, and one more, may be lent: one half of the places
    /// is for all, and of the other each port has its share, so that no guest with many
    /// addresses takes them from the others.
    fn has_room(&self, port: PortId) -> bool {
        let (capacity, lent) = (self.table.capacity(), self.lent.len());
        let share = capacity / 2 / self.members.max(1);
        lent + 2 <= capacity / 2 || lent + 2 <= capacity && (self.lent_on[port.index()] as usize) < share
    }

    fn lend(&mut self, bridge: &mut Bridge, mac: MacAddr, known: Station) {
        let (Lent::No, Some(slot)) = (known.lent, self.slots[known.port.index()]) else { return };
        // Short of memory: its frames go on coming here.
        if self.table.install(mac, slot, known.heard).is_ok() {
            bridge.set_lent(VlanId::UNAWARE, mac, Lent::Yes);
            self.lent.insert(mac, known.port);
            self.lent_on[known.port.index()] += 1;
        }
    }

    /// After each round: lets flows of settled stations go without waiting.
    #[inline]
    pub fn settle(&mut self) {
        self.table.settle();
    }

    /// Adds what the kernel has forwarded to the bridge's counters.
    pub fn count(&mut self, bridge: &mut Bridge) {
        self.count_pairs(bridge, None);
    }

    /// The same, of all pairs or those with a certain port.
    fn count_pairs(&mut self, bridge: &mut Bridge, of: Option<Slot>) {
        let ports = &self.ports;
        self.table.passed(of, |Passed { from, to, frames, bytes }| {
            let (from, to) = (ports[from.index()], ports[to.index()]);
            bridge.counters_mut().count_passed(from, to, frames, bytes);
        });
    }

    /// Refreshes the entries of some lent stations; true if there are more, which
    /// is to go on after [`SWEEP_PAUSE`]. All of them are through in a quarter of the
    /// ageing time, as far as [`REFRESHES_MAX`] allows.
    pub fn refresh(&mut self, bridge: &mut Bridge, now: Time) -> bool {
        let pauses = bridge.settings().ageing.as_millis() / 4 / SWEEP_PAUSE.as_millis();
        let some = self.lent.len().div_ceil(usize::try_from(pauses).unwrap_or(usize::MAX).max(1));
        let end = self.refresh_below.min(self.lent.len());
        let start = end.saturating_sub(some.clamp(REFRESHES, REFRESHES_MAX));
        for at in start..end {
            let Some((&mac, &port)) = self.lent.get_index(at) else { continue };
            let Some(age) = self.age(mac, port) else { continue };
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let then = Time::from_nanos(now.as_nanos().saturating_sub(age_ns));
            bridge.refresh(VlanId::UNAWARE, mac, port, then);
        }
        self.refresh_below = if start > 0 { start } else { usize::MAX };
        start > 0
    }

    /// How long ago the kernel heard from a station that is lent there.
    pub fn age(&mut self, mac: MacAddr, port: PortId) -> Option<Duration> {
        self.table.age(mac, self.slots[port.index()]?)
    }
}
