//! The filtering database (IEEE 802.1Q clause 8.8): which port a station is on.
//!
//! Entries are keyed by (VLAN, MAC) and bounded in number; memory is asked for
//! once. Three rules, in this order of reading:
//!
//! - *Age is compared at look-up*: an entry not refreshed for the ageing time is
//!   gone, whether or not the sweep has taken it out yet.
//! - *The order of ages* of each port's dynamic entries is the order in which
//!   they were first refreshed in the latest tick that refreshed them. A tick
//!   is a power of two of milliseconds, at most a 64th of the ageing time (4 s
//!   of 300 s). So the order is exact to a tick, and costs a refresh nothing
//!   but the first time in each. The oldest entry is the first of the list.
//! - *A full table is shared fairly*: a newcomer on a port that has less than
//!   capacity / ports entries replaces the oldest entry of the fullest port; on
//!   any other port it replaces an entry of that port which has aged out, or is
//!   not learned. So no flood of sources can push out a quiet port's stations.
//!
//! Deliberately absent: counting and port flags (the bridge's), timers.

mod entry;
mod index;
mod order;
mod plan;
#[cfg(test)]
mod tests;

pub use entry::{EntryKind, FdbEntry, FdbError, FlushKinds, FlushScope, Lent, Spread, Station};
pub(super) use index::Key;
pub(super) use plan::{Table, Trial};

use index::{Index, Slot, address};
use order::{Class, Order};
use plan::Plan;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::PortId;
use crate::frame::{MacAddr, VlanId};

/// The largest table, in entries.
pub const FDB_SIZE_MAX: u32 = (1 << 20) - 1;

/// The longest ageing time (802.1Q table 8-6). It also keeps ages far below
/// the period of the stamps.
pub const AGEING_MAX: Duration = Duration::from_secs(1_000_000);

/// Entries that one call of the sweep takes out at most: some 100 µs of frames
/// that wait (of a million entries, 1,024 took 400 µs on a busy machine).
const SWEEP_MAX: usize = 256;

/// Ticks in the ageing time, at least.
const TICKS: u64 = 64;

/// Entries that can be recalled at a time without asking for memory: two for
/// each frame of a burst (a move, and what it pushed out).
const RECALLS: usize = 2 * super::BURST;

/// Relinks of one burst from which the next is expected to have many too: an eighth of
/// its frames. With none the loads ahead cost each frame 3 ns.
const RELINKS_MANY: u32 = 8;

/// Nodes of the order of ages that stay in a processor's own cache: 512 KiB. With
/// 10,000 stations the loads ahead made a frame slower, 55 ns instead of 47.
const NODES_NEAR: u32 = 32_768;

/// What learning a source came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It was known on this port.
    Known,
    /// A new entry.
    New,
    /// It was on another port until now.
    Moved(PortId),
    /// A limit forbids it.
    Refused(Limit),
    /// The operator set it on another port.
    Foreign(PortId),
}

/// Which limit forbade to learn a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// The port's `max_macs`.
    Port,
    /// The table's `fdb_size`, shared among the ports.
    Table,
}

pub(super) struct Fdb {
    index: Index,
    order: Order,
    capacity: u32,
    len: u32,
    fixed: u32,
    ageing_ms: u64,
    /// A tick has two to this power of milliseconds.
    tick_shift: u32,
    /// A port with fewer dynamic entries may replace others' in a full table.
    share: u32,
    /// Words of lent entries that have changed since they were asked for.
    recalled: Vec<u64>,
    /// Word of the entry that gave its place to the last source that was not known
    /// where it is.
    victim: Option<u64>,
    /// Changes of the order by refreshes, since a burst last asked.
    relinks: u32,
}

