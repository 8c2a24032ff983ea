//! `stream:` ports: QEMU's framing in whatever pieces it comes, peers that come,
//! go, stop reading and break the rules, and the socket's file.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};
use vswitch::control::PortState;
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::Switch;
use vswitch_tests::require;
use vswitch_tests::user::NOBODY;

use crate::ports::{Rig, SOON, UNKNOWN, connects, frame};

#[test]
fn guests_on_streams_exchange_frames_byte_for_byte() -> Result<()> {
    let rig = Rig::new(&["stream", "stream", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let port = rig.port(0)?;
    ensure!((port.kind.as_str(), port.state, port.mtu) == ("stream", PortState::Down, 1500), "{port:?}");
    ensure!(port.note == "nobody has connected yet", "{port:?}");
    let (mut zero, mut one, mut two) = (rig.stream(0)?, rig.stream(1)?, rig.stream(2)?);
    let port = rig.port(0)?;
    ensure!(port.peer.ends_with(&format!(" {}", std::process::id())) && port.note.is_empty(), "{port:?}");

    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60))?;
    ensure!(two.receive()? == frame(UNKNOWN, 1, 60), "unknown is flooded");
    for (number, len) in (0u8..).zip([14, 15, 59, 60, 255, 256, 257, 1513, 1514]) {
        let mut sent = frame(1, 2, len);
        if len > 14 {
            sent[14] = number;
        }
        connects((&mut one, &b), &mut zero, &sent)?;
    }
    // Many at once, and each byte alone.
    let frames: Vec<Vec<u8>> = (0..200).map(|n| frame(2, 1, 60 + n)).collect();
    let mut bytes = Vec::new();
    for frame in &frames {
        bytes.extend(u32::try_from(frame.len())?.to_be_bytes());
        bytes.extend(frame);
    }
    let mut other = zero.try_clone()?;
    let sender = std::thread::spawn(move || other.send_raw(&bytes));
    ensure!(one.receive_all(200)? == frames);
    sender.join().expect("the sender")?;
    let last = frame(2, 1, 100);
    for byte in [&100u32.to_be_bytes()[..], &last].concat() {
        zero.send_raw(&[byte])?;
    }
    ensure!(one.receive()? == last);
    let stats = rig.stats(2)?;
    ensure!((stats.tx, stats.rx) == (1, 0), "a silent third sees the flooded frame only: {stats:?}");
    let stats = rig.stats(0)?;
    ensure!((stats.rx, stats.tx, stats.dropped(), stats.refused()) == (202, 9, 0, 0), "{stats:?}");
    Ok(())
}

#[test]
fn lengths_that_cannot_be_cost_their_peer_the_connection_and_nobody_else_anything() -> Result<()> {
    let rig = Rig::new(&["stream", "stream", "stream"])?;
    let (mut one, mut two) = (rig.stream(1)?, rig.stream(2)?);
    let b = rig.path(1);
    connects((&mut one, &b), &mut two, &frame(UNKNOWN, 2, 60))?;
    for (bytes, why) in [
        (vec![0, 0, 0, 0], "a frame of length 0"),
        (vec![0xff; 4], "a frame longer than 66048 bytes"),
        (0x0001_0201u32.to_be_bytes().to_vec(), "a frame longer than 66048 bytes"),
    ] {
        let mut zero = rig.stream(0)?;
        zero.send(&frame(UNKNOWN, 1, 60), &rig.path(0))?;
        zero.send_raw(&bytes)?;
        zero.wait_hung_up()?;
        ensure!(one.receive()? == frame(UNKNOWN, 1, 60) && two.receive()? == frame(UNKNOWN, 1, 60));
        rig.wait_state(0, PortState::Down)?;
        let port = rig.port(0)?;
        ensure!(port.note.ends_with(&format!("was disconnected: it sent {why}")), "{port:?}");
        connects((&mut one, &b), &mut two, &frame(UNKNOWN, 2, 61))?;
    }
    // The longest that may be is judged as any frame is: here by the MTU of
    // each egress.
    let mut zero = rig.stream(0)?;
    zero.send(&frame(UNKNOWN, 1, 66_048), &rig.path(0))?;
    zero.send(&frame(UNKNOWN, 1, 70), &rig.path(0))?;
    ensure!(one.receive()? == frame(UNKNOWN, 1, 70));
    let stats = rig.stats(1)?;
    ensure!(stats.refused["oversize"] == 1 && stats.refused() == 1, "{stats:?}");
    Ok(())
}

