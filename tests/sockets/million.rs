//! Frames by the million through a switch, captured, and judged once more by
//! `vswitch replay`: every verdict is reproduced, and under a changed configuration
//! exactly those frames differ whose verdict the change concerns.
//!
//! The guests wait for the capture where they get too far ahead of it, so that it
//! misses nothing: what was missed, no replay can know.
//!
//! Deliberately absent: rates. How fast a capture is, is measured elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vswitch::capture::pcapng::{Blocks, FRAME};
use vswitch::capture::state::Summary;
use vswitch::control::Stats;
use vswitch::pcap::{Item, Reader, Way};
use vswitch::replay::Recorded;
use vswitch_tests::capturing::Capturing;
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::process::binary;
use vswitch_tests::scenario::Random;
use vswitch_tests::{require, start};

use crate::ports::Rig;

/// A limit that only a hang reaches.
const LONG: Duration = Duration::from_secs(300);

/// Frames that a guest sends at a time.
const BATCH: u64 = 500;

/// Frames that the capture may be behind: ten batches have room in the blocks in which
/// they come to the capture thread, however it is put off by others.
const AHEAD: u64 = 5_000;

/// Frames in all.
const FRAMES: u64 = 1_000_000;

/// Stations of each guest.
const STATIONS: u64 = 400;

/// Guests that send; behind them a port that is locked, and one that nobody is at.
const GUESTS: u64 = 3;
const LOCKED: u64 = 3;
const IDLE: u64 = 4;

fn station(port: u64, number: u64) -> [u8; 6] {
    let [.., a, b] = number.to_be_bytes();
    [2, 0, 0, u8::try_from(port).unwrap(), a, b]
}

/// A frame of any sort that comes in by `port`.
fn frame(random: &mut Random, port: u64) -> Vec<u8> {
    let own = station(port, random.below(STATIONS));
    // Between the first two guests goes little, so that little differs when they
    // are kept apart.
    let other =
        if random.one_in(50) { random.below(GUESTS) } else { [2, 2, 0][usize::try_from(port % 3).unwrap()] };
    let (dst, src) = match random.below(200) {
        0 => ([0xff; 6], own),
        1 => ([0x01, 0, 0x5e, 0, 0, 1], own),
        2 => ([0x01, 0x80, 0xc2, 0, 0, 0x0e], own),
        3 => (station(other, 1), [0x01, 0, 0x5e, 0, 0, 1]),
        4 => (station(other, 1), [0; 6]),
        5 => (station(9, random.below(10_000)), own),
        6..20 => (station(port, random.below(STATIONS)), own),
        // It moves here, and will be back.
        20 => (station(other, 1), station(random.below(GUESTS), random.below(STATIONS))),
        // Known where nobody is, and where only one may speak.
        21 => (station(IDLE, 1), own),
        22 => (station(LOCKED, 1), own),
        // More stations than the last guest may have.
        23 => (station(other, 1), station(port, STATIONS + random.below(STATIONS))),
        _ => (station(other, random.below(STATIONS)), own),
    };
    let mut bytes = [dst, src].concat();
    let (kind, len) = match random.below(500) {
        0 => ([0x88, 0xb5], 13),
        // It ends in its tag.
        1 => ([0x81, 0x00], 15),
        2 => ([0x81, 0x00], 64),
        3 => ([0x88, 0xb5], 1_600),
        _ => ([0x88, 0xb5], 14 + usize::try_from(random.below(50)).unwrap()),
    };
    bytes.extend(kind);
    bytes.resize(len, 0x5a);
    bytes
}

