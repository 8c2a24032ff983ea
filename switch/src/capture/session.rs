//! One capture: out of what the data thread tells, those frames that were asked
//! for, as pcapng, with exact sums.
//!
//! Deliberately absent: threads, sockets and clocks. Whoever has the blocks gives
//! them to [`Session::block`], and takes the bytes out of its [`Sink`].

mod explained;
mod interface;
mod recall;
mod spec;
#[cfg(test)]
mod tests;

use interface::Interface;
pub(super) use recall::Progress;
pub use spec::{Kind, Kinds, Label, Labels, Names, SNAPLEN_MAX, Spec};

use std::collections::BTreeMap;
use std::time::Duration;

use super::bpf::Program;
use super::pcapng::{self, FrameRecord, Way};
use super::sink::Sink;
use super::state::{self, State, Summary, What};
use super::words;
use crate::bridge::{FdbEntry, FlushKinds, PORTS_MAX, PortCounters, PortId, Story, Time, Verdict};
use crate::engine::observe::{Block, Change, Lost, Mark, Seen, Turn};
use crate::frame::{Frame, HEAD_MAX, Piece};
use crate::offload::VnetHeader;
use crate::port::{Finisher, Offloads, gather};

/// What the recorder's trigger has set off, it does not set off again for so long.
pub const HOLD_OFF: Duration = Duration::from_secs(10);

/// Sums are written into the stream this often, in nanoseconds.
const SUMS_EVERY: u64 = 1_000_000_000;

/// A capture under way.
#[derive(Debug)]
pub struct Session {
    spec: Spec,
    epoch_ns: u64,
    start_ns: u64,
    interfaces: Vec<Interface>,
    /// Of them, so many are described in the file.
    described: usize,
    by_port: Box<[Option<u32>; PORTS_MAX]>,
    /// Every port, wanted or not: verdicts name them.
    names: BTreeMap<PortId, String>,
    next_sums: Time,
    comment: Comment,
    /// The words for a copy that was sent, by its ingress.
    copy_comment: Option<(PortId, String)>,
    finisher: Option<Finisher>,
    segment: Vec<u8>,
    /// Out of the recorder: frames before this are not wanted.
    since: Time,
    /// What comes now had to be forgotten before its reader could take it.
    is_late: bool,
    /// More is told than there is time to put into words.
    is_behind: bool,
    written: u64,
    /// Changes that were not told, or not written for want of room.
    changes_missed: u64,
    /// Why it ended; empty before.
    why: String,
    /// What waits to be taken.
    pub sink: Sink,
}

/// For what the data thread had no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The capture thread was behind.
    Switch,
    /// Blocks waited until a reader had room.
    Readers,
}

/// The words for the story that was met last: most are followed by their like.
#[derive(Debug, Default)]
struct Comment {
    of: Option<(PortId, Story, VnetHeader)>,
    text: String,
}

impl Session {
    /// A capture that has not begun.
    pub fn new(spec: Spec) -> Session {
        let finisher = spec.segment.then(Finisher::new);
        Session {
            spec,
            epoch_ns: 0,
            start_ns: 0,
            interfaces: Vec::new(),
            described: 0,
            by_port: Box::new([None; PORTS_MAX]),
            names: BTreeMap::new(),
            next_sums: Time::START,
            comment: Comment::default(),
            copy_comment: None,
            finisher,
            segment: Vec::new(),
            since: Time::START,
            is_late: false,
            is_behind: false,
            written: 0,
            changes_missed: 0,
            why: String::new(),
            sink: Sink::default(),
        }
    }

    /// Whether every frame of the switch is in it.
    fn is_complete(&self) -> bool {
        let Spec { ports, kinds, filter, last, .. } = &self.spec;
        ports.is_none() && filter.is_none() && *kinds == [true; 4] && last.is_none()
    }

