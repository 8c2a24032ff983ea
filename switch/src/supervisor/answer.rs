//! What the switch answers to a request on its control socket.
//!
//! Each change makes a whole new configuration and applies it; each read is one
//! snapshot, taken by the data thread between two turns.

use crate::bridge::{EntryKind, FdbEntry, FlushKinds, FlushScope, Move};
use crate::config::{ConfigError, StaticEntry, describe, duration_text};
use crate::control::{
    ErrorReply, Fdb, FdbFilter, FdbLine, PortDetail, PortLine, PortState, PortStats, Ports, Request,
    Response, Show, Stats,
};
use crate::engine::{Command, Ended, PortSnapshot, Snapshot};
use crate::events::Happening;
use crate::frame::VlanId;
use crate::port::{Device, Holders, Offloads};

use super::{ApplyError, Held, Supervisor};

/// An address that moved this often in [`FLAP_WINDOW_S`] has two owners; one
/// that moved less may be a guest that was moved.
const FLAPS_MIN: u64 = 4;

/// Moves older than this many seconds warn nobody.
const FLAP_WINDOW_S: u64 = 60;

impl Supervisor {
    /// Carries out `request`.
    pub fn answer(&mut self, request: Request) -> Response {
        self.try_answer(request).unwrap_or_else(Response::from)
    }

    fn try_answer(&mut self, request: Request) -> Result<Response, ApplyError> {
        match request {
            Request::Show {} => self.show(),
            Request::Stats {} => self.stats(),
            Request::PortShow { name } => self.port_show(name.as_deref()),
            Request::PortAdd { spec, keys } => {
                let wanted = self.config.with_port(&spec, &keys)?;
                let name = wanted.ports.last().map(|port| port.name.clone());
                self.apply_and_log(wanted)?;
                self.port_show(name.as_deref())
            }
            Request::PortDel { name } => {
                self.apply_and_log(self.config.without_port(&name)?)?;
                Ok(Response::Done { count: 1 })
            }
            Request::PortSet { name, keys } => {
                self.apply_and_log(self.config.with_port_keys(&name, &keys)?)?;
                self.port_show(Some(&name))
            }
            Request::Set { keys } => {
                self.apply_and_log(self.config.with_keys(&keys)?)?;
                self.show()
            }
            Request::FdbShow { filter, start } => self.fdb_show(&filter, start),
            Request::FdbAdd { mac, port, vid, sticky } => {
                let entry = StaticEntry { mac, vid: vlan(vid), port, sticky };
                self.apply_and_log(self.config.with_static(entry)?)?;
                Ok(Response::Done { count: 1 })
            }
            Request::FdbDel { mac, vid } => {
                let vid = vlan(vid);
                let wanted = self.config.without_static(mac, vid);
                if wanted == self.config {
                    self.engine.ask(|reply| Command::FdbDel { vid, mac, reply })??;
                } else {
                    self.apply_and_log(wanted)?;
                }
                Ok(Response::Done { count: 1 })
            }
            Request::FdbFlush { filter, statics } => self.fdb_flush(&filter, statics),
            Request::Reload {} => Ok(self.reload().map_or_else(Response::Error, Response::Changed)),
            Request::Events { after, .. } => Ok(Response::Events(self.events(after))),
            Request::Trace { port, frame, unfinished } => self.trace(&port, &frame, unfinished),
            Request::Capture(wanted) => self.begin_capture(wanted),
            Request::Stop {} => {
                self.stopping = true;
                Ok(Response::Done { count: 0 })
            }
        }
    }

