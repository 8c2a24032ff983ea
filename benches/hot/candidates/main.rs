//! Ways to move frames, those that the switch uses and others: a bare loop for each, which
//! carries from one device to another and decides nothing. Run it where you think of
//! changing how the switch does it.
//!
//! `cargo bench -p vswitch-bench --bench candidates [-- TEXT] [--rounds N]`; needs root.
//! In each round every way of a case has a turn of a second in order and one in reverse,
//! and every frame is checked on arrival. Shown are the rate that arrived, the CPU time for
//! each frame, of the loop and of all three threads, and the medians (least, greatest) of
//! the rounds' ratios to the case's first way, the plainest; noise is a way's second turn by
//! its first. (The switch sends bursts of short frames from a ring, and reads and writes
//! TAPs by io_uring where frames are short.)
//!
//! Read first: packet(7); Documentation/networking/packet_mmap.rst and tuntap.rst of the
//! kernel; io_uring(7). What came of it is in docs/benchmarks.md.
//!
//! Deliberately absent: the switch itself (that is `vbench`).

mod carry;
mod packet;
mod tap;

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::Parser;
use vswitch_hot::stats::{Spread, mean, spread};

use carry::{Figures, Kind, Work, turn};

/// Ways to move frames, beside the switch's own.
#[derive(Parser, Debug)]
struct Cli {
    /// Only cases whose name holds this text.
    filter: Option<String>,
    /// How often each way has its two turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Cargo says so of every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The same work, to be done in several ways.
struct Case {
    name: &'static str,
    work: Work,
    /// The first is the switch's.
    ways: &'static [(&'static str, carry::Make)],
}

const PACKET: &[(&str, carry::Make)] = &[
    ("recvmmsg and sendmmsg of 64", |ends, work| Ok(Box::new(packet::Messages::new(ends, work, 64)))),
    ("of 16", |ends, work| Ok(Box::new(packet::Messages::new(ends, work, 16)))),
    ("of 256", |ends, work| Ok(Box::new(packet::Messages::new(ends, work, 256)))),
    ("of 64, SO_BUSY_POLL", |ends, work| Ok(Box::new(packet::Messages::busy(ends, work)?))),
    ("TPACKET_V2 ring, sendmmsg of 64", |ends, work| Ok(Box::new(packet::Rings::new(ends, work, false)?))),
    ("TPACKET_V2 rings both ways", |ends, work| Ok(Box::new(packet::Rings::new(ends, work, true)?))),
];

const TAP: &[(&str, carry::Make)] = &[
    ("read and write, bursts of 64", |ends, work| Ok(Box::new(tap::Calls::new(ends, work, 64)))),
    ("bursts of 16", |ends, work| Ok(Box::new(tap::Calls::new(ends, work, 16)))),
    ("bursts of 256", |ends, work| Ok(Box::new(tap::Calls::new(ends, work, 256)))),
    ("io_uring", |ends, work| Ok(Box::new(tap::Uring::new(ends, work, tap::Writes::Plain)?))),
    ("io_uring, fixed buffers", |ends, work| Ok(Box::new(tap::Uring::new(ends, work, tap::Writes::Fixed)?))),
];

const CASES: &[Case] = &[
    Case { name: "packet sockets, 60 B", work: Work::plain(Kind::Packet, 60), ways: PACKET },
    Case { name: "packet sockets, 1514 B", work: Work::plain(Kind::Packet, 1514), ways: PACKET },
    Case { name: "packet sockets, 64 KiB", work: Work::super_frames(Kind::Packet), ways: PACKET },
    Case { name: "TAPs, 60 B", work: Work::plain(Kind::Tap, 60), ways: TAP },
    Case { name: "TAPs, 1514 B", work: Work::plain(Kind::Tap, 1514), ways: TAP },
    Case { name: "TAPs, 64 KiB", work: Work::super_frames(Kind::Tap), ways: TAP },
];

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| work | way | kframes/s | CPU, loop : all, ns/frame | rate by the first | CPU of all by the first | noise of the rate |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for case in CASES.iter().filter(|case| cli.filter.as_ref().is_none_or(|text| case.name.contains(text))) {
        let figures = measure(case, cli.rounds)?;
        for (at, (way, _)) in case.ways.iter().enumerate() {
            let rate = all(&figures[at], |figures| figures.rate / 1e3);
            let cpu = all(&figures[at], |figures| figures.cpu_ns);
            let whole = all(&figures[at], |figures| figures.all_ns);
            let noise = spread(figures[at].iter().map(|[a, b]| b.rate / a.rate).collect());
            let (rate, cpu) = rate.zip(cpu).context("no round was run")?;
            let (whole, noise) = whole.zip(noise).context("no round was run")?;
            let [by_rate, by_cpu] = [|figures: &Figures| figures.rate, |figures: &Figures| figures.all_ns]
                .map(|of| {
                    ratio(&figures[at], &figures[0], of).map_or(String::from("–"), |spread| shown(&spread))
                });
            writeln!(
                out,
                "| {} | {way} | {:.0} | {:.0} : {:.0} | {by_rate} | {by_cpu} | {:.2}–{:.2} |",
                case.name, rate.median, cpu.median, whole.median, noise.min, noise.max
            )?;
        }
    }
    Ok(())
}

/// What each way showed in each round's two turns.
fn measure(case: &Case, rounds: usize) -> Result<Vec<Vec<[Figures; 2]>>> {
    let mut figures = vec![Vec::new(); case.ways.len()];
    for round in 0..rounds {
        // Nobody listening is fine.
        let _ = writeln!(std::io::stderr(), "{}, round {} of {rounds}", case.name, round + 1);
        let once = |way: &(&str, carry::Make)| {
            turn(&case.work, way.1).with_context(|| format!("{}: {}", case.name, way.0))
        };
        let there: Vec<Figures> = case.ways.iter().map(once).collect::<Result<_>>()?;
        let back: Vec<Figures> = case.ways.iter().rev().map(once).collect::<Result<_>>()?;
        for (of, pair) in figures.iter_mut().zip(there.into_iter().zip(back.into_iter().rev())) {
            of.push(pair.into());
        }
    }
    Ok(figures)
}

fn all(rounds: &[[Figures; 2]], of: impl Fn(&Figures) -> f64) -> Option<Spread> {
    spread(rounds.iter().flatten().map(of).collect())
}

/// Ratios of `way` to `first`, each within a round.
fn ratio(way: &[[Figures; 2]], first: &[[Figures; 2]], of: fn(&Figures) -> f64) -> Option<Spread> {
    let round = |pair: &[Figures; 2]| mean(&pair.each_ref().map(of)).unwrap_or(f64::NAN);
    spread(way.iter().zip(first).map(|(way, first)| round(way) / round(first)).collect())
}

fn shown(spread: &Spread) -> String {
    format!("**{:.2}** ({:.2}–{:.2})", spread.median, spread.min, spread.max)
}
