//! The flight recorder on real devices: `vswitch capture --last` after the fact, read
//! back by a reader of our own.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::capture::{Capture, Way};
use vswitch_tests::flow::{self, Pace, Until};
use vswitch_tests::process::Switch;
use vswitch_tests::require;

use crate::lan::{Kind, Lan, flow_between};

/// What `vswitch capture --last 1h ARGS` writes.
fn past(switch: &Switch, args: &[&str]) -> Result<Capture> {
    let mut all = vec!["capture", "--last", "1h", "-w", "-"];
    all.extend(args);
    let Output { status, stdout, stderr } = switch.client(&all)?;
    ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    Capture::parse(&stdout)
}

/// Resident memory of the switch, in bytes.
fn memory(switch: &Switch) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", switch.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

#[test]
fn a_switch_without_a_recorder_says_how_to_have_one() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Netdev])?;
    let refused = lan.switch.client(&["capture", "--last", "5s", "-w", "/dev/null"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && text.contains("--recorder 64M"), "{text}");
    Ok(())
}

#[test]
fn the_recorder_tells_what_was_before_it_was_asked_and_forgets_the_oldest() -> Result<()> {
    const RECORDER: u64 = 4 << 20;
    require!(root, tun);
    let lan = Lan::with_flags(&[Kind::Netdev, Kind::Netdev], 1500, &["--recorder", "4M"])?;
    lan.wait_ping(0, 1)?;
    let first = past(&lan.switch, &["--direction", "in", "--direction", "out"])?;
    ensure!(first.end().why == "recorded" && first.end().missed == 0, "{:?}", first.end());
    let comments: Vec<_> =
        first.frames.iter().map(|f| (f.way, f.interface.as_str(), f.comment.as_str())).collect();
    for expected in [(Way::Inbound, "p0", "forwarded to p1"), (Way::Outbound, "p1", "from p0")] {
        ensure!(comments.contains(&expected), "{expected:?} in {comments:?}");
    }
    ensure!(comments.iter().any(|(.., comment)| comment.starts_with("learned p0")), "{comments:?}");
    ensure!(first.frames.windows(2).all(|pair| pair[0].id <= pair[1].id), "in order");

    // Eight times as much as it may keep, in frames that no ping is.
    let (from, to) = (lan.hosts[0].measure()?, lan.hosts[1].measure()?);
    let flow = flow_between(1, 2, 1_400);
    let before = memory(&lan.switch)?;
    let frames = 8 * RECORDER / 1_400;
    let (sent, received) = flow::run(&from, &to, &flow, Pace::Rate(20_000.0), Until::Count(frames))?;
    received.assert_clean(&sent);
    let last = past(&lan.switch, &[])?;
    let kept = last.frames.iter().filter(|frame| frame.way == Way::Inbound && frame.len == 1_400).count();
    ensure!(kept as u64 * 1_400 < RECORDER, "{kept} frames are more than it may keep");
    ensure!(kept as u64 * 1_400 > RECORDER / 2, "{kept} frames are few");
    let oldest = last.frames.first().context("frames")?.id;
    ensure!(first.frames.iter().all(|frame| frame.id < oldest), "the oldest are forgotten");
    // Beside the recorder there are the blocks between the threads, as far as they
    // were filled, and what the last capture left.
    let grown = memory(&lan.switch)?.saturating_sub(before);
    ensure!(grown < 6 * RECORDER, "{grown} bytes of memory more");
    Ok(())
}