#[test]
fn a_port_has_one_peer_and_takes_the_next_when_it_goes() -> Result<()> {
    let rig = Rig::new(&["stream", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let (mut zero, mut one) = (rig.stream(0)?, rig.stream(1)?);
    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60))?;
    for _ in 0..3 {
        let mut second = GuestSocket::stream(&a)?;
        second.wait_hung_up()?;
    }
    rig.switch().wait_stderr("was turned away", SOON)?;
    let said = rig.switch().stderr();
    ensure!(said.matches("was turned away: a port has one peer").count() == 1, "said once:\n{said}");
    connects((&mut one, &b), &mut zero, &frame(1, 2, 60))?;

    // A frame half sent dies with its connection: the next begins anew.
    for round in 0..20 {
        zero.send_raw(&[0, 0, 0, 60, 1, 2, 3])?;
        drop(zero);
        if round % 2 == 0 {
            rig.wait_state(0, PortState::Down)?;
            let port = rig.port(0)?;
            ensure!(port.note.contains("has gone; the port is back when it is"), "{port:?}");
            let fdb = rig.switch().json(&["fdb", "show", "--port", "p0"])?;
            ensure!(fdb["entries"].as_array().is_some_and(Vec::is_empty), "{fdb}");
        }
        // In odd rounds the next peer is there before anybody looked.
        zero = rig.stream(0)?;
        connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60 + round))?;
        connects((&mut one, &b), &mut zero, &frame(1, 2, 60 + round))?;
    }
    Ok(())
}

#[test]
fn a_peer_that_does_not_read_loses_its_own_frames_and_no_bytes_of_them() -> Result<()> {
    let rig = Rig::new(&["stream", "stream", "stream"])?;
    let a = rig.path(0);
    let (mut zero, mut one, mut slow) = (rig.stream(0)?, rig.stream(1)?, rig.stream(2)?);
    let resident = rig.switch().resident_bytes()?;
    // Far more than a socket holds, to both; one of them reads.
    let numbered = |number: u32| {
        let mut bytes = frame(UNKNOWN, 1, 1000 + usize::try_from(number % 500).unwrap_or(0));
        bytes[14..18].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let total = 20_000u32;
    for number in 0..total {
        zero.send(&numbered(number), &a)?;
        // At most so many are on their way: the reader loses none.
        if number >= 32 {
            ensure!(one.receive()? == numbered(number - 32), "{number}");
        }
    }
    rig.wait_rx(0, total.into())?;
    let stats = rig.stats(1)?;
    ensure!((stats.copies, stats.refused()) == (total.into(), 0), "{stats:?}");
    let stats = rig.stats(2)?;
    let full = stats.refused["full"];
    ensure!(full > 10_000 && stats.refused() == full, "{stats:?}");
    let grown = rig.switch().resident_bytes()?.saturating_sub(resident);
    ensure!(grown < 2 << 20, "{grown} bytes for a peer that does not read");
    // It reads again: every frame that was taken, whole, in order.
    let mut last = None;
    for _ in 0..stats.tx {
        let got = slow.receive()?;
        let number = u32::from_be_bytes(got[14..18].try_into()?);
        ensure!(got == numbered(number) && last < Some(number), "{last:?}, then {number}");
        last = Some(number);
    }
    connects((&mut zero, &a), &mut slow, &frame(UNKNOWN, 1, 60))?;
    Ok(())
}

#[test]
fn a_socket_is_whose_its_port_says() -> Result<()> {
    require!(root, (port "vhost-user"));
    let ns = Netns::new("own")?;
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let port = |kind: &str, keys: &str| format!("{kind}:{}{keys}", path(kind).display());
    let ports = [
        port("stream", ",owner=nobody"),
        port("dgram", ",owner=65534"),
        port("vhost-user", ",owner=nobody,queues=2"),
        format!("stream:{},owner=switch", path("root").display()),
    ];
    let switch = Switch::with_ports(&ns, &ports.each_ref().map(String::as_str))?;
    for (name, owner) in [("stream", NOBODY), ("dgram", NOBODY), ("vhost-user", NOBODY), ("root", 0)] {
        let found = std::fs::symlink_metadata(path(name))?;
        ensure!((found.uid(), found.mode() & 0o7777) == (owner, 0o600), "{name}: {found:?}");
    }
    for (keys, why) in [
        ("owner=no-such-user", "no user `no-such-user` in /etc/passwd"),
        ("owner=nobody,mode=client", "the socket is made by the other side"),
    ] {
        let refused = switch.client(&["port", "add", &format!("stream:{},{keys}", path("x").display())])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success() && said.contains(why) && !path("x").exists(), "{refused:?}");
    }
    switch.stop()?;
    Ok(())
}

