//! Everything about a [`Bridge`] that is not a frame: ports, settings, the
//! operator's view of the FDB, and the sweep.

use std::ops::Range;
use std::time::Duration;

use super::{
    Bridge, Counters, EntryKind, FdbEntry, FdbError, FlushKinds, FlushScope, Lent, Move, Note, NoteKind,
    Notes, PortId, PortSet, PortSettings, Settings, Spread, Station, Time,
};
use crate::frame::{MacAddr, VlanId};

/// Ports and settings.
impl Bridge {
    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the settings while frames flow. Ageing zero takes all learned
    /// entries out; a smaller table drops the oldest of the fullest port, one
    /// after the other.
    ///
    /// # Errors
    /// `TooSmall`, and nothing is changed, if the static entries do not fit.
    pub fn configure(&mut self, now: Time, settings: Settings) -> Result<(), FdbError> {
        if settings.fdb_size != self.settings.fdb_size {
            self.fdb.resize(settings.fdb_size, now.as_millis())?;
            self.fdb.share_among(self.ports.known().len());
        }
        self.fdb.set_ageing(settings.ageing);
        self.settings = settings;
        Ok(())
    }

    /// The ports that were added and not removed.
    pub fn ports(&self) -> PortSet {
        self.ports.known()
    }

    /// The settings of `port`.
    pub fn port(&self, port: PortId) -> &PortSettings {
        self.ports.settings(port)
    }

    /// Adds a port, its link down. One that is there is removed first.
    pub fn add_port(&mut self, port: PortId, settings: PortSettings) {
        self.remove_port(port);
        self.ports.add(port, settings);
        self.fdb.share_among(self.ports.known().len());
    }

    /// Removes a port with all its entries, static ones too; its counters are
    /// added to the retired ones, and its number is free.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(port);
        self.fdb.flush(&FlushScope { port: Some(port), kinds: FlushKinds::All, ..FlushScope::default() });
        self.fdb.share_among(self.ports.known().len());
        self.moves.forget(port);
        self.counters.retire(port);
    }

    /// Changes a port's settings while frames flow; unknown ports are ignored.
    /// A lower `max_macs` drops the port's oldest learned entries.
    pub fn set_port(&mut self, port: PortId, settings: PortSettings) {
        if self.ports.known().contains(port) {
            self.ports.set(port, settings);
            self.fdb.trim(port, settings.max_macs.unwrap_or(u32::MAX));
        }
    }

    /// Says whether a port's link is up; unknown ports are ignored. When it
    /// goes down its learned entries go at once.
    pub fn set_link(&mut self, port: PortId, up: bool) {
        self.ports.set_up(port, up);
        if !up {
            self.fdb.flush(&FlushScope { port: Some(port), ..FlushScope::default() });
        }
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters, for the engine to count what was sent and refused.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// What was noticed of stations, for whoever keeps a record to take.
    #[inline]
    pub fn notes_mut(&mut self) -> &mut Notes {
        &mut self.notes
    }

    /// Addresses that have moved between ports, in no particular order.
    pub fn moves(&self) -> &[Move] {
        self.moves.seen()
    }
}

/// The FDB.
impl Bridge {
    /// Sets a static or sticky entry, over a learned or older one (a learned
    /// one gives its place in the port's `max_macs` back). In a full table it
    /// replaces the oldest learned entry of the fullest port.
    ///
    /// # Errors
    /// A bad address or kind, an unknown port, or no place left.
    pub fn fdb_add(
        &mut self,
        now: Time,
        vid: VlanId,
        mac: MacAddr,
        port: PortId,
        kind: EntryKind,
    ) -> Result<(), FdbError> {
        if !mac.is_valid_source() {
            return Err(FdbError::BadMac(mac));
        }
        if !self.ports.known().contains(port) {
            return Err(FdbError::UnknownPort(port));
        }
        if kind == EntryKind::Dynamic {
            return Err(FdbError::NotStatic);
        }
        self.fdb.set_fixed(self.fdb.key(vid, mac), kind, port, now.as_millis())
    }

