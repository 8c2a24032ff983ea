//! `dgram:` ports: the peer is learnt from what it sends, lost when its socket
//! is, and learnt again.

use std::os::unix::net::UnixDatagram;

use anyhow::{Context as _, Result, ensure};
use vswitch::control::PortState;
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;

use crate::ports::{Rig, SOON, UNKNOWN, connects, frame};

#[test]
fn the_first_datagram_says_who_the_peer_is_and_is_not_lost() -> Result<()> {
    let rig = Rig::new(&["dgram", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let port = rig.port(0)?;
    ensure!((port.kind.as_str(), port.state) == ("dgram", PortState::Down), "{port:?}");
    ensure!(port.note == "nobody has sent a frame yet", "{port:?}");
    let (mut zero, mut one) = (rig.dgram(0)?, rig.stream(1)?);
    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60))?;
    let port = rig.port(0)?;
    ensure!(port.state == PortState::Up && port.peer == rig.own(0).display().to_string(), "{port:?}");
    for len in [14, 15, 60, 255, 256, 257, 1513, 1514] {
        connects((&mut one, &b), &mut zero, &frame(1, 2, len))?;
        connects((&mut zero, &a), &mut one, &frame(2, 1, len))?;
    }
    // While it is there, nobody else is heard.
    let stranger = UnixDatagram::unbound()?;
    ensure!(stranger.send_to(&frame(UNKNOWN, 9, 60), &a).is_err(), "the kernel keeps strangers away");
    let stats = rig.stats(0)?;
    ensure!((stats.rx, stats.tx, stats.dropped(), stats.refused()) == (9, 8, 0, 0), "{stats:?}");
    Ok(())
}

#[test]
fn many_frames_keep_their_order_and_their_bytes() -> Result<()> {
    let rig = Rig::new(&["dgram", "stream"])?;
    let a = rig.path(0);
    let (mut zero, mut one) = (rig.dgram(0)?, rig.stream(1)?);
    let sent = |number: usize| frame(UNKNOWN, 1, 60 + number % 1400);
    // So many at a time that no buffer on the way is ever full.
    for number in 0..2000 {
        zero.send(&sent(number), &a)?;
        if number >= 32 {
            ensure!(one.receive()? == sent(number - 32), "{number}");
        }
    }
    ensure!(one.receive_all(32)? == (1968..2000).map(sent).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_frame_longer_than_any_buffer_is_dropped_by_name() -> Result<()> {
    let rig = Rig::new(&["dgram", "stream"])?;
    let a = rig.path(0);
    let (mut zero, mut one) = (rig.dgram(0)?, rig.stream(1)?);
    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60))?;
    zero.send(&frame(UNKNOWN, 1, 70_000), &a)?;
    zero.send(&[], &a)?;
    connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 61))?;
    let stats = rig.stats(0)?;
    ensure!((stats.drops["truncated"], stats.drops["runt"], stats.dropped()) == (1, 1, 2), "{stats:?}");
    Ok(())
}

#[test]
fn a_peer_that_goes_takes_its_port_down_and_another_may_come() -> Result<()> {
    let rig = Rig::new(&["dgram", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let mut one = rig.stream(1)?;
    let mut zero = rig.dgram(0)?;
    for round in 0..6 {
        connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60 + round))?;
        connects((&mut one, &b), &mut zero, &frame(1, 2, 60 + round))?;
        drop(zero);
        if round % 3 == 0 {
            // What is sent to it finds nobody.
            one.send(&frame(1, 2, 60), &b)?;
        }
        if round % 3 < 2 {
            // In a silent network, the next look does.
            rig.wait_state(0, PortState::Down)?;
            ensure!(rig.port(0)?.note.contains("has gone"), "{:?}", rig.port(0)?);
        }
        // Started again at the same place, as a guest is; in one round of
        // three before anybody noticed that it had gone.
        zero = rig.dgram(0)?;
        wait_until("the new one to be let in", SOON, || zero.send(&frame(UNKNOWN, 3, 60), &a).is_ok())?;
        ensure!(one.receive()? == frame(UNKNOWN, 3, 60));
    }
    Ok(())
}

#[test]
fn a_peer_that_is_named_need_not_speak_first_and_nobody_else_may() -> Result<()> {
    let rig = Rig::new(&["dgram,peer=HOME/g0", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    ensure!(rig.port(0)?.note.starts_with("nobody is at "), "{:?}", rig.port(0)?);
    let mut one = rig.stream(1)?;
    let other = rig.user.home().join("other");
    let mut stranger = GuestSocket::dgram(&other, &a)?;
    rig.user.give(&other)?;
    for _ in 0..3 {
        stranger.send(&frame(UNKNOWN, 9, 60), &a)?;
    }
    let mut zero = rig.dgram(0)?;
    rig.wait_state(0, PortState::Up)?;
    connects((&mut one, &b), &mut zero, &frame(UNKNOWN, 2, 60))?;
    connects((&mut zero, &a), &mut one, &frame(2, 1, 60))?;
    ensure!(rig.stats(0)?.rx == 1, "the stranger's frames were not received");
    Ok(())
}

#[test]
fn a_peer_that_does_not_read_loses_its_own_frames() -> Result<()> {
    let rig = Rig::new(&["stream", "dgram", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let (mut zero, mut slow, mut two) = (rig.stream(0)?, rig.dgram(1)?, rig.stream(2)?);
    slow.send(&frame(UNKNOWN, 2, 60), &b)?;
    ensure!(zero.receive()? == frame(UNKNOWN, 2, 60) && two.receive()? == frame(UNKNOWN, 2, 60));
    for number in 0..5000usize {
        zero.send(&frame(UNKNOWN, 1, 60 + number % 1000), &a)?;
        ensure!(two.receive()? == frame(UNKNOWN, 1, 60 + number % 1000));
    }
    let stats = rig.stats(1)?;
    let full = stats.refused["full"];
    ensure!(full > 1000 && stats.refused() == full && stats.tx + full == 5000, "{stats:?}");
    for number in 0..stats.tx {
        let number = usize::try_from(number).context("few")?;
        ensure!(slow.receive()? == frame(UNKNOWN, 1, 60 + number % 1000), "the oldest are kept");
    }
    connects((&mut zero, &a), &mut slow, &frame(UNKNOWN, 1, 60))?;
    Ok(())
}

#[test]
fn a_switch_that_starts_anew_finds_its_guest() -> Result<()> {
    let mut rig = Rig::new(&["dgram", "stream"])?;
    let (a, b) = (rig.path(0), rig.path(1));
    let mut zero = rig.dgram(0)?;
    for _ in 0..2 {
        let mut one = rig.stream(1)?;
        connects((&mut zero, &a), &mut one, &frame(UNKNOWN, 1, 60))?;
        connects((&mut one, &b), &mut zero, &frame(1, 2, 60))?;
        rig.switch.take().context("running")?.kill()?;
        rig.start()?;
    }
    Ok(())
}
