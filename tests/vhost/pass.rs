//! Honest guests: their frames pass, whole and in order, and their connections
//! begin and end as connections do.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use vswitch::bridge::DropReason;
use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::{Descriptor, Guest, INDIRECT, LIMIT, NEXT, Request, Rig, frame};

/// The next frame that comes, without its virtio-net header.
fn next(guest: &mut Guest) -> Vec<u8> {
    let mut got = None;
    wait_until("a frame", LIMIT, || {
        got = guest.receive().unwrap();
        got.is_some()
    })
    .unwrap();
    got.unwrap().split_off(12)
}

#[test]
fn frames_of_every_length_pass_both_ways_in_order() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = (Guest::connect(rig.path(0)).unwrap(), Guest::connect(rig.path(1)).unwrap());
    rig.wait_link(0, true);
    rig.wait_link(1, true);
    for round in 0..40u16 {
        // Around the head's 256 bytes, and up to the MTU.
        for len in [14, 15, 31, 46, 60, 242, 255, 256, 257, 320, 1000, 1514] {
            let body: Vec<u8> = (0..len).map(|n| (n ^ round).to_le_bytes()[0]).collect();
            let mut sent = frame(1, &body);
            sent.truncate(usize::from(len).max(14));
            a.send(&sent).unwrap();
            assert_eq!(next(&mut b), sent, "length {len}");
        }
        b.send(&frame(2, b"back")).unwrap();
        assert_eq!(next(&mut a), frame(2, b"back"));
    }
    let (a_port, b_port) = (rig.port(0), rig.port(1));
    assert_eq!((a_port.counters.rx, a_port.counters.dropped(), b_port.counters.tx), (480, 0, 480));
    assert!(a_port.counters.balance() && b_port.counters.balance());
}

#[test]
fn a_frame_in_pieces_is_one_frame() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = (Guest::connect(rig.path(0)).unwrap(), Guest::connect(rig.path(1)).unwrap());
    rig.wait_link(1, true);
    rig.wait_link(0, true);
    let sent = frame(1, &[7; 600]);
    let bytes = [&[0; 12][..], &sent].concat();
    let at = Guest::buffer(200);
    a.write(at, &bytes);
    // The header over three descriptors, the head over many of one byte.
    let lens = [5, 4, 3, 14].into_iter().chain([1; 60]).chain([u32::try_from(bytes.len()).unwrap() - 86]);
    let mut addr = at;
    let descriptors: Vec<Descriptor> = (0..)
        .zip(lens)
        .map(|(number, len)| {
            let descriptor = Descriptor { addr, len, flags: NEXT, next: number + 1 };
            addr += u64::from(len);
            descriptor
        })
        .collect();
    let last = descriptors.len() - 1;
    let end = |n: usize, d: Descriptor| if n == last { Descriptor { flags: 0, ..d } } else { d };
    for (number, descriptor) in descriptors.iter().enumerate() {
        a.describe(1, u16::try_from(number).unwrap(), end(number, *descriptor));
    }
    a.push(1, 0);
    a.kick(1).unwrap();
    assert_eq!(next(&mut b), sent);
    // The same in an indirect table, aligned and not.
    for table in [Guest::buffer(210), Guest::buffer(211) + 3] {
        for (number, descriptor) in descriptors.iter().enumerate() {
            a.write_descriptor(table + 16 * number as u64, end(number, *descriptor));
        }
        let len = 16 * u32::try_from(descriptors.len()).unwrap();
        a.describe(1, 100, Descriptor { addr: table, len, flags: INDIRECT, next: 0 });
        a.push(1, 100);
        a.kick(1).unwrap();
        assert_eq!(next(&mut b), sent);
    }
}

#[test]
fn a_guest_without_buffers_is_full_and_comes_back() {
    let rig = Rig::new(&[""]);
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    for number in 0..200u8 {
        rig.honest[0].inject(&frame(9, &[number; 40]));
    }
    wait_until("frames", LIMIT, || rig.port(0).counters.copies == 200).unwrap();
    let counters = rig.port(0).counters;
    assert_eq!((counters.tx, counters.refused(), counters.balance()), (128, 72, true));
    for number in 0..128u8 {
        assert_eq!(next(&mut guest), frame(9, &[number; 40]));
    }
    rig.honest[0].inject(&frame(9, b"again"));
    assert_eq!(next(&mut guest), frame(9, b"again"));
}

#[test]
fn the_link_follows_the_front_end_and_a_second_one_is_turned_away() {
    let rig = Rig::new(&[""]);
    rig.wait_link(0, false);
    for _ in 0..5 {
        let mut guest = Guest::connect(rig.path(0)).unwrap();
        rig.wait_link(0, true);
        assert!(rig.peer(0).unwrap().ends_with(&format!(" {}", std::process::id())));
        let mut second = UnixStream::connect(rig.path(0)).unwrap();
        second.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(std::io::Read::read(&mut second, &mut [0; 1]).unwrap(), 0, "turned away");
        rig.honest[0].inject(&frame(9, b"still there"));
        assert_eq!(next(&mut guest), frame(9, b"still there"));
        drop(guest);
        rig.wait_link(0, false);
        assert_eq!(rig.wait_gone(0), "", "nobody was at fault");
    }
}

