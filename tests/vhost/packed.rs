//! Packed queues: honest frames pass as by split ones, around the end of the ring
//! and in chains of any length, and a queue goes on where it stopped.

use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::{
    Choice, Descriptor, Guest, INDIRECT, LIMIT, PackedGuest, Request, Rig, feature, frame,
};

/// The next frame that comes, without its virtio-net header.
fn next(guest: &mut PackedGuest) -> Vec<u8> {
    let mut got = None;
    wait_until("a frame", LIMIT, || {
        got = guest.receive().unwrap();
        got.is_some()
    })
    .unwrap();
    got.unwrap().split_off(12)
}

fn pair(rig: &Rig) -> (PackedGuest, PackedGuest) {
    let connect = |number| PackedGuest::connect(rig.path(number), Choice::default()).unwrap();
    let guests = (connect(0), connect(1));
    rig.wait_link(0, true);
    rig.wait_link(1, true);
    guests
}

#[test]
fn frames_pass_both_ways_around_the_ring_in_chains_of_any_length() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = pair(&rig);
    // Chains of 1 to 7 slots in a ring of 256, which they do not divide.
    for number in 0..700u16 {
        let body: Vec<u8> = (0..13 * (number % 100)).map(|n| (n ^ number).to_le_bytes()[0]).collect();
        let sent = frame(1, &body);
        a.send_in(1 + number % 7, &sent).unwrap();
        assert_eq!(next(&mut b), sent, "frame {number}");
        if number % 10 == 0 {
            b.send_in(1, &frame(2, b"back")).unwrap();
            assert_eq!(next(&mut a), frame(2, b"back"));
        }
    }
    // Many at once: as many as there are buffers to send from.
    for round in 0..20u8 {
        (0..100).for_each(|number| a.send_in(2, &frame(1, &[round, number])).unwrap());
        (0..100).for_each(|number| assert_eq!(next(&mut b), frame(1, &[round, number])));
    }
    assert_eq!(a.unsent().unwrap(), 0);
    let (a, b) = (rig.port(0).counters, rig.port(1).counters);
    assert_eq!((a.rx, a.dropped(), b.tx), (2700, 0, 2700));
    assert!(a.balance() && b.balance());
}

#[test]
fn a_frame_in_an_indirect_table_is_one_frame() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = pair(&rig);
    let sent = frame(1, &[7; 600]);
    let bytes = [&[0; 12][..], &sent].concat();
    let at = Guest::buffer(200);
    a.guest.write(at, &bytes);
    for table in [Guest::buffer(210), Guest::buffer(211) + 3] {
        // The header over three descriptors, then single bytes, then the rest.
        let lens = [5, 4, 3].into_iter().chain([1; 60]).chain([u32::try_from(bytes.len()).unwrap() - 72]);
        let (mut addr, mut count) = (at, 0);
        for (number, len) in (0..).zip(lens) {
            a.guest.write_descriptor(table + 16 * number, Descriptor { addr, len, flags: 0, next: 0 });
            (addr, count) = (addr + u64::from(len), count + 1);
        }
        a.push(1, 5, &[Descriptor { addr: table, len: 16 * count, flags: INDIRECT, next: 0 }]);
        a.kick(1).unwrap();
        assert_eq!(next(&mut b), sent);
    }
}

#[test]
fn a_guest_without_buffers_is_full_and_comes_back() {
    let rig = Rig::new(&[""]);
    let mut guest = PackedGuest::connect(rig.path(0), Choice::default()).unwrap();
    rig.wait_link(0, true);
    for round in 0..5u8 {
        let before = rig.port(0).counters;
        (0..200).for_each(|number| rig.honest[0].inject(&frame(9, &[round, number])));
        wait_until("frames", LIMIT, || rig.port(0).counters.copies == before.copies + 200).unwrap();
        let counters = rig.port(0).counters;
        let (tx, refused) = (counters.tx - before.tx, counters.refused() - before.refused());
        assert_eq!((tx, refused, counters.balance()), (128, 72, true));
        (0..128).for_each(|number| assert_eq!(next(&mut guest), frame(9, &[round, number])));
    }
}

