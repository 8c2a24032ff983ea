//! `vswitch trace --live`, as its user has it: real frames of socket ports and of
//! guests in shared memory, in the words that `vswitch trace` has for the same frame.
//!
//! Deliberately absent: every step and every egress, which `sim` compares one by one.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vswitch::control::PortState;
use vswitch_tests::clock::wait_until;
use vswitch_tests::live_trace::LiveTrace;
use vswitch_tests::vhost::{Choice, Guest};

use crate::ports::{Rig, SOON, UNKNOWN, frame};

/// Stations.
const A: u8 = 0x0a;
const B: u8 = 0x0b;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `vswitch trace` says of a frame that would come in by `port` now.
fn asked(rig: &Rig, port: &str, bytes: &[u8]) -> Result<String> {
    let output = rig.switch().client(&["trace", "--port", port, "--frame", &hex(bytes)])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What a live trace has printed, frame by frame, each without its number and date.
fn printed(stdout: &[u8]) -> Result<Vec<String>> {
    let mut frames: Vec<String> = Vec::new();
    for line in std::str::from_utf8(stdout)?.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("frame ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            None => frames.last_mut().context("lines before the first frame")?.push_str(line),
            Some(rest) => {
                let (head, text) = rest.split_once(": ").context("a head")?;
                let (number, date) = head.split_once(" at ").context("a date")?;
                ensure!(number.parse::<u64>().is_ok() && date.ends_with('Z') && date.len() == 24, "{line}");
                frames.push(text.to_owned());
            }
        }
        frames.last_mut().context("a frame")?.push('\n');
    }
    Ok(frames)
}

#[test]
fn real_frames_are_explained_as_trace_explains_them() -> Result<()> {
    vswitch_tests::require!(root);
    let rig = Rig::new(&["stream", "dgram", "stream,isolated=true", "stream,isolated=true"])?;
    let (mut a, mut c, _d) = (rig.stream(0)?, rig.stream(2)?, rig.stream(3)?);
    let mut b = rig.dgram(1)?;
    // It is there once it has spoken.
    b.send(&frame(UNKNOWN, B, 60), &rig.path(1))?;
    rig.wait_state(1, PortState::Up)?;
    rig.wait_rx(1, 1)?;

    let mut live = LiveTrace::start(rig.switch(), &["--count", "5"])?;
    let mut expected = Vec::new();
    for (from, bytes) in [
        (0, frame(UNKNOWN, A, 60)),
        (0, frame(B, A, 300)),
        (1, frame(A, B, 1514)),
        (2, frame(UNKNOWN, 0x0c, 60)),
        (2, frame(A, 0x0c, 60)),
    ] {
        let rx = rig.stats(from)?.rx;
        expected.push(asked(&rig, &format!("p{from}"), &bytes)?);
        match from {
            0 => a.send(&bytes, &rig.path(0))?,
            1 => b.send(&bytes, &rig.path(1))?,
            _ => c.send(&bytes, &rig.path(2))?,
        }
        rig.wait_rx(from, rx + 1)?;
    }
    let output = live.wait()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(String::from_utf8(output.stderr)? == "5 frames explained, 0 missed\n");
    let told = printed(&output.stdout)?;
    ensure!(told == expected, "{told:#?}\n{expected:#?}");
    // They are not all alike, nor without substance.
    for words in ["is new: it is learned on p0", "not p3: isolated", "forwarded to p0", "  p1  "] {
        ensure!(told.iter().any(|text| text.contains(words)), "no `{words}` in {told:#?}");
    }
    Ok(())
}

#[test]
fn what_is_wanted_is_chosen_and_answered_in_json() -> Result<()> {
    vswitch_tests::require!(root);
    let rig = Rig::new(&["stream", "stream"])?;
    let (mut a, mut b) = (rig.stream(0)?, rig.stream(1)?);
    let filter = format!("ether dst 02:00:00:00:00:{A:02x}");
    let mut live = LiveTrace::start(rig.switch(), &["--port", "p1", "--filter", &filter, "--json"])?;
    a.send(&frame(A, A, 60), &rig.path(0))?;
    a.send(&frame(UNKNOWN, A, 60), &rig.path(0))?;
    rig.wait_rx(0, 2)?;
    for to in [UNKNOWN, A, UNKNOWN] {
        b.send(&frame(to, B, 100), &rig.path(1))?;
    }
    rig.wait_rx(1, 3)?;
    let output = live.interrupt()?;
    ensure!(output.status.success(), "{output:?}");
    let lines: Vec<Value> =
        std::str::from_utf8(&output.stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [told] = lines.as_slice() else { anyhow::bail!("{lines:#?}") };
    ensure!(
        (&told["port"], &told["len"], &told["verdict"]) == (&"p1".into(), &100.into(), &"forwarded".into())
    );
    ensure!(told["comment"] == "forwarded to p0" && told["egress"][0]["port"] == "p0", "{told}");
    ensure!(told["steps"].as_array().is_some_and(|steps| steps.len() == 7), "{told}");
    ensure!(told["date_ns"].as_u64().is_some_and(|date| date > 1_700_000_000_000_000_000), "{told}");
    ensure!(String::from_utf8(output.stderr)? == "1 frame explained, 0 missed\n");
    Ok(())
}

#[test]
fn guests_in_shared_memory_are_explained_too() -> Result<()> {
    vswitch_tests::require!(root);
    let rig = Rig::new(&["vhost-user"; 2])?;
    let mut guests = [
        Guest::connect_as(&rig.path(0), Choice::default())?,
        Guest::connect_as(&rig.path(1), Choice::default())?,
    ];
    (0..2).try_for_each(|number| rig.wait_state(number, PortState::Up))?;
    let bytes = frame(UNKNOWN, A, 600);
    let expected = asked(&rig, "p0", &bytes)?;
    let mut live = LiveTrace::start(rig.switch(), &["--count", "1"])?;
    guests[0].send_by(0, &[0; 10], &bytes)?;
    let output = live.wait()?;
    ensure!(output.status.success() && printed(&output.stdout)? == [expected], "{output:?}");
    Ok(())
}

#[test]
fn it_ends_quietly_and_says_why_nothing_comes() -> Result<()> {
    vswitch_tests::require!(root);
    let rig = Rig::new(&["stream", "stream"])?;
    let mut idle = LiveTrace::start(rig.switch(), &["--port", "p1", "--duration", "4s"])?;
    // Whoever has read enough hangs up.
    let mut piped = LiveTrace::start(rig.switch(), &[])?;
    piped.hang_up()?;
    let output = piped.wait()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // The switch lets go of it.
    let stopped = || rig.switch().client(&["events", "--kind", "capture_stopped", "--json"]);
    wait_until("its end to be told", SOON, || stopped().is_ok_and(|output| !output.stdout.is_empty()))?;

    let output = idle.wait()?;
    ensure!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    ensure!(said.starts_with("no frame yet by p1; p1 is down ("), "{said}");
    ensure!(said.ends_with(". Waiting; Ctrl-C ends\n0 frames explained, 0 missed\n"), "{said}");

    // What cannot be is refused before anything begins.
    for (args, words) in [
        (["trace", "--live", "--port", "p9"], "there is no port `p9`"),
        (["trace", "--live", "--filter", "no such words"], "filter `no such words`"),
        (["trace", "--live", "--frame", "arp"], "cannot be used with"),
        (["trace", "--port", "p0", "--count=1"], "--live"),
    ] {
        let output = rig.switch().client(&args)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(words), "{args:?}: {said}");
    }
    Ok(())
}