#[test]
fn a_queue_stops_where_it_says_and_goes_on_there() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = (Guest::connect(rig.path(0)).unwrap(), Guest::connect(rig.path(1)).unwrap());
    rig.wait_link(1, true);
    rig.wait_link(0, true);
    for number in 0..5u8 {
        a.send(&frame(1, &[number; 50])).unwrap();
        assert_eq!(next(&mut b), frame(1, &[number; 50]));
    }
    // Index 1, and after the answer nothing is taken any more.
    let body = a.front_end.ask(Request::GetVringBase, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(body, [1, 0, 0, 0, 5, 0, 0, 0]);
    a.send(&frame(1, b"late")).unwrap();
    rig.honest[0].inject(&frame(9, b"other"));
    assert_eq!(next(&mut b), frame(9, b"other"));
    assert_eq!(a.unsent(), 1);
    // The memory changes under the running receive queue: nothing is lost.
    let table: Vec<u8> =
        [1u64, 0, 4 << 20, 0x5000_0000_0000, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let file = std::os::fd::AsFd::as_fd(&a.file()).try_clone_to_owned().unwrap();
    a.front_end.send(Request::SetMemTable, &table, &[std::os::fd::AsFd::as_fd(&file)]).unwrap();
    a.front_end.ask_u64(Request::GetQueueNum).unwrap();
    rig.honest[0].inject(&frame(9, b"after"));
    assert_eq!(next(&mut a), frame(9, b"other"));
    assert_eq!(next(&mut a), frame(9, b"after"));
}

/// A message with a queue's number and a value.
fn say(guest: &mut Guest, request: Request, index: u32, value: u32) {
    let body = [index.to_ne_bytes(), value.to_ne_bytes()].concat();
    guest.front_end.send(request, &body, &[]).unwrap();
    guest.front_end.ask_u64(Request::GetQueueNum).unwrap();
}

#[test]
fn a_queue_that_was_disabled_is_emptied_and_sends_nothing() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = (Guest::connect(rig.path(0)).unwrap(), Guest::connect(rig.path(1)).unwrap());
    rig.wait_link(1, true);
    rig.wait_link(0, true);
    for round in 0..3u8 {
        a.send(&frame(1, &[round])).unwrap();
        assert_eq!(next(&mut b), frame(1, &[round]));
        // Some wait already, some come afterwards.
        say(&mut a, Request::SetVringEnable, 1, 0);
        (0..100).for_each(|_| a.send(&frame(1, b"muted")).unwrap());
        wait_until("its buffers to come back", LIMIT, || a.unsent() == 0).unwrap();
        rig.honest[0].inject(&frame(9, &[round]));
        assert_eq!(next(&mut b), frame(9, &[round]), "and nothing before");
        assert_eq!(next(&mut a), frame(9, &[round]), "it receives");
        say(&mut a, Request::SetVringEnable, 1, 1);
    }
    let counters = rig.port(0).counters;
    assert_eq!((counters.rx, counters.drops[DropReason::PortDown.index()]), (303, 300));
    assert!(counters.balance());
}

/// As QEMU does when a guest changes an interrupt's affinity.
#[test]
fn a_call_that_is_exchanged_rings_once_and_no_frame_is_refused() {
    let rig = Rig::new(&[""]);
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    // Of the last call, which nobody hears any more.
    guest.want_calls(0, true);
    for round in 0..200u8 {
        let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        guest.front_end.send(Request::SetVringCall, &0u64.to_ne_bytes(), &[call.as_fd()]).unwrap();
        rig.honest[0].inject(&frame(9, &[round]));
        assert_eq!(next(&mut guest), frame(9, &[round]));
        guest.front_end.ask_u64(Request::GetQueueNum).unwrap();
        let mut bytes = [0; 8];
        rustix::io::read(&call, &mut bytes).unwrap();
        // For the exchange; and for the frame, if it came by then.
        assert!((1..=2).contains(&u64::from_ne_bytes(bytes)), "{bytes:?}");
    }
    assert_eq!(rig.port(0).counters.refused(), 0);
}

/// Whoever gets the frame would believe it.
#[test]
fn that_a_checksum_was_found_right_is_nothing_that_a_guest_may_say() {
    const DATA_VALID: u8 = 2;
    let rig = Rig::new(&[""]);
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    guest.send_by(0, &[DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(1, b"wrong")).unwrap();
    let mut sent = Vec::new();
    wait_until("the frame", LIMIT, || {
        sent = rig.honest[0].take_sent();
        !sent.is_empty()
    })
    .unwrap();
    assert_eq!((&sent[0].bytes, sent[0].vnet.flags), (&frame(1, b"wrong"), 0));
}

#[test]
fn an_idle_switch_sleeps_with_its_guests_connected() {
    let rig = Rig::new(&[""; 8]);
    let mut guests: Vec<Guest> = (0..8).map(|n| Guest::connect(rig.path(n)).unwrap()).collect();
    (0..8).for_each(|number| rig.wait_link(number, true));
    guests[0].send(&frame(1, b"hello")).unwrap();
    assert_eq!(next(&mut guests[7]), frame(1, b"hello"));
    // Within a second of traffic ending it sleeps; then under 0.5 % of a core.
    std::thread::sleep(Duration::from_millis(500));
    let before = rig.data_ns();
    std::thread::sleep(Duration::from_secs(2));
    let used = rig.data_ns() - before;
    assert!(used < 10_000_000, "{used} ns in 2 s");
    // And it is awake at once.
    guests[7].send(&frame(2, b"awake")).unwrap();
    assert_eq!(next(&mut guests[0]), frame(2, b"awake"));
}
