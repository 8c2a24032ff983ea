//! What is written into the journal, by whom and when: states of ports that are
//! others now, and what the bridge noticed of stations.
//!
//! Deliberately absent: what is done about it.

use std::time::Duration;

use super::Supervisor;
use super::answer::holders;
use crate::bridge::{Note, NoteKind, PortId, Taken};
use crate::control::Events;
use crate::events::{Happening, Journal, Kind, Stamp};
use crate::metrics::{PortReading, Reading};

impl Supervisor {
    /// What happened lately.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Milliseconds since the switch started.
    pub fn uptime_ms(&self) -> u64 {
        self.engine.now().0.as_millis()
    }

    /// The events after number `after` that are still kept.
    pub(super) fn events(&self, after: u64) -> Events {
        Events::of(&self.journal, after, usize::MAX, self.uptime_ms())
    }

    /// Writes down that `what` happened now.
    pub fn happened(&mut self, what: Happening) {
        let stamp = self.stamp();
        self.write_down(stamp, what);
    }

    /// False where the journal has had too many of its kind.
    fn write_down(&mut self, at: Stamp, what: Happening) -> bool {
        self.trigger_by(&what);
        self.journal.record(at, what).is_some()
    }

    /// Everything that metrics tell, at one instant; `None` once the data thread
    /// has ended.
    pub fn reading(&mut self, clients: usize) -> Option<Reading> {
        let snapshot = self.snapshot().ok()?;
        let port = |held: &super::Held| {
            let macs = snapshot.ports.iter().find(|port| port.id == held.id).map_or(0, |port| port.macs);
            PortReading { name: held.name.clone(), up: held.link.up, mtu: held.link.mtu, macs }
        };
        Some(Reading {
            stats: self.stats_of(&snapshot),
            ports: self.ports.iter().map(port).collect(),
            fdb_len: snapshot.fdb_len,
            fdb_size: self.config.settings.fdb_size,
            turns: snapshot.turns,
            started: self.started.as_secs_f64(),
            clients: u32::try_from(clients).unwrap_or(u32::MAX),
            events: self.journal.last(),
        })
    }

    fn stamp(&self) -> Stamp {
        let (uptime, wall) = self.engine.now();
        Stamp { uptime, wall }
    }

    /// How long until the journal has something to say by itself.
    pub fn journal_timeout(&self) -> Option<Duration> {
        self.journal.timeout(self.engine.now().0)
    }

    /// Lets the journal say what it has not written down.
    pub fn settle_journal(&mut self) {
        let stamp = self.stamp();
        self.journal.settle(stamp);
    }

    /// Writes down whether the port carries frames, if that is news.
    pub(super) fn tell_state(&mut self, position: usize) {
        let held = &mut self.ports[position];
        if held.link.up == held.told_up {
            return;
        }
        held.told_up = held.link.up;
        let port = held.name.clone();
        let what = if held.link.up {
            let holders = holders([&*held]);
            let peer = held.device.as_ref().and_then(|device| device.peer(&holders)).unwrap_or_default();
            Happening::PortUp { port, mtu: held.link.mtu, peer }
        } else {
            Happening::PortDown { port, why: held.note.clone() }
        };
        self.happened(what);
    }

    /// Writes down that a port's device failed.
    pub(super) fn tell_fault(&mut self, position: usize) {
        let held = &self.ports[position];
        self.happened(Happening::DeviceFault { port: held.name.clone(), fault: held.note.clone() });
        self.tell_state(position);
    }

    /// Writes down what the bridge noticed of stations.
    pub fn take_notes(&mut self) {
        let now = self.stamp();
        while let Some(taken) = self.engine.note() {
            match taken {
                Taken::Note(note) => self.take_note(now, note),
                Taken::Missed { kind, count } => self.journal.miss(now, kind_of(kind), count),
            }
        }
    }

    fn take_note(&mut self, now: Stamp, note: Note) {
        // A port that was closed meanwhile took its stations along.
        let name = |id: PortId| self.ports.iter().find(|held| held.id == id).map(|held| held.name.clone());
        let (Some(port), Some(from)) = (name(note.port), name(note.from)) else { return };
        let (mac, vid, at) = (note.mac, note.vid.get(), now.back_at(note.at));
        let what = match note.kind {
            NoteKind::Learned => Happening::MacLearned { mac, vid, port },
            NoteKind::Aged => Happening::MacAged { mac, vid, port },
            NoteKind::PortFull => Happening::PortFull { port, mac, vid },
            NoteKind::TableFull => Happening::TableFull { port, mac, vid },
            NoteKind::Moved => {
                if let Some(moves) = self.flaps.moved(note.at, note.vid, mac) {
                    let (by, to) = (from.clone(), port.clone());
                    let what = Happening::MacFlapping { mac, vid, from: by, port: to, moves };
                    // The journal's bound is the log's too.
                    if self.write_down(at, what) {
                        tracing::warn!(
                            "{mac} moves between {from} and {port}: two guests share a MAC; set mac= on each"
                        );
                    }
                }
                Happening::MacMoved { mac, vid, from, port }
            }
        };
        self.write_down(at, what);
    }
}

/// The event that a note becomes.
fn kind_of(kind: NoteKind) -> Kind {
    match kind {
        NoteKind::Learned => Kind::MacLearned,
        NoteKind::Moved => Kind::MacMoved,
        NoteKind::Aged => Kind::MacAged,
        NoteKind::PortFull => Kind::PortFull,
        NoteKind::TableFull => Kind::TableFull,
    }
}
