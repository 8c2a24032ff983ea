//! The kernel's fast path, as the engine uses it: which stations it lends to the
//! kernel, how it takes them back, and how what the kernel forwarded is counted
//! and refreshes ages.
//!
//! A pair of stations is lent when the second frame of its source comes to the
//! engine: a flood of sources that each speak once costs nothing here. Whatever
//! the bridge changes of a lent station is recalled before the frame that caused
//! it leaves.
//!
//! Deliberately absent: the kernel's side (`port::fast`), and VLANs, whose
//! frames the kernel could not tell apart yet: stations of VLAN-unaware switches
//! are lent, no others.

use indexmap::IndexSet;

use super::{SWEEP_PAUSE, Slot as PortSlot};
use crate::bridge::{Bridge, Lent, PORTS_MAX, PortId, Station, Time, Verdict};
use crate::frame::{EtherHeader, Frame, MacAddr, VlanId};
use crate::port::{FastFace, FastTable, Passed, Slot};

/// Pairs lent in one turn at most: two system calls each, some 2 µs.
const LOANS_PER_TURN: usize = 16;

/// Stations whose age is asked for at a time, if that is often enough: a system
/// call each, some 100 µs together.
const REFRESHES: usize = 256;

/// The engine's use of the fast path.
#[derive(Debug)]
pub(super) struct Fast {
    table: FastTable,
    /// Whether the user wants it.
    enabled: bool,
    slots: Box<[Option<Slot>; PORTS_MAX]>,
    ports: Box<[Option<PortId>; PORTS_MAX]>,
    /// Room is there for all that the table takes.
    lent: IndexSet<MacAddr>,
    /// Where the next refresh goes on in `lent`.
    next_refresh: usize,
}

impl Fast {
    pub fn new(table: FastTable) -> Fast {
        let lent = IndexSet::with_capacity(table.capacity());
        Fast {
            table,
            enabled: false,
            slots: Box::new([None; PORTS_MAX]),
            ports: Box::new([None; PORTS_MAX]),
            lent,
            next_refresh: 0,
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
            self.lent.swap_remove(&mac);
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
        let is_full = self.lent.len() + 2 * LOANS_PER_TURN > self.table.capacity();
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
            if (from.port, to.port) != (ingress, egress) || (from.lent, to.lent) == (Lent::Yes, Lent::Yes) {
                continue;
            }
            self.lend(bridge, src, from);
            self.lend(bridge, dst, to);
            loans += 1;
            if loans == LOANS_PER_TURN {
                return;
            }
        }
    }

    fn lend(&mut self, bridge: &mut Bridge, mac: MacAddr, known: Station) {
        let (Lent::No, Some(slot)) = (known.lent, self.slots[known.port.index()]) else { return };
        // Short of memory: its frames go on coming here.
        if self.table.install(mac, slot, known.heard).is_ok() {
            bridge.set_lent(VlanId::UNAWARE, mac, Lent::Yes);
            self.lent.insert(mac);
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

    /// Refreshes the entries of some lent stations; true if there are more, which
    /// is to go on after [`SWEEP_PAUSE`]. All of them are through in a quarter of the
    /// ageing time, so that none ages out that spoke.
    pub fn refresh(&mut self, bridge: &mut Bridge, now: Time) -> bool {
        let pauses = bridge.settings().ageing.as_millis() / 4 / SWEEP_PAUSE.as_millis();
        let some = self.lent.len().div_ceil(usize::try_from(pauses).unwrap_or(usize::MAX).max(1));
        let end = (self.next_refresh + some.max(REFRESHES)).min(self.lent.len());
        let Some(some) = self.lent.get_range(self.next_refresh..end) else {
            self.next_refresh = 0;
            return false;
        };
        for mac in some {
            let Some(known) = bridge.station(now, VlanId::UNAWARE, *mac) else { continue };
            let Some(slot) = self.slots[known.port.index()] else { continue };
            let Some(age) = self.table.age(*mac, slot) else { continue };
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let then = Time::from_nanos(now.as_nanos().saturating_sub(age_ns));
            bridge.refresh(VlanId::UNAWARE, *mac, known.port, then);
        }
        self.next_refresh = if end < self.lent.len() { end } else { 0 };
        self.next_refresh != 0
    }
}