#[test]
fn a_queue_stops_where_it_says_and_goes_on_there() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = pair(&rig);
    for number in 0..300u16 {
        a.send_in(1, &frame(1, &number.to_be_bytes())).unwrap();
        assert_eq!(next(&mut b), frame(1, &number.to_be_bytes()));
    }
    let body = a.guest.front_end.ask(Request::GetVringBase, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    // 44 slots into the second lap, whose mark is 0; both halves are the same.
    assert_eq!(body, [1, 0, 0, 0, 44, 0, 44, 0]);
    a.send_in(1, &frame(1, b"late")).unwrap();
    assert_eq!(a.unsent().unwrap(), 1);
    a.start_queue(1, u32::from_le_bytes([44, 0, 44, 0])).unwrap();
    a.kick(1).unwrap();
    assert_eq!(next(&mut b), frame(1, b"late"));
}

/// Where the second lap begins the slots look like those of a queue that stopped elsewhere, as
/// only the first slot of a chain is marked as used; but we know where we stopped.
#[test]
fn a_queue_of_chains_goes_on_where_it_was_after_any_message() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = pair(&rig);
    for round in 0..6u16 {
        // Twice around a ring of 256.
        for number in 0..256u16 {
            let sent = frame(1, &[round.to_be_bytes(), number.to_be_bytes()].concat());
            a.send_in(2, &sent).unwrap();
            assert_eq!(next(&mut b), sent);
        }
        a.guest.front_end.send(Request::SetVringEnable, &[1, 0, 0, 0, 1, 0, 0, 0], &[]).unwrap();
        a.guest.front_end.ask_u64(Request::GetQueueNum).unwrap();
    }
    a.send_in(2, &frame(1, b"last")).unwrap();
    assert_eq!(next(&mut b), frame(1, b"last"));
    assert_eq!(a.unsent().unwrap(), 0);
}

/// As QEMU does after its switch was killed: it cannot ask where the queues are,
/// and says that they begin. They go on where the slots say.
#[test]
fn a_new_switch_finds_where_the_queues_of_a_running_guest_are() {
    let rig = Rig::new(&["", ""]);
    let (mut a, mut b) = pair(&rig);
    let mut number = 0u32;
    for count in [0, 1, 100, 155, 1, 255, 256, 400] {
        for _ in 0..count {
            a.send_in(1, &frame(1, &number.to_be_bytes())).unwrap();
            assert_eq!(next(&mut b), frame(1, &number.to_be_bytes()));
            number += 1;
        }
        assert_eq!(a.unsent().unwrap(), 0);
        // Sent while nobody looks.
        a.guest.front_end.ask(Request::GetVringBase, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        (0..7).for_each(|late| a.send_in(1, &frame(3, &[late])).unwrap());
        b = b.reconnect(rig.path(1)).unwrap();
        rig.wait_link(1, true);
        a = a.reconnect(rig.path(0)).unwrap();
        (0..7).for_each(|late| assert_eq!(next(&mut b), frame(3, &[late]), "after {number}"));
        rig.wait_link(0, true);
    }
    assert!(b.receive().unwrap().is_none(), "and nothing twice");
}

#[test]
fn calls_come_when_they_are_wanted() {
    let rig = Rig::new(&["", ""]);
    let mut a = PackedGuest::connect(rig.path(0), Choice::default().and(feature::EVENT_IDX)).unwrap();
    let mut b = PackedGuest::connect(rig.path(1), Choice::default().and(feature::EVENT_IDX)).unwrap();
    rig.wait_link(0, true);
    rig.wait_link(1, true);
    let mut exchange = |b: &mut PackedGuest, count: u8| {
        for number in 0..count {
            a.send_in(1, &frame(1, &[number])).unwrap();
            assert_eq!(next(b), frame(1, &[number]));
        }
    };
    // Whatever came while it started is of no interest.
    b.want_calls(0, 0, 0);
    exchange(&mut b, 1);
    b.guest.calls(0);
    exchange(&mut b, 5);
    assert_eq!(b.guest.calls(0), 5, "every one");
    b.want_calls(0, 1, 0);
    exchange(&mut b, 5);
    assert_eq!(b.guest.calls(0), 0, "none");
    // Across the end of the ring, too.
    for _ in 0..40 {
        b.want_calls(0, 2, 9);
        exchange(&mut b, 9);
        assert_eq!(b.guest.calls(0), 0, "not yet");
        exchange(&mut b, 1);
        assert_eq!(b.guest.calls(0), 1, "the tenth");
    }
    // And the switch, asleep, asks for the very next buffer.
    wait_until("it to sleep", LIMIT, || b.wish(1).1 == 2).unwrap();
    b.send_in(1, &frame(2, b"awake")).unwrap();
    wait_until("the frame", LIMIT, || b.unsent().unwrap() == 0).unwrap();
}
