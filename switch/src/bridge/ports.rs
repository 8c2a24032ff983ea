//! What the bridge knows of its ports, kept as the sets that flooding needs.

use super::{PORTS_MAX, PortId, PortSet, PortSettings, Withheld};

/// What a frame without a known destination is, for the flood flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flood {
    Unicast,
    Multicast,
    Broadcast,
}

#[derive(Debug)]
pub(super) struct Ports {
    settings: Box<[PortSettings; PORTS_MAX]>,
    known: PortSet,
    up: PortSet,
    isolated: PortSet,
    /// Ports that are up and let each kind of flood leave.
    flood: [PortSet; 3],
}

impl Ports {
    pub fn new() -> Ports {
        Ports {
            settings: Box::new([PortSettings::default(); PORTS_MAX]),
            known: PortSet::EMPTY,
            up: PortSet::EMPTY,
            isolated: PortSet::EMPTY,
            flood: [PortSet::EMPTY; 3],
        }
    }

    /// Ports that were added and not removed.
    pub fn known(&self) -> PortSet {
        self.known
    }

    #[inline]
    pub fn is_up(&self, port: PortId) -> bool {
        self.up.contains(port)
    }

    #[inline]
    pub fn settings(&self, port: PortId) -> &PortSettings {
        &self.settings[port.index()]
    }

    pub fn add(&mut self, port: PortId, settings: PortSettings) {
        self.known.insert(port);
        self.up.remove(port);
        self.set(port, settings);
    }

    pub fn remove(&mut self, port: PortId) {
        self.known.remove(port);
        self.up.remove(port);
        self.set(port, PortSettings::default());
    }

    pub fn set_up(&mut self, port: PortId, up: bool) {
        self.up.set(port, up && self.known.contains(port));
        self.set(port, *self.settings(port));
    }

    pub fn set(&mut self, port: PortId, settings: PortSettings) {
        self.settings[port.index()] = settings;
        let up = self.is_up(port);
        self.isolated.set(port, settings.isolated);
        self.flood[Flood::Unicast as usize].set(port, up && settings.flood);
        self.flood[Flood::Multicast as usize].set(port, up && settings.mcast_flood);
        self.flood[Flood::Broadcast as usize].set(port, up && settings.bcast_flood);
    }

    /// Where a flood that came in by `ingress` leaves.
    #[inline]
    pub fn flood(&self, kind: Flood, ingress: PortId) -> PortSet {
        let to = self.flood[kind as usize].without(PortSet::one(ingress));
        if self.isolated.contains(ingress) { to.without(self.isolated) } else { to }
    }

    /// The ports that [`flood`](Self::flood) leaves out because of `why`; each
    /// is left out for one reason.
    pub fn withheld(&self, why: Withheld, kind: Flood, ingress: PortId) -> PortSet {
        let others = self.known.without(PortSet::one(ingress));
        let open = others & self.flood[kind as usize];
        match why {
            Withheld::Down => others.without(self.up),
            Withheld::Closed => (others & self.up).without(open),
            Withheld::Isolated => open.without(self.flood(kind, ingress)),
        }
    }

    /// Whether a frame from `ingress` may leave by `egress`, another port.
    #[inline]
    pub fn may_pass(&self, ingress: PortId, egress: PortId) -> bool {
        self.is_up(egress) && !(self.isolated.contains(ingress) && self.isolated.contains(egress))
    }
}