    /// Begins: the headers of the file.
    pub fn start(&mut self, mark: &Mark, labels: &Labels) {
        self.epoch_ns = mark.epoch_ns;
        self.start_ns = self.begins(mark.snapshot.now).as_nanos();
        self.next_sums = Time::from_nanos(mark.snapshot.now.as_nanos() + SUMS_EVERY);
        self.sink.append(|out| pcapng::section(out, concat!("vswitch ", env!("CARGO_PKG_VERSION"))));
        let mut ports = Vec::new();
        // What is recalled describes them as it meets them.
        let now = if self.recalls() { &[] } else { mark.ports.as_slice() };
        for (id, flags) in now {
            let counted = mark.snapshot.ports.iter().find(|port| port.id == *id);
            let base = counted.map_or(PortCounters::ZERO, |port| port.counters.clone());
            let up = counted.and_then(|port| port.link).is_some_and(|link| link.up);
            if let Some(interface) = self.add_interface(*id, base, labels.get(id)) {
                let name = self.name(interface);
                ports.push(state::Port { interface, id: id.get(), name, up, flags: *flags });
            }
        }
        let complete = self.is_complete();
        let entries = if complete { mark.fdb.as_slice() } else { &[] };
        let start = state::Start {
            version: state::VERSION,
            switch: self.spec.switch.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            epoch_ns: self.epoch_ns,
            time_ns: self.start_ns,
            complete,
            config: self.spec.config.clone(),
            settings: mark.settings.into(),
            ports,
            fdb: self.entries(entries),
            fdb_complete: mark.fdb_next.is_none(),
        };
        self.say(&State::Start(start));
    }

    fn name(&self, interface: u32) -> String {
        self.interfaces[interface as usize].name.clone()
    }

    fn say(&mut self, state: &State) {
        // These serialise: no map has other keys than text.
        let json = serde_json::to_vec(state).unwrap_or_default();
        self.sink.append(|out| pcapng::state(out, &json));
    }

    fn entries(&self, entries: &[FdbEntry]) -> Vec<state::Entry> {
        let entry = |entry: &FdbEntry| {
            Some(state::Entry {
                mac: entry.mac,
                vid: entry.vid.get(),
                interface: self.by_port[entry.port.index()]?,
                kind: entry.kind,
                age_ms: u64::try_from(entry.age.as_millis()).unwrap_or(u64::MAX),
            })
        };
        entries.iter().filter_map(entry).collect()
    }

    /// Takes more of the FDB, as it is now.
    pub fn fdb(&mut self, time: Time, entries: &[FdbEntry], last: bool) {
        self.describe_interfaces();
        let entries = self.entries(entries);
        self.say(&State::Fdb(state::Fdb { time_ns: time.as_nanos(), entries, last }));
    }

    /// Records written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What came of frames dropped at interface `number`.
    #[cfg(test)]
    pub fn dropped_of(&self, number: usize) -> state::Sums {
        self.interfaces[number].sums[Kind::Dropped as usize]
    }

    /// Records that were wanted and are not written, whatever the reason.
    pub fn missed(&self) -> u64 {
        self.interfaces.iter().flat_map(|interface| &interface.sums).map(|sums| sums.lost + sums.slow).sum()
    }

    /// Why it ended.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Whether it wants all of the FDB.
    pub fn wants_fdb(&self) -> bool {
        self.is_complete()
    }

    /// Notes a change that is no frame.
    pub fn change(&mut self, time: Time, change: &Change, labels: &Labels, blame: Blame) {
        let interface = |id: PortId| self.by_port[id.index()];
        let what = match change {
            Change::PortAdded { id, settings } => self
                .add_interface(*id, PortCounters::ZERO, labels.get(id))
                .map(|interface| state::Port {
                    interface,
                    id: id.get(),
                    name: self.name(interface),
                    up: false,
                    flags: *settings,
                })
                .map(What::PortAdded),
            Change::PortRemoved { id, counters, lost } => {
                self.lose(&[(*id, *lost)], 0, blame);
                let gone = self.by_port[id.index()].take();
                if let Some(number) = gone {
                    self.interfaces[number as usize].close(&self.spec.kinds, counters);
                }
                gone.map(|interface| What::PortRemoved { interface })
            }
            Change::PortSet { id, settings } => {
                interface(*id).map(|interface| What::PortSet { interface, flags: *settings })
            }
            Change::Link { id, up } => interface(*id).map(|interface| What::Link { interface, up: *up }),
            Change::Configured(settings) => Some(What::Settings((*settings).into())),
            Change::EntrySet { vid, mac, port, kind } => interface(*port).map(|interface| {
                What::EntrySet(state::Entry { mac: *mac, vid: vid.get(), interface, kind: *kind, age_ms: 0 })
            }),
            Change::EntryDeleted { vid, mac } => Some(What::EntryDeleted { mac: *mac, vid: vid.get() }),
            Change::Flushed(scope) => Some(What::Flushed {
                interface: scope.port.and_then(interface),
                vid: scope.vid.map(crate::frame::VlanId::get),
                mac: scope.mac,
                statics: scope.kinds == FlushKinds::All,
            }),
            Change::Swept => Some(What::Swept),
        };
        if let Some(what) = what.filter(|_| self.is_complete()) {
            // A reader that stops costs no memory. Its frames are missing too.
            if !self.describe_interfaces() || self.sink.is_full() {
                self.changes_missed += 1;
            } else {
                self.say(&State::Change(state::Changed { time_ns: time.as_nanos(), what }));
            }
        }
    }

