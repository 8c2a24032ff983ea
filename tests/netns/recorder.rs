//! The flight recorder on real devices: `vswitch capture --last` after the fact, read
//! back by a reader of our own.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use vswitch::capture::state::State;
use vswitch_tests::capture::{Capture, Way};
use vswitch_tests::clock::wait_until;
use vswitch_tests::flow::{self, Pace, Until};
use vswitch_tests::process::Switch;
use vswitch_tests::require;

use crate::lan::{Kind, Lan, SOON, flow_between};

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

/// The files in `dir`, once the journal says that there is a whole one.
fn written(switch: &Switch, dir: &Path, trigger: &str) -> Result<Vec<PathBuf>> {
    let mut events = String::new();
    wait_until("a file to be whole", SOON, || {
        let output = switch.client(&["events", "--kind", "capture_stopped", "--json"]);
        events =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        events.contains(&format!("({trigger})"))
    })
    .with_context(|| events.clone())?;
    ensure!(events.contains("\"why\":\"recorded\""), "{events}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    ensure!(files.iter().all(|file| events.contains(&*file.to_string_lossy())), "{files:?}: {events}");
    Ok(files)
}

/// A trigger writes one file by itself, and of what goes on no second one at once.
#[test]
fn a_dropped_frame_an_event_and_a_filter_write_a_file_by_themselves() -> Result<()> {
    require!(root, tun);
    for (trigger, kinds, expected) in [
        ("drop:no_egress", &[Kind::Netdev][..], "dropped: no_egress"),
        ("event:mac_learned", &[Kind::Netdev, Kind::Netdev], "learned p0"),
        ("filter:icmp", &[Kind::Netdev, Kind::Netdev], "forwarded to p1"),
    ] {
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        let path = dir.path().to_str().context("a path")?;
        let flags = ["--recorder", "4M", "--recorder-trigger", trigger, "--recorder-write", path];
        let lan = Lan::with_flags(kinds, 1500, &flags)?;
        wait_until("frames", SOON, || {
            let _ = lan.hosts[0].ns.ping("10.98.0.2", 1);
            std::fs::read_dir(dir.path()).is_ok_and(|files| files.count() > 0)
        })?;
        let files = written(&lan.switch, dir.path(), trigger)?;
        // More of the same.
        for _ in 0..3 {
            let _ = lan.hosts[0].ns.ping("10.98.0.2", 1);
        }
        let [file] = files.as_slice() else { anyhow::bail!("{files:?}") };
        // The capture may be over before the last of it is in the file.
        let mut capture = Capture::default();
        wait_until("the end of the file", SOON, || {
            let read = std::fs::read(file).ok().and_then(|bytes| Capture::parse(&bytes).ok());
            capture = read.unwrap_or_default();
            matches!(capture.states.last(), Some(State::End(summary)) if summary.why == "recorded")
        })?;
        let found = capture.frames.iter().any(|frame| frame.comment.contains(expected));
        ensure!(found || trigger.starts_with("event"), "{trigger}: {:?}", capture.frames);
        ensure!(std::fs::read_dir(dir.path())?.count() == 1, "one is enough of a storm");
    }
    Ok(())
}

#[test]
fn a_trigger_without_a_recorder_or_a_directory_is_refused() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Netdev])?;
    for (args, said) in [
        (&["--recorder-trigger", "drop:runt"][..], "no recorder"),
        (&["--recorder", "4M", "--recorder-trigger", "drop:runt"], "recorder_write"),
        (&["--recorder", "4M", "--recorder-trigger", "drop:storms"], "no_egress"),
        (&["--recorder", "1M"], "from 4M to 64G"),
    ] {
        let mut command = lan.switch_ns.command(&vswitch_tests::process::binary("vswitch")?);
        let output = vswitch_tests::start::output(command.arg("run").args(args))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains(said), "{args:?}: {text}");
    }
    Ok(())
}
