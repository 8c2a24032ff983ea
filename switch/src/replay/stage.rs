//! The bridge of a replay, and all that happens to it besides frames.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bridge::{
    Bridge, EntryKind, FdbEntry, FlushKinds, FlushScope, PORTS_MAX, PortId, PortSettings, Settings, Time,
};
use crate::capture::state::{self, State, What};
use crate::config::Config;
use crate::frame::VlanId;
use crate::pcap::Captured;

/// What the replay should be of.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Settings, flags and static entries from here, not as recorded.
    pub config: Option<Config>,
    /// Names for the interfaces of a capture that is not ours, in their order; more
    /// than it has are further ports, up and silent.
    pub ports: Vec<String>,
}

pub(super) struct Stage<'w> {
    pub bridge: Bridge,
    wanted: &'w Wanted,
    /// Ports by the number of their interface.
    ports: Vec<Option<PortId>>,
    /// Names by the number of the port.
    names: Vec<String>,
    /// Interfaces in the order in which they were described.
    described: Vec<String>,
    /// Nanoseconds since 1970 at time zero.
    epoch_ns: Option<u64>,
    /// The latest time that was told.
    now: Time,
    /// Whether the file has described the switch.
    ours: bool,
    /// Whether it is of the past: ports come as they are described, and nobody says
    /// who was where before.
    recalled: bool,
    /// Whether parts of the FDB are still to come.
    early: bool,
    /// Whether frames were left out of the file.
    partial: bool,
    /// Changes besides frames that the file lacks.
    changes_missed: u64,
}

