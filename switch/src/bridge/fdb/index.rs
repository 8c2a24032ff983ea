//! The hash table under the FDB: (VLAN, MAC) to everything that forwarding
//! reads or refreshes, in one 16-byte slot. Four slots fill a cache line, and a
//! search begins at the first of four: at the load of at most one half that is
//! allowed, all but a few in a hundred end in that line.
//!
//! Open addressing with linear probing, and deletion by shifting back, so that
//! no tombstone ever slows a look-up. The
//! hash is a folded multiplication keyed by the switch's secret: who does not
//! know the secret cannot choose addresses that collide. A second one by a
//! constant follows, because one alone lays consecutive addresses at equal
//! distances: under 400 secrets it took a mean of up to 395 probes (1.24 with
//! both) to find one of 10,000 of them.
//!
//! Deliberately absent: growth (the table has its final size from the start),
//! and iteration (its order would depend on the secret).

use std::ops::Range;

use super::{EntryKind, Lent, Spread};
use crate::bridge::PortId;
use crate::frame::{MacAddr, VlanId};

/// Bits of a slot's millisecond stamp: it comes round after 2.2 years, and
/// the sweep lets no dynamic entry grow that old.
const STAMP_BITS: u32 = 36;
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;
const NODE_MASK: u64 = (1 << 20) - 1;
/// Of a dynamic entry: whoever lends copies has asked for it; see `Fdb::sight`. The
/// bit tells two kinds of fixed ones apart.
const SIGHTED: u64 = 1 << 60;
/// The entry is none of the dynamic ones.
const FIXED: u64 = 1 << 61;
/// A copy of the entry is lent; see `Fdb::set_lent`.
const LENT: u64 = 1 << 62;
/// A slot is taken; part of every key, so that none equals an empty slot.
const TAKEN: u64 = 1 << 63;
const WORD_MASK: u64 = TAKEN | ((1 << 60) - 1);

/// Slots of a cache line.
const LINE: usize = 4;

/// 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A (VLAN, MAC) pair with the place where its search begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::bridge) struct Key {
    /// `TAKEN`, VLAN in bits 48 … 59, MAC below.
    pub word: u64,
    home: usize,
}

impl Key {
    #[inline]
    pub fn vid(self) -> VlanId {
        address(self.word).0
    }

    #[inline]
    pub fn mac(self) -> MacAddr {
        MacAddr::from_u64(self.word)
    }

    /// Whether it is the same pair.
    #[inline]
    pub fn is(self, other: Key) -> bool {
        self.word == other.word
    }
}

/// The VLAN and MAC of a key's word.
#[inline]
pub(in crate::bridge) fn address(word: u64) -> (VlanId, MacAddr) {
    let [high, low, ..] = word.to_be_bytes();
    (VlanId::new(u16::from_be_bytes([high, low])), MacAddr::from_u64(word))
}

/// One place of the table; empty if all zero.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// The key's word, with the kind, `SIGHTED` and `LENT` in the bits that it
    /// leaves free.
    tag: u64,
    /// Port in the top eight bits, then twenty bits of node, then the stamp.
    state: u64,
}

impl Slot {
    const EMPTY: Slot = Slot { tag: 0, state: 0 };

    pub fn new(key: Key, kind: EntryKind, port: PortId, node: u32, now: u64) -> Slot {
        debug_assert!(u64::from(node) <= NODE_MASK, "nodes are fewer than the largest table's places");
        let place = u64::from(port.get()) << 56 | u64::from(node) << STAMP_BITS;
        let kind = match kind {
            EntryKind::Dynamic => 0,
            EntryKind::Static => FIXED,
            EntryKind::Sticky => FIXED | SIGHTED,
        };
        Slot { tag: kind | key.word, state: place | now & STAMP_MASK }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.tag == 0
    }

    #[inline]
    pub fn is_dynamic(&self) -> bool {
        self.tag & (TAKEN | FIXED) == TAKEN
    }

    pub fn kind(&self) -> EntryKind {
        match (self.tag & FIXED, self.tag & SIGHTED) {
            (0, _) => EntryKind::Dynamic,
            (_, 0) => EntryKind::Static,
            _ => EntryKind::Sticky,
        }
    }

    /// Whether whoever lends copies has asked for it before, as of now it has. Fixed
    /// entries never need to be asked for twice.
    #[inline]
    pub fn sight(&mut self) -> bool {
        let before = self.tag & (FIXED | SIGHTED) != 0;
        if !before {
            self.tag |= SIGHTED;
        }
        before
    }

    #[inline]
    pub fn is_lent(&self) -> bool {
        self.tag & LENT != 0
    }

    pub fn set_lent(&mut self, lent: Lent) {
        match lent {
            Lent::Yes => self.tag |= LENT,
            Lent::No => self.tag &= !LENT,
        }
    }

    #[inline]
    pub fn port(&self) -> PortId {
        PortId::new(self.state.to_be_bytes()[0])
    }

