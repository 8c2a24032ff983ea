//! Addresses that go from port to port: most often two guests with one MAC.
//!
//! Deliberately absent: a judgement. Whoever shows the record decides how many
//! moves in how much time are worth a warning; a guest that migrated moves once.

use std::time::Duration;

use arrayvec::ArrayVec;

use super::{PortId, Time};
use crate::frame::{MacAddr, VlanId};

/// Addresses remembered at a time.
pub const MOVES_MAX: usize = 16;

/// An address that has not moved for this long gives its place first.
const STALE: Duration = Duration::from_secs(300);

/// One address that moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// VLAN; [`VlanId::UNAWARE`] on a VLAN-unaware switch.
    pub vid: VlanId,
    /// Address.
    pub mac: MacAddr,
    /// Port it left last.
    pub from: PortId,
    /// Port it came to last.
    pub to: PortId,
    /// Number of moves remembered.
    pub count: u64,
    /// The first of them.
    pub since: Time,
    /// The last of them.
    pub last: Time,
}

#[derive(Debug, Default)]
pub(super) struct Moves {
    seen: ArrayVec<Move, MOVES_MAX>,
}

impl Moves {
    pub fn record(&mut self, now: Time, vid: VlanId, mac: MacAddr, from: PortId, to: PortId) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| (seen.vid, seen.mac) == (vid, mac)) {
            *seen = Move { from, to, count: seen.count + 1, last: now, ..*seen };
            return;
        }
        if self.seen.is_full() {
            self.forget_least(now);
        }
        self.seen.push(Move { vid, mac, from, to, count: 1, since: now, last: now });
    }

    /// What is remembered, in no particular order.
    pub fn seen(&self) -> &[Move] {
        &self.seen
    }

    /// Forgets what concerns a port that is gone.
    pub fn forget(&mut self, port: PortId) {
        self.seen.retain(|seen| seen.from != port && seen.to != port);
    }

    /// Of stale addresses the stalest, else the one with the fewest moves: a
    /// flood of single moves must not wash out a pair that goes on.
    fn forget_least(&mut self, now: Time) {
        let rank = |seen: &Move| {
            let stale = seen.last.after(STALE) < now;
            (if stale { 0 } else { seen.count }, seen.last)
        };
        let least = self.seen.iter().enumerate().min_by_key(|(_, seen)| rank(seen));
        if let Some((at, _)) = least {
            self.seen.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(moves: &mut Moves, now: u64, mac: u64) {
        let (a, b) = (PortId::new(1), PortId::new(2));
        moves.record(Time::from_secs(now), VlanId::UNAWARE, MacAddr::from_u64(mac), a, b);
    }

    fn count(moves: &Moves, mac: u64) -> u64 {
        moves.seen().iter().filter(|seen| seen.mac == MacAddr::from_u64(mac)).map(|seen| seen.count).sum()
    }

    #[test]
    fn a_flood_of_single_moves_does_not_wash_out_a_pair() {
        let mut moves = Moves::default();
        for round in 0..3 {
            record(&mut moves, round, 1);
        }
        for mac in 0..10_000 {
            record(&mut moves, 10, 100 + mac);
        }
        assert_eq!(moves.seen().len(), MOVES_MAX);
        assert_eq!(count(&moves, 1), 3);
    }

    #[test]
    fn a_pair_that_has_stopped_gives_its_place() {
        let mut moves = Moves::default();
        for _ in 0..1000 {
            record(&mut moves, 1, 1);
        }
        for mac in 0..16 {
            record(&mut moves, 1000, 100 + mac);
        }
        assert_eq!(count(&moves, 1), 0);
    }

    #[test]
    fn a_port_that_is_gone_is_forgotten() {
        let mut moves = Moves::default();
        record(&mut moves, 1, 1);
        moves.forget(PortId::new(3));
        assert_eq!(moves.seen().len(), 1);
        moves.forget(PortId::new(2));
        assert_eq!(moves.seen().len(), 0);
    }
}
