//! A bridge with stations on its ports, and bursts between them.

use std::hint::black_box;
use std::time::Duration;

use arrayvec::ArrayVec;
use vswitch::bridge::{BURST, Bridge, PortId, PortSettings, Settings, Time, Verdict};
use vswitch::frame::{Frame, MacAddr};
use vswitch::offload::VnetHeader;
use vswitch::port::ask_for_huge_pages;

/// splitmix64: the same frames in each run.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number from 0 to `end` - 1.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than a usize")
    }

    /// An individual and locally administered address, otherwise random.
    pub fn mac(&mut self) -> MacAddr {
        MacAddr::from_u64(self.next() & 0x00ff_ffff_ffff | 0x0200_0000_0000)
    }
}

/// Runs what is measured, and says how long it took.
pub type Meter = fn(&mut dyn FnMut()) -> Duration;

/// A bridge, its stations by port, and how much time it has spent.
#[derive(Debug)]
pub struct Rig {
    /// What is measured.
    pub bridge: Bridge,
    /// Who has spoken on each port.
    pub stations: Vec<Vec<MacAddr>>,
    random: Random,
    spent: Duration,
    meter: Meter,
}

/// When the measured traffic begins: a tick after the stations were learned, so
/// that each is put in the order of ages once, as traffic makes it in a tick.
const TAUGHT: Time = Time::from_secs(10);

/// More than a tick.
const SELDOM: Duration = Duration::from_secs(5);

/// An Ethernet header.
pub type Header = [u8; 14];

impl Rig {
    /// A bridge with `ports` ports and room for `fdb_size` stations.
    pub fn new(ports: usize, fdb_size: u32, meter: Meter) -> Rig {
        let settings = Settings { fdb_size, ..Settings::default() };
        let mut bridge = Bridge::new(settings, [0x5bd1_e995_7b7d_159c, 0xc2b2_ae3d_27d4_eb4f]);
        // As the engine does with its own.
        ask_for_huge_pages(bridge.fdb_memory());
        for number in 0..ports {
            bridge.add_port(port(number), PortSettings::default());
            bridge.set_link(port(number), true);
        }
        let (stations, random) = (vec![Vec::new(); ports], Random(7));
        Rig { bridge, stations, random, spent: Duration::ZERO, meter }
    }

    /// The same with `macs` stations that have spoken, one for each port at
    /// least.
    pub fn with_stations(ports: usize, macs: usize, meter: Meter) -> Rig {
        let mut rig = Rig::new(ports, 1_048_575, meter);
        let mut random = Random(1);
        rig.teach((0..macs.max(ports)).map(|_| random.mac()));
        rig
    }

    /// Measures by `meter` from now on.
    pub fn set_meter(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// Lets every one of `macs` speak once, on one port after the other.
    pub fn teach(&mut self, macs: impl Iterator<Item = MacAddr>) {
        let ports = self.stations.len();
        for (number, mac) in macs.enumerate() {
            self.stations[number % ports].push(mac);
            let head = header(MacAddr::BROADCAST, mac);
            let frame = Frame::new(&head, &[], VnetHeader::PLAIN);
            self.bridge.forward(Time::START, port(number % ports), &frame);
        }
    }

    /// Lets every station speak once more now, so that none is put in the order of ages
    /// by what is measured in the same tick.
    pub fn hear_all(&mut self) {
        let now = TAUGHT.after(self.spent);
        for (number, stations) in self.stations.iter().enumerate() {
            for mac in stations {
                // To itself: it is learned, and goes nowhere.
                let head = header(*mac, *mac);
                self.bridge.forward(now, port(number), &Frame::new(&head, &[], VnetHeader::PLAIN));
            }
        }
    }

    /// Time of at least `frames` frames of known unicast, nearly all of which are the
    /// first of their sources in a tick. Let `frames` be few beside the stations.
    pub fn seldom(&mut self, frames: u64) -> Duration {
        self.spent += SELDOM;
        self.unicast(frames)
    }

    /// Time of one burst with the headers that `head` makes.
    pub fn burst(
        &mut self,
        ingress: usize,
        mut head: impl FnMut(&[Vec<MacAddr>], &mut Random) -> Header,
    ) -> Duration {
        let heads: [Header; BURST] = std::array::from_fn(|_| head(&self.stations, &mut self.random));
        let frames: ArrayVec<Frame<'_>, BURST> =
            heads.iter().map(|head| Frame::new(head, &[], VnetHeader::PLAIN)).collect();
        let mut verdicts: ArrayVec<Verdict, BURST> = ArrayVec::new();
        let now = TAUGHT.after(self.spent);
        let (bridge, ingress) = (&mut self.bridge, port(ingress));
        let spent =
            (self.meter)(&mut || bridge.forward_burst(now, ingress, black_box(&frames), &mut verdicts));
        black_box(&verdicts);
        self.spent += spent;
        spent
    }

    /// Time of at least `frames` frames of known unicast.
    pub fn unicast(&mut self, frames: u64) -> Duration {
        let ports = self.stations.len();
        let mut spent = Duration::ZERO;
        for _ in 0..frames.div_ceil(BURST as u64) {
            let ingress = self.random.below(ports);
            spent += self.burst(ingress, |stations, random| {
                let egress = (ingress + 1 + random.below(ports - 1)) % ports;
                let src = stations[ingress][random.below(stations[ingress].len())];
                let dst = stations[egress][random.below(stations[egress].len())];
                header(dst, src)
            });
        }
        spent
    }

    /// The same, in bursts of one conversation each, as guests have them.
    pub fn conversations(&mut self, frames: u64) -> Duration {
        let ports = self.stations.len();
        let mut spent = Duration::ZERO;
        for _ in 0..frames.div_ceil(BURST as u64) {
            let ingress = self.random.below(ports);
            let egress = (ingress + 1 + self.random.below(ports - 1)) % ports;
            let src = self.stations[ingress][self.random.below(self.stations[ingress].len())];
            let dst = self.stations[egress][self.random.below(self.stations[egress].len())];
            spent += self.burst(ingress, |_, _| header(dst, src));
        }
        spent
    }

    /// Time of at least `frames` broadcasts of stations that nobody knows.
    pub fn strangers(&mut self, frames: u64) -> Duration {
        let bursts = 0..frames.div_ceil(BURST as u64);
        bursts.map(|_| self.burst(0, |_, random| header(MacAddr::BROADCAST, random.mac()))).sum()
    }

    /// Time of at least `frames` broadcasts of one station.
    pub fn broadcasts(&mut self, frames: u64) -> Duration {
        let bursts = 0..frames.div_ceil(BURST as u64);
        bursts.map(|_| self.burst(0, |stations, _| header(MacAddr::BROADCAST, stations[0][0]))).sum()
    }

    /// Lets strangers speak until the table is full.
    pub fn fill(&mut self, fdb_size: u32) {
        while self.bridge.fdb_len() < fdb_size {
            self.strangers(1);
        }
    }

    /// Time of one step of the sweep at `now`.
    pub fn sweep(&mut self, now: Time) -> Duration {
        let bridge = &mut self.bridge;
        (self.meter)(&mut || {
            black_box(bridge.sweep(now));
        })
    }
}

fn port(number: usize) -> PortId {
    PortId::new(u8::try_from(number).expect("at most 256 ports"))
}

fn header(dst: MacAddr, src: MacAddr) -> Header {
    let mut head = [0x08; 14];
    head[..6].copy_from_slice(&dst.octets());
    head[6..12].copy_from_slice(&src.octets());
    head
}
