//! Bursts beside single frames, and what the frame's own bytes decide.

use super::*;
use crate::frame::{MacAddr, TPID_C, VlanId};
use crate::offload::VnetHeader;
use proptest::prelude::*;
use std::time::Duration;

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
    /// other's entries out, with faults and moves in between, and with frames
    /// that come again, a byte shorter each time, some of them tagged.
    #[test]
    fn a_burst_is_that_many_single_frames(
        bursts in prop::collection::vec(
            (0..4u8, 0..3000u64, prop::collection::vec((0..12u64, 0..12u64, 10..24usize, 0..8usize), 0..=BURST)),
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
                .flat_map(|frame| (0..=frame.3).map(move |again| (frame, again)))
                .map(|((dst, src, len, times), again)| {
                    let dst = if *dst == 11 { 0x0180_c200_0000 } else { *dst };
                    let mut bytes = bytes(dst, *src, *len - again);
                    if let (3, Some(outer)) = (times, bytes.get_mut(12..14)) {
                        outer.copy_from_slice(&TPID_C.to_be_bytes());
                    }
                    bytes
                })
                .take(BURST)
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

/// Anything that can change an entry.
#[derive(Clone, Debug)]
enum Change {
    Frame { ingress: u8, src: u64 },
    Pin { port: u8, mac: u64 },
    Delete { mac: u64 },
    Flush { port: u8 },
    Limit { port: u8, max_macs: u32 },
    Link { port: u8, up: bool },
    Readd { port: u8 },
    Configure { fdb_size: u32, ageing: u64 },
    Sweep,
    Pass { secs: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let (port, mac) = (0..3u8, 0x0200_0000_0001..0x0200_0000_0014u64);
    prop_oneof![
        12 => (port.clone(), mac.clone()).prop_map(|(ingress, src)| Change::Frame { ingress, src }),
        1 => (port.clone(), mac.clone()).prop_map(|(port, mac)| Change::Pin { port, mac }),
        2 => mac.prop_map(|mac| Change::Delete { mac }),
        1 => port.clone().prop_map(|port| Change::Flush { port }),
        1 => (port.clone(), 0..4u32).prop_map(|(port, max_macs)| Change::Limit { port, max_macs }),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, up)| Change::Link { port, up }),
        1 => port.prop_map(|port| Change::Readd { port }),
        1 => (4..20u32, 0..400u64).prop_map(|(fdb_size, ageing)| Change::Configure { fdb_size, ageing }),
        2 => Just(Change::Sweep),
        2 => (0..200u64).prop_map(|secs| Change::Pass { secs }),
    ]
}

fn apply(bridge: &mut Bridge, now: &mut u64, change: &Change) {
    let time = Time::from_secs(*now);
    match *change {
        Change::Frame { ingress, src } => drop(send(bridge, *now, ingress, src, 0x0200_0000_0099)),
        Change::Pin { port: number, mac } => {
            let mac = MacAddr::from_u64(mac);
            let _ = bridge.fdb_add(time, VlanId::UNAWARE, mac, port(number), EntryKind::Static);
        }
        Change::Delete { mac } => drop(bridge.fdb_del(VlanId::UNAWARE, MacAddr::from_u64(mac))),
        Change::Flush { port: number } => {
            bridge.fdb_flush(&FlushScope { port: Some(port(number)), ..FlushScope::default() });
        }
        Change::Limit { port: number, max_macs } => {
            bridge
                .set_port(port(number), PortSettings { max_macs: Some(max_macs), ..PortSettings::default() });
        }
        Change::Link { port: number, up } => bridge.set_link(port(number), up),
        Change::Readd { port: number } => {
            bridge.remove_port(port(number));
            bridge.add_port(port(number), PortSettings::default());
            bridge.set_link(port(number), true);
        }
        Change::Configure { fdb_size, ageing } => {
            let ageing = Duration::from_secs(ageing);
            let _ = bridge.configure(time, Settings { fdb_size, ageing, ..Settings::default() });
        }
        Change::Sweep => drop(bridge.sweep(time)),
        Change::Pass { secs } => *now += secs,
    }
}

proptest! {
    /// Who forwards by copies of entries, and gives back what is recalled,
    /// never has a copy that the bridge would not make again.
    #[test]
    fn a_copy_that_is_not_recalled_is_true(changes in prop::collection::vec(change(), 1..300)) {
        let mut bridge = bridge(3, Settings { fdb_size: 16, ..Settings::default() });
        let mut copies = std::collections::BTreeMap::new();
        let mut now = 0;
        for (number, change) in changes.iter().enumerate() {
            apply(&mut bridge, &mut now, change);
            for (_, mac) in bridge.take_recalled() {
                prop_assert!(copies.remove(&mac).is_some(), "{mac} was recalled twice");
            }
            for (mac, on) in &copies {
                // At the start of time nothing has aged: only the sweep takes
                // what has.
                let station = bridge.station(Time::START, VlanId::UNAWARE, *mac);
                prop_assert_eq!(station.map(|s| (s.port, s.lent)), Some((*on, Lent::Yes)), "{} {:?}", mac, change);
            }
            let known: Vec<FdbEntry> = bridge.fdb_entries(Time::from_secs(now)).collect();
            let Some(entry) = known.get(number % known.len().max(1)) else { continue };
            if let std::collections::btree_map::Entry::Vacant(place) = copies.entry(entry.mac) {
                bridge.set_lent(entry.vid, entry.mac, Lent::Yes);
                place.insert(entry.port);
            }
        }
    }
}

#[test]
fn a_station_is_sighted_when_it_is_asked_for_again_where_it_is() {
    let mut bridge = bridge(2, Settings::default());
    let mac = 0x0200_0000_0001;
    let sighted = |bridge: &mut Bridge, secs| {
        let station = bridge.sight(Time::from_secs(secs), VlanId::UNAWARE, MacAddr::from_u64(mac));
        station.map(|station| station.port)
    };
    assert_eq!(sighted(&mut bridge, 1), None, "it is not known");
    send(&mut bridge, 1, 0, mac, 0x0200_0000_0002);
    assert_eq!(sighted(&mut bridge, 1), None, "once may be all");
    assert_eq!(sighted(&mut bridge, 2), Some(port(0)));
    send(&mut bridge, 3, 0, mac, 0x0200_0000_0002);
    assert_eq!(sighted(&mut bridge, 3), Some(port(0)), "heard again");
    send(&mut bridge, 4, 1, mac, 0x0200_0000_0002);
    assert_eq!(sighted(&mut bridge, 4), None, "it has moved");
    assert_eq!(sighted(&mut bridge, 5), Some(port(1)));
    assert_eq!(sighted(&mut bridge, 5 + 300), None, "it has aged");
    let kinds: Vec<EntryKind> = bridge.fdb_entries(Time::from_secs(5)).map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Dynamic], "asking makes it no other entry");
    for kind in [EntryKind::Static, EntryKind::Sticky] {
        let _ = bridge.fdb_del(VlanId::UNAWARE, MacAddr::from_u64(mac));
        let added =
            bridge.fdb_add(Time::from_secs(6), VlanId::UNAWARE, MacAddr::from_u64(mac), port(0), kind);
        assert!(added.is_ok(), "{added:?}");
        assert_eq!(sighted(&mut bridge, 6), Some(port(0)), "what the operator set stays");
        assert_eq!(bridge.fdb_entries(Time::from_secs(6)).next().map(|entry| entry.kind), Some(kind));
    }
}

