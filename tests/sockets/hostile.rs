//! A14 against a whole switch: while hostile clients do all of it at once, no
//! frame is lost, nothing is changed, and afterwards no descriptor is left.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::require;

use crate::ports::{Rig, SOON, UNKNOWN, connects, frame};
use crate::rig::Peer;

/// A frame from station 0a to 0b that carries a number.
fn numbered(number: u64) -> Vec<u8> {
    let mut bytes = frame(0x0b, 0x0a, 200);
    bytes[20..28].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Sends numbered frames, each when the one before has arrived, until told to
/// stop; every one must arrive, once and in order. Returns their number.
fn ping_pong(rig: &Rig, guests: [GuestSocket; 2], stop: &AtomicBool, passed: &AtomicU64) -> Result<u64> {
    let [mut a, mut b] = guests;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let bytes = numbered(number);
        a.send(&bytes, &rig.path(0))?;
        let got = b.receive().with_context(|| format!("frame {number}"))?;
        ensure!(got == bytes, "frame {number}: {got:02x?}");
        passed.store(number, Ordering::SeqCst);
    }
    Ok(number)
}

/// Descriptors that the switch has open.
pub fn fds_len(rig: &Rig) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", rig.switch().pid()))?.count())
}

/// Requests whose names no switch may take, with what the refusal says.
fn hostile_names() -> Vec<(serde_json::Value, &'static str)> {
    let add = |spec: &str| json!({"v": 1, "id": 1, "cmd": "port_add", "spec": spec});
    let named = |name: &str| json!({"v": 1, "id": 1, "cmd": "port_add", "spec": "stream:/tmp/x.sock", "keys": {"name": name}});
    let deleted = |name: &str| json!({"v": 1, "id": 1, "cmd": "port_del", "name": name});
    vec![
        (add(""), "cannot name an interface"),
        (add("../x"), "cannot name an interface"),
        (add("%d"), "cannot name an interface"),
        (add("sixteen-letters-"), "cannot name an interface"),
        (add("a\0b"), "cannot name an interface"),
        (add("netdev:../x"), "cannot name an interface"),
        (add("tap:%d"), "cannot name an interface"),
        (add("stream:"), "socket"),
        (add("stream:/a\0b"), "socket"),
        (add(&format!("stream:/{}", "x".repeat(107))), "socket"),
        (add("tap0,name=../x"), "cannot name a port"),
        (named("../x"), "cannot name a port"),
        (named(""), "cannot name a port"),
        (named("%d"), "cannot name a port"),
        (named("a\0b"), "cannot name a port"),
        (named(&"x".repeat(33)), "cannot name a port"),
        (deleted("../x"), "there is no port `../x`"),
        (deleted("%d"), "there is no port `%d`"),
        (deleted("a\0b"), "there is no port `a\\0b`"),
        (deleted(""), "there is no port ``"),
        (json!({"v": 1, "id": 1, "cmd": "set", "keys": {"name": "../x"}}), "`name` cannot change"),
        (
            json!({"v": 1, "id": 1, "cmd": "set", "keys": {"control": "/etc/passwd"}}),
            "`control` cannot change",
        ),
        (json!({"v": 1, "id": 1, "cmd": "set", "keys": {"../x": "1"}}), "unknown key `../x`"),
        (json!({"v": 1, "id": 1, "cmd": "fdb_show", "filter": {"port": "../x"}}), "there is no port `../x`"),
    ]
}

/// Everything that hostile clients do, one after the other.
fn attack(rig: &Rig) -> Result<()> {
    let control = rig.switch().control();
    let show = br#"{"v":1,"id":1,"cmd":"show"}"#;
    // 10,000 connections; some speak and do not wait.
    for n in 0..10_000 {
        let mut stream = UnixStream::connect(control)?;
        if n % 3 == 0 {
            let _ = stream.write_all(show);
        }
    }
    // Half a line each from eight that stay to the end.
    let mut halves = Vec::new();
    for _ in 0..8 {
        let mut half = UnixStream::connect(control)?;
        half.write_all(&show[..9])?;
        halves.push(half);
    }
    // A line of a GiB, as far as it gets.
    let mut endless = UnixStream::connect(control)?;
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while endless.write_all(&chunk).is_ok() {
        sent += chunk.len();
        ensure!(sent < 1 << 30, "it took a line of 1 GiB");
    }
    // Descriptors that nobody asked for, with each line of many.
    let mut peer = Peer::connect(control);
    let (mut reader, writer) = std::io::pipe()?;
    for _ in 0..100 {
        let fds = [writer.as_fd(); 32];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let line = [show.as_slice(), b"\n"].concat();
        sendmsg(peer.stream.get_ref(), &[IoSlice::new(&line)], &mut ancillary, SendFlags::empty())?;
        ensure!(peer.reply().is_some_and(|reply| reply["reply"] == "show"), "the request itself is fine");
    }
    drop(writer);
    ensure!(reader.read(&mut [0; 1])? == 0, "a write end is still open in the switch");
    // Names.
    for (request, expected) in hostile_names() {
        let reply = peer.ask(&request.to_string());
        ensure!(reply["reply"] == "error", "{request}: {reply}");
        ensure!(reply["error"].as_str().is_some_and(|error| error.contains(expected)), "{request}: {reply}");
    }
    Ok(())
}

/// Has `attack` done while numbered frames flow between the guests of two stream
/// ports, none of which is lost; then the sums hold and no descriptor is left.
pub fn beside_frames(rig: &Rig, attack: impl FnOnce(&Rig) -> Result<()>) -> Result<()> {
    let (mut a, mut b) = (rig.stream(0)?, rig.stream(1)?);
    connects((&mut a, &rig.path(0)), &mut b, &frame(UNKNOWN, 0x0a, 60))?;
    connects((&mut b, &rig.path(1)), &mut a, &frame(0x0a, 0x0b, 60))?;
    let before = fds_len(rig)?;
    let (stop, passed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (attacked, sent) = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping_pong(rig, [a, b], &stop, &passed));
        // Not before frames flow.
        let flows = wait_until("frames", SOON, || passed.load(Ordering::SeqCst) > 100);
        let attacked = flows.and_then(|()| attack(rig));
        stop.store(true, Ordering::SeqCst);
        (attacked, pinging.join())
    });
    attacked?;
    let sent = sent.map_err(|_| anyhow::anyhow!("the guests panicked"))??;
    ensure!(sent > 1000, "only {sent} frames passed meanwhile");
    let stats = rig.stats(0)?;
    // And the first one, to an unknown address.
    ensure!(stats.rx == sent + 1 && stats.forwarded == sent + 1, "{sent} sent: {stats:?}");
    wait_until("the descriptors to be closed", SOON, || fds_len(rig).is_ok_and(|len| len <= before))
}

#[test]
fn a14_hostile_clients_cost_no_frame_and_leave_nothing() -> Result<()> {
    require!(root);
    let rig = Rig::new(&["stream", "stream"])?;
    let before = rig.switch().json(&["port", "show"])?["ports"][0]["keys"].clone();
    let memory = rig.switch().resident_bytes()?;
    beside_frames(&rig, attack)?;
    let grown = rig.switch().resident_bytes()?.saturating_sub(memory);
    ensure!(grown < 16 << 20, "{grown} bytes more");
    let ports = rig.switch().json(&["port", "show"])?;
    ensure!(ports["ports"].as_array().is_some_and(|ports| ports.len() == 2), "{ports}");
    ensure!(ports["ports"][0]["keys"] == before, "{ports}");
    Ok(())
}
