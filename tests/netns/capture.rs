//! `vswitch capture` on real devices, read back by tshark and by a reader of our
//! own.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::capture::{Capture, Way};
use vswitch_tests::capturing::{Capturing, check_sums, check_tshark, tshark};
use vswitch_tests::clock::{wait_for, wait_until};
use vswitch_tests::flow::{self, Pace, Until, generate};
use vswitch_tests::process::{Switch, end_child};
use vswitch_tests::{iperf, require, start};

use crate::lan::{Kind, Lan, SOON, flow_between};

/// A limit that only a hang reaches.
const LONG: Duration = Duration::from_secs(60);

/// Why captures of the switch have stopped, in the words of its events.
fn stopped(switch: &Switch) -> Result<Vec<String>> {
    let output = switch.client(&["events", "--kind", "capture_stopped", "--json"])?;
    let why = |line: &str| -> Result<String> {
        let event: serde_json::Value = serde_json::from_str(line)?;
        Ok(event["why"].as_str().context("why")?.to_owned())
    };
    String::from_utf8(output.stdout)?.lines().map(why).collect()
}

/// Must show 1: under TCP load, exact sums, and nothing that tshark calls
/// malformed; directions and comments right.
#[test]
fn a_capture_under_load_adds_up_and_reads_well() -> Result<()> {
    require!(root, tun, "tshark", "iperf3");
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev])?;
    lan.wait_ping(0, 1)?;
    let server = iperf::Server::start(&lan.hosts[1].ns)?;
    let mut capturing = Capturing::start(&lan.switch, &[])?;
    iperf::transfer(&lan.hosts[0].ns, &lan.hosts[1].address, "64M", LONG)?;
    let capture = capturing.end()?;
    drop(server);
    check_sums(&capture)?;
    ensure!(capture.start().complete, "nothing was left out");
    ensure!(capture.frames.iter().any(|frame| frame.len > 1514), "super-frames are shown as they crossed");
    for frame in &capture.frames {
        let comment = frame.comment.rsplit("; ").next().unwrap_or_default();
        let expected = match (frame.way, frame.interface.as_str()) {
            (Way::Inbound, "p0") => "forwarded to p1",
            (Way::Inbound, _) => "forwarded to p0",
            (Way::Outbound, "p0") => "from p1",
            (Way::Outbound, _) => "from p0",
        };
        // Broadcasts, such as a late ARP request, are flooded.
        let flooded = expected.replace("forwarded", "flooded");
        ensure!(comment == expected || comment == flooded, "{frame:?}");
    }
    // A frame and its copy have one number, and the same bytes.
    let copy = capture.frames.windows(2).filter(|pair| pair[0].id == pair[1].id);
    let mut copies = 0;
    for pair in copy {
        ensure!(pair[0].bytes == pair[1].bytes && pair[0].way != pair[1].way, "{pair:?}");
        copies += 1;
    }
    ensure!(copies > 100, "{copies} copies are no test");

    check_tshark(capturing.file(), &capture)
}