#[test]
fn a_copy_in_use_keeps_its_entry_young_and_only_its_own() {
    let mut bridge = bridge(2, Settings::default());
    let mac = 0x0200_0000_0001;
    let known = |bridge: &Bridge, secs| {
        bridge
            .station(Time::from_secs(secs), VlanId::UNAWARE, MacAddr::from_u64(mac))
            .map(|s| s.heard.as_secs())
    };
    send(&mut bridge, 10, 0, mac, 0x0200_0000_0002);
    let refresh = |bridge: &mut Bridge, number, secs| {
        bridge.refresh(VlanId::UNAWARE, MacAddr::from_u64(mac), port(number), Time::from_secs(secs));
    };
    refresh(&mut bridge, 0, 200);
    assert_eq!(known(&bridge, 400), Some(200));
    refresh(&mut bridge, 0, 100);
    assert_eq!(known(&bridge, 400), Some(200), "older news is no news");
    refresh(&mut bridge, 1, 300);
    assert_eq!(known(&bridge, 400), Some(200), "another port's news is none of it");
    bridge.set_port(port(0), PortSettings { learning: false, ..PortSettings::default() });
    refresh(&mut bridge, 0, 300);
    assert_eq!(known(&bridge, 400), Some(200), "a port that learns nothing refreshes nothing");
    assert_eq!(known(&bridge, 501), None);
}
