//! Commands, carried out between two turns.

use std::io;
use std::time::Duration;

use mio::Token;

use super::observe::Change;
use super::{Command, Engine, PortSnapshot, Slot, Snapshot, Tuning};
use crate::bridge::{PortCounters, PortId, Time};
use crate::port::{Link, Losses, Offloads, Port};

/// Places of the FDB read at a time: two cache lines each, some 20 µs from
/// memory that nobody touched lately.
const FDB_CHUNK: u32 = 256;

/// The shortest ageing time with which the kernel forwards: with less, stations that
/// speak all the time would seem to have aged.
const AGEING_MIN: Duration = Duration::from_secs(1);

/// The link of a port whose device is missing.
const ABSENT: Link = Link { up: false, mtu: 1500, offloads: Offloads::NONE };

/// Whether a station's age as the kernel knows it, to some 0.15 s, is good enough for
/// `ageing`. No ageing time at all is a hub, which lends nothing.
pub(super) fn can_age(ageing: Duration) -> bool {
    ageing.is_zero() || ageing >= AGEING_MIN
}

impl Engine {
    /// Carries out one command. A reply that nobody waits for is dropped.
    pub(super) fn obey(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::AddPort { id, port, settings, reply } => {
                let _ = reply.send(self.add_port(id, port, settings));
            }
            Command::SwapPort { id, port, reply } => {
                let _ = reply.send(self.swap_port(id, port));
            }
            Command::RemovePort { id, reply } => {
                let port = self.take_device(id);
                if let Some(slot) = self.ports[id.index()].take() {
                    self.retired_losses = self.retired_losses.and(slot.losses_before);
                }
                self.update_fast(id);
                self.count_fast();
                let counters = self.bridge.counters().port(id).clone();
                self.bridge.remove_port(id);
                self.show_removed(id, counters);
                // Before the answer, after which the number may be another's.
                if !self.bridge.notes_mut().is_empty() {
                    self.tell(now);
                }
                let _ = reply.send(port);
            }
            Command::SetPort { id, settings } => {
                self.bridge.set_port(id, settings);
                self.update_fast(id);
                self.show_change(Change::PortSet { id, settings });
            }
            Command::SetLink { id, up, mtu } => self.set_link(id, up, mtu),
            Command::Configure { settings, tuning, reply } => {
                let outcome = self.bridge.configure(now, settings);
                if outcome.is_ok() {
                    self.set_tuning(tuning);
                    self.show_change(Change::Configured(settings));
                }
                let _ = reply.send(outcome);
            }
            Command::FdbAdd { vid, mac, port, kind, reply } => {
                let outcome = self.bridge.fdb_add(now, vid, mac, port, kind);
                if outcome.is_ok() {
                    self.show_change(Change::EntrySet { vid, mac, port, kind });
                }
                self.recall_fast();
                let _ = reply.send(outcome);
            }
            Command::FdbDel { vid, mac, reply } => {
                let outcome = self.bridge.fdb_del(vid, mac);
                if outcome.is_ok() {
                    self.show_change(Change::EntryDeleted { vid, mac });
                }
                self.recall_fast();
                let _ = reply.send(outcome);
            }
            Command::FdbFlush { scope, reply } => {
                let flushed = self.bridge.fdb_flush(&scope);
                self.show_change(Change::Flushed(scope));
                self.recall_fast();
                let _ = reply.send(flushed);
            }
            Command::FdbRead { start, reply } => {
                let _ = reply.send(self.bridge.fdb_page(now, start, FDB_CHUNK));
            }
            Command::Trace { ingress, frame, vnet, reply } => {
                let _ = reply.send(Box::new(self.trace(now, ingress, &frame, vnet)));
            }
            Command::Read { reply } => {
                self.count_fast();
                let _ = reply.send(self.snapshot(now));
            }
            Command::Observe { id, want } => self.observe(now, id, want),
            Command::ObservePort { id, port, is_wanted } => {
                if let Some(observer) = self.observer.as_mut() {
                    observer.set_port(id, port, is_wanted);
                }
            }
            Command::ObserveFdb { id, start } => self.show_fdb(now, id, start),
            Command::Stop => self.stopping = true,
        }
        self.recall_fast();
    }

    /// Takes back from the kernel what a command has changed: before its answer, after
    /// which nobody expects frames to go the old way.
    fn recall_fast(&mut self) {
        if let Some(fast) = self.fast.as_mut() {
            fast.recall(&mut self.bridge);
        }
    }

    pub(super) fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
        let Some(fast) = self.fast.as_mut() else { return };
        // Who looks wants to see every frame, and the kernel shows none. What it forwarded
        // while we stop, nobody would count.
        let is_wanted = tuning.fast_path && self.observer.is_none() && !self.stopping;
        fast.enable(is_wanted && can_age(self.bridge.settings().ageing));
        fast.set_padding(tuning.pad_runts);
        for id in self.bridge.ports().iter() {
            self.update_fast(id);
        }
    }

    fn add_port(
        &mut self,
        id: PortId,
        port: Option<Box<dyn Port>>,
        settings: crate::bridge::PortSettings,
    ) -> io::Result<()> {
        self.bridge.add_port(id, settings);
        self.show_change(Change::PortAdded { id, settings });
        self.ports[id.index()] = Some(Slot {
            port: None,
            link: ABSENT,
            losses: Losses::default(),
            losses_before: Losses::default(),
        });
        self.put_device(id, port).inspect_err(|_| {
            self.bridge.remove_port(id);
            self.show_removed(id, PortCounters::ZERO);
            self.ports[id.index()] = None;
            self.update_fast(id);
        })
    }

    fn swap_port(&mut self, id: PortId, port: Option<Box<dyn Port>>) -> io::Result<Option<Box<dyn Port>>> {
        let old = self.take_device(id);
        self.put_device(id, port)?;
        Ok(old)
    }

    /// Puts a device into the port's slot. A device that has frames already
    /// gets its first turn at once: the edge may have passed.
    fn put_device(&mut self, id: PortId, port: Option<Box<dyn Port>>) -> io::Result<()> {
        let Some(slot) = self.ports[id.index()].as_mut() else { return Ok(()) };
        let Some(mut port) = port else {
            slot.link = ABSENT;
            self.set_bridge_link(id, false);
            self.update_fast(id);
            return Ok(());
        };
        port.register(self.poll.registry(), Token(id.index()))?;
        slot.link = port.link();
        let up = slot.link.up;
        self.spin.add(id, port.as_ref());
        slot.port = Some(port);
        self.set_bridge_link(id, up);
        self.ready.insert(id);
        self.update_fast(id);
        Ok(())
    }

    fn take_device(&mut self, id: PortId) -> Option<Box<dyn Port>> {
        self.ready.remove(id);
        self.spin.remove(id);
        let slot = self.ports[id.index()].as_mut()?;
        let mut port = slot.port.take()?;
        // A device that is gone left epoll by itself.
        let _ = port.deregister(self.poll.registry());
        // The next one begins at nothing, and the port goes on.
        slot.losses_before = slot.losses_before.and(port.losses());
        slot.losses = Losses::default();
        self.update_fast(id);
        Some(port)
    }

    fn set_link(&mut self, id: PortId, up: bool, mtu: u32) {
        let Some(slot) = self.ports[id.index()].as_mut() else { return };
        let Some(port) = slot.port.as_mut() else { return };
        port.set_link(Link { up, mtu, ..slot.link });
        slot.link = port.link();
        let up = slot.link.up;
        self.set_bridge_link(id, up);
        self.update_fast(id);
        // Whatever the fault was, frames may be waiting behind it.
        self.ready.insert(id);
    }

    /// Every counter at this instant.
    pub(super) fn snapshot(&self, now: Time) -> Snapshot {
        let counters = self.bridge.counters();
        let ports = (0..=u8::MAX).map(PortId::new).filter_map(|id| {
            let slot = self.ports[id.index()].as_ref()?;
            Some(PortSnapshot {
                id,
                link: slot.port.is_some().then_some(slot.link),
                counters: counters.port(id).clone(),
                losses: slot.losses_before.and(slot.losses),
                macs: self.bridge.fdb_port_len(id),
            })
        });
        Snapshot {
            now,
            ports: ports.collect(),
            retired: counters.retired.clone(),
            retired_losses: self.retired_losses,
            fdb_len: self.bridge.fdb_len(),
            moves: self.bridge.moves().to_vec(),
            turns: self.turns,
        }
    }
}
