//! The engine while somebody looks: captures begin and end, and what else changes
//! the bridge is told.
//!
//! Deliberately absent: how it is recorded (`observe`), and for whom.

use super::Engine;
use super::observe::{Change, Edge, Mark, Told, Want};
use crate::bridge::{FdbEntry, PortCounters, PortId, Time};

/// Places of the FDB read for a mark, and for each further part: the whole table
/// of a switch that was not told otherwise, in half a millisecond.
const FDB_PART: u32 = 8192;

impl Engine {
    /// Begins or ends a capture.
    pub(super) fn observe(&mut self, now: Time, id: u64, want: Option<Want>) {
        let Some(mut observer) = self.observer.take().or_else(|| self.resting.take()) else { return };
        let edge = if want.is_some() { Edge::Start } else { Edge::End };
        let (lost, untold) = observer.lost_so_far();
        observer.set_want(id, want);
        self.observer = Some(observer);
        // From here on the kernel forwards nothing by itself; what it has
        // forwarded is counted before the mark.
        self.set_tuning(self.tuning);
        self.count_fast();
        let (fdb, fdb_next) = match edge {
            Edge::Start => self.bridge.fdb_page(now, 0, FDB_PART),
            Edge::End => (Vec::<FdbEntry>::new(), None),
        };
        let mark = Mark {
            id,
            edge,
            epoch_ns: self.clock.epoch_ns(),
            snapshot: self.snapshot(now),
            settings: *self.bridge.settings(),
            tuning: self.tuning,
            ports: self.bridge.ports().iter().map(|port| (port, *self.bridge.port(port))).collect(),
            fdb,
            fdb_next,
            lost,
            untold,
        };
        if let Some(observer) = self.observer.as_mut() {
            observer.tell(Told::Mark(Box::new(mark)));
        }
        if self.observer.as_ref().is_some_and(|observer| !observer.is_wanted()) {
            self.resting = self.observer.take();
            self.set_tuning(self.tuning);
        }
    }

    /// Ends every capture, because the engine does.
    pub(super) fn end_captures(&mut self) {
        let captures = self.observer.as_ref().map(|observer| observer.captures()).unwrap_or_default();
        for id in captures {
            self.observe(self.clock.now(), id, None);
        }
    }

    /// Tells one part more of the FDB.
    pub(super) fn show_fdb(&mut self, time: Time, id: u64, start: u32) {
        if let Some(observer) = self.observer.as_mut() {
            let (entries, next) = self.bridge.fdb_page(time, start, FDB_PART);
            observer.tell(Told::Fdb { id, time, entries, next });
        }
    }

    /// Tells who looks that something but a frame changed the bridge.
    #[inline]
    pub(super) fn show_change(&mut self, change: Change) {
        if let Some(observer) = self.observer.as_mut() {
            observer.tell_change(self.clock.now(), change);
        }
    }

    /// Tells who looks that a port is gone, which had counted so much.
    pub(super) fn show_removed(&mut self, id: PortId, counters: PortCounters) {
        if let Some(observer) = self.observer.as_mut() {
            let lost = observer.lost_of(id);
            let change = Change::PortRemoved { id, counters: Box::new(counters), lost };
            observer.tell_change(self.clock.now(), change);
        }
    }

    /// Tells the bridge of a port's link, and who looks.
    pub(super) fn set_bridge_link(&mut self, id: PortId, up: bool) {
        self.bridge.set_link(id, up);
        self.show_change(Change::Link { id, up });
    }
}