impl<'w> Stage<'w> {
    pub fn new(wanted: &'w Wanted) -> Stage<'w> {
        let settings = wanted.config.as_ref().map_or_else(Settings::default, |config| config.settings);
        Stage {
            bridge: Bridge::new(settings, [0, 1]),
            wanted,
            ports: Vec::new(),
            names: vec!["?".to_owned(); PORTS_MAX],
            described: Vec::new(),
            epoch_ns: None,
            now: Time::START,
            ours: false,
            recalled: false,
            early: false,
            partial: false,
            changes_missed: 0,
        }
    }

    /// The ports' names, by number.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether what is decided now may lack entries that the switch had.
    pub fn is_early(&self) -> bool {
        self.early
    }

    /// Changes besides frames that the capture missed.
    pub fn changes_missed(&self) -> u64 {
        self.changes_missed
    }

    /// Whether the capture was of some frames only.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// Whether the capture is somebody else's.
    pub fn is_foreign(&self) -> bool {
        !self.ours
    }

    /// Another interface is described; `None` if it is one too many.
    pub fn interface(&mut self, name: String) -> Option<()> {
        if self.recalled {
            self.recall(name.clone());
        }
        self.described.push(name);
        // Ours are ports once the switch says so.
        (self.ours || self.described.len() <= PORTS_MAX).then_some(())
    }

    /// Another port of a capture of the past, in the place of one of that name.
    fn recall(&mut self, name: String) {
        let before = self.described.iter().rposition(|described| *described == name);
        let gone = before.and_then(|at| self.ports.get_mut(at)?.take());
        if let Some(id) = gone {
            self.bridge.remove_port(id);
        }
        let number = self.described.len();
        let id = gone.or_else(|| u8::try_from(number).ok().map(PortId::new));
        if let (Some(id), Ok(interface)) = (id, u32::try_from(number)) {
            self.add(interface, id, name, true, PortSettings::default());
            self.bind_static();
        }
    }

    /// When and by which port a frame came in, if that port is any.
    pub fn arrival(&mut self, captured: &Captured) -> Option<(Time, PortId)> {
        if !self.ours && self.epoch_ns.is_none() {
            self.begin_foreign();
        }
        let epoch = *self.epoch_ns.get_or_insert(captured.date_ns);
        self.now = Time::from_nanos(captured.date_ns.saturating_sub(epoch));
        Some((self.now, (*self.ports.get(captured.interface as usize)?)?))
    }

    /// Makes ports of somebody else's interfaces.
    fn begin_foreign(&mut self) {
        let config = self.wanted.config.as_ref();
        let configured = config.into_iter().flat_map(|config| &config.ports).map(|port| port.name.clone());
        let wanted: Vec<String> = self.wanted.ports.iter().cloned().chain(configured).collect();
        let len = wanted.len().max(self.described.len()).min(PORTS_MAX);
        for number in 0..len {
            let described = self.described.get(number).filter(|name| !name.is_empty()).cloned();
            let name = wanted.get(number).cloned().or(described).unwrap_or_else(|| format!("if{number}"));
            // Fewer than 256.
            let id = PortId::new(u8::try_from(number).unwrap_or(u8::MAX));
            self.add(u32::try_from(number).unwrap_or(u32::MAX), id, name, true, PortSettings::default());
        }
        self.bind_static();
    }

    fn add(&mut self, interface: u32, id: PortId, name: String, up: bool, recorded: PortSettings) {
        let at = interface as usize;
        if at >= self.ports.len() {
            // Interfaces are numbered as they come, and each block names one.
            self.ports.resize((at + 1).min(1 << 20), None);
        }
        let flags = match &self.wanted.config {
            None => Some(recorded),
            Some(config) => config.port(&name).map(|port| port.flags),
        };
        if let Some(place) = self.ports.get_mut(at) {
            *place = Some(id);
        }
        self.names[id.index()] = name;
        // A port that the configuration does not have is there, and down for good.
        self.bridge.add_port(id, flags.unwrap_or_default());
        self.bridge.set_link(id, up && flags.is_some());
    }

    /// Binds the addresses that the configuration has.
    fn bind_static(&mut self) {
        let Some(config) = &self.wanted.config else { return };
        let ids: BTreeMap<&str, PortId> =
            (self.ports.iter().flatten()).map(|id| (self.names[id.index()].as_str(), *id)).collect();
        for entry in &config.fdb {
            let Some(port) = ids.get(entry.port.as_str()) else { continue };
            let kind = if entry.sticky { EntryKind::Sticky } else { EntryKind::Static };
            // One that does not fit was not bound by the switch either.
            let _ = self.bridge.fdb_add(self.now, entry.vid, entry.mac, *port, kind);
        }
    }

    /// What the file says of the switch.
    pub fn state(&mut self, state: State) -> Result<(), String> {
        match state {
            State::Start(start) => return self.start(start),
            State::Fdb(fdb) => {
                self.now = Time::from_nanos(fdb.time_ns);
                self.restore(&fdb.entries);
                self.early &= !fdb.last;
            }
            State::Change(changed) => {
                self.now = Time::from_nanos(changed.time_ns);
                self.change(changed.what);
            }
            State::Trace(_) => {}
            State::End(summary) => self.changes_missed = summary.changes_missed,
        }
        Ok(())
    }

    fn start(&mut self, start: state::Start) -> Result<(), String> {
        if start.version > state::VERSION {
            return Err(format!("version {}", start.version));
        }
        self.ours = true;
        self.epoch_ns = Some(start.epoch_ns);
        self.now = Time::from_nanos(start.time_ns);
        let settings = match &self.wanted.config {
            None => start.settings.into(),
            Some(config) => config.settings,
        };
        self.bridge = Bridge::new(settings, [0, 1]);
        self.ports.clear();
        for port in start.ports {
            self.add(port.interface, PortId::new(port.id), port.name, port.up, port.flags);
        }
        self.bind_static();
        self.restore(&start.fdb);
        self.partial = !start.complete;
        self.recalled = self.partial && self.ports.is_empty();
        // A capture of some frames has no FDB either.
        self.early = self.recalled || start.complete && !start.fdb_complete;
        Ok(())
    }

    fn port(&self, interface: u32) -> Option<PortId> {
        *self.ports.get(interface as usize)?
    }

    fn restore(&mut self, entries: &[state::Entry]) {
        let fixed_too = self.wanted.config.is_none();
        let mut known: Vec<FdbEntry> = (entries.iter())
            .filter(|entry| fixed_too || entry.kind == EntryKind::Dynamic)
            .filter_map(|entry| {
                Some(FdbEntry {
                    vid: VlanId::new(entry.vid),
                    mac: entry.mac,
                    port: self.port(entry.interface)?,
                    kind: entry.kind,
                    age: Duration::from_millis(entry.age_ms),
                })
            })
            .collect();
        self.bridge.restore(self.now, &mut known);
    }

    /// What happened to the switch; of that, what a configuration says is left out
    /// if there is another.
    fn change(&mut self, what: What) {
        let as_recorded = self.wanted.config.is_none();
        match what {
            What::PortAdded(port) => {
                self.add(port.interface, PortId::new(port.id), port.name, port.up, port.flags);
            }
            What::PortRemoved { interface } => {
                if let Some(place) = self.ports.get_mut(interface as usize)
                    && let Some(id) = place.take()
                {
                    self.bridge.remove_port(id);
                }
            }
            What::PortSet { interface, flags } if as_recorded => {
                if let Some(id) = self.port(interface) {
                    self.bridge.set_port(id, flags);
                }
            }
            What::Link { interface, up } => {
                if let Some(id) = self.port(interface) {
                    let has = |config: &Config| config.port(&self.names[id.index()]).is_some();
                    let configured = self.wanted.config.as_ref().is_none_or(has);
                    self.bridge.set_link(id, up && configured);
                }
            }
            What::Settings(settings) if as_recorded => {
                // The switch was told so, and did.
                let _ = self.bridge.configure(self.now, settings.into());
            }
            What::EntrySet(entry) if as_recorded => {
                if let Some(port) = self.port(entry.interface) {
                    let vid = VlanId::new(entry.vid);
                    let _ = self.bridge.fdb_add(self.now, vid, entry.mac, port, entry.kind);
                }
            }
            What::EntryDeleted { mac, vid } => {
                let _ = self.bridge.fdb_del(VlanId::new(vid), mac);
            }
            What::Flushed { interface, vid, mac, statics } => {
                let port = interface.map(|interface| self.port(interface));
                // Of a port that is not there nothing can go.
                if port == Some(None) {
                    return;
                }
                let kinds = if statics { FlushKinds::All } else { FlushKinds::Dynamic };
                let scope = FlushScope { port: port.flatten(), vid: vid.map(VlanId::new), mac, kinds };
                self.bridge.fdb_flush(&scope);
            }
            What::Swept => {
                let _ = self.bridge.sweep(self.now);
            }
            What::PortSet { .. } | What::Settings(_) | What::EntrySet(_) => {}
        }
    }
}
