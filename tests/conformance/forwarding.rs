//! F01 … F17 as far as the bridge decides them. Bytes, sizes against an MTU and
//! padding (F11 and the rest of F12) are the engine's; devices are the
//! namespaces'.

use arrayvec::ArrayVec;
use vswitch::bridge::{
    BURST, Bridge, EntryKind, FlushScope, MOVES_MAX, PortId, PortSettings, Settings, Time, Verdict,
};
use vswitch::frame::{Frame, MacAddr, VlanId};
use vswitch::offload::VnetHeader;
use vswitch_tests::scenario::{Random, check};

#[test]
fn f01_a_flood_leaves_once_by_each_other_port() {
    for dst in ["*", "m01", "7f"] {
        check(&format!(
            "ports a b c d
             send a 0a > {dst} expect b c d
             send b 0b > {dst} expect a c d
             send c 0c > {dst} expect a b d
             send d 0d > {dst} expect a b c
             count a copies 3
             count d forwarded 1"
        ));
    }
}

#[test]
fn f02_a_known_station_alone_gets_the_frame() {
    check(
        "ports a b c
         send b 0b > *  expect a c
         send a 0a > 0b expect b
         send b 0b > 0a expect a
         count c copies 1",
    );
}

/// Ten million numbered frames in four flows, while their destination is
/// learned, aged, flushed and moved: whoever gets a flow gets it in order, and
/// nothing twice.
#[test]
fn f03_no_duplicate_and_no_reordering_while_the_station_moves() {
    const FRAMES: u64 = 10_000_000;
    let mut bridge = bridge(4, Settings::default());
    let mut random = Random::new(3);
    let (mut now, mut next, mut verdicts) = (Time::START, [1u64; 4], ArrayVec::new());
    // The last number that each port got of each flow.
    let mut last = [[0u64; 4]; 4];
    let mut station = 2;
    let mut sent = 0;
    while sent < FRAMES {
        match random.below(50) {
            0 => now = now.after(std::time::Duration::from_secs(301)),
            1 => drop(bridge.fdb_flush(&FlushScope::default())),
            2 => {
                station = 2 + u8::from(random.one_in(2));
                let frame = header(0xffff_ffff_ffff, 0xb);
                bridge.forward(now, PortId::new(station), &plain(&frame));
            }
            _ => {}
        }
        // Flows 0 and 1 come in by port 0, 2 and 3 by port 1; 1 and 3 carry a
        // priority tag.
        let ingress = PortId::new(u8::from(random.one_in(2)));
        let flows: ArrayVec<usize, BURST> =
            (0..BURST).map(|_| ingress.index() * 2 + usize::from(random.one_in(2))).collect();
        let frames: ArrayVec<Vec<u8>, BURST> = flows.iter().map(|flow| flow_frame(*flow)).collect();
        let frames: ArrayVec<Frame<'_>, BURST> = frames.iter().map(|bytes| plain(bytes)).collect();
        bridge.forward_burst(now, ingress, &frames, &mut verdicts);
        assert_eq!(verdicts.len(), BURST);
        for (flow, verdict) in flows.iter().zip(&verdicts) {
            let number = next[*flow];
            next[*flow] += 1;
            sent += 1;
            let Verdict::Forward { to, copies, .. } = verdict else { panic!("{verdict:?}") };
            assert_eq!(u32::from(*copies), to.len());
            for port in to.iter() {
                let last = &mut last[port.index()][*flow];
                assert!(number > *last, "port {port} gets frame {number} of flow {flow} after {last}");
                *last = number;
            }
            assert_eq!(last[usize::from(station)][*flow], number, "the station loses nothing");
        }
    }
}

#[test]
fn f04_bad_sources_are_dropped_and_not_learned() {
    for src in ["zero", "*", "m01", "r00"] {
        check(&format!(
            "ports a b
             send a {src} > 0b drop bad_source
             send a {src} > *  drop bad_source
             count a learned 0
             count a bad_source 2
             fdb len 0"
        ));
    }
}

#[test]
fn f05_reserved_addresses_stay_unless_opened() {
    for last in 0..=0x0fu8 {
        for tag in ["", "tag=8100:0005"] {
            let open = if last == 1 { "drop reserved" } else { "expect b c" };
            check(&format!(
                "ports a b c
                 send a 0a > r{last:02x} {tag} drop reserved
                 count a reserved.{last:02x} 1
                 fdb 0a on a             # the drop comes after learning
                 port a transparent      # opens what comes in here
                 send a 0a > r{last:02x} {tag} {open}
                 send b 0b > r{last:02x} {tag} drop reserved
                 switch transparent
                 send b 0b > r{last:02x} {tag} {}",
                open.replace("b c", "a c")
            ));
        }
    }
    for beyond in ["10", "20", "21", "2f"] {
        check(&format!("ports a b c\nsend a 0a > r{beyond} expect b c\ncount a reserved 0"));
    }
}