/// Frames as a stream port takes them.
fn batch(random: &mut Random, port: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..BATCH {
        let frame = frame(random, port);
        bytes.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// Follows the file of a capture while it grows.
struct Tail {
    file: File,
    blocks: Blocks,
    /// Frames that are in it, whatever became of them.
    frames: u64,
}

impl Tail {
    /// Frames that are in it by now.
    fn frames(&mut self) -> Result<u64> {
        let mut more = Vec::new();
        self.file.read_to_end(&mut more)?;
        self.blocks.feed(&more);
        while let Some((kind, block)) = self.blocks.next_block()? {
            if kind == FRAME {
                // Their numbers count from 0. Behind the bytes come the flags, and then the
                // number.
                let captured = u32::from_ne_bytes(*block[20..].first_chunk().context("a length")?);
                let at = 28 + usize::try_from(captured)?.next_multiple_of(4) + 8 + 4;
                let number = block[at..].first_chunk().context("a number")?;
                self.frames = u64::from_ne_bytes(*number) + 1;
            }
        }
        Ok(self.frames)
    }
}

fn stats(rig: &Rig) -> Result<Stats> {
    Ok(serde_json::from_value(rig.switch().json(&["stats"])?)?)
}

/// Has the guests send all frames, no faster than the capture can take them.
fn send(rig: &Rig, tail: &mut Tail, guests: &mut [GuestSocket]) -> Result<()> {
    let mut random = Random::new(5);
    let before = stats(rig)?.total.rx;
    for number in 0..FRAMES / BATCH {
        // Of the locked port, few may come in.
        let port = if random.one_in(20) { LOCKED } else { random.below(GUESTS) };
        let guest = &mut guests[usize::try_from(port)?];
        guest.send_raw(&batch(&mut random, port))?;
        wait_until("the capture to keep up", LONG, || {
            tail.frames().is_ok_and(|frames| frames + AHEAD > (number + 1) * BATCH)
        })?;
        // What changes the switch besides frames is in the file too.
        if number % 300 == 150 {
            let port = format!("p{}", random.below(GUESTS));
            ensure!(rig.switch().client(&["fdb", "flush", "--port", &port])?.status.success());
        }
    }
    wait_until("every frame to be judged", LONG, || {
        stats(rig).is_ok_and(|stats| stats.total.rx - before == FRAMES)
    })
}

fn replay(file: &Path, args: &[&str]) -> Result<(Output, Vec<Value>)> {
    let mut command = Command::new(binary("vswitch")?);
    command.arg("replay").arg(file).arg("--json").args(args);
    let output = start::output(&mut command)?;
    let lines = std::str::from_utf8(&output.stdout)?.lines().map(serde_json::from_str);
    let lines = lines.collect::<Result<Vec<Value>, _>>()?;
    Ok((output, lines))
}

/// Frames of the file that went, or would have gone, between `a` and `b`, by number.
fn between(file: &Path, a: &str, b: &str) -> Result<BTreeSet<u64>> {
    let (mut names, mut found, mut number) = (Vec::new(), BTreeSet::new(), 0);
    let mut reader = Reader::open(file)?;
    while let Some(item) = reader.next_item()? {
        match item {
            Item::Interface(interface) => names.push(interface.name),
            Item::Other { .. } => {}
            Item::Frame(captured) => {
                number += 1;
                if captured.way == Way::Outbound {
                    continue;
                }
                let ingress = names.get(usize::try_from(captured.interface)?).context("its interface")?;
                let Some(Recorded::To(egress)) = Recorded::read(&captured.comments) else { continue };
                let goes = |from: &str, to: &str| ingress == from && egress.contains(to);
                if goes(a, b) || goes(b, a) {
                    found.insert(number);
                }
            }
        }
    }
    Ok(found)
}

#[test]
fn a_replay_of_a_million_frames_reproduces_every_verdict() -> Result<()> {
    require!(root);
    let kinds = ["stream", "stream", "stream,max_macs=390", "stream,locked=true", "stream"];
    let rig = Rig::with_flags(&kinds, &["--ageing", "2s"])?;
    let mut guests = (0..=3).map(|number| rig.stream(number)).collect::<Result<Vec<_>>>()?;
    let drains = guests.iter().map(|guest| {
        let guest = guest.try_clone()?;
        Ok(std::thread::spawn(move || guest.discard()))
    });
    let drains = drains.collect::<Result<Vec<_>>>()?;
    for (mac, port) in [("02:00:00:03:00:01", "p3"), ("02:00:00:04:00:01", "p4")] {
        ensure!(rig.switch().client(&["fdb", "add", mac, "--port", port])?.status.success());
    }
    let before = stats(&rig)?.total;
    let mut capturing = Capturing::start(rig.switch(), &["--json"])?;
    let file = File::open(capturing.file())?;
    let mut tail = Tail { file, blocks: Blocks::default(), frames: 0 };
    send(&rig, &mut tail, &mut guests)?;
    let output = capturing.interrupt()?;
    ensure!(output.status.success(), "{output:?}");

    // Captured + missed = counted, and nothing was missed.
    let summary: Summary = serde_json::from_slice(&output.stdout)?;
    let after = stats(&rig)?.total;
    let kinds = summary.ports.iter().map(|port| [port.forwarded, port.dropped, port.sent, port.refused]);
    let sums: Vec<_> = kinds.flatten().collect();
    ensure!(sums.iter().all(|sums| sums.balance() && sums.written == sums.counted), "{summary:?}");
    let counted: u64 = sums.iter().map(|sums| sums.counted).sum();
    ensure!(counted == (after.rx - before.rx) + (after.copies - before.copies), "{summary:?}");
    ensure!((summary.missed, summary.changes_missed) == (0, 0), "{summary:?}");
    for reason in ["filtered", "reserved", "bad_source", "malformed_tag", "runt", "locked", "no_egress"] {
        ensure!(after.drops[reason] > 10, "{reason}: {:?}", after.drops);
    }
    ensure!(after.refused["oversize"] > 10 && after.moved > 10 && after.not_learned > 10, "{after:?}");

    // As it was configured, every verdict is the recorded one.
    let (output, lines) = replay(capturing.file(), &[])?;
    let [totals] = lines.as_slice() else { anyhow::bail!("{} frames differ: {}", lines.len(), lines[0]) };
    ensure!(output.status.success(), "{output:?}");
    for (sum, expected) in
        [("judged", FRAMES), ("compared", FRAMES), ("different", 0), ("missed", 0), ("cut", 0), ("early", 0)]
    {
        ensure!(totals[sum] == expected, "{sum}: {totals}");
    }

    // Two guests kept apart: the frames between them, and no others.
    let config = rig.user.home().join("apart.toml");
    std::fs::write(&config, apart(&rig)?)?;
    let config = config.display().to_string();
    let (output, mut lines) = replay(capturing.file(), &["--config", &config])?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    let totals = lines.pop().context("the sums")?;
    let differ: BTreeSet<u64> = lines.iter().filter_map(|line| line["frame"].as_u64()).collect();
    let expected = between(capturing.file(), "p0", "p1")?;
    let odd: Vec<_> = differ.symmetric_difference(&expected).take(5).collect();
    ensure!(odd.is_empty(), "{} differ, {} expected; {odd:?}", differ.len(), expected.len());
    ensure!(totals["different"] == expected.len() && totals["compared"] == FRAMES, "{totals}");
    ensure!(expected.len() > 500 && (expected.len() as u64) < FRAMES / 10, "{} frames", expected.len());
    drop(rig);
    drains.into_iter().for_each(|drain| drain.join().expect("it only reads"));
    Ok(())
}

/// The configuration of the switch, but that p0 and p1 are isolated.
fn apart(rig: &Rig) -> Result<String> {
    let mut text = String::from("ports = [\n");
    for (number, keys) in [
        (0, "isolated = true"),
        (1, "isolated = true"),
        (2, "max_macs = 390"),
        (3, "locked = true"),
        (4, "mtu = 1500"),
    ] {
        let path = rig.path(number);
        text += &format!("  {{ spec = \"stream:{}\", {keys} }},\n", path.display());
    }
    text += "]\n[switch]\nageing = \"2s\"\n";
    for (mac, port) in [("02:00:00:03:00:01", "p3"), ("02:00:00:04:00:01", "p4")] {
        text += &format!("[[fdb]]\nmac = \"{mac}\"\nport = \"{port}\"\n");
    }
    Ok(text)
}
