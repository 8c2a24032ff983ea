//! Ports by number, and sets of them: flooding is set arithmetic.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

/// The most ports of one switch.
pub const PORTS_MAX: usize = 256;

/// A port's number, 0 … 255: its slot in the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(u8);

impl PortId {
    /// Port number `index`.
    pub const fn new(index: u8) -> PortId {
        PortId(index)
    }

    /// The slot, 0 … 255.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number as it was given.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of up to 256 ports, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PortSet([u64; 4]);

impl PortSet {
    /// No port.
    pub const EMPTY: PortSet = PortSet([0; 4]);
    /// Every port number there is.
    pub const ALL: PortSet = PortSet([u64::MAX; 4]);

    /// Just `port`. Without an indexed store, which the copies that follow
    /// would have to wait for.
    #[inline]
    pub const fn one(port: PortId) -> PortSet {
        let bit = 1 << (port.index() & 63);
        let word = port.index() >> 6;
        PortSet([
            if word == 0 { bit } else { 0 },
            if word == 1 { bit } else { 0 },
            if word == 2 { bit } else { 0 },
            if word == 3 { bit } else { 0 },
        ])
    }

    /// Whether `port` is in the set.
    #[inline]
    pub const fn contains(&self, port: PortId) -> bool {
        self.0[port.index() >> 6] >> (port.index() & 63) & 1 != 0
    }

    /// Adds `port`.
    #[inline]
    pub const fn insert(&mut self, port: PortId) {
        self.0[port.index() >> 6] |= 1 << (port.index() & 63);
    }

    /// Takes `port` out.
    #[inline]
    pub const fn remove(&mut self, port: PortId) {
        self.0[port.index() >> 6] &= !(1 << (port.index() & 63));
    }

    /// Adds or takes out `port`.
    pub const fn set(&mut self, port: PortId, member: bool) {
        if member {
            self.insert(port);
        } else {
            self.remove(port);
        }
    }

    /// This set without the members of `other`.
    #[inline]
    #[must_use]
    pub fn without(self, other: PortSet) -> PortSet {
        self & !other
    }

    /// Number of ports in the set.
    #[inline]
    pub const fn len(&self) -> u32 {
        self.0[0].count_ones() + self.0[1].count_ones() + self.0[2].count_ones() + self.0[3].count_ones()
    }

    /// Whether no port is in the set.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The members in ascending order.
    #[inline]
    pub fn iter(&self) -> Iter {
        Iter { words: self.0, word: 0 }
    }
}

impl BitAnd for PortSet {
    type Output = PortSet;

    #[inline]
    fn bitand(self, other: PortSet) -> PortSet {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        PortSet([a & e, b & f, c & g, d & h])
    }
}

impl BitOr for PortSet {
    type Output = PortSet;

    #[inline]
    fn bitor(self, other: PortSet) -> PortSet {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        PortSet([a | e, b | f, c | g, d | h])
    }
}

impl Not for PortSet {
    type Output = PortSet;

    #[inline]
    fn not(self) -> PortSet {
        PortSet(self.0.map(|word| !word))
    }
}

impl FromIterator<PortId> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortId>>(ports: I) -> PortSet {
        let mut set = PortSet::EMPTY;
        for port in ports {
            set.insert(port);
        }
        set
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(PortId::get)).finish()
    }
}

/// Members of a [`PortSet`] in ascending order.
#[derive(Clone, Debug)]
pub struct Iter {
    words: [u64; 4],
    word: usize,
}

impl Iterator for Iter {
    type Item = PortId;

    #[inline]
    fn next(&mut self) -> Option<PortId> {
        while self.word < 4 {
            let bits = self.words[self.word];
            if bits != 0 {
                self.words[self.word] = bits & (bits - 1);
                let index = self.word * 64 + bits.trailing_zeros() as usize;
                // 4 words of 64 bits: the index is at most 255.
                return u8::try_from(index).ok().map(PortId);
            }
            self.word += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_every_port_number() {
        let all: Vec<u8> = PortSet::ALL.iter().map(PortId::get).collect();
        assert_eq!(all, (0..=255).collect::<Vec<u8>>());
        for number in [0u8, 1, 63, 64, 127, 128, 191, 192, 255] {
            let port = PortId::new(number);
            let one = PortSet::one(port);
            assert_eq!(one.iter().collect::<Vec<_>>(), [port]);
            assert_eq!(PortSet::ALL.without(one).len(), 255);
            assert!(one.contains(port) && !PortSet::ALL.without(one).contains(port));
        }
    }
}