#[test]
fn f06_what_is_already_there_is_filtered() {
    check(
        "ports a b
         send a 0a > *  expect b
         send a 0b > 0a drop filtered
         send b 0c > 0c drop filtered   # to itself
         port b -learning
         send b 0d > 0d drop filtered   # also when it is not learned
         count b filtered 2",
    );
}

#[test]
fn f07_ageing() {
    check(
        "switch ageing=10s
         ports a b c
         static 0d on c
         send b 0b > *   expect a c
         after 9s
         send a 0a > 0b  expect b        # does not refresh
         fdb 0b on b
         after 2s
         fdb 0b absent
         send a 0a > 0b  expect b c
         send a 0a > 0d  expect c        # static stays
         switch ageing=0s                # a hub
         fdb 0a absent
         send b 0b > 0a  expect a c
         send a 0a > 0b  expect b c
         send a 0a > 0d  expect c
         count b learned 1
         fdb len 1",
    );
    check(
        "ports a b c                     # the default is 300 s
         send b 0b > *   expect a c
         after 299s
         send a 0a > 0b  expect b
         after 1s
         send a 0a > 0b  expect b c
         sweep
         fdb len 1",
    );
}

#[test]
fn f08_a_station_that_moves_is_followed() {
    let mut script = String::from("ports a b c\nsend a 0a > * expect b c\n");
    for _ in 0..500 {
        script += "send b 0a > * expect a c\nsend c 0c > 0a expect b\nsend a 0a > * expect b c\nsend c 0c > 0a expect a\n";
    }
    check(&(script + "count a moved 500\ncount b moved 500\ncount a learned 1\ncount b learned 0"));
    for kind in ["static", "sticky"] {
        check(&format!(
            "ports a b c
             send b 0a > *  expect a c
             {kind} 0a on a
             send b 0a > *  expect a c      # forwarded, not believed
             send c 0c > 0a expect a
             count b spoofed 1
             count b moved 0"
        ));
    }
    let mut bridge = bridge(2, Settings::default());
    for mac in 0..1000 {
        for port in 0..2 {
            bridge.forward(Time::START, PortId::new(port), &plain(&header(0xffff_ffff_ffff, 0x100 + mac)));
        }
    }
    assert_eq!(bridge.moves().len(), MOVES_MAX, "the record is bounded");
}

/// The part of the bridge: at once, and only that port's.
#[test]
fn f09_a_port_down_or_deleted_takes_its_entries_along() {
    for gone in ["down b", "delete b"] {
        let flooded = if gone == "down b" { "fdb 1b on b" } else { "fdb 1b absent" };
        check(&format!(
            "ports a b c
             static 1b on b
             send b 0b > *  expect a c
             send c 0c > *  expect a b
             {gone}
             fdb 0b absent
             {flooded}
             fdb 0c on c
             send a 0a > 0b expect c
             send a 0a > 0c expect c
             send b 0b > *  drop port_down"
        ));
    }
}

#[test]
fn f10_flush() {
    let learned = "ports a b c\nstatic 1a on a\nsend a 0a > *\nsend b 0b > *\nsend b 2b > *\n";
    for (flush, left) in [
        ("flush", "fdb len 1\nfdb 1a on a"),
        ("flush all", "fdb len 0"),
        ("flush port=b", "fdb len 2\nfdb 0a on a\nfdb 0b absent\nfdb 2b absent"),
        ("flush port=a", "fdb len 3\nfdb 1a on a\nfdb 0a absent"),
        ("flush port=a all", "fdb len 2\nfdb 1a absent\nfdb 0a absent"),
        ("flush mac=0b", "fdb len 3\nfdb 0b absent"),
        ("flush mac=1a", "fdb len 4"),
        ("flush mac=1a all", "fdb len 3\nfdb 1a absent"),
        ("flush vid=0", "fdb len 1"),
        ("flush vid=5", "fdb len 4"),
        ("flush port=a mac=0b", "fdb len 4"),
    ] {
        check(&format!("{learned}{flush}\n{left}"));
    }
}

#[test]
fn f11_no_size_is_the_bridges_business() {
    for size in [14, 60, 1514, 1518, 1519, 2049, 9014, 65_535] {
        check(&format!("ports a b\nsend a 0a > * size={size} expect b\ncount a rx_bytes {size}"));
    }
}

#[test]
fn f12_runts_are_dropped_and_short_frames_pass() {
    for size in 0..14 {
        check(&format!(
            "ports a b\nsend a 0a > * size={size} drop runt\nsend a 0a > * expect b\ncount a runt 1"
        ));
    }
    for size in 14..60 {
        check(&format!("ports a b\nsend a 0a > * size={size} expect b"));
    }
}

