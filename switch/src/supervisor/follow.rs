//! Devices come and go: link events of the kernel and faults that the data
//! thread met both lead to one question, "what is this interface now?", and to
//! one of three answers: its link changed, it is gone, or it is back.
//!
//! Deliberately absent: trust in what an event says; it is only the occasion to
//! ask. And making a TAP again that somebody deleted.

use std::os::fd::AsFd as _;

use crate::bridge::PortId;
use crate::engine::{Command, Ended, Report};
use crate::port::watch::{LinkEvent, NamespaceId, Watcher};
use crate::port::{Device, DeviceState, Endpoint, Fault, Kind, Link, Opened};

use super::{Held, Supervisor, close};

/// Retries of a device that is there and cannot be opened become rarer, up to
/// one in so many: each may cost a search through /proc.
const PATIENCE_MAX: u32 = 16;

impl Supervisor {
    /// Reads what the data thread reported, and looks after each device.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn take_reports(&mut self) -> Result<(), Ended> {
        while let Some(report) = self.engine.report()? {
            let (id, fault) = match report {
                Report::Fault { id, fault } => (id, fault),
                Report::Link { id, link } => {
                    self.note_link(id, link);
                    continue;
                }
            };
            let Some(position) = self.ports.iter().position(|held| held.id == id) else { continue };
            if self.ports[position].device.as_ref().is_some_and(|device| device.endpoint().is_some()) {
                self.take_fault(position, fault)?;
                continue;
            }
            match fault {
                Fault::Down | Fault::Protocol(_) => self.examine(position)?,
                // Whatever has its name or number now, the port must be opened
                // again to have it.
                Fault::Gone => {
                    self.lose(position)?;
                    self.reopen(position)?;
                }
                // The interface may look well and fail again at once: it rests
                // until the next retry.
                Fault::Os(errno) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    let held = &mut self.ports[position];
                    tracing::warn!("{}: its device failed: {error}", held.name);
                    held.note = format!("its device failed: {error}");
                    (held.link.up, held.unsure) = (false, true);
                    self.tell_fault(position);
                }
            }
        }
        Ok(())
    }

    /// Notes that a port's own link is another now.
    fn note_link(&mut self, id: PortId, link: Link) {
        let Some(position) = self.ports.iter().position(|held| held.id == id) else { return };
        let held = &mut self.ports[position];
        if link.up != held.link.up {
            tracing::info!("{}: {}", held.name, if link.up { "up" } else { "down" });
        }
        held.link = link;
        self.tell_state(position);
    }

    /// Reads the kernel's link events, and looks after the devices they concern.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn follow(&mut self, links: &mut Watcher) -> Result<(), Ended> {
        let own = links.own();
        let events = links.events();
        for position in 0..self.ports.len() {
            if events.iter().any(|event| self.concerns(position, event, own)) {
                if self.ports[position].device.is_some() {
                    self.examine(position)?;
                }
                if self.ports[position].device.is_none() {
                    self.reopen(position)?;
                }
            }
        }
        self.watch_namespaces(links)
    }

    /// Watches every namespace that a device is in, and no other.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn watch_namespaces(&mut self, links: &mut Watcher) -> Result<(), Ended> {
        let mut needed = Vec::new();
        for position in 0..self.ports.len() {
            let held = &mut self.ports[position];
            let Some(namespace) = held.device.as_ref().and_then(Device::namespace) else { continue };
            match links.follow(namespace.as_fd()) {
                // What happened between the move and now was not heard.
                Ok(true) => self.examine(position)?,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!("{}: its namespace cannot be watched: {error}", held.name);
                    held.unsure = true;
                }
            }
            needed.extend(NamespaceId::of(namespace.as_fd()).ok());
        }
        links.keep(&needed);
        Ok(())
    }

    fn concerns(&self, position: usize, event: &LinkEvent, own: NamespaceId) -> bool {
        let held = &self.ports[position];
        match (event, &held.device) {
            (LinkEvent::Overflow, _) => true,
            (LinkEvent::Interface { namespace, ifindex, .. }, Some(device)) => {
                device.is(*namespace, own, *ifindex)
            }
            (LinkEvent::Interface { namespace, name, .. }, None) => *namespace == own && *name == held.target,
        }
    }

    /// Asks what a device is now, and tells the engine.
    pub(super) fn examine(&mut self, position: usize) -> Result<(), Ended> {
        let held = &mut self.ports[position];
        let Some(device) = held.device.as_mut() else { return Ok(()) };
        if device.endpoint().is_some() {
            return self.look(position);
        }
        held.unsure = false;
        match device.examine() {
            Ok(DeviceState::Present { up, mtu }) => {
                let up = if device.is_vhost() { held.link.up } else { up };
                if (up, mtu) != (held.link.up, held.link.mtu) {
                    tracing::info!("{}: {}, mtu {mtu}", held.name, if up { "up" } else { "down" });
                }
                (held.link.up, held.link.mtu) = (up, mtu);
                held.note.clear();
                let id = held.id;
                self.tell_state(position);
                self.engine.send(Command::SetLink { id, up, mtu })
            }
            // What was known holds until the next retry brings an answer.
            Err(error) => {
                tracing::debug!("{}: no answer about its device: {error}", held.name);
                held.unsure = true;
                Ok(())
            }
            Ok(DeviceState::Gone) => self.lose(position),
        }
    }

    /// Takes a port's device away, for the time being.
    fn lose(&mut self, position: usize) -> Result<(), Ended> {
        let held = &mut self.ports[position];
        // What was made of it went with it.
        if held.take_device().is_none() {
            return Ok(());
        }
        (held.link.up, held.unsure, held.patience) = (false, false, 1);
        held.note = format!("{} is gone; the port is back when it is", held.target);
        tracing::warn!("{}: {}", held.name, held.note);
        let id = held.id;
        self.tell_fault(position);
        // Only a new device can be refused.
        drop(self.engine.ask(|reply| Command::SwapPort { id, port: None, reply })?);
        Ok(())
    }

    /// Opens a device that was missing, if it is there again.
    fn reopen(&mut self, position: usize) -> Result<(), Ended> {
        let held = &self.ports[position];
        let Some(config) = self.config.port(&held.name).cloned() else { return Ok(()) };
        // A bare name makes its TAP at start-up only: who deletes a TAP of a
        // running switch wants it gone, and who makes one wants it used.
        if !crate::port::exists(&config.spec) {
            return Ok(());
        }
        match self.open(&config) {
            Ok(Opened { port, device, link, notes }) => {
                let id = self.ports[position].id;
                let swapped = self.engine.ask(|reply| Command::SwapPort { id, port, reply })?;
                let held = &mut self.ports[position];
                match swapped {
                    Ok(_) => {
                        tracing::info!("{}: back{}", held.name, if link.up { "" } else { ", down" });
                        for note in notes {
                            tracing::info!("{}: {note}", held.name);
                        }
                        (held.device, held.link, held.unsure) = (Some(device), link, false);
                        held.note.clear();
                        self.tell_state(position);
                    }
                    Err(error) => {
                        held.note = error.to_string();
                        held.patience = (2 * held.patience).min(PATIENCE_MAX);
                        close(&held.name, device);
                    }
                }
                if let Err(error) = self.open_door(position)? {
                    let held = &mut self.ports[position];
                    held.note = error.to_string();
                    held.take_device().and_then(|device| close(&held.name, device));
                }
            }
            Err(error) => {
                let text = error.to_string();
                let held = &mut self.ports[position];
                held.patience = (2 * held.patience).min(PATIENCE_MAX);
                // The same refusal comes with each event: say it once.
                if held.note != text {
                    tracing::warn!("{}: it is back, but {text}", held.name);
                    held.note = text;
                }
            }
        }
        Ok(())
    }

    /// Whether something must be asked again without an event: a device that
    /// is missing may be there, held by somebody or in use by the host, and no
    /// event says when that ends; another gave no answer.
    pub fn is_waiting(&self) -> bool {
        self.ports.iter().any(|held| held.unsure || held.device.is_none() || is_silent(held))
    }

    /// Asks again for what is missing or unknown.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn retry(&mut self) -> Result<(), Ended> {
        self.retries = self.retries.wrapping_add(1);
        for position in 0..self.ports.len() {
            let held = &self.ports[position];
            if held.device.is_none() {
                if self.retries.is_multiple_of(held.patience) {
                    self.reopen(position)?;
                }
            } else if held.unsure || is_silent(held) {
                self.examine(position)?;
            }
        }
        Ok(())
    }

    /// Lines that help a user who starts guests by hand: how QEMU opens the
    /// first TAP that waits for one, or reaches the first socket.
    pub fn hints(&self) -> Option<String> {
        let waiting = self.ports.iter().find(|held| {
            let spec = self.config.port(&held.name).map(|port| port.spec.kind);
            spec == Some(Kind::Auto) && !held.link.up && held.device.is_some()
        });
        let Some(waiting) = waiting else { return self.socket_hint() };
        let name = &waiting.target;
        Some(format!(
            "guest: qemu-system-x86_64 … -netdev tap,id=t0,ifname={name},script=no,downscript=no \
             -device e1000,netdev=t0,mac=02:00:00:00:00:01"
        ))
    }
}

/// Whether its socket has to be looked at without being called.
fn is_silent(held: &Held) -> bool {
    held.device.as_ref().and_then(Device::endpoint).is_some_and(Endpoint::is_silent)
}