    /// Takes frames; false once it has all that it was to count. While `is_behind` says
    /// that more of them wait than should, none is put into words, which takes many
    /// times as long as to write one down: other captures would miss what waits.
    pub fn block(&mut self, block: &Block, blame: Blame, is_behind: impl Fn() -> bool) -> bool {
        self.lose(&block.lost, block.untold, blame);
        for turn in block.turns() {
            self.is_behind = self.spec.steps && is_behind();
            if !self.turn(&turn) {
                return false;
            }
            if turn.time >= self.next_sums && self.describe_interfaces() && !self.sink.is_full() {
                self.next_sums = Time::from_nanos(turn.time.as_nanos() + SUMS_EVERY);
                self.write_sums(turn.time);
            }
        }
        true
    }

    /// Notes frames that were not recorded, for which `blame` is, and how many changes
    /// were not told.
    pub fn lose(&mut self, lost: &[(PortId, Lost)], untold: u64, blame: Blame) {
        self.changes_missed += untold;
        // Whether a filter would have accepted them, nobody knows.
        let is_slow = blame == Blame::Readers && self.spec.filter.is_none();
        for (id, Lost { forwarded, dropped, sent, refused }) in lost {
            let Some(number) = self.by_port[id.index()] else { continue };
            let interface = &mut self.interfaces[number as usize];
            for (kind, more) in [*forwarded, *dropped, *sent, *refused].into_iter().enumerate() {
                if self.spec.kinds[kind] {
                    let sums = &mut interface.sums[kind];
                    *(if is_slow { &mut sums.slow } else { &mut sums.lost }) += more;
                    interface.missed += more;
                }
            }
        }
    }

    fn turn(&mut self, turn: &Turn<'_>) -> bool {
        let ingress = self.by_port[turn.ingress.index()];
        let mut described = None;
        for (index, seen) in (0u8..).zip(turn.frames()) {
            let mut shot = Shot { turn, seen, id: turn.first_id + u64::from(index), accepted: None };
            let kind = match seen.story.verdict {
                Verdict::Forward { .. } => Kind::Forwarded,
                Verdict::Drop(_) => Kind::Dropped,
            };
            if let Some(interface) = ingress {
                if described != Some(seen.sort) {
                    self.describe(turn.ingress, &seen);
                    described = Some(seen.sort);
                }
                let comment = std::mem::take(&mut self.comment.text);
                let written = self.written;
                let more = self.record(&mut shot, interface, kind, &comment);
                self.comment.text = comment;
                if self.spec.steps && self.written > written {
                    self.explain(&shot, index);
                }
                if !more {
                    return false;
                }
            }
            if kind == Kind::Forwarded && !self.copies(&mut shot, index) {
                return false;
            }
        }
        true
    }

    /// The copies of frame number `index` of the turn.
    fn copies(&mut self, shot: &mut Shot<'_>, index: u8) -> bool {
        let turn = shot.turn;
        let mut refusals = turn.refusals;
        for copies in turn.copies {
            let (refused, rest) = refusals.split_at(copies.refused_len.into());
            refusals = rest;
            let Some(interface) = self.by_port[copies.egress.index()] else { continue };
            if copies.chosen & (1 << index) == 0 {
                continue;
            }
            let refusal = refused.iter().find(|(frame, _)| *frame == index).map(|(_, reason)| *reason);
            let kind = if refusal.is_some() { Kind::Refused } else { Kind::Sent };
            if !self.spec.kinds[kind as usize] {
                continue;
            }
            let (of, comment) = match (refusal, self.copy_comment.take()) {
                (None, Some(said)) if said.0 == turn.ingress => said,
                _ => {
                    let mut text = String::new();
                    words::copy(&mut text, turn.ingress, refusal, &self.names);
                    (turn.ingress, text)
                }
            };
            let more = self.record(shot, interface, kind, &comment);
            self.copy_comment = refusal.is_none().then_some((of, comment));
            if !more {
                return false;
            }
        }
        true
    }

    /// Makes the comment on a frame that came in.
    fn describe(&mut self, ingress: PortId, seen: &Seen<'_>) {
        let of = Some((ingress, *seen.story, *seen.vnet));
        if self.comment.of == of {
            return;
        }
        self.comment.of = of;
        self.comment.text.clear();
        words::frame(&mut self.comment.text, seen, ingress, &self.names, !self.spec.segment);
    }

