//! The topologies by number, and in which variants each is measured.

use std::str::FromStr;

use anyhow::{Result, bail};

/// A topology.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rig {
    /// Two hosts behind veth pairs; the switch gets the near ends.
    Netns,
    /// The switch makes two TAPs, which move into the hosts. Peers without
    /// TAPs of their own get the veth pairs.
    OwnedTaps,
    /// The generator holds both TAPs as QEMU does; the switch gets the netdevs.
    Direct,
    /// The generator is two guests' virtqueues in shared memory.
    Queues,
    /// Two QEMU guests.
    Guests,
    /// Only the decision, in memory.
    Core,
    /// As [`Direct`](Rig::Direct), with many TAPs and many stations.
    Ports,
}

/// All of them, in the order of their numbers.
pub(crate) const RIGS: [Rig; 7] =
    [Rig::Netns, Rig::OwnedTaps, Rig::Direct, Rig::Queues, Rig::Guests, Rig::Core, Rig::Ports];

/// Ports of a switch that is measured with many.
pub(crate) const COUNTS: [usize; 5] = [2, 4, 16, 64, 256];

impl Rig {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Rig::Netns => 1,
            Rig::OwnedTaps => 2,
            Rig::Direct => 3,
            Rig::Queues => 4,
            Rig::Guests => 5,
            Rig::Core => 6,
            Rig::Ports => 7,
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Rig::Netns => "Two hosts over veth (`netdev:` ports)",
            Rig::OwnedTaps => "TAPs that the switch owns, moved into two hosts (`tap:` ports)",
            Rig::Direct => "TAP to TAP, held as QEMU holds them (`netdev:` ports)",
            Rig::Queues => "Virtqueues in shared memory (`vhost-user:` ports), dpdk-testpmd as both guests",
            Rig::Guests => "Two QEMU guests (vswitch: `vhost-user:` ports, if not said otherwise)",
            Rig::Core => "The decision alone, in memory",
            Rig::Ports => "Many ports and stations: TAPs, held as QEMU holds them (`netdev:` ports)",
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Rig> {
        RIGS.into_iter().find(|rig| rig.number() == number)
    }

    /// What is set up anew for each of its variants.
    pub(crate) fn variants(self) -> Vec<Variant> {
        match self {
            Rig::Netns | Rig::OwnedTaps | Rig::Direct => [true, false].map(Variant::Offloads).into(),
            Rig::Queues => Queues::ALL.map(Variant::Queues).into(),
            Rig::Guests => Card::ALL.map(Variant::Guests).into(),
            Rig::Core => vec![Variant::Core],
            Rig::Ports => COUNTS.map(Variant::Ports).into(),
        }
    }
}

impl FromStr for Rig {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Rig> {
        match text.parse().ok().and_then(Rig::from_number) {
            Some(rig) => Ok(rig),
            None => bail!("rigs are 1 to {}", RIGS.len()),
        }
    }
}

/// How a topology is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Variant {
    /// Whether what the hosts and generators send may be unfinished.
    Offloads(bool),
    /// What the guests' drivers ask for.
    Queues(Queues),
    /// The guests' network cards.
    Guests(Card),
    /// There is one way.
    Core,
    /// So many ports.
    Ports(usize),
}

impl Variant {
    /// As shown while it is measured.
    pub(crate) fn name(self) -> String {
        match self {
            Variant::Offloads(true) => "offloads on".into(),
            Variant::Offloads(false) => "offloads off".into(),
            Variant::Queues(queues) => queues.name().into(),
            Variant::Guests(card) => card.name().into(),
            Variant::Core => "in memory".into(),
            Variant::Ports(count) => format!("{count} ports"),
        }
    }
}

/// A guest's network card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Card {
    /// virtio-net with all offloads that the guest's port offers.
    Virtio,
    /// virtio-net that finishes every frame.
    Plain,
    /// Has none that anybody behind it could notice.
    E1000,
}

impl Card {
    const ALL: [Card; 3] = [Card::Virtio, Card::Plain, Card::E1000];

    /// As shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Card::Virtio => "virtio-net, offloads on",
            Card::Plain => "virtio-net, offloads off",
            Card::E1000 => "e1000",
        }
    }

    /// As QEMU calls it, with properties. Without checksums a driver has no super-frames.
    pub(crate) const fn model(self) -> &'static str {
        match self {
            Card::Virtio => "virtio-net-pci",
            Card::Plain => {
                "virtio-net-pci,csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,\
                 guest_ecn=off,guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off"
            }
            Card::E1000 => "e1000",
        }
    }
}

/// Form of a guest's virtqueues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queues {
    /// VIRTIO_F_RING_PACKED, else split rings.
    pub(crate) is_packed: bool,
    /// VIRTIO_NET_F_MRG_RXBUF: a frame may be spread over several buffers.
    pub(crate) merges: bool,
}

impl Queues {
    const ALL: [Queues; 4] = [
        Queues { is_packed: false, merges: true },
        Queues { is_packed: false, merges: false },
        Queues { is_packed: true, merges: true },
        Queues { is_packed: true, merges: false },
    ];

    /// As it stands in the names of cases.
    pub(crate) const fn name(self) -> &'static str {
        match (self.is_packed, self.merges) {
            (false, true) => "split rings",
            (false, false) => "split rings, mrg_rxbuf off",
            (true, true) => "packed rings",
            (true, false) => "packed rings, mrg_rxbuf off",
        }
    }
}