    /// The entry's place in the order of ages.
    #[inline]
    pub fn node(&self) -> u32 {
        (self.state >> STAMP_BITS & NODE_MASK) as u32
    }

    /// Milliseconds between the last refresh and `now`; none if `now` is from
    /// before it, so that no caller's stale clock makes entries look old.
    #[inline]
    pub fn age_ms(&self, now: u64) -> u64 {
        let age = now.wrapping_sub(self.state) & STAMP_MASK;
        if age > STAMP_MASK / 2 { 0 } else { age }
    }

    #[inline]
    pub fn refresh(&mut self, now: u64) {
        self.state = self.state & !STAMP_MASK | now & STAMP_MASK;
    }

    #[inline]
    pub fn word(&self) -> u64 {
        self.tag & WORD_MASK
    }
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([Slot; LINE]);

pub(super) struct Index {
    lines: Box<[Line]>,
    /// 64 minus the number of bits of a line's position.
    shift: u32,
    secret: [u64; 2],
}

impl Index {
    /// A table for `capacity` entries, twice as many slots.
    pub fn new(capacity: u32, secret: [u64; 2]) -> Index {
        let len = (capacity as usize * 2).next_power_of_two().max(2 * LINE) / LINE;
        Index { lines: vec![Line([Slot::EMPTY; LINE]); len].into(), shift: 64 - len.trailing_zeros(), secret }
    }

    pub fn secret(&self) -> [u64; 2] {
        self.secret
    }

    #[inline]
    pub fn key(&self, vid: VlanId, mac: MacAddr) -> Key {
        self.key_of(TAKEN | u64::from(vid.get()) << 48 | mac.to_u64())
    }

    #[inline]
    pub fn key_of(&self, word: u64) -> Key {
        Key { word, home: self.home(word) }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "positions have at most 19 bits")]
    fn home(&self, word: u64) -> usize {
        let [add, multiply] = self.secret;
        (fold(fold(word ^ add, multiply | 1), SPREAD) >> self.shift) as usize * LINE
    }

    /// Loads the cache line where `key` most likely is. The loads of a whole
    /// burst do not wait for each other, which a chain of searches would.
    #[inline]
    pub fn touch(&self, key: Key) {
        std::hint::black_box(self.slot(key.home).tag);
    }

    /// Where `key` is. Ends, because at least half of the slots are empty.
    #[inline]
    pub fn find(&self, key: Key) -> Option<usize> {
        let mut home = key.home;
        loop {
            // No branch depends on where in the line the entry is: that would
            // be mispredicted half of the time.
            let mut hits = 0;
            let mut ends = 0;
            for (number, slot) in self.lines[home / LINE].0.iter().enumerate() {
                hits |= u32::from(slot.word() == key.word) << number;
                ends |= u32::from(slot.is_empty());
            }
            if hits != 0 {
                return Some(home + hits.trailing_zeros() as usize);
            }
            if ends != 0 {
                return None;
            }
            home = (home + LINE) & self.mask();
        }
    }

    #[inline]
    pub fn slot(&self, at: usize) -> &Slot {
        &self.lines[at / LINE].0[at % LINE]
    }

    #[inline]
    pub fn slot_mut(&mut self, at: usize) -> &mut Slot {
        &mut self.lines[at / LINE].0[at % LINE]
    }

    /// Puts in an entry whose key is not there yet.
    pub fn insert(&mut self, key: Key, slot: Slot) {
        let mut at = key.home;
        while !self.slot(at).is_empty() {
            at = self.next(at);
        }
        *self.slot_mut(at) = slot;
    }

    /// Takes out the entry at `at`, and moves back what was displaced by it.
    pub fn remove(&mut self, at: usize) {
        let mut hole = at;
        let mut at = self.next(at);
        while !self.slot(at).is_empty() {
            let home = self.home(self.slot(at).word());
            if self.distance(home, at) >= self.distance(hole, at) {
                *self.slot_mut(hole) = *self.slot(at);
                hole = at;
            }
            at = self.next(at);
        }
        *self.slot_mut(hole) = Slot::EMPTY;
    }

    /// Positions are taken modulo the number of slots, a power of two.
    #[inline]
    fn mask(&self) -> usize {
        self.lines.len() * LINE - 1
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & self.mask()
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    /// Where all of it lies.
    pub fn memory(&self) -> Range<*const u8> {
        let Range { start, end } = self.lines.as_ptr_range();
        start.cast()..end.cast()
    }

    pub fn spread(&self) -> Spread {
        let mut spread = Spread::default();
        let slots = self.lines.iter().flat_map(|line| &line.0).enumerate();
        for (at, slot) in slots.filter(|(_, slot)| !slot.is_empty()) {
            let probes =
                u32::try_from(self.distance(self.home(slot.word()), at) / LINE + 1).unwrap_or(u32::MAX);
            spread.len += 1;
            spread.probes += u64::from(probes);
            spread.probes_max = spread.probes_max.max(probes);
        }
        spread
    }
}

/// The halves of a product, one over the other.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each half is wanted")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