    fn apply_and_log(&mut self, wanted: crate::config::Config) -> Result<(), ApplyError> {
        let changes = describe(&self.config, &wanted);
        for note in self.apply(wanted)? {
            tracing::info!("{note}");
        }
        if !changes.is_empty() {
            self.happened(Happening::ConfigChanged { changes });
        }
        Ok(())
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, Ended> {
        self.engine.ask(|reply| Command::Read { reply })
    }

    fn show(&self) -> Result<Response, ApplyError> {
        let snapshot = self.snapshot()?;
        let holders = holders(&self.ports);
        let config = &self.config;
        Ok(Response::Show(Show {
            name: config.name.clone(),
            pid: std::process::id(),
            uptime_ms: snapshot.now.as_millis(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            control: config.control.display().to_string(),
            owner: config.owner,
            ageing: duration_text(config.settings.ageing),
            fdb_len: snapshot.fdb_len,
            fdb_size: config.settings.fdb_size,
            transparent: config.settings.transparent,
            pad_runts: config.pad_runts,
            busy_poll: duration_text(config.busy_poll),
            fast_path: config.fast_path,
            ports: self.ports.iter().map(|held| self.port_line(held, &snapshot, &holders)).collect(),
            warnings: self.warnings(&snapshot),
        }))
    }

    fn port_line(&self, held: &Held, snapshot: &Snapshot, holders: &Holders) -> PortLine {
        let counted = snapshot.ports.iter().find(|port| port.id == held.id);
        let state = match (&held.device, counted.and_then(|port| port.link)) {
            (Some(_), Some(link)) if link.up => PortState::Up,
            (Some(_), Some(_)) => PortState::Down,
            // A socket without a peer has nothing to be wrong with.
            (Some(device), None) if device.endpoint().is_some() => PortState::Down,
            (None, _) | (Some(_), None) => PortState::Fault,
        };
        let spec = self.config.port(&held.name).map(|port| &port.spec);
        PortLine {
            name: held.name.clone(),
            kind: spec.map_or("", |spec| spec.kind.name()).to_owned(),
            state,
            note: held
                .device
                .as_ref()
                .filter(|_| held.note.is_empty())
                .map_or(held.note.clone(), Device::note),
            mtu: held.link.mtu,
            rx: counted.map_or(0, |port| port.counters.rx),
            tx: counted.map_or(0, |port| port.counters.tx),
            drops: counted.map_or(0, |port| port.counters.dropped() + port.counters.refused()),
            peer: held.device.as_ref().and_then(|device| device.peer(holders)).unwrap_or_default(),
            isolation: held.device.as_ref().map_or("", |device| device.isolation().name()).to_owned(),
            fast_path: self.config.fast_path && held.device.as_ref().is_some_and(Device::has_fast_path),
        }
    }

    /// What the user should know and did not ask for.
    fn warnings(&self, snapshot: &Snapshot) -> Vec<String> {
        let port = |id| self.ports.iter().find(|held| held.id == id).map_or("?", |held| held.name.as_str());
        let since = snapshot.now.as_nanos().saturating_sub(FLAP_WINDOW_S * 1_000_000_000);
        let recent = |seen: &&Move| seen.count >= FLAPS_MIN && seen.last.as_nanos() >= since;
        let mut warnings: Vec<String> = (snapshot.moves.iter().filter(recent))
            .map(|seen: &Move| {
                let Move { mac, count, from, to, .. } = *seen;
                let (low, high) = (port(from.min(to)), port(from.max(to)));
                format!("{mac} moved between {low} and {high} {count} times: two guests share a MAC; set mac= on each")
            })
            .collect();
        warnings.sort_unstable();
        warnings
    }

    fn stats(&mut self) -> Result<Response, ApplyError> {
        let snapshot = self.snapshot()?;
        Ok(Response::Stats(Box::new(self.stats_of(&snapshot))))
    }

    /// Every counter of `snapshot`, by the names of the ports.
    pub fn stats_of(&mut self, snapshot: &Snapshot) -> Stats {
        let counted = |held: &mut Held| {
            let port: &PortSnapshot = snapshot.ports.iter().find(|port| port.id == held.id)?;
            let losses = port.losses.and(held.losses());
            Some(PortStats::new(&held.name, &port.counters, losses))
        };
        let retired = snapshot.retired_losses.and(self.retired_losses);
        Stats::new(
            self.config.name.clone(),
            snapshot.now.as_millis(),
            self.ports.iter_mut().filter_map(counted).collect(),
            PortStats::new("retired", &snapshot.retired, retired),
        )
    }

    fn port_show(&self, name: Option<&str>) -> Result<Response, ApplyError> {
        let snapshot = self.snapshot()?;
        if let Some(name) = name {
            self.config.known_port(name)?;
        }
        let wanted = |held: &&Held| name.is_none_or(|name| held.name == name);
        let holders = holders(self.ports.iter().filter(wanted));
        let detail = |held: &Held| {
            let config = self.config.port(&held.name)?;
            Some(PortDetail {
                line: self.port_line(held, &snapshot, &holders),
                spec: config.spec.to_string(),
                keys: config.keys(),
                macs: snapshot.ports.iter().find(|port| port.id == held.id).map_or(0, |port| port.macs),
                offloads: offload_words(held.link.offloads),
            })
        };
        let ports = self.ports.iter().filter(wanted).filter_map(detail).collect();
        Ok(Response::Ports(Ports { ports }))
    }

    fn fdb_show(&self, filter: &FdbFilter, start: u64) -> Result<Response, ApplyError> {
        let scope = self.scope(filter)?;
        let is_wanted = |entry: &FdbEntry| {
            scope.port.is_none_or(|port| port == entry.port)
                && scope.vid.is_none_or(|vid| vid == entry.vid)
                && scope.mac.is_none_or(|mac| mac == entry.mac)
        };
        let mut page = Vec::new();
        let mut next = Some(u32::try_from(start).unwrap_or(u32::MAX));
        while let Some(start) = next
            && page.len() < Fdb::PAGE_LEN
        {
            let (entries, after) = self.engine.ask(|reply| Command::FdbRead { start, reply })?;
            page.extend(entries.into_iter().filter(is_wanted));
            next = after;
        }
        page.sort_unstable_by_key(|entry| (entry.vid, entry.mac));
        let entries = page.into_iter().map(|entry| {
            let port = self.ports.iter().find(|held| held.id == entry.port);
            FdbLine {
                mac: entry.mac,
                vid: entry.vid.get(),
                port: port.map_or_else(String::new, |held| held.name.clone()),
                is_static: entry.kind == EntryKind::Static,
                sticky: entry.kind == EntryKind::Sticky,
                age_ms: (entry.kind == EntryKind::Dynamic)
                    .then(|| u64::try_from(entry.age.as_millis()).unwrap_or(u64::MAX)),
            }
        });
        Ok(Response::Fdb(Fdb { entries: entries.collect(), next: next.map(u64::from) }))
    }

    fn fdb_flush(&mut self, filter: &FdbFilter, statics: bool) -> Result<Response, ApplyError> {
        let mut scope = self.scope(filter)?;
        if statics {
            scope.kinds = FlushKinds::All;
        }
        let count = self.engine.ask(|reply| Command::FdbFlush { scope, reply })?;
        if statics {
            self.config.fdb.retain(|entry| {
                let port = self.ports.iter().find(|held| held.name == entry.port).map(|held| held.id);
                scope.port.is_some_and(|wanted| port != Some(wanted))
                    || scope.vid.is_some_and(|vid| vid != entry.vid)
                    || scope.mac.is_some_and(|mac| mac != entry.mac)
            });
        }
        Ok(Response::Done { count: count as u64 })
    }

    fn scope(&self, filter: &FdbFilter) -> Result<FlushScope, ConfigError> {
        let port = match &filter.port {
            None => None,
            Some(name) => {
                self.config.known_port(name)?;
                self.ports.iter().find(|held| held.name == *name).map(|held| held.id)
            }
        };
        Ok(FlushScope { port, vid: filter.vid.map(VlanId::new), mac: filter.mac, ..FlushScope::default() })
    }
}

/// Who is behind the TAPs of `ports`: one search for all of them.
pub(super) fn holders<'a>(ports: impl IntoIterator<Item = &'a Held>) -> Holders {
    let devices = ports.into_iter().filter_map(|held| held.device.as_ref());
    Holders::find(devices.filter_map(Device::held_by_others))
}

/// The names of what a port's other end finishes itself.
fn offload_words(offloads: Offloads) -> String {
    let Offloads { csum, tso4, tso6, uso, ecn } = offloads;
    let words = [(csum, "csum"), (tso4, "tso4"), (tso6, "tso6"), (uso, "uso"), (ecn, "ecn")];
    words.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
}

fn vlan(vid: Option<u16>) -> VlanId {
    vid.map_or(VlanId::UNAWARE, VlanId::new)
}

impl From<ApplyError> for Response {
    fn from(error: ApplyError) -> Response {
        Response::Error(error.into())
    }
}

impl From<ApplyError> for ErrorReply {
    fn from(error: ApplyError) -> ErrorReply {
        match error {
            ApplyError::Config(error) => error.into(),
            other @ (ApplyError::NeedsRestart(_)
            | ApplyError::Open { .. }
            | ApplyError::Mtu { .. }
            | ApplyError::Register { .. }
            | ApplyError::Fdb(_)
            | ApplyError::Ended(_)) => ErrorReply { error: other.to_string(), hint: String::new() },
        }
    }
}
