//! What learning a source comes to, before anything is done: the rules of
//! learning, for [`Fdb::learn`], which carries the plan out, and for a
//! [`Trial`], which only wants to know.
//!
//! Deliberately absent: any change of the table.

use super::{Class, Fdb, Key, Learned, Limit, Slot, address};
use crate::bridge::PortId;
use crate::frame::{MacAddr, VlanId};

/// What learning comes to, and which entries go for it.
pub(super) struct Plan {
    pub learned: Learned,
    /// The source's own entry has aged out, and goes first.
    pub stale: bool,
    /// Word of another entry that gives its place.
    pub victim: Option<u64>,
}

impl Plan {
    const fn just(learned: Learned) -> Plan {
        Plan { learned, stale: false, victim: None }
    }
}

/// What a decision asks of the table: the table itself, which learns, or a
/// [`Trial`].
pub(in crate::bridge) trait Table {
    /// The port that `key` is on, unless it has aged out.
    fn look_up(&self, key: Key, now: u64) -> Option<PortId>;
    /// The port to which the operator bound `key`.
    fn fixed_on(&self, key: Key) -> Option<PortId>;
    /// Whether nothing is learned: the switch is a hub.
    fn is_hub(&self) -> bool;
    /// Learns that `key` was seen on `port`, which may have at most `limit`
    /// dynamic entries.
    fn learn(&mut self, key: Key, port: PortId, limit: u32, now: u64) -> Learned;
    /// The entry that gave its place to what was learned last.
    fn victim(&self) -> Option<(VlanId, MacAddr)>;
}

impl Table for &mut Fdb {
    #[inline(always)]
    fn look_up(&self, key: Key, now: u64) -> Option<PortId> {
        Fdb::look_up(self, key, now)
    }

    #[inline(always)]
    fn fixed_on(&self, key: Key) -> Option<PortId> {
        Fdb::fixed_on(self, key)
    }

    #[inline(always)]
    fn is_hub(&self) -> bool {
        Fdb::is_hub(self)
    }

    #[inline(always)]
    fn learn(&mut self, key: Key, port: PortId, limit: u32, now: u64) -> Learned {
        Fdb::learn(self, key, port, limit, now)
    }

    fn victim(&self) -> Option<(VlanId, MacAddr)> {
        self.victim.map(address)
    }
}

/// A table that learns nothing, and answers for one frame as if it had.
pub(in crate::bridge) struct Trial<'a> {
    fdb: &'a Fdb,
    /// Word of the entry that would have given its place.
    victim: Option<u64>,
}

impl<'a> Trial<'a> {
    pub fn new(fdb: &'a Fdb) -> Trial<'a> {
        Trial { fdb, victim: None }
    }
}

impl Table for Trial<'_> {
    fn look_up(&self, key: Key, now: u64) -> Option<PortId> {
        if self.victim == Some(key.word) { None } else { self.fdb.look_up(key, now) }
    }

    fn fixed_on(&self, key: Key) -> Option<PortId> {
        self.fdb.fixed_on(key)
    }

    fn is_hub(&self) -> bool {
        self.fdb.is_hub()
    }

    fn learn(&mut self, key: Key, port: PortId, limit: u32, now: u64) -> Learned {
        let plan = self.fdb.plan(key, self.fdb.index.find(key), port, limit, now);
        self.victim = plan.victim;
        plan.learned
    }

    fn victim(&self) -> Option<(VlanId, MacAddr)> {
        self.victim.map(address)
    }
}

impl Fdb {
    /// What learning that `key`, whose entry is `at`, was seen on `port`, which
    /// may have at most `limit` dynamic entries, comes to.
    #[inline]
    pub(super) fn plan(&self, key: Key, at: Option<usize>, port: PortId, limit: u32, now: u64) -> Plan {
        let own = at.map(|at| *self.index.slot(at));
        match own {
            Some(own) if !own.is_dynamic() => {
                let on = own.port();
                Plan::just(if on == port { Learned::Known } else { Learned::Foreign(on) })
            }
            Some(own) if self.is_live(&own, now) => self.plan_move(key, own.port(), port, limit, now),
            Some(_) | None => self.plan_new(key, own, port, limit, now),
        }
    }

    fn plan_move(&self, key: Key, from: PortId, port: PortId, limit: u32, now: u64) -> Plan {
        if from == port {
            return Plan::just(Learned::Known);
        }
        if self.order.len(port) < limit {
            return Plan::just(Learned::Moved(from));
        }
        match self.aged_on(port, key, now) {
            None => Plan::just(Learned::Refused(Limit::Port)),
            victim @ Some(_) => Plan { learned: Learned::Moved(from), stale: false, victim },
        }
    }

    /// `own` is the source's own entry, which has aged out.
    fn plan_new(&self, key: Key, own: Option<Slot>, port: PortId, limit: u32, now: u64) -> Plan {
        let stale = own.is_some();
        let len = self.len - u32::from(stale);
        let port_len = self.order.len(port) - u32::from(own.is_some_and(|own| own.port() == port));
        let (full, victim) = if port_len >= limit {
            (Limit::Port, self.aged_on(port, key, now))
        } else if len < self.capacity {
            return Plan { learned: Learned::New, stale, victim: None };
        } else if port_len < self.share {
            (Limit::Table, self.order.first(Class::Dynamic, self.order.fullest()))
        } else {
            (Limit::Table, self.aged_on(port, key, now))
        };
        let learned = if victim.is_some() { Learned::New } else { Learned::Refused(full) };
        Plan { learned, stale, victim }
    }

    /// The oldest dynamic entry of `port` but `key`'s own, if it has aged out.
    fn aged_on(&self, port: PortId, key: Key, now: u64) -> Option<u64> {
        let word = self.order.iter(Class::Dynamic, port).find(|word| *word != key.word)?;
        let slot = self.index.slot(self.index.find(self.index.key_of(word))?);
        (!self.is_live(slot, now)).then_some(word)
    }
}