#[test]
fn what_the_kernel_would_forward_is_captured_and_the_fast_path_reopens() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Guest, Kind::Guest])?;
    let (from, to) = (lan.hosts[0].measure()?, lan.hosts[1].measure()?);
    let flow = flow_between(1, 2, 200);
    lan.teach(&flow, &from, &to)?;
    let fast = || -> Result<u64> { Ok(lan.stats()?.total.rx_fast) };
    // Frames that no sink counts.
    let mut other = flow.clone();
    other.id = u16::MAX;
    let take_fast = |what: &str| {
        let before = fast()?;
        let one = || generate(&from, &other, Pace::Saturate, Until::Count(1), None).is_ok();
        wait_until(what, SOON, || one() && fast().is_ok_and(|now| now > before))
    };
    take_fast("the fast path to take the flow")?;
    let mut capturing = Capturing::start(&lan.switch, &[])?;
    let before = lan.stats()?;
    let (sent, received) = flow::run(&from, &to, &flow, Pace::Rate(5_000.0), Until::Count(2_000))?;
    received.assert_clean(&sent);
    let after = lan.stats()?;
    let capture = capturing.end()?;
    check_sums(&capture)?;
    ensure!(after.total.rx_fast == before.total.rx_fast, "closed while somebody looks: {after:?}");
    // These TAPs have no stack behind them: there are these frames, and no others.
    let [p0, p1] = capture.end().ports.as_slice() else { anyhow::bail!("{:?}", capture.end()) };
    ensure!((p0.forwarded.counted, p1.sent.counted) == (2_000, 2_000), "{:?}", capture.end());
    ensure!(after.ports[0].rx - before.ports[0].rx == 2_000, "{before:?} then {after:?}");
    let lost = p0.forwarded.lost + p0.forwarded.slow;
    let came: Vec<_> = capture.frames.iter().filter(|frame| frame.way == Way::Inbound).collect();
    ensure!(came.len() as u64 + lost == 2_000, "{} and {lost}", came.len());
    ensure!(
        came.iter().all(|frame| frame.comment == "forwarded to p1" && frame.bytes.len() == 200),
        "{:?}",
        came[0]
    );
    take_fast("the fast path to take the flow again")
}

#[test]
fn segments_for_readers_are_whole_and_right() -> Result<()> {
    require!(root, tun, "tshark", "iperf3");
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev])?;
    lan.wait_ping(0, 1)?;
    let server = iperf::Server::start(&lan.hosts[1].ns)?;
    let mut capturing = Capturing::start(&lan.switch, &["--segment", "--port", "p0", "--direction", "in"])?;
    iperf::transfer(&lan.hosts[0].ns, &lan.hosts[1].address, "8M", LONG)?;
    let capture = capturing.end()?;
    drop(server);
    ensure!(capture.frames.len() as u64 > capture.end().written, "segments are more than frames");
    ensure!(capture.frames.iter().all(|frame| frame.len <= 1514 && frame.bytes.len() == frame.len));
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
    let wrong = [&checks[..], &["-Y", "tcp.checksum.status != 1 or ip.checksum.status != 1"]].concat();
    ensure!(tshark(capturing.file(), &wrong)?.is_empty(), "a checksum is wrong");
    ensure!(
        tshark(capturing.file(), &[&checks[..], &["-Y", "tcp.checksum.status == 1"]].concat())?
            .lines()
            .count()
            > 100
    );
    Ok(())
}

#[test]
fn filters_counts_and_durations_end_where_they_should() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev])?;
    lan.wait_ping(0, 1)?;
    let mut icmp =
        Capturing::start(&lan.switch, &["--filter", "icmp[icmptype] = icmp-echo", "--count", "4", "--json"])?;
    let mut brief = Capturing::start(&lan.switch, &["--duration", "300ms"])?;
    ensure!(lan.hosts[0].ns.ping(&lan.hosts[1].address, 3)? == 3);
    let output = icmp.wait()?;
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success() && summary["written"] == 4 && summary["why"] == "count", "{summary}");
    let capture = Capture::parse(&std::fs::read(icmp.file())?)?;
    ensure!(capture.frames.iter().all(|frame| frame.bytes[34] == 8), "echo requests only");
    ensure!(
        capture.end().ports[0].forwarded.passed + capture.end().ports[1].forwarded.passed > 0,
        "answers passed by"
    );
    ensure!(brief.wait()?.status.success());
    check_sums(&Capture::parse(&std::fs::read(brief.file())?)?)?;

    let kept = icmp.file().with_file_name("kept.pcapng");
    std::fs::write(&kept, "of yesterday")?;
    for (args, code, said) in [
        (vec!["--filter", "icmpp"], 1, "error: filter `icmpp`: "),
        (vec!["--port", "p9"], 1, "error: there is no port `p9`"),
        (vec!["--snaplen", "3"], 2, "error: invalid value '3'"),
        (vec!["--rotate", "3x"], 2, "error: invalid value '3x'"),
    ] {
        let file = kept.to_str().context("its name")?;
        let output = lan.switch.client(&[&["capture", "-w", file], args.as_slice()].concat())?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code) && text.starts_with(said), "{args:?}: {text}");
        ensure!(std::fs::read(&kept)? == b"of yesterday", "{args:?}: a refusal must not cost the file");
    }
    let output = lan.switch.client(&["capture", "-w", "/nowhere/a.pcapng"])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.starts_with("error: /nowhere/a.pcapng: "), "{text}");
    wait_until("the switch to know why", SOON, || {
        stopped(&lan.switch).is_ok_and(|why| why.iter().any(|why| why.contains("/nowhere/a.pcapng: ")))
    })?;
    Ok(())
}