#[test]
fn f13_tags_pass_through_and_one_fdb_serves_them_all() {
    let ten = "tag=88a8:0001 ".repeat(10);
    for tags in [
        "tag=8100:0000",
        "tag=8100:0001",
        "tag=8100:0fff",
        "tag=88a8:e005",
        "tag=9100:0001",
        "tag=88a8:0002 tag=8100:0003",
        &ten,
    ] {
        check(&format!(
            "ports a b c
             send b 0b > *  {tags}   expect a c
             send a 0a > 0b          expect b
             send b 0b > 0a tag=8100:0007 expect a
             send a 0a > m01 {tags}  expect b c
             fdb len 2"
        ));
    }
}

#[test]
fn f14_a_tag_cut_short() {
    for tpid in ["8100", "88a8", "9100"] {
        for size in 14..18 {
            check(&format!(
                "ports a b\nsend a 0a > * tag={tpid}:0001 size={size} drop malformed_tag\nfdb len 0\nsend a 0a > * tag={tpid}:0001 size=18 expect b"
            ));
        }
    }
}

#[test]
fn f16_port_flags_as_bridge_link_sets_them() {
    check(
        "ports a b c d
         port b -flood
         port c -mcast_flood
         port d -bcast_flood
         send a 0a > 7f  expect c d
         send a 0a > m01 expect b d
         send a 0a > *   expect b c
         send b 0b > *   expect a c
         send a 0a > 0b  expect b        # known: no flood flag asks
         port b -learning                # what is there stays, and is not refreshed
         send b 1b > *   expect a c
         fdb 1b absent
         after 200s
         send b 0b > *   expect a c
         after 100s
         fdb 0b absent",
    );
    check(
        "ports a b c d
         port a isolated
         port b isolated
         send a 0a > *   expect c d
         send b 0b > 0a  drop no_egress
         send c 0c > 0a  expect a
         send c 0c > *   expect a b d
         port b
         send b 0b > 0a  expect a",
    );
    check(
        "ports a b
         port a locked
         send a 0a > *   drop locked
         fdb 0a absent
         static 0a on a
         send a 0a > *   expect b
         send b 0a > *   expect a        # spoofed, but b is not locked
         port b locked
         send b 0a > *   drop locked
         count b spoofed 2
         send a 0a > r03 drop reserved",
    );
}

#[test]
fn f17_a_limit_of_learned_stations() {
    let mut script = String::from("ports a b\nport a max_macs=8\nstatic 80 on a\nstatic 81 on a\n");
    for mac in 0..16 {
        script += &format!("send a {mac:02x} > * expect b\n");
    }
    check(
        &(script
            + "count a learned 8
               count a not_learned 8
               fdb len 10
               fdb 07 on a
               fdb 08 absent
               static 00 on a          # gives a place back
               send a 08 > * expect b
               fdb 08 on a
               send a 09 > * expect b
               fdb 09 absent
               send b 0a > * expect a  # other ports have no limit
               send a 0a > * expect b  # and what is there does not move to a full port
               fdb 0a on b
               port a max_macs=2       # a lower limit drops the oldest
               fdb 06 absent
               fdb 07 on a
               fdb 08 on a"),
    );
}

fn bridge(ports: u8, settings: Settings) -> Bridge {
    let mut bridge = Bridge::new(settings, [11, 13]);
    for port in (0..ports).map(PortId::new) {
        bridge.add_port(port, PortSettings::default());
        bridge.set_link(port, true);
    }
    bridge
}

fn header(dst: u64, src: u64) -> Vec<u8> {
    let src = MacAddr::from_u64(0x0200_0000_0000 | src);
    [&MacAddr::from_u64(dst).octets()[..], &src.octets(), &[0x08, 0x00]].concat()
}

fn flow_frame(flow: usize) -> Vec<u8> {
    let mut bytes = header(0x0200_0000_000b, 0xa + flow as u64 / 2 * 0x10);
    if flow % 2 == 1 {
        bytes.splice(12..12, [0x81, 0x00, 0xe0, 0x00]);
    }
    bytes
}

fn plain(bytes: &[u8]) -> Frame<'_> {
    Frame::new(bytes, &[], VnetHeader::PLAIN)
}

/// An entry that the operator sets by hand outlives everything that learning
/// does; its kind is told.
#[test]
fn f07_static_and_sticky_are_told_apart() {
    let mut bridge = bridge(1, Settings::default());
    let (a, now) = (PortId::new(0), Time::from_secs(1));
    for (mac, kind) in [(1, EntryKind::Static), (2, EntryKind::Sticky)] {
        bridge.fdb_add(now, VlanId::UNAWARE, MacAddr::from_u64(mac), a, kind).unwrap();
    }
    bridge.forward(now, a, &plain(&header(0xffff_ffff_ffff, 3)));
    let kinds: Vec<EntryKind> = bridge.fdb_entries(Time::from_secs(100)).map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Static, EntryKind::Sticky, EntryKind::Dynamic]);
}
