//! Which addresses that move are worth a word of their own: those that go to and
//! fro, which two guests share most often.
//!
//! Deliberately absent: exact numbers. Moves that were not written down are not
//! counted here; `vswitch show` has the bridge's own count.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::bridge::Time;
use crate::frame::{MacAddr, VlanId};

/// An address that moves so often within [`WINDOW`] has two owners.
const MOVES_MIN: u64 = 4;

/// In which moves are counted; and how long an address that was named is not
/// named again.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses watched at a time.
const WATCHED_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Watched {
    vid: VlanId,
    mac: MacAddr,
    since: Time,
    moves: u64,
}

/// Addresses that moved lately.
#[derive(Debug, Default)]
pub struct Flaps {
    watched: ArrayVec<Watched, WATCHED_MAX>,
}

impl Flaps {
    /// Takes note of a move; the number of moves if this is the one that makes
    /// the address worth a word.
    pub fn moved(&mut self, now: Time, vid: VlanId, mac: MacAddr) -> Option<u64> {
        self.watched.retain(|watched| now < watched.since.after(WINDOW));
        if let Some(watched) = self.watched.iter_mut().find(|it| (it.vid, it.mac) == (vid, mac)) {
            watched.moves += 1;
            return (watched.moves == MOVES_MIN).then_some(watched.moves);
        }
        if self.watched.is_full() {
            // Whoever moved once lately is the least missed.
            let least = self.watched.iter().enumerate().min_by_key(|(_, it)| (it.moves, it.since));
            let least = least.map(|(at, _)| at);
            least.map(|at| self.watched.swap_remove(at));
        }
        self.watched.push(Watched { vid, mac, since: now, moves: 1 });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(flaps: &mut Flaps, secs: u64, mac: u64) -> Option<u64> {
        flaps.moved(Time::from_secs(secs), VlanId::UNAWARE, MacAddr::from_u64(mac))
    }

    #[test]
    fn an_address_is_named_once_a_minute() {
        let mut flaps = Flaps::default();
        assert_eq!([0, 1, 2].map(|secs| moved(&mut flaps, secs, 1)), [None; 3]);
        assert_eq!(moved(&mut flaps, 3, 1), Some(MOVES_MIN));
        assert_eq!([4, 5, 6, 7, 59].map(|secs| moved(&mut flaps, secs, 1)), [None; 5]);
        assert_eq!([60, 61, 62].map(|secs| moved(&mut flaps, secs, 1)), [None; 3], "a new minute");
        assert_eq!(moved(&mut flaps, 63, 1), Some(MOVES_MIN));
    }

    #[test]
    fn guests_that_migrate_are_not_named_and_wash_nothing_out() {
        let mut flaps = Flaps::default();
        assert_eq!([1, 1, 1].map(|secs| moved(&mut flaps, secs, 1)), [None; 3]);
        for mac in 100..10_000 {
            assert_eq!(moved(&mut flaps, 2, mac), None);
        }
        assert_eq!(moved(&mut flaps, 3, 1), Some(MOVES_MIN));
    }
}
