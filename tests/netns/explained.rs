//! A live trace of real devices beside a capture of the same frames: what is told of a
//! frame and of each of its copies is what the capture has of them.
//!
//! Deliberately absent: the words of each step, which `sim` compares with `trace`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::capture::state::Told;
use vswitch_tests::capture::{Capture, Way};
use vswitch_tests::capturing::Capturing;
use vswitch_tests::live_trace::LiveTrace;
use vswitch_tests::{iperf, require};

use crate::lan::{Kind, Lan};

/// A limit that only a hang reaches.
const LONG: Duration = Duration::from_secs(60);

/// Has `traffic` run beside a capture and a live trace, both of what `filter` accepts.
fn watch(lan: &Lan, filter: &str, traffic: impl FnOnce() -> Result<()>) -> Result<(Capture, Vec<Told>)> {
    let mut capturing = Capturing::start(&lan.switch, &["--filter", filter])?;
    let mut live = LiveTrace::start(&lan.switch, &["--filter", filter, "--json"])?;
    traffic()?;
    let output = live.interrupt()?;
    ensure!(output.status.success(), "{output:?}");
    let told = std::str::from_utf8(&output.stdout)?.lines().map(serde_json::from_str);
    Ok((capturing.end()?, told.collect::<Result<_, _>>()?))
}

/// That each frame that was told is in the capture, and is the same there; returns the
/// words on its copies.
fn compare(capture: &Capture, told: &[Told]) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for Told { frame, date_ns, trace } in told {
        let mut records = capture.frames.iter().filter(|record| record.id == *frame);
        let came = records.next().with_context(|| format!("frame {frame} is not in the capture"))?;
        ensure!((came.way, &came.interface) == (Way::Inbound, &trace.port), "{came:?}\n{trace:?}");
        ensure!(came.len == usize::try_from(trace.len)?, "{came:?}\n{trace:?}");
        // Each capture reads the wall's clock once for itself.
        ensure!(came.date_ns.abs_diff(*date_ns) < 1_000_000, "{} and {date_ns}", came.date_ns);
        let unfinished = ["checksum unfinished; ", "super-frame; "];
        let bare = |comment: &str| {
            let found = unfinished.iter().find_map(|words| comment.strip_prefix(words));
            found.unwrap_or(comment).to_owned()
        };
        ensure!(bare(&came.comment) == trace.comment, "{came:?}\n{trace:?}");
        let copies: BTreeMap<&str, Option<&str>> = records
            .map(|copy| (copy.interface.as_str(), copy.comment.split_once("refused: ").map(|(_, why)| why)))
            .collect();
        let egress: BTreeMap<&str, Option<&str>> =
            trace.egress.iter().map(|egress| (egress.port.as_str(), egress.refused.as_deref())).collect();
        ensure!(copies == egress, "frame {frame}: {copies:?}, {trace:?}");
        said.extend(trace.egress.iter().map(|egress| format!("{} {}", egress.port, egress.text)));
    }
    Ok(said)
}

#[test]
fn a_live_trace_tells_of_real_devices_what_a_capture_has() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Netdev, Kind::Tap, Kind::Stream])?;
    lan.wait_ping(0, 1)?;
    let (capture, told) = watch(&lan, "icmp", || {
        [(0, 1), (1, 2), (2, 0)].into_iter().try_for_each(|(from, to)| lan.wait_ping(from, to))
    })?;
    compare(&capture, &told)?;
    // Three requests and their answers, from either end.
    for port in ["p0", "p1", "p2"] {
        let len = told.iter().filter(|told| told.trace.port == port).count();
        ensure!(len >= 2, "{len} frames came in by {port}: {told:?}");
    }
    Ok(())
}

/// Super-frames are cut for who cannot take them whole, and the trace says so.
#[test]
fn a_live_trace_tells_of_frames_that_were_cut() -> Result<()> {
    require!(root, tun, "iperf3");
    let lan = Lan::new(&[Kind::Netdev, Kind::PlainTap])?;
    lan.wait_ping(0, 1)?;
    let server = iperf::Server::start(&lan.hosts[1].ns)?;
    let (capture, told) = watch(&lan, "tcp", || {
        iperf::transfer(&lan.hosts[0].ns, &lan.hosts[1].address, "1M", LONG).map(drop)
    })?;
    drop(server);
    ensure!(told.len() > 20, "{} frames are few", told.len());
    let said = compare(&capture, &told)?;
    ensure!(said.iter().any(|text| text.starts_with("p1 sent, cut here into ")), "{said:#?}");
    ensure!(said.iter().any(|text| text.starts_with("p0 sent, ")), "{said:#?}");
    Ok(())
}
