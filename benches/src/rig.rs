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
}

/// All of them, in the order of their numbers.
pub(crate) const RIGS: [Rig; 6] =
    [Rig::Netns, Rig::OwnedTaps, Rig::Direct, Rig::Queues, Rig::Guests, Rig::Core];

impl Rig {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Rig::Netns => 1,
            Rig::OwnedTaps => 2,
            Rig::Direct => 3,
            Rig::Queues => 4,
            Rig::Guests => 5,
            Rig::Core => 6,
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Rig::Netns => "Two hosts over veth (`netdev:` ports)",
            Rig::OwnedTaps => "TAPs that the switch owns, moved into two hosts (`tap:` ports)",
            Rig::Direct => "TAP to TAP, held as QEMU holds them (`netdev:` ports)",
            Rig::Queues => "Virtqueues in shared memory (`vhost-user:` ports), dpdk-testpmd as both guests",
            Rig::Guests => {
                "Two QEMU guests with virtio-net (vswitch: `vhost-user:` ports, if not said otherwise)"
            }
            Rig::Core => "The decision alone, in memory",
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
            Rig::Guests => vec![Variant::Guests],
            Rig::Core => vec![Variant::Core],
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
    /// There is one way.
    Guests,
    /// As well.
    Core,
}

impl Variant {
    /// As shown while it is measured.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Offloads(true) => "offloads on",
            Variant::Offloads(false) => "offloads off",
            Variant::Queues(queues) => queues.name(),
            Variant::Guests => "guests",
            Variant::Core => "in memory",
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
