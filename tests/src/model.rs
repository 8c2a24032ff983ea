//! What the bridge must do, said as simply as it can be: maps, and scans from end to end. It is
//! run beside the bridge on the same steps; where they differ, one is wrong.
//! Deliberately absent: speed, and every idea of the bridge's about it. Laid out by hand, to be seen whole.
#![expect(missing_docs, reason = "each thing means what it means in the bridge")]

use std::collections::{BTreeMap, BTreeSet};

use vswitch::bridge::DropReason::{self, *};
use vswitch::bridge::{EntryKind, FlushKinds, PortCounters, PortSettings, Settings};
use vswitch::frame::MacAddr;

use crate::scenario::{PORTS, Sent, Step};

/// An entry of the FDB; `order` grows with each first refresh in a tick.
#[derive(Clone, Debug)]
pub struct Entry { pub port: u8, pub kind: EntryKind, updated: u64, order: u64 }

/// The whole switch.
#[derive(Debug, Default)]
pub struct Model {
    settings: Settings, now: u64, order: u64,
    ports: BTreeMap<u8, (PortSettings, bool)>,
    pub fdb: BTreeMap<MacAddr, Entry>,
    pub counters: BTreeMap<u8, PortCounters>,
}

impl Model {
    pub fn counters(&mut self, port: u8) -> &mut PortCounters {
        self.counters.entry(port).or_insert(PortCounters::ZERO)
    }
    /// Any step but a frame; false if it is refused.
    pub fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Switch(settings) => {
                if (settings.fdb_size as usize) < self.fdb.values().filter(|entry| !dynamic(entry)).count() { return false; }
                self.settings = *settings;
                while self.fdb.len() > self.capacity() { self.remove_oldest(self.fullest()); }
                self.fdb.retain(|_, entry| !settings.ageing.is_zero() || !dynamic(entry));
            }
            Step::Port(port, settings) => {
                let port = port.get();
                if !self.ports.contains_key(&port) { self.counters.remove(&port); }
                self.ports.entry(port).or_insert((*settings, true)).0 = *settings;
                while self.count(port) > settings.max_macs.unwrap_or(u32::MAX) as usize { self.remove_oldest(port); }
            }
            Step::Delete(port) => {
                self.ports.remove(&port.get());
                self.fdb.retain(|_, entry| entry.port != port.get());
                self.counters.remove(&port.get());
            }
            Step::Link(port, up) => {
                if let Some(port) = self.ports.get_mut(&port.get()) { port.1 = *up; }
                self.fdb.retain(|_, entry| entry.port != port.get() || *up || !dynamic(entry));
            }
            Step::After(time) => self.now += millis(*time),
            Step::Sweep => for port in 0..PORTS { while self.reclaim(port) {} },
            Step::Fix(kind, mac, port) => {
                let is_full = self.fdb.len() >= self.capacity() && !self.fdb.contains_key(mac);
                if !mac.is_valid_source() || !self.ports.contains_key(&port.get()) { return false; }
                if is_full && !self.remove_oldest(self.fullest()) { return false; }
                self.insert(*mac, port.get(), *kind);
            }
            Step::Forget(mac) => return self.fdb.remove(mac).is_some(),
            Step::Flush(scope) => self.fdb.retain(|mac, entry| {
                scope.port.is_some_and(|port| port.get() != entry.port) || scope.mac.is_some_and(|only| only != *mac)
                    || scope.vid.is_some_and(|vid| vid.get() != 0) || scope.kinds == FlushKinds::Dynamic && !dynamic(entry)
            }),
            Step::Send(_) => unreachable!("frames are sent, not stepped"),
        }
        true
    }
    pub fn send(&mut self, sent: &Sent) -> Result<BTreeSet<u8>, DropReason> {
        let port = sent.port.get();
        let verdict = self.judge(sent, port);
        self.counters(port).rx += 1;
        self.counters(port).rx_bytes += sent.counted() as u64;
        match &verdict {
            Ok(to) => { self.counters(port).forwarded += 1; to.iter().for_each(|to| self.counters(*to).copies += 1); }
            Err(reason) => self.counters(port).drops[reason.index()] += 1,
        }
        verdict
    }
    fn judge(&mut self, sent: &Sent, port: u8) -> Result<BTreeSet<u8>, DropReason> {
        let Some((flags, true)) = self.ports.get(&port).copied() else { return Err(PortDown) };
        if let Some(fault) = sent.fault { return Err(fault); }
        if sent.size < 14 { return Err(Runt); }
        if sent.size < 18 && matches!(sent.tags.first(), Some((0x8100 | 0x88a8 | 0x9100, _))) { return Err(MalformedTag); }
        if sent.src.is_group() || sent.src == MacAddr::ZERO { return Err(BadSource); }
        let owner = self.live(sent.src);
        let is_fixed = owner.as_ref().is_some_and(|owner| !dynamic(owner));
        let is_own = owner.is_some_and(|owner| owner.port == port);
        if is_fixed && !is_own { self.counters(port).spoofed += 1; }
        if flags.locked && !is_own { return Err(Locked); }
        if flags.learning && !self.settings.ageing.is_zero() && !is_fixed { self.learn(sent.src, port, &flags); }
        if let Some(last) = sent.dst.reserved() && (last == 1 || !(flags.transparent || self.settings.transparent)) {
            self.counters(port).reserved[last as usize] += 1;
            return Err(Reserved);
        }
        let known = self.live(sent.dst).map(|entry| entry.port);
        if sent.dst == sent.src || known == Some(port) { return Err(Filtered); }
        let wants = |to: u8, flags: &PortSettings| match known {
            Some(egress) => to == egress,
            None if sent.dst == MacAddr::BROADCAST => flags.bcast_flood,
            None => if sent.dst.is_group() { flags.mcast_flood } else { flags.flood },
        };
        let to: BTreeSet<u8> = self.ports.iter()
            .filter(|(to, (_, is_up))| *is_up && **to != port)
            .filter(|(to, (other, _))| !(flags.isolated && other.isolated) && wants(**to, other))
            .map(|(to, _)| *to).collect();
        if to.is_empty() { Err(NoEgress) } else { Ok(to) }
    }
    fn learn(&mut self, mac: MacAddr, port: u8, flags: &PortSettings) {
        let known = self.live(mac);
        if known.is_none() { self.fdb.remove(&mac); }
        let tick = 1 << (millis(self.settings.ageing) / 64).max(1).ilog2();
        if let Some(entry) = &known && entry.port == port {
            if entry.updated / tick == self.now / tick { self.fdb.insert(mac, Entry { updated: self.now, ..*entry }); }
            else { self.insert(mac, port, entry.kind); }
            return;
        }
        let has_place = self.count(port) < flags.max_macs.unwrap_or(u32::MAX) as usize || self.reclaim(port);
        let is_full = known.is_none() && self.fdb.len() >= self.capacity();
        let share = (self.capacity() / self.ports.len()).max(1);
        let has_place = has_place && (!is_full
            || if self.count(port) < share { self.remove_oldest(self.fullest()) } else { self.reclaim(port) });
        let counters = self.counters(port);
        if !has_place { counters.not_learned += 1; return; }
        if known.is_some() { counters.moved += 1 } else { counters.learned += 1 }
        self.insert(mac, port, EntryKind::Dynamic);
    }
    fn insert(&mut self, mac: MacAddr, port: u8, kind: EntryKind) {
        self.order += 1;
        self.fdb.insert(mac, Entry { port, kind, updated: self.now, order: self.order });
    }
    pub fn is_live(&self, entry: &Entry) -> bool {
        !dynamic(entry) || self.now - entry.updated < millis(self.settings.ageing)
    }
    fn live(&self, mac: MacAddr) -> Option<Entry> { self.fdb.get(&mac).filter(|entry| self.is_live(entry)).cloned() }
    fn capacity(&self) -> usize { self.settings.fdb_size as usize }
    fn count(&self, port: u8) -> usize { self.fdb.values().filter(|entry| dynamic(entry) && entry.port == port).count() }
    fn fullest(&self) -> u8 { (0..PORTS).rev().max_by_key(|port| self.count(*port)).unwrap_or(0) }
    fn oldest(&self, port: u8) -> Option<MacAddr> {
        let own = self.fdb.iter().filter(|(_, entry)| dynamic(entry) && entry.port == port);
        own.min_by_key(|(_, entry)| entry.order).map(|(mac, _)| *mac)
    }
    fn remove_oldest(&mut self, port: u8) -> bool { self.oldest(port).is_some_and(|mac| self.fdb.remove(&mac).is_some()) }
    fn reclaim(&mut self, port: u8) -> bool { self.oldest(port).is_some_and(|mac| self.live(mac).is_none()) && self.remove_oldest(port) }
}

fn dynamic(entry: &Entry) -> bool { entry.kind == EntryKind::Dynamic }
fn millis(time: std::time::Duration) -> u64 { u64::try_from(time.as_millis()).unwrap_or(u64::MAX) }