/// Whoever reads has enough: the command ends, quietly, with frames or without.
#[test]
fn a_closed_pipe_ends_a_capture_quietly() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev])?;
    for idle in [true, false] {
        let mut command = lan.switch.client_command(&["capture", "-w", "-"]);
        let mut child = start::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let mut stdout = child.stdout.take().context("stdout")?;
        let mut head = [0; 28];
        stdout.read_exact(&mut head)?;
        drop(stdout);
        let ended = wait_for("the capture to end", SOON, || {
            if !idle {
                let _ = lan.hosts[0].ns.ping(&lan.hosts[1].address, 1);
            }
            child.try_wait().ok().flatten()
        });
        end_child(&mut child);
        let mut said = String::new();
        child.stderr.take().context("stderr")?.read_to_string(&mut said)?;
        ensure!(ended?.code() == Some(0) && said.is_empty(), "idle {idle}: {said}");
    }
    lan.wait_ping(0, 1)
}

/// A17: a full disk ends the capture by name, leaves a file that reads well, and
/// does nothing to the switch but a word in its log.
#[test]
fn a17_a_full_disk_ends_the_capture_and_not_the_switch() -> Result<()> {
    require!(root, tun, "unshare");
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev])?;
    lan.wait_ping(0, 1)?;
    let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
    let (small, saved) = (dir.path().join("small"), dir.path().join("saved.pcapng"));
    std::fs::create_dir(&small)?;
    let capture = lan.switch.client_command(&["capture", "-w", "small/a.pcapng"]);
    let script = "mount -t tmpfs -o size=64k none small && \"$@\"; code=$?; cp small/a.pcapng saved.pcapng; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(capture.get_program()).args(capture.get_args());
    command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = start::spawn(&mut command)?;
    let ended = wait_for("the disk to be full", LONG, || {
        let _ = lan.hosts[0].ns.ping(&lan.hosts[1].address, 20);
        child.try_wait().ok().flatten()
    });
    end_child(&mut child);
    let mut said = String::new();
    child.stderr.take().context("stderr")?.read_to_string(&mut said)?;
    ensure!(ended?.code() == Some(1), "{said}");
    ensure!(said.contains("small/a.pcapng: the disk is full"), "{said}");
    lan.switch.wait_stderr("No space left on device", SOON)?;
    wait_until("the event", SOON, || {
        stopped(&lan.switch).is_ok_and(|why| why.iter().any(|why| why.contains("No space left on device")))
    })?;
    let capture = Capture::parse(&std::fs::read(&saved)?)?;
    ensure!(capture.frames.len() > 100, "{} frames", capture.frames.len());
    lan.wait_ping(0, 1)
}