#[test]
fn the_sockets_file_is_the_users_alone_and_goes_with_the_switch() -> Result<()> {
    let mut rig = Rig::new(&["stream", "dgram"])?;
    for number in [0, 1] {
        let found = std::fs::symlink_metadata(rig.path(number))?;
        ensure!(found.file_type().is_socket() && found.mode() & 0o7777 == 0o600, "{:o}", found.mode());
        ensure!(found.uid() == rig.user.uid());
    }
    // A live one is nobody else's.
    for (number, kind) in [(0, "stream"), (1, "dgram"), (0, "dgram"), (1, "stream")] {
        let spec = format!("{kind}:{}", rig.path(number).display());
        let error = Switch::start_as(&rig.user, &["--port", &spec]).unwrap_err().to_string();
        ensure!(error.contains("another process listens there"), "{error}");
    }
    let _guest = rig.stream(0)?;
    // Killed, it leaves them behind, and the next start takes their place.
    rig.switch.take().context("running")?.kill()?;
    ensure!(rig.path(0).exists() && rig.path(1).exists());
    rig.start()?;
    let _guest = rig.stream(0)?;
    let ended = rig.switch.take().context("running")?.stop()?;
    ensure!(ended.status.success(), "{ended:?}");
    ensure!(!rig.path(0).exists() && !rig.path(1).exists());
    // What is not a socket is not touched.
    rig.user.write("p0.sock", "mine")?;
    let error = rig.start().unwrap_err().to_string();
    ensure!(error.contains("is not a socket") && std::fs::read_to_string(rig.path(0))? == "mine", "{error}");
    Ok(())
}

#[test]
fn ports_are_added_changed_and_removed_while_guests_talk() -> Result<()> {
    let rig = Rig::new(&["stream", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let (mut zero, mut one) = (rig.stream(0)?, rig.stream(1)?);
    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60))?;
    let spec = format!("stream:{}", rig.path(2).display());
    rig.switch().json(&["port", "add", &spec])?;
    let mut two = rig.stream(2)?;
    connects((&mut zero, &a), &mut two, &frame(UNKNOWN, 1, 61))?;
    ensure!(one.receive()? == frame(UNKNOWN, 1, 61));
    // The MTU is what the switch sends there.
    rig.switch().json(&["port", "set", "p1", "mtu=9000"])?;
    ensure!(rig.port(1)?.mtu == 9000);
    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 9014))?;
    ensure!(rig.stats(2)?.refused["oversize"] == 1);
    rig.switch().json(&["port", "del", "p2"])?;
    two.wait_hung_up()?;
    ensure!(!rig.path(2).exists());
    connects((&mut one, &b), &mut zero, &frame(1, 2, 60))?;
    Ok(())
}

#[test]
fn as_a_client_it_connects_when_somebody_listens_and_again() -> Result<()> {
    let rig = Rig::new(&["stream,mode=client", "stream"])?;
    ensure!(rig.port(0)?.note.starts_with("nobody listens on "), "{:?}", rig.port(0)?);
    let mut one = rig.stream(1)?;
    for round in 0..3 {
        let listener = UnixListener::bind(rig.path(0))?;
        rig.user.give(&rig.path(0))?;
        let (stream, _) = listener.accept()?;
        let mut zero = GuestSocket::of_stream(stream)?;
        rig.wait_state(0, PortState::Up)?;
        connects((&mut zero, &rig.path(0)), &mut one, &frame(UNKNOWN, 1, 60 + round))?;
        drop((zero, listener));
        std::fs::remove_file(rig.path(0))?;
        rig.wait_state(0, PortState::Down)?;
    }
    Ok(())
}

#[test]
fn peers_come_and_go_without_a_trace() -> Result<()> {
    let rig = Rig::new(&["stream", "dgram", "stream"])?;
    let descriptors = || {
        let dir = format!("/proc/{}/fd", rig.switch().pid());
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    };
    let before = descriptors();
    for round in 0..30u32 {
        let mut zero = rig.stream(0)?;
        if round % 3 == 0 {
            // The port may still be its predecessor's, and this one be turned away.
            let _ = zero.send_raw(&[0; 4]);
        }
        let mut one = rig.dgram(1)?;
        wait_until("a place at the port", SOON, || one.send(&frame(UNKNOWN, 2, 60), &rig.path(1)).is_ok())?;
        drop((zero, one));
    }
    rig.wait_state(0, PortState::Down)?;
    wait_until("every descriptor to be closed", SOON, || {
        // Whoever left without a word is noticed at the next look.
        rig.port(1).is_ok_and(|port| port.state == PortState::Down) && descriptors() == before
    })
    .with_context(|| format!("{before} before, {} now\n{}", descriptors(), rig.switch().stderr()))
}