impl fmt::Debug for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fdb")
            .field("capacity", &self.capacity)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Fdb {
    /// An empty table of `capacity` places, 1 … [`FDB_SIZE_MAX`].
    pub fn new(capacity: u32, ageing: Duration, secret: [u64; 2]) -> Fdb {
        let capacity = capacity.clamp(1, FDB_SIZE_MAX);
        let mut fdb = Fdb {
            index: Index::new(capacity, secret),
            order: Order::new(capacity),
            capacity,
            len: 0,
            fixed: 0,
            ageing_ms: 0,
            tick_shift: 0,
            share: capacity,
            recalled: Vec::with_capacity(RECALLS),
            victim: None,
            relinks: 0,
        };
        fdb.set_ageing(ageing);
        fdb
    }

    #[inline]
    pub fn key(&self, vid: VlanId, mac: MacAddr) -> Key {
        self.index.key(vid, mac)
    }

    /// Brings what a search for `key` will read nearer to the processor.
    #[inline]
    pub fn touch(&self, key: Key) {
        self.index.touch(key);
    }

    /// Whether the order of ages is worth loading ahead: the last burst changed it
    /// often, and it does not stay near the processor by itself.
    #[inline]
    pub fn is_reordering(&mut self) -> bool {
        std::mem::take(&mut self.relinks) >= RELINKS_MANY && self.order.nodes_len() > NODES_NEAR
    }

    /// Loads `key`'s place in the order of ages, and returns it, if learning `key` at
    /// `now` would change it.
    #[inline]
    pub fn touch_order(&self, key: Key, now: u64) -> Option<u32> {
        let slot = self.index.slot(self.index.find(key)?);
        if !slot.is_dynamic() || !self.is_later_tick(slot.age_ms(now), now) {
            return None;
        }
        self.order.touch(slot.node());
        Some(slot.node())
    }

    /// Loads what relinking the node will write to besides.
    #[inline]
    pub fn touch_neighbours(&self, node: u32) {
        self.order.touch_neighbours(node);
    }

    /// The port that `key` is on, unless it has aged out.
    #[inline]
    pub fn look_up(&self, key: Key, now: u64) -> Option<PortId> {
        let slot = self.index.slot(self.index.find(key)?);
        if self.is_live(slot, now) { Some(slot.port()) } else { None }
    }

    /// What is known of `key`, unless it has aged out.
    pub fn station(&self, key: Key, now: u64) -> Option<Station> {
        self.station_at(self.index.find(key)?, now)
    }

    #[inline]
    fn station_at(&self, at: usize, now: u64) -> Option<Station> {
        let slot = self.index.slot(at);
        let lent = if slot.is_lent() { Lent::Yes } else { Lent::No };
        let heard = Duration::from_millis(slot.age_ms(now));
        self.is_live(slot, now).then(|| Station { port: slot.port(), lent, heard })
    }

    /// What is known of `key`, if it was asked for in this way before: a station
    /// that is there for one frame only is not worth a copy.
    #[inline]
    pub fn sight(&mut self, key: Key, now: u64) -> Option<Station> {
        let at = self.index.find(key)?;
        if self.index.slot_mut(at).sight() { self.station_at(at, now) } else { None }
    }

    /// Notes whether somebody keeps a copy of the entry of `key`, which is to be
    /// recalled when it changes.
    pub fn set_lent(&mut self, key: Key, lent: Lent) {
        if let Some(at) = self.index.find(key) {
            self.index.slot_mut(at).set_lent(lent);
        }
    }

    /// Lent entries that have changed or gone, which makes them lent no more.
    pub fn take_recalled(&mut self) -> impl Iterator<Item = (VlanId, MacAddr)> {
        self.recalled.drain(..).map(address)
    }

    /// Notes that `key` was heard on `port` at `then`, as learning it then
    /// would have, if it is still there.
    pub fn refresh(&mut self, key: Key, port: PortId, then: u64) {
        let Some(slot) = self.index.find(key).map(|at| self.index.slot(at)) else { return };
        if slot.port() == port && self.is_live(slot, then) {
            self.learn(key, port, u32::MAX, then);
        }
    }

    /// The port to which the operator bound `key`.
    pub fn fixed_on(&self, key: Key) -> Option<PortId> {
        let slot = self.index.slot(self.index.find(key)?);
        if slot.is_dynamic() { None } else { Some(slot.port()) }
    }

    /// Learns that `key` was seen on `port`, which may have at most `limit`
    /// dynamic entries.
    #[inline]
    pub fn learn(&mut self, key: Key, port: PortId, limit: u32, now: u64) -> Learned {
        let Some(at) = self.index.find(key) else {
            return self.learn_anew(key, None, port, limit, now);
        };
        let slot = self.index.slot_mut(at);
        let age = slot.age_ms(now);
        if slot.port() != port || !slot.is_dynamic() || age >= self.ageing_ms {
            return self.learn_anew(key, Some(at), port, limit, now);
        }
        if age != 0 {
            slot.refresh(now);
            let node = slot.node();
            if self.is_later_tick(age, now) {
                self.relinks = self.relinks.saturating_add(1);
                self.order.relink((Class::Dynamic, port), (Class::Dynamic, port), node);
            }
        }
        Learned::Known
    }

    /// Everything but the refresh of an entry where it is: carries out the plan.
    #[cold]
    fn learn_anew(&mut self, key: Key, at: Option<usize>, port: PortId, limit: u32, now: u64) -> Learned {
        let Plan { learned, stale, victim } = self.plan(key, at, port, limit, now);
        self.victim = victim;
        if stale {
            self.delete(key);
        }
        if let Some(word) = victim {
            self.delete(self.index.key_of(word));
        }
        match learned {
            Learned::New => self.insert(key, EntryKind::Dynamic, port, now),
            Learned::Moved(from) => self.relocate(key, from, port, now),
            Learned::Known | Learned::Refused(_) | Learned::Foreign(_) => {}
        }
        learned
    }

    /// Moves the entry of `key`, which is there, to another port.
    fn relocate(&mut self, key: Key, from: PortId, port: PortId, now: u64) {
        // Sought only now: the victim's going may have shifted it.
        let Some(at) = self.index.find(key) else { return };
        self.recall(at);
        let node = self.index.slot(at).node();
        self.order.relink((Class::Dynamic, from), (Class::Dynamic, port), node);
        *self.index.slot_mut(at) = Slot::new(key, EntryKind::Dynamic, port, node, now);
    }

    /// Sets an entry that neither ages nor moves, over any entry of that key.
    pub fn set_fixed(&mut self, key: Key, kind: EntryKind, port: PortId, now: u64) -> Result<(), FdbError> {
        match self.index.find(key) {
            Some(at) => self.remove(at),
            None if self.len >= self.capacity && !self.evict() => return Err(FdbError::Full(self.capacity)),
            None => {}
        }
        self.insert(key, kind, port, now);
        Ok(())
    }

    /// Puts in an entry as another table had it, last refreshed at `then`, if
    /// there is a place and none of that key.
    pub fn restore(&mut self, key: Key, kind: EntryKind, port: PortId, then: u64) {
        if self.len < self.capacity && self.index.find(key).is_none() {
            self.insert(key, kind, port, then);
        }
    }

    /// Takes out the entry of `key`, whatever its kind.
    pub fn delete(&mut self, key: Key) -> bool {
        let found = self.index.find(key);
        if let Some(at) = found {
            self.remove(at);
        }
        found.is_some()
    }

    /// Takes out every entry in `scope`; returns how many.
    pub fn flush(&mut self, scope: &FlushScope) -> usize {
        let mut words = Vec::new();
        for port in scope.port.map_or(super::PortSet::ALL, super::PortSet::one).iter() {
            words.extend(self.order.iter(Class::Dynamic, port));
            if scope.kinds == FlushKinds::All {
                words.extend(self.order.iter(Class::Fixed, port));
            }
        }
        words.retain(|word| {
            let (vid, mac) = address(*word);
            scope.vid.is_none_or(|only| only == vid) && scope.mac.is_none_or(|only| only == mac)
        });
        for word in &words {
            self.delete(self.index.key_of(*word));
        }
        words.len()
    }

    /// Takes the oldest dynamic entries out until `port` has at most `limit`.
    pub fn trim(&mut self, port: PortId, limit: u32) {
        while self.order.len(port) > limit && self.remove_oldest(port) {}
    }

    /// Takes out entries that have aged, at most [`SWEEP_MAX`], and tells
    /// `aged` of each. Before a lent one goes, `heard` is asked how many milliseconds
    /// ago whoever has the copy heard from there. Returns how many milliseconds from
    /// `now` the next will have aged, if there is one.
    pub fn sweep(
        &mut self,
        now: u64,
        mut heard: impl FnMut(VlanId, MacAddr, PortId) -> Option<u64>,
        mut aged: impl FnMut(VlanId, MacAddr, PortId),
    ) -> Option<u64> {
        let mut left = SWEEP_MAX;
        let mut next: Option<u64> = None;
        for port in super::PortSet::ALL.iter() {
            while let Some(word) = self.order.first(Class::Dynamic, port) {
                let key = self.index.key_of(word);
                let Some(at) = self.index.find(key) else { break };
                let wait = self.ageing_ms.saturating_sub(self.index.slot(at).age_ms(now));
                if wait > 0 || left == 0 {
                    next = Some(next.map_or(wait, |next| next.min(wait)));
                    break;
                }
                left -= 1;
                let (vid, mac) = address(word);
                let slot = self.index.slot_mut(at);
                if slot.is_lent()
                    && let Some(age) = heard(vid, mac, port).filter(|age| *age < self.ageing_ms)
                {
                    slot.refresh(now.saturating_sub(age));
                    let node = slot.node();
                    self.order.relink((Class::Dynamic, port), (Class::Dynamic, port), node);
                    continue;
                }
                self.remove(at);
                aged(vid, mac, port);
            }
        }
        next
    }

    /// All entries that have not aged out: ports ascending, static ones first,
    /// then from old to young.
    pub fn entries(&self, now: u64) -> impl Iterator<Item = FdbEntry> {
        super::PortSet::ALL
            .iter()
            .flat_map(|port| self.order.iter(Class::Fixed, port).chain(self.order.iter(Class::Dynamic, port)))
            .filter_map(move |word| {
                let slot = self.index.slot(self.index.find(self.index.key_of(word))?);
                let (vid, mac) = address(word);
                let age = Duration::from_millis(slot.age_ms(now));
                let entry = FdbEntry { vid, mac, port: slot.port(), kind: slot.kind(), age };
                self.is_live(slot, now).then_some(entry)
            })
    }

    /// The entries in places `start..start + len` that have not aged out, and
    /// where to go on. An entry keeps its place for life, so that one which is
    /// there throughout is in one page, however the others come and go.
    pub fn page(&self, now: u64, start: u32, len: u32) -> (Vec<FdbEntry>, Option<u32>) {
        let end = start.saturating_add(len).min(self.order.nodes_len());
        let entry = |node: u32| {
            let word = self.order.word(node)?;
            let slot = self.index.slot(self.index.find(self.index.key_of(word))?);
            // A place that was given back, whose address came again elsewhere.
            if slot.node() != node || !self.is_live(slot, now) {
                return None;
            }
            let (vid, mac) = address(word);
            let age = Duration::from_millis(slot.age_ms(now));
            Some(FdbEntry { vid, mac, port: slot.port(), kind: slot.kind(), age })
        };
        ((start..end).filter_map(entry).collect(), (end < self.order.nodes_len()).then_some(end))
    }

    /// Entries of `port`, static ones included.
    pub fn port_len(&self, port: PortId) -> u32 {
        let fixed = self.order.iter(Class::Fixed, port).count();
        self.order.len(port) + u32::try_from(fixed).unwrap_or(u32::MAX)
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn dynamic_len(&self, port: PortId) -> u32 {
        self.order.len(port)
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Where what grows with its size lies.
    pub fn memory(&self) -> [Range<*const u8>; 2] {
        [self.index.memory(), self.order.memory()]
    }

    pub fn spread(&self) -> Spread {
        self.index.spread()
    }

    /// Says how many ports share the table.
    pub fn share_among(&mut self, ports: u32) {
        self.share = (self.capacity / ports.max(1)).max(1);
    }

    /// Sets the ageing time, at most [`AGEING_MAX`]; zero takes all dynamic
    /// entries out.
    pub fn set_ageing(&mut self, ageing: Duration) {
        self.ageing_ms = u64::try_from(ageing.min(AGEING_MAX).as_millis()).unwrap_or(u64::MAX);
        self.tick_shift = (self.ageing_ms / TICKS).max(1).ilog2();
        if self.ageing_ms == 0 {
            self.flush(&FlushScope::default());
        }
    }

    /// Whether nothing is learned: the switch is a hub.
    pub fn is_hub(&self) -> bool {
        self.ageing_ms == 0
    }

    /// The same entries in a table of another size; what does not fit is the
    /// oldest of the fullest port, one after the other.
    pub fn resize(&mut self, capacity: u32, now: u64) -> Result<(), FdbError> {
        let capacity = capacity.clamp(1, FDB_SIZE_MAX);
        if self.fixed > capacity {
            return Err(FdbError::TooSmall { size: capacity, fixed: self.fixed });
        }
        while self.len > capacity && self.evict() {}
        let mut new = Fdb::new(capacity, Duration::from_millis(self.ageing_ms), self.index.secret());
        new.recalled = std::mem::take(&mut self.recalled);
        for port in super::PortSet::ALL.iter() {
            for class in [Class::Fixed, Class::Dynamic] {
                for word in self.order.iter(class, port) {
                    let key = self.index.key_of(word);
                    let Some(at) = self.index.find(key) else { continue };
                    let slot = self.index.slot(at);
                    if slot.is_lent() {
                        new.recalled.push(slot.word());
                    }
                    let then = now.wrapping_sub(slot.age_ms(now));
                    new.insert(new.index.key_of(word), slot.kind(), port, then);
                }
            }
        }
        *self = new;
        Ok(())
    }

    #[inline]
    fn is_live(&self, slot: &Slot, now: u64) -> bool {
        slot.age_ms(now) < self.ageing_ms || !slot.is_dynamic()
    }

    /// Whether a tick has begun since what is `age` old at `now`.
    #[inline]
    fn is_later_tick(&self, age: u64, now: u64) -> bool {
        now.saturating_sub(age) >> self.tick_shift != now >> self.tick_shift
    }

    fn insert(&mut self, key: Key, kind: EntryKind, port: PortId, now: u64) {
        let node = self.order.push(class(kind), port, key.word);
        self.index.insert(key, Slot::new(key, kind, port, node, now));
        self.len += 1;
        self.fixed += u32::from(class(kind) == Class::Fixed);
    }

    /// The entry at `at` changes: whoever has a copy must give it back.
    fn recall(&mut self, at: usize) {
        let slot = self.index.slot(at);
        if slot.is_lent() {
            self.recalled.push(slot.word());
        }
    }

    fn remove(&mut self, at: usize) {
        self.recall(at);
        let slot = *self.index.slot(at);
        let class = class(slot.kind());
        self.index.remove(at);
        self.order.remove(class, slot.port(), slot.node());
        self.len -= 1;
        self.fixed -= u32::from(class == Class::Fixed);
    }

    /// Takes out the oldest dynamic entry of the fullest port.
    fn evict(&mut self) -> bool {
        self.remove_oldest(self.order.fullest())
    }

    fn remove_oldest(&mut self, port: PortId) -> bool {
        let Some(word) = self.order.first(Class::Dynamic, port) else { return false };
        self.delete(self.index.key_of(word))
    }
}

fn class(kind: EntryKind) -> Class {
    match kind {
        EntryKind::Dynamic => Class::Dynamic,
        EntryKind::Static | EntryKind::Sticky => Class::Fixed,
    }
}
