//! Bursts beside single frames, and what the frame's own bytes decide.

use super::*;
use crate::frame::MacAddr;
use crate::offload::VnetHeader;
use proptest::prelude::*;

const SECRET: [u64; 2] = [3, 5];

fn port(number: u8) -> PortId {
    PortId::new(number)
}

fn bridge(ports: u8, settings: Settings) -> Bridge {
    let mut bridge = Bridge::new(settings, SECRET);
    for number in 0..ports {
        bridge.add_port(port(number), PortSettings::default());
        bridge.set_link(port(number), true);
    }
    bridge
}

fn bytes(dst: u64, src: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(14)];
    bytes[..6].copy_from_slice(&MacAddr::from_u64(dst).octets());
    bytes[6..12].copy_from_slice(&MacAddr::from_u64(src).octets());
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes.truncate(len);
    bytes
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    Frame::new(bytes, &[], VnetHeader::PLAIN)
}

fn send(bridge: &mut Bridge, secs: u64, ingress: u8, src: u64, dst: u64) -> Verdict {
    bridge.forward(Time::from_secs(secs), port(ingress), &frame(&bytes(dst, src, 60)))
}

fn to(ports: &[u8]) -> Verdict {
    let to: PortSet = ports.iter().map(|number| port(*number)).collect();
    Verdict::Forward { to, copies: u16::try_from(ports.len()).unwrap(), vid: VlanId::UNAWARE }
}

#[test]
fn invariant_5_no_decision_reads_past_the_head() {
    let mut bridge = bridge(2, Settings::default());
    let head = bytes(0x0200_0000_0002, 0x0200_0000_0001, 14);
    let rest = [crate::frame::Piece::from_slice(&[0; 4000])];
    let verdict = bridge.forward(Time::START, port(0), &Frame::new(&head, &rest, VnetHeader::PLAIN));
    assert_eq!(verdict, to(&[1]));
    assert_eq!(bridge.counters().port(port(0)).rx_bytes, 4014);
}

#[test]
fn a_faulty_frame_is_dropped_by_its_own_reason_and_teaches_nothing() {
    let mut bridge = bridge(2, Settings::default());
    let head = bytes(0x0200_0000_0002, 0x0200_0000_0001, 60);
    for reason in [DropReason::Truncated, DropReason::BadOffload, DropReason::TunnelGso] {
        let verdict = bridge.forward(Time::START, port(0), &Frame::broken(&head, reason));
        assert_eq!(verdict, Verdict::Drop(reason));
        assert_eq!(bridge.counters().port(port(0)).drops[reason.index()], 1);
    }
    assert_eq!(bridge.fdb_len(), 0);
}

#[test]
fn a_port_that_is_down_unknown_or_gone_takes_and_gets_nothing() {
    let mut bridge = bridge(3, Settings::default());
    assert_eq!(send(&mut bridge, 0, 9, 1, 2), Verdict::Drop(DropReason::PortDown));
    bridge.set_link(port(9), true);
    assert_eq!(send(&mut bridge, 0, 9, 1, 2), Verdict::Drop(DropReason::PortDown), "never added");
    send(&mut bridge, 0, 1, 2, 9);
    bridge.set_link(port(1), false);
    assert_eq!(send(&mut bridge, 0, 1, 1, 2), Verdict::Drop(DropReason::PortDown));
    assert_eq!(send(&mut bridge, 0, 0, 1, 2), to(&[2]), "its station is forgotten");
    bridge.fdb_add(Time::START, VlanId::UNAWARE, MacAddr::from_u64(2), port(1), EntryKind::Static).unwrap();
    assert_eq!(send(&mut bridge, 0, 0, 1, 2), Verdict::Drop(DropReason::NoEgress), "a static one is not");
    bridge.remove_port(port(1));
    assert_eq!(send(&mut bridge, 0, 0, 1, 2), to(&[2]));
    let retired = bridge.counters().retired.clone();
    assert_eq!((retired.rx, retired.forwarded), (2, 1));
    assert_eq!(*bridge.counters().port(port(1)), PortCounters::ZERO);
}

#[test]
fn two_stations_with_one_address_are_remembered() {
    let mut bridge = bridge(3, Settings::default());
    for round in 0..10 {
        send(&mut bridge, round, 0, 7, 0xffff_ffff_ffff);
        send(&mut bridge, round, 1, 7, 0xffff_ffff_ffff);
    }
    let [seen] = *bridge.moves() else { panic!("{:?}", bridge.moves()) };
    assert_eq!((seen.mac.to_u64(), seen.from, seen.to, seen.count), (7, port(0), port(1), 19));
    assert_eq!((seen.since, seen.last), (Time::START, Time::from_secs(9)));
}

#[test]
fn entries_that_cannot_be_are_refused_with_the_way_out() {
    let mut bridge = bridge(1, Settings { fdb_size: 1, ..Settings::default() });
    let mut add = |mac, number, kind| {
        bridge
            .fdb_add(Time::START, VlanId::UNAWARE, MacAddr::from_u64(mac), port(number), kind)
            .map_err(|error| error.to_string())
    };
    for (mac, number, kind, words) in [
        (0, 0, EntryKind::Static, "neither zero nor a group"),
        (0xffff_ffff_ffff, 0, EntryKind::Static, "neither zero nor a group"),
        (2, 1, EntryKind::Static, "add the port first"),
        (2, 0, EntryKind::Dynamic, "static or sticky"),
    ] {
        let error = add(mac, number, kind).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    add(2, 0, EntryKind::Sticky).unwrap();
    add(2, 0, EntryKind::Static).unwrap();
    let error = add(3, 0, EntryKind::Static).unwrap_err();
    assert!(error.contains("raise fdb_size"), "{error}");
}

proptest! {
    /// Also with a table so small that the frames of one burst push each
    /// other's entries out, and with faults and moves in between.
    #[test]
    fn a_burst_is_that_many_single_frames(
        bursts in prop::collection::vec(
            (0..4u8, 0..3000u64, prop::collection::vec((0..12u64, 0..12u64, 10..16usize), 0..=BURST)),
            1..12,
        ),
        fdb_size in 1..12u32,
        secret in any::<[u64; 2]>(),
    ) {
        let settings = Settings { fdb_size, ageing: std::time::Duration::from_secs(5), transparent: false };
        let mut single = bridge(3, settings);
        let mut burst = Bridge::new(settings, secret);
        for number in 0..3 {
            burst.add_port(port(number), PortSettings::default());
            burst.set_link(port(number), true);
        }
        let mut now = Time::START;
        for (ingress, millis, frames) in bursts {
            now = now.after(std::time::Duration::from_millis(millis));
            let bytes: Vec<Vec<u8>> = frames
                .iter()
                .map(|(dst, src, len)| bytes(if *dst == 11 { 0x0180_c200_0000 } else { *dst }, *src, *len))
                .collect();
            let frames: Vec<Frame<'_>> = bytes.iter().map(|bytes| frame(bytes)).collect();
            let expected: Vec<Verdict> =
                frames.iter().map(|frame| single.forward(now, port(ingress), frame)).collect();
            let mut verdicts = ArrayVec::new();
            burst.forward_burst(now, port(ingress), &frames, &mut verdicts);
            prop_assert_eq!(verdicts.as_slice(), expected.as_slice());
            for number in 0..4 {
                prop_assert_eq!(burst.counters().port(port(number)), single.counters().port(port(number)));
            }
            prop_assert!(burst.fdb_entries(now).eq(single.fdb_entries(now)));
        }
    }
}
