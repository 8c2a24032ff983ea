//! The pieces of work whose instructions are counted. All of it is the same in
//! every run: seeds are fixed, and nothing asks for the time.

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::bridge::{BURST, Time};
use vswitch::offload::{self, Segmenter, VnetHeader};
use vswitch::port::{Burst, IsolationMode, Offloads, OpenOptions, Port, Slots, as_is, open};
use vswitch_hot::stations::{Random, Rig};
use vswitch_hot::turns::Turns;
use vswitch_tests::vhost::Guest;

/// A piece of work.
pub struct Work {
    pub name: &'static str,
    /// What is counted, as Callgrind names it.
    pub function: &'static str,
    /// Does it, and returns for how many items.
    pub run: fn() -> Result<u64>,
}

/// Counted unless the work says otherwise.
const MEASURED: &str = "*count::work::measured*";

/// Frames of each piece of work.
const FRAMES: u64 = 64 * 200;

const fn work(name: &'static str, run: fn() -> Result<u64>) -> Work {
    Work { name, function: MEASURED, run }
}

pub const WORK: &[Work] = &[
    work("bridge: known unicast, 2 ports, 10 stations", || unicast(2, 10)),
    work("bridge: known unicast, 16 ports, 10,000 stations", || unicast(16, 10_000)),
    work("bridge: known unicast, 256 ports, 1,000,000 stations", || unicast(256, 1_000_000)),
    work("bridge: known unicast, one conversation a burst", || {
        Rig::with_stations(2, 10, meter).conversations(FRAMES);
        Ok(FRAMES)
    }),
    work("bridge: broadcast to 15 ports", || {
        let mut rig = Rig::with_stations(16, 16, meter);
        rig.broadcasts(FRAMES);
        Ok(FRAMES)
    }),
    work("fdb: a new station", || {
        let mut rig = Rig::new(2, 65_536, meter);
        rig.strangers(FRAMES);
        Ok(FRAMES)
    }),
    work("fdb: a stranger to a full table", || {
        let mut rig = Rig::new(2, 8192, silent);
        rig.fill(8192);
        rig.set_meter(meter);
        rig.strangers(FRAMES);
        Ok(FRAMES)
    }),
    work("fdb: an entry swept out", || {
        let mut rig = Rig::with_stations(16, 10_000, meter);
        while rig.bridge.fdb_len() > 0 {
            rig.sweep(Time::from_secs(1000));
        }
        Ok(10_000)
    }),
    work("offload: a header checked", || {
        let (vnet, frame) = super_frame();
        let head = &frame[..128];
        let len = u32::try_from(frame.len())?;
        for _ in 0..FRAMES {
            measured(|| offload::check(black_box(&vnet), black_box(head), len))
                .ok()
                .context("a good frame")?;
        }
        Ok(FRAMES)
    }),
    work("offload: a checksum completed, 1514 bytes", || {
        let (_, frame) = super_frame();
        let mut frame = frame[..1514].to_vec();
        for _ in 0..1000 {
            measured(|| offload::complete_checksum(black_box(&mut frame), 34, 16)).context("it fits")?;
        }
        Ok(1000)
    }),
    work("offload: a segment cut, 1448 bytes", segments),
    work("vhost-user: a frame received, 60 bytes", || virtqueues(Side::Receive)),
    work("vhost-user: a frame sent, 60 bytes", || virtqueues(Side::Transmit)),
    Work { name: "engine: a turn's share of a frame, 2 ports", function: ROUND, run: || turns(2) },
    Work { name: "engine: a turn's share of a frame, 16 ports", function: ROUND, run: || turns(16) },
];

/// The engine's round of turns.
const ROUND: &str = "vswitch::engine::Engine::round*";

/// The only function of this process that is counted.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// Counts what it is given, and takes no time.
fn meter(work: &mut dyn FnMut()) -> Duration {
    static WASTE: LazyLock<u64> = LazyLock::new(super::handicap);
    let waste = *WASTE;
    measured(|| {
        work();
        // Some four instructions each.
        for turn in 0..waste / 4 {
            black_box(turn);
        }
    });
    Duration::ZERO
}

