//! Hostile requests for captures, against a whole switch: what cannot be is refused
//! in words, what can be is bounded, and whoever begins a capture and does not read
//! it loses frames of that capture, and nobody another frame.
//!
//! Deliberately absent: what any request can be, such as a line without end, which
//! is in `control` and `hostile`.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::capture::Capture;
use vswitch_tests::capturing::check_sums;
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::require;

use crate::hostile::{beside_frames, fds_len};
use crate::ports::{Rig, SOON, UNKNOWN, connects, frame};
use crate::rig::Peer;

/// The most captures at a time, as docs/capture.md has it.
const CAPTURES_MAX: usize = 16;

/// A request for a capture with `fields`, as JSON, which need not be sound.
fn capture(fields: &str) -> String {
    format!(r#"{{"v":1,"id":1,"cmd":"capture",{fields}}}"#)
}

/// `times` the `item`, as a list in JSON.
fn list(item: &str, times: usize) -> String {
    format!("[{}]", vec![item; times].join(","))
}

/// A field for a filter of that `program`, as JSON.
fn filter(program: &str) -> String {
    format!(r#""filter":{{"text":"","program":{program}}}"#)
}

/// Fields that no capture may have, and what the refusal says.
fn refused() -> Vec<(String, &'static str)> {
    let own = |fields: &str, said| (fields.to_owned(), said);
    let strangers: Vec<String> = (0..50_000).map(|number| format!("\"x{number}\"")).collect();
    vec![
        own(r#""snaplen":0"#, "`snaplen` cannot be `0`"),
        own(r#""snaplen":13"#, "`snaplen` cannot be `13`"),
        own(r#""snaplen":262145"#, "`snaplen` cannot be `262145`"),
        own(r#""snaplen":4294967295"#, "`snaplen` cannot be `4294967295`"),
        own(r#""snaplen":4294967296"#, "bad request"),
        own(r#""snaplen":-1"#, "bad request"),
        own(r#""snaplen":96.5"#, "bad request"),
        own(r#""snaplen":"96""#, "bad request"),
        own(r#""count":0"#, "`count` cannot be `0`"),
        own(r#""count":-1"#, "bad request"),
        own(r#""count":18446744073709551616"#, "bad request"),
        own(r#""count":1e300"#, "bad request"),
        own(r#""last_ms":0"#, "this switch has no recorder"),
        own(r#""last_ms":5000"#, "this switch has no recorder"),
        own(r#""last_ms":18446744073709551615"#, "this switch has no recorder"),
        own(r#""last_ms":-1"#, "bad request"),
        own(r#""last_ms":18446744073709551616"#, "bad request"),
        own(r#""ports":["p2"]"#, "there is no port `p2`"),
        own(r#""ports":[""]"#, "there is no port ``"),
        own(r#""ports":["../p0"]"#, "there is no port `../p0`"),
        own(r#""ports":["p0\u0000"]"#, "there is no port `p0\\0`"),
        own(r#""ports":["p0","p1","p0","P1"]"#, "there is no port `P1`"),
        own(r#""ports":"p0""#, "bad request"),
        (format!(r#""ports":[{}]"#, strangers.join(",")), "there is no port `x0`"),
        (format!(r#""ports":[{},"p2"]"#, vec!["\"p0\""; 50_000].join(",")), "there is no port `p2`"),
        (format!(r#""ports":["{}"]"#, "x".repeat(900_000)), "there is no port `xxx"),
        own(r#""directions":["sideways"]"#, "bad request"),
        own(r#""directions":{"in":true}"#, "bad request"),
        own(r#""segment":"yes""#, "bad request"),
        own(r#""steps":"yes""#, "bad request"),
        own(r#""steps":1"#, "bad request"),
        own(r#""steps":true,"step":true"#, "bad request"),
        own(r#""steps":true,"last_ms":5000"#, "`steps` are not kept of what is past"),
        own(r#""duration":1"#, "bad request"),
        own(r#""filter":"arp""#, "bad request"),
        own(r#""filter":{"text":"arp"}"#, "bad request"),
        (filter("[]"), "a filter has 1 to 4096 instructions, this one 0"),
        (filter(&list("[6,0,0,1]", 4097)), "a filter has 1 to 4096 instructions, this one 4097"),
        (filter(&list("[6,0,0,1]", 90_000)), "a filter has 1 to 4096 instructions, this one 90000"),
        (filter("[[65535,0,0,0],[6,0,0,1]]"), "instruction 0 of the filter is unknown"),
        (filter("[[21,0,1,0],[6,0,0,1]]"), "instruction 0 of the filter leads out of it"),
        (filter("[[5,0,0,4294967295],[6,0,0,1]]"), "instruction 0 of the filter leads out of it"),
        (filter("[[96,0,0,16],[6,0,0,1]]"), "instruction 0 of the filter leads out of it"),
        (filter("[[52,0,0,0],[6,0,0,1]]"), "instruction 0 of the filter divides by zero"),
        (filter("[[0,0,0,1]]"), "the filter does not end in a return"),
        (filter("[[6,0,0]]"), "bad request"),
        (filter("[[6,256,0,1]]"), "bad request"),
        (filter("[[6,0,0,-1]]"), "bad request"),
    ]
}

/// Fields that are odd, and allowed.
fn allowed() -> Vec<String> {
    let longest = format!("[{},[6,0,0,1]]", vec!["[0,0,0,7]"; 4095].join(","));
    vec![
        filter(&longest),
        // It reads beyond any frame, and so rejects it.
        filter("[[32,0,0,4294967295],[6,0,0,1]]"),
        // The file has room for a part of it that ends within a character.
        format!(r#""filter":{{"text":"{}","program":[[6,0,0,1]]}}"#, "\u{20ac}".repeat(300_000)),
        format!(r#""ports":{}"#, list("\"p0\"", 100_000)),
        format!(r#""directions":{}"#, list("\"in\"", 100_000)),
        r#""snaplen":14,"count":18446744073709551615"#.to_owned(),
        r#""snaplen":14,"steps":true"#.to_owned(),
    ]
}

/// The `field` of every event of `kind` that is kept.
fn events(rig: &Rig, kind: &str, field: &str) -> Result<Vec<String>> {
    let output = rig.switch().client(&["events", "--kind", kind, "--json"])?;
    ensure!(output.status.success(), "{output:?}");
    let text = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line)?;
        Ok(event[field].as_str().context("a text")?.to_owned())
    };
    String::from_utf8(output.stdout)?.lines().map(text).collect()
}

/// A client whose capture with `fields` has begun, and what events call that.
fn begin(rig: &Rig, fields: &str) -> Result<(Peer, String)> {
    let mut peer = Peer::connect(rig.switch().control());
    let reply = peer.ask(&capture(fields));
    ensure!(reply["reply"] == "capture", "{fields:.200}: {reply}");
    ensure!(!peer.stream.fill_buf()?.is_empty(), "{fields:.200}: its headers");
    Ok((peer, format!("capture {}", reply["capture"])))
}

/// Ends a capture, and reads all that there is of it.
fn end(mut peer: Peer) -> Result<Capture> {
    peer.stream.get_ref().shutdown(Shutdown::Write)?;
    let mut bytes = Vec::new();
    peer.stream.read_to_end(&mut bytes)?;
    Capture::parse(&bytes)
}

/// Has the switch start its capture thread, whose descriptors it keeps.
fn start_thread(rig: &Rig) -> Result<()> {
    let (peer, _) = begin(rig, r#""count":1"#)?;
    end(peer).map(drop)
}

/// The switch refuses what cannot be, and the connection lives on.
fn refuse(rig: &Rig) -> Result<()> {
    let mut peer = Peer::connect(rig.switch().control());
    for (fields, said) in refused() {
        let reply = peer.ask(&capture(&fields));
        ensure!(reply["reply"] == "error" && reply["id"] == 1, "{fields:.200}: {reply:.500}");
        let error = reply["error"].as_str().context("a text")?;
        ensure!(error.contains(said), "{fields:.200}: {error:.500}");
    }
    ensure!(peer.ask(r#"{"v":1,"id":2,"cmd":"show"}"#)["reply"] == "show");
    // The one that started the thread, and no other.
    ensure!(events(rig, "capture_started", "capture")? == ["capture 1"]);
    Ok(())
}

/// What is odd and allowed is a capture like others.
fn allow(rig: &Rig) -> Result<()> {
    for fields in allowed() {
        let (peer, _) = begin(rig, &fields)?;
        let rx = rig.stats(0)?.rx;
        rig.wait_rx(0, rx + 100)?;
        let capture = end(peer).with_context(|| format!("{fields:.200}"))?;
        check_sums(&capture).with_context(|| format!("{fields:.200}"))?;
        let forwarded = &capture.end().ports.first().context("p0")?.forwarded;
        ensure!(forwarded.counted >= 100, "{fields:.200}: {forwarded:?}");
        let rejects = fields.contains("[32,");
        ensure!((forwarded.passed > 0, forwarded.written > 0) == (rejects, !rejects), "{forwarded:?}");
        let snaplen = if fields.contains("snaplen") { 14 } else { 200 };
        ensure!(capture.frames.iter().all(|frame| frame.len == 200 && frame.bytes.len() == snaplen));
    }
    Ok(())
}

/// Captures that nobody reads take the places of captures, and no others.
fn fill(rig: &Rig) -> Result<()> {
    let idle = (0..CAPTURES_MAX).map(|_| begin(rig, r#""ports":["p1"],"directions":["dropped"]"#));
    let mut idle = idle.collect::<Result<Vec<_>>>()?;
    let mut late = Peer::connect(rig.switch().control());
    let reply = late.ask(&capture(r#""count":1"#));
    ensure!(reply["error"] == "16 captures are under way already", "{reply}");
    ensure!(late.ask(r#"{"v":1,"id":2,"cmd":"show"}"#)["reply"] == "show");
    // One that goes makes room for one.
    drop(idle.pop());
    wait_until("its place", SOON, || begin(rig, r#""count":1"#).is_ok())
}

/// Whoever reads a capture orders nothing more, and is not heard for ever.
fn chatter(rig: &Rig) -> Result<()> {
    let quiet = r#""ports":["p1"],"directions":["dropped"]"#;
    let begun = || -> Result<UnixStream> {
        let mut stream = UnixStream::connect(rig.switch().control())?;
        stream.set_write_timeout(Some(SOON))?;
        stream.write_all(format!("{}\n", capture(quiet)).as_bytes())?;
        Ok(stream)
    };
    let mut pipelined = begun()?;
    pipelined.write_all(b"{\"v\":1,\"id\":2,\"cmd\":\"stop\"}\n")?;
    pipelined.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    pipelined.read_to_end(&mut said)?;
    let newline = said.iter().position(|byte| *byte == b'\n').context("a reply")?;
    check_sums(&Capture::parse(&said[newline + 1..])?)?;

    let mut endless = begun()?;
    let chunk = [b'x'; 1 << 16];
    let mut sent = 0;
    while endless.write_all(&chunk).is_ok() {
        sent += chunk.len();
        ensure!(sent < 16 << 20, "somebody listens to {sent} bytes");
    }
    wait_until("the event", SOON, || {
        let whys = events(rig, "capture_stopped", "why").unwrap_or_default();
        whys.iter().any(|why| why.starts_with("xxx") && why.len() <= 500)
    })
}

/// What a reader says in one breath with its request is heard as what it says later.
#[test]
fn a_reason_that_comes_with_the_request_is_heard() -> Result<()> {
    require!(root);
    let rig = Rig::new(&["stream"])?;
    let mut stream = UnixStream::connect(rig.switch().control())?;
    stream.set_read_timeout(Some(SOON))?;
    let request = capture(r#""directions":["in"]"#);
    stream.write_all(format!("{request}\nno space left on device\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    let newline = said.iter().position(|byte| *byte == b'\n').context("a reply")?;
    ensure!(Capture::parse(&said[newline + 1..])?.end().why == "asked");
    wait_until("the event", SOON, || {
        events(&rig, "capture_stopped", "why").is_ok_and(|whys| !whys.is_empty())
    })?;
    ensure!(events(&rig, "capture_stopped", "why")? == ["no space left on device"]);

    // Who says more than any reason is not waited for.
    let mut endless = UnixStream::connect(rig.switch().control())?;
    endless.set_read_timeout(Some(SOON))?;
    endless.write_all(format!("{request}\n{}", "x".repeat(1000)).as_bytes())?;
    endless.read_to_end(&mut said)?;
    wait_until("the event", SOON, || {
        let whys = events(&rig, "capture_stopped", "why").unwrap_or_default();
        whys.last().is_some_and(|why| *why == "x".repeat(500))
    })
}

#[test]
fn a14_hostile_captures_are_refused_or_bounded_and_cost_no_frame() -> Result<()> {
    require!(root);
    let rig = Rig::new(&["stream", "stream"])?;
    start_thread(&rig)?;
    beside_frames(&rig, |rig| {
        // Half a request each: one is never finished, one has no end to come.
        let request = capture(r#""ports":["p0"]"#);
        let half = &request.as_bytes()[..request.len() / 2];
        let (mut slow, mut short) =
            (Peer::connect(rig.switch().control()), Peer::connect(rig.switch().control()));
        slow.send(half);
        short.send(half);
        short.stream.get_ref().shutdown(Shutdown::Write)?;
        ensure!(short.reply().is_none(), "half a request is none");
        refuse(rig)?;
        allow(rig)?;
        chatter(rig)?;
        fill(rig)?;
        ensure!(slow.refusal() == "no whole request within 10 s");
        Ok(())
    })
}

/// Frames of 1514 bytes in bursts, each of which must arrive.
fn exchange(rig: &Rig, a: &mut GuestSocket, b: &mut GuestSocket, frames: u64) -> Result<()> {
    const BURST: u64 = 16;
    let bytes = frame(0x0b, 0x0a, 1514);
    for _ in 0..frames / BURST {
        for _ in 0..BURST {
            a.send(&bytes, &rig.path(0))?;
        }
        for _ in 0..BURST {
            ensure!(b.receive()? == bytes);
        }
    }
    Ok(())
}

#[test]
fn a_capture_that_nobody_reads_is_bounded_and_costs_no_frame() -> Result<()> {
    // What waits for a reader, and the blocks in which frames come to the capture
    // thread: docs/capture.md.
    const WAITING: u64 = 32 << 20;
    const BLOCKS: u64 = 32 * 1_400_000;
    // Records of the one that has enough; others have two a frame.
    const COUNTED: u64 = 2_000;
    require!(root);
    let rig = Rig::new(&["stream", "stream"])?;
    start_thread(&rig)?;
    let (mut a, mut b) = (rig.stream(0)?, rig.stream(1)?);
    connects((&mut a, &rig.path(0)), &mut b, &frame(UNKNOWN, 0x0a, 60))?;
    connects((&mut b, &rig.path(1)), &mut a, &frame(0x0a, 0x0b, 60))?;
    let (fds, memory) = (fds_len(&rig)?, rig.switch().resident_bytes()?);

    let (mute, lost) = begin(&rig, r#""segment":true"#)?;
    let (_counted, over) = begin(&rig, &format!(r#""count":{COUNTED}"#))?;
    let mut sent = 0;
    while 2 * 1514 * sent < 2 * WAITING || !events(&rig, "capture_lost", "capture")?.contains(&lost) {
        exchange(&rig, &mut a, &mut b, 1024)?;
        sent += 1024;
        ensure!(2 * 1514 * sent < 8 * WAITING, "{sent} frames wait");
    }
    // From here on it takes no more: these are three times what it may hold.
    exchange(&rig, &mut a, &mut b, 65_536)?;
    sent += 65_536;
    let grown = rig.switch().resident_bytes()?.saturating_sub(memory);
    ensure!(grown < WAITING + BLOCKS + COUNTED * 2_000 + (16 << 20), "{grown} bytes more");

    // Somebody else's capture misses nothing for it.
    let (good, _) = begin(&rig, r#""directions":["in"]"#)?;
    exchange(&rig, &mut a, &mut b, 32)?;
    sent += 32;
    let good = end(good)?;
    check_sums(&good)?;
    ensure!(good.frames.len() == 32 && good.end().missed == 0, "{:?}", good.end());

    // When it is read after all, what is there is whole, and the rest is counted.
    let capture = end(mute)?;
    check_sums(&capture)?;
    let [p0, p1] = capture.end().ports.as_slice() else { anyhow::bail!("{:?}", capture.end()) };
    for sums in [p0.forwarded, p1.sent] {
        ensure!(sums.counted == sent && sums.slow > 0 && sums.written > 0, "{sent} sent: {sums:?}");
    }
    ensure!(capture.frames.iter().all(|record| record.bytes == frame(0x0b, 0x0a, 1514)));
    ensure!(capture.frames.is_sorted_by_key(|record| record.id), "in order");

    // The one that has had its count is waited for, and not for ever.
    wait_until("it to be given up", SOON, || {
        let stopped = events(&rig, "capture_stopped", "capture").unwrap_or_default();
        let whys = events(&rig, "capture_stopped", "why").unwrap_or_default();
        stopped.contains(&over) && whys.iter().any(|why| why == "the reader took nothing for 10 s")
    })?;
    let stats = rig.stats(0)?;
    ensure!(stats.rx == sent + 1 && stats.forwarded == sent + 1, "{sent} sent: {stats:?}");
    wait_until("the descriptors to be closed", SOON, || fds_len(&rig).is_ok_and(|len| len <= fds))
}

#[test]
fn the_past_is_bounded_too_whatever_is_asked_of_it() -> Result<()> {
    const RECORDER: u64 = 4 << 20;
    require!(root);
    let rig = Rig::with_flags(&["stream", "stream"], &["--recorder", "4M"])?;
    let (mut a, mut b) = (rig.stream(0)?, rig.stream(1)?);
    connects((&mut a, &rig.path(0)), &mut b, &frame(UNKNOWN, 0x0a, 60))?;
    connects((&mut b, &rig.path(1)), &mut a, &frame(0x0a, 0x0b, 60))?;
    let (first, before) = (4 * RECORDER / 1514 / 16 * 16, rig.stats(0)?.rx);
    exchange(&rig, &mut a, &mut b, first)?;
    // It ends by itself, and has what is kept: some, not all.
    let past = |fields: &str| -> Result<Capture> {
        let (mut peer, _) = begin(&rig, fields)?;
        let mut bytes = Vec::new();
        peer.stream.read_to_end(&mut bytes)?;
        let capture = Capture::parse(&bytes)?;
        check_sums(&capture)?;
        Ok(capture)
    };
    let all = past(r#""last_ms":18446744073709551615,"count":18446744073709551615,"directions":["in"]"#)?;
    let kept = all.frames.len() as u64;
    ensure!(all.end().why == "recorded" && kept * 1514 < RECORDER, "{kept} frames, {:?}", all.end());
    ensure!(kept * 1514 > RECORDER / 2, "{kept} frames are few");
    ensure!(all.frames.iter().all(|record| record.bytes == frame(0x0b, 0x0a, 1514)));
    let one = past(r#""last_ms":18446744073709551615,"count":1"#)?;
    ensure!(one.frames.len() == 1 && one.end().why == "count", "{:?}", one.end());
    ensure!(past(r#""last_ms":0"#)?.frames.is_empty(), "nothing is of this very instant");

    // Nobody reads, and what they have asked for is forgotten meanwhile.
    let (fds, memory) = (fds_len(&rig)?, rig.switch().resident_bytes()?);
    let mutes = (0..CAPTURES_MAX).map(|_| begin(&rig, r#""last_ms":3600000"#));
    let mutes = mutes.collect::<Result<Vec<_>>>()?;
    exchange(&rig, &mut a, &mut b, first)?;
    let grown = rig.switch().resident_bytes()?.saturating_sub(memory);
    // A MiB and a little each, and the blocks.
    ensure!(grown < CAPTURES_MAX as u64 * (3 << 19) + 32 * 1_400_000, "{grown} bytes more");
    for (mute, _) in mutes {
        let capture = end(mute)?;
        check_sums(&capture)?;
        let end = capture.end();
        ensure!(end.written > 0 && end.missed > 0, "{end:?}");
        ensure!(capture.frames.is_sorted_by_key(|record| record.id), "in order");
    }
    let stats = rig.stats(0)?;
    ensure!(stats.rx == before + 2 * first && stats.forwarded == stats.rx, "{stats:?}");
    wait_until("the descriptors to be closed", SOON, || fds_len(&rig).is_ok_and(|len| len <= fds))
}
