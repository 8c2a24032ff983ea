//! The control thread's half of the switch: it opens and closes devices,
//! follows their links, applies configuration changes, and asks the engine.
//!
//! Start-up, live change and reload are one path: [`Supervisor::apply`] takes
//! the whole wanted configuration and carries out its difference from the one
//! in force; if a step fails, the steps before it are undone.
//!
//! Deliberately absent: sockets and signals (`run`), frames (`engine`), and
//! any decision on a frame (`bridge`).

mod answer;
mod capture;
mod early;
mod follow;
mod record;
mod recorder;
mod reload;
mod sockets;
mod trace;

pub use reload::Source;

use std::fmt::Write as _;
use std::time::Duration;

use crate::bridge::{EntryKind, FdbError, PORTS_MAX, PortId, PortSettings, Settings};
use crate::capture::Captures;
use crate::config::{Change, Config, Isolation, PortConfig, StaticEntry, diff};
use crate::engine::{Command, Ended, Handle, Snapshot, Tuning};
use crate::events::{Flaps, Happening, Journal};
use crate::port::{
    self, CloseOutcome, Device, FastPath, IsolationMode, Link, Losses, Offloads, OpenError, OpenOptions,
    Opened, Port,
};

/// Why a change was refused; nothing of it is in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration itself is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The key is read only when the switch starts.
    #[error("`{0}` cannot change in a running switch: stop it, and start it with the new value")]
    NeedsRestart(&'static str),
    /// A device could not be opened.
    #[error("port {name}: {error}")]
    Open {
        /// The port.
        name: String,
        /// What was wrong.
        error: OpenError,
    },
    /// The device does not take this MTU.
    #[error("port {name}: its device does not take mtu {mtu}: {error}")]
    Mtu {
        /// The port.
        name: String,
        /// Bytes, or `auto`.
        mtu: String,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// epoll did not take a device.
    #[error("port {name}: {error}")]
    Register {
        /// The port.
        name: String,
        /// What epoll said.
        error: std::io::Error,
    },
    /// The FDB refused an entry.
    #[error(transparent)]
    Fdb(#[from] FdbError),
    /// The data thread is not there any more.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// A port with what is behind it now.
#[derive(Debug)]
struct Held {
    name: String,
    /// The interface's name in the specification, or the socket's path.
    target: String,
    id: PortId,
    /// `None` while the device is missing.
    device: Option<Device>,
    /// What the devices before it have lost.
    losses_before: Losses,
    link: Link,
    /// Whether the journal says that it is up.
    told_up: bool,
    /// Why it is missing or down; else empty.
    note: String,
    /// What is known of the device is old, or it failed for no known reason:
    /// to be examined at the next retry.
    unsure: bool,
    /// It is opened again at one retry of so many.
    patience: u32,
    /// Who was last turned away while a socket had its peer.
    turned_away: String,
}

impl Held {
    /// What its devices have lost, which the engine cannot know.
    fn losses(&mut self) -> Losses {
        let now = self.device.as_mut().map_or_else(Losses::default, Device::losses);
        self.losses_before.and(now)
    }

    /// Takes the device away, to be closed; what it has lost stays counted.
    fn take_device(&mut self) -> Option<Device> {
        self.losses_before = self.losses();
        self.device.take()
    }
}

/// What is left of ports that are in the switch no more.
#[derive(Debug, Default)]
struct Leaving {
    ports: Vec<Box<dyn Port>>,
    /// With the names of their ports.
    devices: Vec<(String, Device)>,
}

impl Leaving {
    /// Closes all of it; says what was left behind.
    fn close(self) -> Vec<String> {
        // Ports first, as when the switch ends.
        port::close_together(self.ports);
        self.devices.into_iter().filter_map(|(name, device)| close(&name, device)).collect()
    }
}

/// Owner of the devices and of the configuration in force.
#[derive(Debug)]
pub struct Supervisor {
    config: Config,
    run_id: String,
    engine: Handle,
    /// What gives ports their places on the kernel's fast path, if it has one.
    fast: Option<FastPath>,
    /// The capture thread, once there was a capture.
    captures: Option<Captures>,
    /// What the recorder writes by itself.
    files: recorder::Files,
    /// Where the ports' sockets ask to be looked at.
    registry: mio::Registry,
    ports: Vec<Held>,
    /// What the devices of deleted ports have lost.
    retired_losses: Losses,
    /// Ports that a change has removed, to be closed together.
    leaving: Leaving,
    /// Where to read the configuration again.
    source: Option<Source>,
    journal: Journal,
    flaps: Flaps,
    /// When the switch started, since 1970, by the wall's clock of then.
    started: Duration,
    /// How many retries there were.
    retries: u32,
    stopping: bool,
}

impl Supervisor {
    /// A supervisor of an engine that has no ports yet. `config` says which
    /// switch this is; its ports and entries come with the first `apply`. Its
    /// engine has the other half of `fast`. `registry` is told of the ports'
    /// sockets, by tokens that [`owns`](Self::owns) knows and
    /// [`greet`](Self::greet) takes.
    pub fn new(
        config: &Config,
        run_id: String,
        engine: Handle,
        fast: Option<FastPath>,
        registry: mio::Registry,
    ) -> Supervisor {
        let (config, ports) = (config.empty(), Vec::new());
        let (uptime, wall) = engine.now();
        Supervisor {
            config,
            run_id,
            engine,
            fast,
            captures: None,
            files: recorder::Files::default(),
            registry,
            ports,
            retired_losses: Losses::default(),
            leaving: Leaving::default(),
            source: None,
            journal: Journal::default(),
            flaps: Flaps::default(),
            started: wall.saturating_sub(Duration::from_nanos(uptime.as_nanos())),
            retries: 0,
            stopping: false,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes `wanted` the configuration in force. Returns lines for the user:
    /// what was created, what to know.
    ///
    /// # Errors
    /// The first step that failed; the steps before it have been undone.
    pub fn apply(&mut self, wanted: Config) -> Result<Vec<String>, ApplyError> {
        wanted.check()?;
        let before = self.config.clone();
        let mut notes = Vec::new();
        match self.steps(&wanted, &mut notes) {
            Ok(()) => {
                self.config = wanted;
                Ok(notes)
            }
            Err(error) => {
                self.undo(&before);
                self.config = before;
                Err(error)
            }
        }
    }

    /// Goes back to `before`, as far as the devices allow: one that cannot be
    /// opened any more is missing from then on, and tried again.
    fn undo(&mut self, before: &Config) {
        for change in diff(&self.config, before) {
            let undone = match (self.step(&change, None, &mut Vec::new()), &change) {
                (Err(error @ ApplyError::Open { .. }), Change::AddPort(port)) => {
                    tracing::warn!("undoing the change: {error}");
                    self.add_absent(port, error.to_string()).map_err(ApplyError::from)
                }
                (undone, _) => undone,
            };
            match undone {
                Ok(()) => record(&mut self.config, change),
                Err(error) => tracing::warn!("undoing the change: {error}"),
            }
        }
        if let Err(error) = self.close_leaving() {
            tracing::warn!("undoing the change: {error}");
        }
    }

    fn steps(&mut self, wanted: &Config, notes: &mut Vec<String>) -> Result<(), ApplyError> {
        let changes = diff(&self.config, wanted);
        let mut early = self.open_early(&changes)?;
        for change in changes {
            if let Err(error) = self.step(&change, early.take(&change), notes) {
                early.close();
                return Err(error);
            }
            record(&mut self.config, change);
        }
        notes.extend(self.close_leaving()?);
        Ok(())
    }

    /// Carries out one change; a port to be added may be `opened` already.
    fn step(
        &mut self,
        change: &Change,
        opened: Option<Opened>,
        notes: &mut Vec<String>,
    ) -> Result<(), ApplyError> {
        // What comes next may need what the removed ports hold.
        if !matches!(change, Change::RemovePort(_)) {
            notes.extend(self.close_leaving()?);
        }
        match change {
            Change::NeedsRestart(key) => return Err(ApplyError::NeedsRestart(key)),
            Change::AddPort(port) => {
                let opened = opened.map_or_else(|| self.open_to_add(port), Ok)?;
                self.add_port(port, opened, notes)?;
            }
            Change::RemovePort(name) => self.remove_port(name)?,
            Change::SetPort { name, flags, mtu } => self.set_port(name, *flags, *mtu)?,
            Change::Settings(settings) => self.configure(*settings, self.tuning())?,
            Change::PadRunts(pad_runts) => {
                self.configure(self.config.settings, Tuning { pad_runts: *pad_runts, ..self.tuning() })?;
            }
            Change::BusyPoll(busy_poll) => {
                self.configure(self.config.settings, Tuning { busy_poll: *busy_poll, ..self.tuning() })?;
            }
            Change::FastPath(fast_path) => {
                self.configure(self.config.settings, Tuning { fast_path: *fast_path, ..self.tuning() })?;
            }
            Change::AddStatic(entry) => self.add_static(entry)?,
            Change::RemoveStatic { mac, vid } => {
                let (mac, vid) = (*mac, *vid);
                // It may have gone with its port; that is what was wanted.
                let _ = self.engine.ask(|reply| Command::FdbDel { vid, mac, reply })?;
            }
        }
        Ok(())
    }

    fn tuning(&self) -> Tuning {
        tuning(&self.config)
    }

    fn configure(&self, settings: Settings, tuning: Tuning) -> Result<(), ApplyError> {
        Ok(self.engine.ask(|reply| Command::Configure { settings, tuning, reply })??)
    }

    fn open(&self, port: &PortConfig) -> Result<Opened, OpenError> {
        let options = OpenOptions {
            switch: self.config.name.clone(),
            name: port.name.clone(),
            run_id: self.run_id.clone(),
            owner: self.config.owner,
            mtu: port.mtu,
            fast: self.fast.clone(),
            takeover: port.takeover,
            isolation: match self.config.isolation {
                Isolation::Auto => IsolationMode::Auto,
                Isolation::Clsact => IsolationMode::Clsact,
                Isolation::Off => IsolationMode::Off,
            },
        };
        port::open(&port.spec, &options)
    }

    /// The same, for a change that names the port when it is refused.
    fn open_to_add(&self, port: &PortConfig) -> Result<Opened, ApplyError> {
        self.open(port).map_err(|error| ApplyError::Open { name: port.name.clone(), error })
    }

    fn add_port(
        &mut self,
        port: &PortConfig,
        opened: Opened,
        notes: &mut Vec<String>,
    ) -> Result<(), ApplyError> {
        let name = || port.name.clone();
        let Opened { port: device_port, device, link, notes: told } = opened;
        if let Err(error) = self.hold(port, device_port, link)? {
            close(&port.name, device);
            return Err(ApplyError::Register { name: name(), error });
        }
        self.happened(Happening::PortAdded { port: port.name.clone(), spec: port.to_string() });
        if let Some(position) = self.ports.len().checked_sub(1) {
            self.ports[position].device = Some(device);
            self.tell_state(position);
            if let Err(error) = self.open_door(position)? {
                self.remove_port(&port.name)?;
                return Err(ApplyError::Register { name: name(), error });
            }
        }
        if !told.is_empty() {
            notes.push(format!("{}: {}", port.name, told.join(", ")));
        }
        Ok(())
    }

    /// A port whose device could not be opened now; it is tried again.
    fn add_absent(&mut self, port: &PortConfig, note: String) -> Result<(), Ended> {
        let link = Link { up: false, mtu: 1500, offloads: Offloads::NONE };
        // Only a device can be refused.
        drop(self.hold(port, None, link)?);
        if let Some(held) = self.ports.last_mut() {
            held.note = note;
        }
        Ok(())
    }

    /// Gives `port` a number, and `device` to the engine; or its refusal.
    fn hold(
        &mut self,
        port: &PortConfig,
        device: Option<Box<dyn Port>>,
        link: Link,
    ) -> Result<std::io::Result<()>, Ended> {
        let mut free = (0..PORTS_MAX).filter_map(|n| u8::try_from(n).ok()).map(PortId::new);
        // `Config::check` allows as many ports as there are numbers.
        let Some(id) = free.find(|id| self.ports.iter().all(|held| held.id != *id)) else {
            return Ok(Err(std::io::ErrorKind::StorageFull.into()));
        };
        let settings = port.flags;
        self.name_port(id, port);
        let added = self.engine.ask(|reply| Command::AddPort { id, port: device, settings, reply })?;
        if added.is_ok() {
            self.ports.push(Held {
                name: port.name.clone(),
                target: port.spec.target.clone(),
                id,
                device: None,
                losses_before: Losses::default(),
                link,
                told_up: false,
                note: String::new(),
                unsure: false,
                patience: 1,
                turned_away: String::new(),
            });
        } else if let Some(captures) = &self.captures {
            captures.unname(id);
        }
        Ok(added)
    }

    /// Takes a port out of the switch; [`close_leaving`](Self::close_leaving) closes it.
    fn remove_port(&mut self, name: &str) -> Result<(), ApplyError> {
        let Some(position) = self.ports.iter().position(|held| held.name == name) else { return Ok(()) };
        let id = self.ports[position].id;
        self.leaving.ports.extend(self.engine.ask(|reply| Command::RemovePort { id, reply })?);
        // The number may be another port's next: what was said of this one is
        // taken while it still means this one.
        self.take_notes();
        let mut held = self.ports.remove(position);
        self.happened(Happening::PortRemoved { port: name.to_owned() });
        let device = held.take_device();
        self.retired_losses = self.retired_losses.and(held.losses_before);
        self.leaving.devices.extend(device.map(|device| (held.name, device)));
        Ok(())
    }

    /// Closes the ports that were removed; says what was left behind.
    fn close_leaving(&mut self) -> Result<Vec<String>, ApplyError> {
        let leaving = std::mem::take(&mut self.leaving);
        if leaving.ports.is_empty() && leaving.devices.is_empty() {
            return Ok(Vec::new());
        }
        let left = leaving.close();
        self.take_reports()?;
        Ok(left)
    }

    fn set_port(&mut self, name: &str, flags: PortSettings, mtu: Option<u32>) -> Result<(), ApplyError> {
        let Some(position) = self.ports.iter().position(|held| held.name == name) else { return Ok(()) };
        let held = &mut self.ports[position];
        let id = held.id;
        // One that is as it was may be another by somebody else's wish.
        let is_new = self.config.port(name).is_none_or(|port| port.mtu != mtu);
        if let Some(device) = held.device.as_mut().filter(|_| is_new) {
            device.set_mtu(mtu).map_err(|error| {
                let mtu = mtu.map_or_else(|| "auto".to_owned(), |mtu| mtu.to_string());
                ApplyError::Mtu { name: name.to_owned(), mtu, error }
            })?;
            // Now, and not by the link event that follows: the reply to this
            // change already tells the new MTU.
            self.examine(position)?;
        }
        self.engine.send(Command::SetPort { id, settings: flags })?;
        Ok(())
    }

    fn add_static(&mut self, entry: &StaticEntry) -> Result<(), ApplyError> {
        let Some(port) = self.ports.iter().find(|held| held.name == entry.port).map(|held| held.id) else {
            return Ok(());
        };
        let (vid, mac) = (entry.vid, entry.mac);
        let kind = if entry.sticky { EntryKind::Sticky } else { EntryKind::Static };
        Ok(self.engine.ask(|reply| Command::FdbAdd { vid, mac, port, kind, reply })??)
    }

    /// Whether a client asked for the end.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Tells the data thread to end.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn stop(&self) -> Result<(), Ended> {
        self.engine.send(Command::Stop)
    }

    /// Removes what was made for this run, after the engine has let go of its
    /// ports; says what is left, and why.
    pub fn close(self) -> Vec<String> {
        let devices = self.ports.into_iter();
        devices.filter_map(|held| held.device.and_then(|device| close(&held.name, device))).collect()
    }

    /// The table that `run` prints when it ends.
    pub fn summary(&self, end: &Snapshot) -> String {
        let mut text = String::new();
        let width = self.ports.iter().map(|held| held.name.len()).max().unwrap_or(0).max("total".len());
        let mut total = end.retired.clone();
        let _ =
            writeln!(text, "{:width$}  {:>12}  {:>12}  {:>8}  {:>8}", "PORT", "RX", "TX", "DROPS", "REFUSED");
        let mut row = |name: &str, counters: &crate::bridge::PortCounters| {
            let _ = writeln!(
                text,
                "{name:width$}  {:>12}  {:>12}  {:>8}  {:>8}",
                counters.rx,
                counters.tx,
                counters.dropped(),
                counters.refused()
            );
        };
        for port in &end.ports {
            let name = self.ports.iter().find(|held| held.id == port.id).map_or("?", |held| &held.name);
            row(name, &port.counters);
            total.add(&port.counters);
        }
        row("total", &total);
        text
    }
}

fn close(name: &str, device: Device) -> Option<String> {
    match device.close() {
        CloseOutcome::Clean => None,
        CloseOutcome::Left(why) => Some(format!("{name}: {why}")),
    }
}

/// The engine's part of a configuration.
pub fn tuning(config: &Config) -> Tuning {
    Tuning { busy_poll: config.busy_poll, pad_runts: config.pad_runts, fast_path: config.fast_path }
}

/// Notes in `config` that `change` is in force.
fn record(config: &mut Config, change: Change) {
    match change {
        Change::NeedsRestart(_) => {}
        Change::RemoveStatic { mac, vid } => config.fdb.retain(|entry| (entry.mac, entry.vid) != (mac, vid)),
        Change::RemovePort(name) => {
            config.ports.retain(|port| port.name != name);
            config.fdb.retain(|entry| entry.port != name);
        }
        Change::Settings(settings) => config.settings = settings,
        Change::PadRunts(pad_runts) => config.pad_runts = pad_runts,
        Change::BusyPoll(busy_poll) => config.busy_poll = busy_poll,
        Change::FastPath(fast_path) => config.fast_path = fast_path,
        Change::SetPort { name, flags, mtu } => {
            if let Some(port) = config.ports.iter_mut().find(|port| port.name == name) {
                (port.flags, port.mtu) = (flags, mtu);
            }
        }
        Change::AddPort(port) => config.ports.push(port),
        Change::AddStatic(entry) => config.fdb.push(entry),
    }
}
