//! Devices come and go: link events of the kernel and faults that the data
//! thread met both lead to one question, "what is this interface now?", and to
//! one of three answers: its link changed, it is gone, or it is back.

use crate::engine::{Command, Ended, Report};
use crate::port::watch::{LinkEvent, NamespaceId, Watcher};
use crate::port::{DeviceState, Fault, Kind, Opened};

use super::Supervisor;

impl Supervisor {
    /// Reads what the data thread reported, and looks after each device.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn take_reports(&mut self) -> Result<(), Ended> {
        while let Some(Report::Fault { id, fault }) = self.engine.report()? {
            let Some(position) = self.ports.iter().position(|held| held.id == id) else { continue };
            if let Fault::Os(errno) = fault {
                let error = std::io::Error::from_raw_os_error(errno);
                tracing::warn!("{}: its device failed: {error}", self.ports[position].name);
            }
            self.examine(position)?;
        }
        Ok(())
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
        self.watch_namespaces(links);
        Ok(())
    }

    /// Watches every namespace that a device is in, and no other.
    pub fn watch_namespaces(&self, links: &mut Watcher) {
        let mut needed = Vec::new();
        for device in self.ports.iter().filter_map(|held| held.device.as_ref()) {
            let Some(namespace) = device.namespace() else { continue };
            use std::os::fd::AsFd as _;
            match links.follow(namespace.as_fd()) {
                Ok(()) => needed.extend(NamespaceId::of(namespace.as_fd()).ok()),
                Err(error) => tracing::warn!("{}: its namespace cannot be watched: {error}", device.name()),
            }
        }
        links.keep(&needed);
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
    fn examine(&mut self, position: usize) -> Result<(), Ended> {
        let held = &mut self.ports[position];
        let Some(device) = held.device.as_mut() else { return Ok(()) };
        match device.examine() {
            DeviceState::Present { up, mtu } => {
                if (up, mtu) != (held.link.up, held.link.mtu) {
                    tracing::info!("{}: {}, mtu {mtu}", held.name, if up { "up" } else { "down" });
                }
                (held.link.up, held.link.mtu) = (up, mtu);
                held.note.clear();
                self.engine.send(Command::SetLink { id: held.id, up, mtu })
            }
            DeviceState::Gone => {
                let id = held.id;
                held.note = format!("{} is gone; the port is back when it is", held.target);
                held.link.up = false;
                tracing::warn!("{}: {}", held.name, held.note);
                // What was made of it went with it.
                drop(held.device.take());
                // Only a new device can be refused.
                drop(self.engine.ask(|reply| Command::SwapPort { id, port: None, reply })?);
                Ok(())
            }
        }
    }

    /// Opens a device that was missing, if it is there again.
    fn reopen(&mut self, position: usize) -> Result<(), Ended> {
        let held = &self.ports[position];
        let Some(config) = self.config.port(&held.name).cloned() else { return Ok(()) };
        // A bare name makes its TAP at start-up only: who deletes a TAP of a
        // running switch wants it gone, and who makes one wants it used.
        if !crate::port::exists(&held.target) {
            return Ok(());
        }
        match self.open(&config) {
            Ok(Opened { port, device, link, notes }) => {
                let (id, port) = (self.ports[position].id, Some(port));
                let swapped = self.engine.ask(|reply| Command::SwapPort { id, port, reply })?;
                let held = &mut self.ports[position];
                match swapped {
                    Ok(_) => {
                        tracing::info!("{}: back{}", held.name, if link.up { "" } else { ", down" });
                        for note in notes {
                            tracing::info!("{}: {note}", held.name);
                        }
                        (held.device, held.link) = (Some(device), link);
                        held.note.clear();
                    }
                    Err(error) => held.note = error.to_string(),
                }
            }
            Err(error) => {
                let text = error.to_string();
                let held = &mut self.ports[position];
                // The same refusal comes with each event: say it once.
                if held.note != text {
                    tracing::warn!("{}: it is back, but {text}", held.name);
                    held.note = text;
                }
            }
        }
        Ok(())
    }

    /// Whether a device is missing although its interface may be there: held
    /// by somebody for a moment, or in use by the host. No event says when that
    /// ends.
    pub fn is_waiting(&self) -> bool {
        self.ports.iter().any(|held| held.device.is_none())
    }

    /// Tries again to open what is missing.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn retry(&mut self) -> Result<(), Ended> {
        for position in 0..self.ports.len() {
            if self.ports[position].device.is_none() {
                self.reopen(position)?;
            }
        }
        Ok(())
    }

    /// Lines that help a user who starts guests by hand: how QEMU opens the
    /// first TAP that waits for one.
    pub fn hints(&self) -> Option<String> {
        let waiting = self.ports.iter().find(|held| {
            let spec = self.config.port(&held.name).map(|port| port.spec.kind);
            spec == Some(Kind::Auto) && !held.link.up && held.device.is_some()
        })?;
        let name = &waiting.target;
        Some(format!(
            "guest: qemu-system-x86_64 … -netdev tap,id=t0,ifname={name},script=no,downscript=no \
             -device e1000,netdev=t0,mac=02:00:00:00:00:01"
        ))
    }
}
