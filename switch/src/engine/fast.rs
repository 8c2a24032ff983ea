//! The kernel's fast path, as the engine uses it: which stations it lends to the
//! kernel, how it takes them back, and how what the kernel forwarded is counted
//! and refreshes ages.
//!
//! A pair of stations is lent when the second frame of its source comes to the
//! engine: a flood of sources that each speak once lends nothing unless somebody
//! answers, and then no places that other ports may need. Whatever
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
    places: Places,
    /// The next refresh goes on below this in `lent`, towards its beginning: what is
    /// taken out there is replaced by the last, which has had its turn.
    refresh_below: usize,
}

/// How many stations may be lent on which port. Half of the places are divided among
/// the ports, and the other half is for whoever comes first, so that a guest with many
/// addresses leaves some to the others.
#[derive(Debug)]
struct Places {
    capacity: u32,
    /// How many of each port are taken.
    taken: Box<[u32; PORTS_MAX]>,
    /// How many of all.
    all_taken: u32,
    /// Ports that there are.
    ports: u32,
    /// Places that each port has for itself.
    own: u32,
    /// Places that are taken by ports beyond their own.
    common: u32,
}

impl Places {
    fn new(capacity: usize) -> Places {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        Places { capacity, taken: Box::new([0; PORTS_MAX]), all_taken: 0, ports: 0, own: 0, common: 0 }
    }

    /// Whether there is one for a station on `port`.
    fn has_one(&self, port: PortId) -> bool {
        let has_own = self.taken[port.index()] < self.own;
        // A port that came when others had more than is theirs now has to wait.
        self.all_taken < self.capacity && (has_own || self.common < self.capacity - self.own * self.ports)
    }

    fn take(&mut self, port: PortId) {
        let taken = &mut self.taken[port.index()];
        self.common += u32::from(*taken >= self.own);
        *taken += 1;
        self.all_taken += 1;
    }

    fn give_back(&mut self, port: PortId) {
        let taken = &mut self.taken[port.index()];
        debug_assert!(*taken > 0, "what is given back was taken");
        *taken -= 1;
        self.all_taken -= 1;
        self.common -= u32::from(*taken >= self.own);
    }

    /// One more port shares them.
    fn join(&mut self) {
        self.ports += 1;
        self.divide();
    }

    /// `port` has gone, with all that it had.
    fn leave(&mut self, port: PortId) {
        self.ports = self.ports.saturating_sub(1);
        self.all_taken -= std::mem::take(&mut self.taken[port.index()]);
        self.divide();
    }

    fn divide(&mut self) {
        self.own = self.capacity / 2 / self.ports.max(1);
        self.common = self.taken.iter().map(|taken| taken.saturating_sub(self.own)).sum();
    }
}