    /// Writes one record, if it is wanted and there is room; false if it was the
    /// last to be counted.
    fn record(&mut self, shot: &mut Shot<'_>, interface: u32, kind: Kind, comment: &str) -> bool {
        if !self.spec.kinds[kind as usize] {
            return true;
        }
        let has_room = self.describe_interfaces() && !self.sink.is_full() && !self.is_late;
        let held = &mut self.interfaces[interface as usize];
        let sums = &mut held.sums[kind as usize];
        if !shot.is_accepted(self.spec.filter.as_ref()) {
            sums.passed += 1;
            return true;
        }
        if !has_room || self.is_behind {
            // The reader is not to blame for what it would have had room for.
            *(if has_room { &mut sums.lost } else { &mut sums.slow }) += 1;
            held.missed += 1;
            return true;
        }
        sums.written += 1;
        self.written += 1;
        let seen = shot.seen;
        let record = FrameRecord {
            interface,
            date_ns: self.epoch_ns + shot.turn.time.as_nanos(),
            len: seen.len,
            bytes: cut(seen.bytes, self.spec.snaplen),
            way: match kind {
                Kind::Forwarded | Kind::Dropped => Way::Inbound,
                Kind::Sent | Kind::Refused => Way::Outbound,
            },
            id: shot.id,
            drops: std::mem::take(&mut held.missed),
            comment,
        };
        if !self.write_finished(&seen, &record) {
            self.sink.append(|out| pcapng::frame(out, &record));
        }
        self.spec.count.is_none_or(|count| self.written < count)
    }

    /// Writes a frame with its checksum complete, or its segments; false if it
    /// is to be written as it crossed.
    fn write_finished(&mut self, seen: &Seen<'_>, record: &FrameRecord<'_>) -> bool {
        let Some(finisher) = self.finisher.as_mut().filter(|_| !seen.vnet.is_plain()) else { return false };
        let Seen { bytes, vnet, len, .. } = *seen;
        if bytes.len() < len as usize {
            return false;
        }
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_MAX));
        let rest = [Piece::from_slice(rest)];
        let frame = Frame::new(head, &rest, *vnet);
        let Ok(finished) = finisher.finish(&frame, Offloads::NONE) else { return false };
        let mut drops = record.drops;
        for wire in finished.wires() {
            let len = wire.len();
            self.segment.resize(len, 0);
            gather(&wire, &mut self.segment);
            let record = FrameRecord {
                len: u32::try_from(len).unwrap_or(u32::MAX),
                bytes: cut(&self.segment, self.spec.snaplen),
                drops: std::mem::take(&mut drops),
                ..*record
            };
            self.sink.append(|out| pcapng::frame(out, &record));
        }
        true
    }

    /// Ends: the sums. Without a mark, it has counted what it was to count.
    pub fn end(&mut self, mark: Option<&Mark>, now: Time, why: &str) {
        for id in (0..=u8::MAX).map(PortId::new) {
            let Some(number) = self.by_port[id.index()] else { continue };
            let counted = mark
                .and_then(|mark| mark.snapshot.ports.iter().find(|port| port.id == id))
                .map(|port| &port.counters);
            if let Some(counted) = counted {
                self.interfaces[number as usize].close(&self.spec.kinds, counted);
            }
        }
        if mark.is_none() {
            for sums in self.interfaces.iter_mut().flat_map(|interface| &mut interface.sums) {
                sums.counted = sums.lost + sums.passed + sums.slow + sums.written;
            }
        }
        self.describe_all_interfaces();
        self.write_sums(now);
        let ports = self.interfaces.iter().map(|interface| {
            let [forwarded, dropped, sent, refused] = interface.sums;
            state::PortSums { name: interface.name.clone(), forwarded, dropped, sent, refused }
        });
        let ports = ports.collect();
        why.clone_into(&mut self.why);
        self.say(&State::End(Summary {
            written: self.written,
            missed: self.missed(),
            changes_missed: self.changes_missed,
            why: why.to_owned(),
            ports,
        }));
    }
}

/// One frame, while its records are written.
struct Shot<'s> {
    turn: &'s Turn<'s>,
    seen: Seen<'s>,
    id: u64,
    /// What the filter said, once it was asked.
    accepted: Option<bool>,
}

impl Shot<'_> {
    fn is_accepted(&mut self, filter: Option<&Program>) -> bool {
        let Some(filter) = filter else { return true };
        let seen = self.seen;
        *self.accepted.get_or_insert_with(|| filter.accepts(seen.bytes, seen.len))
    }
}

fn cut(bytes: &[u8], snaplen: u32) -> &[u8] {
    &bytes[..bytes.len().min(snaplen as usize)]
}