#[test]
fn files_follow_one_another() -> Result<()> {
    require!(root, tun);
    let lan = Lan::new(&[Kind::Netdev, Kind::Netdev])?;
    lan.wait_ping(0, 1)?;
    let mut capturing = Capturing::start(&lan.switch, &["--rotate", "20K,keep 3"])?;
    ensure!(lan.hosts[0].ns.ping(&lan.hosts[1].address, 200)? == 200);
    let output = capturing.interrupt()?;
    ensure!(output.status.success(), "{output:?}");
    let mut files: Vec<_> = std::fs::read_dir(capturing.file().parent().context("its folder")?)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() == 3, "{files:?}");
    let mut last = None;
    for file in &files {
        let capture = Capture::parse(&std::fs::read(file)?)?;
        ensure!(capture.interfaces == ["p0", "p1"] && capture.totals.len() == 2, "{capture:?}");
        let ids: Vec<u64> = capture.frames.iter().map(|frame| frame.id).collect();
        ensure!(ids.is_sorted() && ids.first().copied() >= last, "one goes on where the other ends");
        last = ids.last().copied();
    }
    Ok(())
}

/// Must show 2: every port of every running switch is an interface of tshark,
/// which captures there.
#[test]
fn tshark_lists_the_ports_and_captures_through_extcap() -> Result<()> {
    require!(root, tun, "tshark");
    let home = tempfile::Builder::new().prefix("vt-").tempdir()?;
    let ns = vswitch_tests::netns::Netns::new("sw")?;
    let hosts = [vswitch_tests::netns::Netns::new("h0")?, vswitch_tests::netns::Netns::new("h1")?];
    for (number, host) in hosts.iter().enumerate() {
        vswitch_tests::netns::veth(&ns, &format!("sw{number}"), host, "e0")?;
        ns.up(&format!("sw{number}"))?;
        host.up("e0")?;
        host.address("e0", &format!("10.98.0.{}/24", number + 1))?;
    }
    // Found by its name, as users find it: the lock is where Wireshark's user looks.
    let name = format!("vtx{}", std::process::id());
    let switch = Switch::start(
        &ns,
        &["--name", &name, "--port", "netdev:sw0,name=p0", "--port", "netdev:sw1,name=p1"],
    )?;
    let program = vswitch_tests::process::binary("vswitch")?;
    let user = |program: &std::path::Path| {
        let mut command = Command::new(program);
        command.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
        command
    };
    let installed = start::output(user(&program).args(["extcap", "--install"]))?;
    ensure!(installed.status.success(), "{installed:?}");

    let tshark = std::path::Path::new("tshark");
    let listed = start::output(user(tshark).arg("-D"))?;
    let listed = String::from_utf8(listed.stdout)?;
    for interface in ["", ":p0", ":p1"] {
        ensure!(listed.contains(&format!("vswitch:{name}{interface} (")), "{listed}");
    }
    let interface = format!("vswitch:{name}:p1");
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment", "-l", "-n"];
    let mut live = user(tshark);
    live.args(["-i", &interface, "-f", "icmp", "-c", "4"])
        .args(fields)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = start::spawn(&mut live)?;
    let ended = wait_for("tshark to see four frames", LONG, || {
        let _ = hosts[0].ping("10.98.0.2", 1);
        child.try_wait().ok().flatten()
    });
    end_child(&mut child);
    let (mut seen, mut said) = (String::new(), String::new());
    child.stdout.take().context("stdout")?.read_to_string(&mut seen)?;
    child.stderr.take().context("stderr")?.read_to_string(&mut said)?;
    ensure!(ended?.success(), "{said}");
    ensure!(
        seen.lines().count() == 4 && seen.contains("from p0") && seen.contains("forwarded to p0"),
        "{seen}"
    );
    // Whoever stopped reading ended the capture, too.
    wait_until("the capture to end", SOON, || stopped(&switch).is_ok_and(|why| !why.is_empty()))
        .with_context(|| switch.stderr())?;

    let removed = start::output(user(&program).args(["extcap", "--uninstall", "--json"]))?;
    let files: serde_json::Value = serde_json::from_slice(&removed.stdout)?;
    ensure!(files["files"].as_array().is_some_and(|files| files.len() == 2), "{files}");
    let listed = start::output(user(tshark).arg("-D"))?;
    ensure!(!String::from_utf8(listed.stdout)?.contains("vswitch:"), "nothing of it is left");
    Ok(())
}