impl Fast {
    pub fn new(table: FastTable) -> Fast {
        // Twice the room, so that its index never asks for more, whatever places were
        // given up.
        let lent = IndexMap::with_capacity(2 * table.capacity());
        let places = Places::new(table.capacity());
        Fast {
            table,
            enabled: false,
            slots: Box::new([None; PORTS_MAX]),
            ports: Box::new([None; PORTS_MAX]),
            lent,
            places,
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
        if self.slots[id.index()].replace(slot).is_none() {
            self.places.join();
        }
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
        self.places.leave(id);
        self.count_pairs(bridge, Some(slot));
        self.ports[slot.index()] = None;
    }

    /// Takes back what the bridge has changed.
    #[inline]
    pub fn recall(&mut self, bridge: &mut Bridge) {
        for (_, mac) in bridge.take_recalled() {
            self.table.withdraw(mac);
            if let Some(port) = self.lent.swap_remove(&mac) {
                self.places.give_back(port);
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
        let is_full = self.lent.len() + 2 > self.table.capacity();
        if !self.enabled || is_full || self.slots[ingress.index()].is_none() {
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
            let has_place = |station: Station| station.lent == Lent::Yes || self.places.has_one(station.port);
            if (from.port, to.port) != (ingress, egress)
                || (from.lent, to.lent) == (Lent::Yes, Lent::Yes)
                || !has_place(from)
                || !has_place(to)
            {
                continue;
            }
            self.lend(bridge, src, from);
            self.lend(bridge, dst, to);
            loans += 1;
            if loans == LOANS_PER_TURN || self.lent.len() + 2 > self.table.capacity() {
                return;
            }
        }
    }

    fn lend(&mut self, bridge: &mut Bridge, mac: MacAddr, known: Station) {
        let (Lent::No, Some(slot)) = (known.lent, self.slots[known.port.index()]) else { return };
        // Short of memory: its frames go on coming here.
        if self.table.install(mac, slot, known.heard).is_ok() {
            bridge.set_lent(VlanId::UNAWARE, mac, Lent::Yes);
            self.lent.insert(mac, known.port);
            self.places.take(known.port);
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
    /// ageing time, as far as [`REFRESHES_MAX`] allows. What has aged for the kernel and
    /// for the bridge is lent no more: frames to it are to be flooded.
    pub fn refresh(&mut self, bridge: &mut Bridge, now: Time) -> bool {
        let pauses = bridge.settings().ageing.as_millis() / 4 / SWEEP_PAUSE.as_millis();
        let some = self.lent.len().div_ceil(usize::try_from(pauses).unwrap_or(usize::MAX).max(1));
        let end = self.refresh_below.min(self.lent.len());
        let start = end.saturating_sub(some.clamp(REFRESHES, REFRESHES_MAX));
        // Downwards: the place of one that goes is taken by one that had its turn.
        for at in (start..end).rev() {
            let Some((&mac, &port)) = self.lent.get_index(at) else { continue };
            let Some(age) = self.age(mac, port) else { continue };
            if age >= bridge.settings().ageing && bridge.station(now, VlanId::UNAWARE, mac).is_none() {
                self.table.withdraw(mac);
                bridge.set_lent(VlanId::UNAWARE, mac, Lent::No);
                self.lent.swap_remove_index(at);
                self.places.give_back(port);
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes places of `port` until there is none; returns how many.
    fn fill(places: &mut Places, port: u8) -> u32 {
        let port = PortId::new(port);
        let mut taken = 0;
        while places.has_one(port) {
            places.take(port);
            taken += 1;
        }
        taken
    }

    #[test]
    fn one_port_leaves_places_to_the_others() {
        let mut places = Places::new(1_000);
        for _ in 0..4 {
            places.join();
        }
        assert_eq!(fill(&mut places, 0), 125 + 500, "its own, and all that are common");
        assert_eq!([1, 2, 3].map(|port| fill(&mut places, port)), [125; 3]);
        places.give_back(PortId::new(0));
        assert_eq!(fill(&mut places, 2), 1, "a common one");
        places.leave(PortId::new(0));
        assert_eq!(fill(&mut places, 1), 166 - 125 + (1_000 - 3 * 166), "shares have grown");
    }

    #[test]
    fn few_places_are_common_to_many_ports() {
        let mut places = Places::new(4);
        for _ in 0..200 {
            places.join();
        }
        assert_eq!([fill(&mut places, 7), fill(&mut places, 8)], [4, 0]);
    }

    proptest! {
        /// However they come and go, no more are taken than there are, and two ports
        /// that take turns can have all.
        #[test]
        fn all_places_can_be_taken_and_no_more(
            capacity in 0..200u32,
            steps in prop::collection::vec((0..6u8, 0..4u8), 0..300),
        ) {
            let mut places = Places::new(capacity as usize);
            let mut there = std::collections::BTreeSet::new();
            for (port, what) in steps {
                let id = PortId::new(port);
                match what {
                    0 if there.insert(port) => places.join(),
                    1 if there.remove(&port) => places.leave(id),
                    2 if places.taken[id.index()] > 0 => places.give_back(id),
                    _ if there.contains(&port) && places.has_one(id) => places.take(id),
                    _ => {}
                }
                let taken: u32 = places.taken.iter().sum();
                let beyond = |taken: &u32| taken.saturating_sub(places.own);
                prop_assert_eq!(places.common, places.taken.iter().map(beyond).sum::<u32>());
                prop_assert!(taken <= capacity, "{} of {}", taken, capacity);
            }
            for port in &there {
                fill(&mut places, *port);
            }
            let taken: u32 = places.taken.iter().sum();
            prop_assert!(there.is_empty() || taken == capacity, "{} of {}", taken, capacity);
        }
    }
}