    /// Deletes an entry of any kind.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn fdb_del(&mut self, vid: VlanId, mac: MacAddr) -> Result<(), FdbError> {
        if self.fdb.delete(self.fdb.key(vid, mac)) { Ok(()) } else { Err(FdbError::NotFound { vid, mac }) }
    }

    /// Deletes the entries in `scope` and returns their number.
    pub fn fdb_flush(&mut self, scope: &FlushScope) -> usize {
        self.fdb.flush(scope)
    }

    /// Entries that have not aged out: ports ascending, static ones first,
    /// then from old to young.
    pub fn fdb_entries(&self, now: Time) -> impl Iterator<Item = FdbEntry> {
        self.fdb.entries(now.as_millis())
    }

    /// The entries in `len` places of the table from `start` on that have not
    /// aged out, and where to go on; bounded work, for a table of a million.
    pub fn fdb_page(&self, now: Time, start: u32, len: u32) -> (Vec<FdbEntry>, Option<u32>) {
        self.fdb.page(now.as_millis(), start, len)
    }

    /// Number of entries of `port`, static ones included, counted as by
    /// [`fdb_len`](Self::fdb_len).
    pub fn fdb_port_len(&self, port: PortId) -> u32 {
        self.fdb.port_len(port)
    }

    /// Number of entries, those included that have aged out since the last sweep.
    pub fn fdb_len(&self) -> u32 {
        self.fdb.len()
    }

    /// The most entries there can be.
    pub fn fdb_capacity(&self) -> u32 {
        self.fdb.capacity()
    }

    /// Number of learned entries of `port`, counted as by [`fdb_len`](Self::fdb_len).
    pub fn fdb_dynamic_len(&self, port: PortId) -> u32 {
        self.fdb.dynamic_len(port)
    }

    /// Where the FDB lies in memory, until it is resized: for whoever can have it
    /// laid where it is found faster.
    pub fn fdb_memory(&self) -> [Range<*const u8>; 2] {
        self.fdb.memory()
    }

    /// How evenly the hash spreads the entries. Reads the whole table.
    pub fn fdb_spread(&self) -> Spread {
        self.fdb.spread()
    }

    /// Takes out entries that have aged, a bounded number. Returns when to
    /// call again: `now` if there are more, `None` if nothing is left to age.
    /// Once a second is enough; a look-up never sees an aged entry.
    pub fn sweep(&mut self, now: Time) -> Option<Time> {
        self.sweep_asking(now, |_, _| None)
    }

    /// The same where copies of entries are lent: before one of these goes, `heard`
    /// is asked how long ago whoever has the copy heard from that station on that
    /// port.
    pub fn sweep_asking(
        &mut self,
        now: Time,
        mut heard: impl FnMut(MacAddr, PortId) -> Option<Duration>,
    ) -> Option<Time> {
        let Bridge { fdb, notes, ports, .. } = self;
        let heard = |_, mac, port| {
            let age = if ports.settings(port).learning { heard(mac, port) } else { None }?;
            u64::try_from(age.as_millis()).ok()
        };
        let wait = fdb.sweep(now.as_millis(), heard, |vid, mac, port| {
            notes.push(Note { kind: NoteKind::Aged, at: now, vid, mac, from: port, port });
        })?;
        Some(now.after(Duration::from_millis(wait)))
    }
}

/// Copies of entries, by which somebody else forwards in the bridge's name. A
/// copy is lent, and recalled as soon as the entry moves, goes or is replaced.
impl Bridge {
    /// What is known of a station, unless its entry has aged out.
    pub fn station(&self, now: Time, vid: VlanId, mac: MacAddr) -> Option<Station> {
        self.fdb.station(self.fdb.key(vid, mac), now.as_millis())
    }

    /// What is known of a station, if this was asked before, and neither has the
    /// station moved since then nor its entry aged out. Who lends copies asks here,
    /// so as not to lend one for a frame that no other follows.
    #[inline]
    pub fn sight(&mut self, now: Time, vid: VlanId, mac: MacAddr) -> Option<Station> {
        self.fdb.sight(self.fdb.key(vid, mac), now.as_millis())
    }

    /// Notes that a copy of an entry is out, or that it is not any more.
    pub fn set_lent(&mut self, vid: VlanId, mac: MacAddr, lent: Lent) {
        self.fdb.set_lent(self.fdb.key(vid, mac), lent);
    }

    /// The addresses whose copies must be given back. Whoever lent them asks
    /// after each call that can change an entry, and before anything that
    /// follows from the change can be seen.
    pub fn take_recalled(&mut self) -> impl Iterator<Item = (VlanId, MacAddr)> {
        self.fdb.take_recalled()
    }

    /// Notes that a frame from `mac` came in by `port` at `then`, and was
    /// forwarded by a copy. Refreshes what a frame seen here would have.
    pub fn refresh(&mut self, vid: VlanId, mac: MacAddr, port: PortId, then: Time) {
        if self.ports.settings(port).learning {
            self.fdb.refresh(self.fdb.key(vid, mac), port, then.as_millis());
        }
    }
}
