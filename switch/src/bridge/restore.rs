//! Entries that were read from one bridge, put into another: how a replay begins
//! where its capture began.
//!
//! Deliberately absent: the order of entries of one tick, which no reader of a
//! bridge sees. It decides only which of them a full table gives up first.

use super::{Bridge, FdbEntry, Time};

impl Bridge {
    /// Puts in `entries` with their ages at `now`, whatever limits say; one whose
    /// address is known already, or whose port is not, is passed over, as are those
    /// that the table has no place for.
    pub fn restore(&mut self, now: Time, entries: &mut [FdbEntry]) {
        // The order of ages is that of coming.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.age));
        for entry in entries.iter().filter(|entry| self.ports.known().contains(entry.port)) {
            let age_ms = u64::try_from(entry.age.as_millis()).unwrap_or(u64::MAX);
            let then = now.as_millis().wrapping_sub(age_ms);
            self.fdb.restore(self.fdb.key(entry.vid, entry.mac), entry.kind, entry.port, then);
        }
    }
}
