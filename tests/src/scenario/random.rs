//! Steps at random, from a seed.

use std::time::Duration;

use vswitch::bridge::{DropReason, EntryKind, FlushKinds, FlushScope, PortId, PortSettings, Settings};
use vswitch::frame::{MacAddr, VlanId};

use super::{Sent, Step};

/// splitmix64: a good enough generator in three lines.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that belong to `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number under `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices[index]
    }

    fn octet(&mut self, end: u8) -> u8 {
        u8::try_from(self.below(u64::from(end))).unwrap_or(0)
    }
}

/// A topology, and `len` steps on it.
pub fn random_steps(random: &mut Random, len: usize) -> Vec<Step> {
    let ports = 2 + random.octet(6);
    let macs = random.pick(&[3, 10, 40]);
    let mut steps = vec![Step::Switch(switch(random))];
    for port in 0..ports {
        steps.push(Step::Port(PortId::new(port), port_settings(random)));
    }
    // Half of the topologies are left alone, so that tables fill and age.
    let change_every = random.pick(&[20, 20, 500, 1000]);
    let mut talker = PortId::new(0);
    while steps.len() < len {
        if random.one_in(change_every) {
            steps.push(change(random, ports, macs));
        } else if random.one_in(15) {
            steps.push(Step::After(time(random)));
        } else if random.one_in(30) {
            steps.push(Step::Sweep);
        } else {
            if random.one_in(4) {
                talker = port(random, ports);
            }
            steps.push(Step::Send(frame(random, talker, macs)));
        }
    }
    steps
}

/// One of `ports`, rarely one that is not there.
fn port(random: &mut Random, ports: u8) -> PortId {
    if random.one_in(100) { PortId::new(ports) } else { PortId::new(random.octet(ports)) }
}

fn station(random: &mut Random, macs: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, random.octet(macs)])
}

fn frame(random: &mut Random, port: PortId, macs: u8) -> Sent {
    let reasons = [DropReason::Truncated, DropReason::BadOffload, DropReason::TunnelGso];
    let dst = match random.below(20) {
        0 => MacAddr::BROADCAST,
        1 => MacAddr::new([1, 0, 0x5e, 0, 0, random.octet(3)]),
        2 => MacAddr::new([1, 0x80, 0xc2, 0, 0, random.octet(18)]),
        3 => MacAddr::ZERO,
        _ => station(random, macs),
    };
    let src = match random.below(50) {
        0 => MacAddr::ZERO,
        1 => MacAddr::BROADCAST,
        2 => MacAddr::new([1, 0, 0x5e, 0, 0, 1]),
        _ => station(random, macs),
    };
    let tags = (0..random.pick(&[0, 0, 0, 1, 2, 10]))
        .map(|_| (random.pick(&[0x8100, 0x88a8, 0x9100, 0x1234]), random.pick(&[0, 1, 0x0fff, 0xe005])))
        .collect();
    let size = match random.below(10) {
        0 => usize::from(random.octet(22)),
        1 => random.pick(&[60, 255, 256, 257, 1514, 9014, 65_535]),
        _ => 60,
    };
    let fault = if random.one_in(40) { Some(random.pick(&reasons)) } else { None };
    Sent { port, src, dst, size, tags, fault }
}

fn change(random: &mut Random, ports: u8, macs: u8) -> Step {
    match random.below(12) {
        0 => Step::Switch(switch(random)),
        1 | 2 => Step::Port(PortId::new(random.octet(ports)), port_settings(random)),
        3 => Step::Delete(port(random, ports)),
        4 => Step::Link(port(random, ports), false),
        5 | 6 => Step::Link(port(random, ports), true),
        7 => Step::Fix(EntryKind::Static, station(random, macs), port(random, ports)),
        8 => Step::Fix(EntryKind::Sticky, station(random, macs), port(random, ports)),
        9 => Step::Fix(
            EntryKind::Static,
            random.pick(&[MacAddr::ZERO, MacAddr::BROADCAST]),
            port(random, ports),
        ),
        10 => Step::Forget(station(random, macs)),
        _ => Step::Flush(FlushScope {
            port: if random.one_in(2) { Some(port(random, ports)) } else { None },
            vid: random.pick(&[None, None, Some(VlanId::UNAWARE), Some(VlanId::new(7))]),
            mac: if random.one_in(2) { Some(station(random, macs)) } else { None },
            kinds: random.pick(&[FlushKinds::Dynamic, FlushKinds::All]),
        }),
    }
}

fn switch(random: &mut Random) -> Settings {
    Settings {
        ageing: Duration::from_millis(random.pick(&[0, 1, 500, 10_000, 10_000, 300_000, 300_000])),
        fdb_size: random.pick(&[1, 3, 8, 20, 8192]),
        transparent: random.one_in(4),
    }
}

fn port_settings(random: &mut Random) -> PortSettings {
    PortSettings {
        learning: !random.one_in(6),
        flood: !random.one_in(6),
        mcast_flood: !random.one_in(6),
        bcast_flood: !random.one_in(6),
        isolated: random.one_in(4),
        locked: random.one_in(8),
        transparent: random.one_in(8),
        max_macs: random.pick(&[None, None, None, Some(0), Some(2), Some(5)]),
    }
}

/// Mostly less than a tick, sometimes past any ageing time, once past what a
/// 32-bit count of milliseconds holds.
fn time(random: &mut Random) -> Duration {
    let end = random.pick(&[5, 100, 100, 1_000, 5_000, 400_000, 5_000_000_000]);
    Duration::from_millis(random.below(end))
}