/// Counts nothing.
fn silent(work: &mut dyn FnMut()) -> Duration {
    work();
    Duration::ZERO
}

fn unicast(ports: usize, stations: usize) -> Result<u64> {
    Rig::with_stations(ports, stations, meter).unicast(FRAMES);
    Ok(FRAMES)
}

fn turns(ports: usize) -> Result<u64> {
    let frames = FRAMES * 5;
    // Awake only while there is work: rounds without are counted too.
    Turns::unicast(ports, 60, Duration::ZERO).run(frames, 1);
    // The stations' first frames were in rounds as well.
    Ok(frames + u64::try_from(ports - 1)?)
}

/// 64 KiB of TCP over IPv4 that wants a checksum and segments of 1448 bytes.
fn super_frame() -> (VnetHeader, Vec<u8>) {
    let mut frame = vec![0x5a; 54 + 44 * 1448];
    let mut random = Random(3);
    for byte in &mut frame[54..] {
        *byte = random.next().to_ne_bytes()[0];
    }
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let len = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX).to_be_bytes();
    frame[14..34]
        .copy_from_slice(&[0x45, 0, len[0], len[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..54].copy_from_slice(&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let vnet = VnetHeader {
        flags: offload::NEEDS_CSUM,
        gso_type: offload::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    (vnet, frame)
}

fn segments() -> Result<u64> {
    let (vnet, frame) = super_frame();
    let mut headers = [0; 54];
    let mut count = 0;
    for _ in 0..20 {
        count += measured(|| -> Result<u64> {
            let segmenter =
                Segmenter::new(black_box(&vnet), black_box(&frame)).ok().context("a good frame")?;
            for index in 0..segmenter.segments() {
                segmenter.write_headers(index, black_box(&mut headers));
            }
            Ok(segmenter.segments() as u64)
        })?;
    }
    Ok(count)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Receive,
    Transmit,
}

/// A guest at a port of this thread.
struct Joined {
    port: Box<dyn Port>,
    guest: Guest,
    _device: vswitch::port::Device,
}

fn join(slots: &mut Slots, path: &std::path::Path) -> Result<Joined> {
    let options = OpenOptions {
        switch: "count".to_owned(),
        name: "guest".to_owned(),
        run_id: "0".to_owned(),
        owner: rustix::process::geteuid().as_raw(),
        mtu: None,
        takeover: false,
        isolation: IsolationMode::Off,
        fast: None,
    };
    let opened = open(&format!("vhost-user:{}", path.display()).parse()?, &options)?;
    let mut port = opened.port.context("a vhost-user port is there from the start")?;
    let path = path.to_owned();
    let guest = std::thread::spawn(move || Guest::connect(&path));
    // What the front end says waits for the thread that has the port.
    while !guest.is_finished() || !port.link().up {
        port.receive(&mut Burst::new(slots));
        port.release();
        std::thread::yield_now();
    }
    let guest = guest.join().ok().context("the guest panicked")??;
    Ok(Joined { port, guest, _device: opened.device })
}

fn virtqueues(side: Side) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let mut slots = Slots::new();
    let mut from = join(&mut slots, &dir.path().join("from"))?;
    let mut to = join(&mut slots, &dir.path().join("to"))?;
    let mut frame = [0; 60];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    let mut count = 0;
    for _ in 0..50 {
        for _ in 0..BURST {
            from.guest.send(&frame)?;
        }
        let mut burst = Burst::new(&mut slots);
        if side == Side::Receive {
            measured(|| from.port.receive(&mut burst));
        } else {
            from.port.receive(&mut burst);
        }
        let wires: Vec<_> = burst.frames.iter().filter_map(|frame| as_is(frame, Offloads::NONE)).collect();
        ensure!(wires.len() == BURST, "{} frames came", wires.len());
        let sent = if side == Side::Transmit {
            measured(|| to.port.transmit(&wires))
        } else {
            to.port.transmit(&wires)
        };
        ensure!(sent.refused.is_empty(), "{:?}", sent.refused);
        drop(wires);
        drop(burst);
        from.port.release();
        while to.guest.receive()?.is_some() {
            count += 1;
        }
    }
    Ok(count)
}
