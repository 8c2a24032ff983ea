//! A12 and A13: whatever a front end or its guest says, its port goes down with
//! the reason, and nobody else notices. A thousand of each kind of attack, beside
//! a flow, are in `tests/attacks`.

use std::time::{Duration, Instant};

use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::attacks::{self, Attack, chain, good};
use vswitch_tests::vhost::{Choice, Descriptor, Guest, LIMIT, NEXT, PackedGuest, QUEUE_LEN, Rig, frame};

/// Time in which a port has gone down after its guest broke a rule.
const REACTION: Duration = Duration::from_millis(100);

/// Expects the port to go down for the reason of `attack`, in time, and two
/// others to go on meanwhile.
#[expect(clippy::disallowed_methods, reason = "the time that it takes is what is tested")]
fn breaks(rig: &Rig, attack: &Attack) {
    let mut start = Instant::now();
    let mut attacker = attack.run(rig, || start = Instant::now());
    rig.wait_link(0, false);
    let took = start.elapsed();
    attacker.wait_end();
    let note = rig.wait_gone(0);
    let reason = attack.reason;
    assert!(note.contains(reason), "`{note}` instead of `{reason}`");
    assert!(took < REACTION, "{reason}: after {took:?}");
    rig.honest[1].take_sent();
    rig.honest[0].inject(&frame(9, reason.as_bytes()));
    let arrived =
        || rig.honest[1].take_sent().iter().any(|sample| sample.bytes == frame(9, reason.as_bytes()));
    wait_until("an honest frame", LIMIT, arrived).unwrap();
}

fn all_break(attacks: &[Attack]) {
    assert!(!attacks.is_empty());
    let rig = Rig::new(&[""]);
    attacks.iter().for_each(|attack| breaks(&rig, attack));
}

#[test]
fn a12_descriptors_that_lie_end_their_port_by_name() {
    all_break(&attacks::descriptors());
}

#[test]
fn a12_receive_buffers_that_lie_end_their_port_by_name() {
    all_break(&attacks::receive_buffers());
}

#[test]
fn a12_packed_queues_that_lie_end_their_port_by_name() {
    all_break(&attacks::packed());
}

#[test]
fn a12_messages_that_lie_end_their_connection_by_name() {
    all_break(&attacks::messages());
}

#[test]
fn a12_memory_that_goes_away_under_a_guest_ends_its_port_alone() {
    (0..3).for_each(|_| all_break(&attacks::cuts()));
}

#[test]
fn a12_short_and_endless_frames_are_dropped_and_counted() {
    let rig = Rig::new(&[""]);
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    // No whole virtio-net header; then 80 KiB in 20 buffers.
    chain(&mut guest, &[Descriptor { len: 11, ..good() }]);
    let long: Vec<Descriptor> = (0..20)
        .map(|n| Descriptor { addr: Guest::buffer(0), len: 4096, flags: NEXT, next: 101 + n })
        .collect();
    for (number, descriptor) in (100..).zip(&long) {
        let flags = if number == 119 { 0 } else { NEXT };
        guest.describe(1, number, Descriptor { flags, ..*descriptor });
    }
    guest.push(1, 100);
    guest.kick(1).unwrap();
    wait_until("both", LIMIT, || rig.port(0).counters.rx == 2).unwrap();
    let counters = rig.port(0).counters;
    assert_eq!((counters.dropped(), counters.balance()), (2, true));
    assert!(rig.port(0).link.unwrap().up, "a frame is no reason to end a port");
}

/// Row A12: "header over three descriptors, 1-byte pieces" is honest, and passes
/// (`pass`); a frame of more pieces than any driver makes is a loop.
#[test]
fn a12_a_chain_of_every_descriptor_there_is_passes_once() {
    let rig = Rig::new(&[""]);
    let mut guest = PackedGuest::connect(rig.path(0), Choice::default()).unwrap();
    rig.wait_link(0, true);
    let sent = frame(1, &[4; 230]);
    rig.honest[1].take_sent();
    for _ in 0..3 {
        guest.send_in(QUEUE_LEN, &[&sent[..], &[0; 1]].concat()).unwrap();
        wait_until("room", LIMIT, || guest.unsent().unwrap() == 0).unwrap();
    }
    wait_until("all", LIMIT, || rig.port(0).counters.forwarded == 3).unwrap();
}

/// Row A13, the other half: lengths and virtio-net headers that change while they
/// are read. Each frame is of one of the lengths, never of another, and nothing is
/// read outside the guest's memory; a length that reaches beyond it ends the port.
#[test]
fn a13_lengths_that_change_meanwhile_are_one_or_the_other() {
    let rig = Rig::new(&[""]);
    for last in [400u32, u32::MAX] {
        let mut guest = Guest::connect(rig.path(0)).unwrap();
        rig.wait_link(0, true);
        for honest in &rig.honest {
            honest.take_sent();
        }
        let before = rig.port(0).counters;
        let at = Guest::buffer(QUEUE_LEN / 2);
        guest.write(at, &[&[0; 12][..], &frame(1, &[6; 600])].concat());
        guest.describe(1, 0, Descriptor { addr: at, len: 100, flags: 0, next: 0 });
        let file = guest.file().try_clone().unwrap();
        // The descriptor's length, and the header's flags and kind of segment.
        let descriptor = 0x1_0000;
        let stop = std::sync::atomic::AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::os::unix::fs::FileExt as _;
                let lens = [12u32, 13, 100, 268, 269, 400];
                for round in 0..usize::MAX {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let len = if round % 10 == 9 { last } else { lens[round % lens.len()] };
                    file.write_all_at(&len.to_le_bytes(), descriptor + 8).unwrap();
                    file.write_all_at(&[[0, 0], [1, 3], [0xff, 0xff]][round % 3], at).unwrap();
                }
            });
            let mut sent = 0;
            // The one that reaches too far is come upon sooner or later.
            let enough = if last == u32::MAX { 10_000_000 } else { 30_000 };
            while sent < enough && rig.port(0).link.unwrap().up {
                for _ in 0..64 {
                    guest.push(1, 0);
                    sent += 1;
                }
                guest.kick(1).unwrap();
                let taken = || guest.unsent() == 0 || !rig.port(0).link.unwrap().up;
                wait_until("room", LIMIT, taken).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            sent
        });
        let counters = rig.port(0).counters;
        let got = rig.honest[0].take_sent();
        assert!(counters.balance());
        assert!(got.iter().all(|it| [88, 256, 257, 388].contains(&it.bytes.len())), "another length");
        assert!(got.iter().all(|it| it.bytes == frame(1, &[6; 600])[..it.bytes.len()]), "other bytes");
        if last == u32::MAX {
            drop(guest);
            let note = rig.wait_gone(0);
            assert!(note.contains("outside the shared memory"), "`{note}`");
        } else {
            assert_eq!(counters.rx - before.rx, sent);
            drop(guest);
            assert_eq!(rig.wait_gone(0), "");
        }
    }
}

/// A front end that clears O_NONBLOCK of its call eventfd, fills the counter, and
/// has its guest ask to be called: writing there would wait for ever.
#[test]
fn a12_a_call_eventfd_that_blocks_stalls_nobody() {
    let rig = Rig::new(&[""]);
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    for index in 0..2 {
        guest.want_calls(index, true);
        let call = guest.call(index);
        rustix::io::write(call, &(u64::MAX - 1 - guest.calls(index)).to_ne_bytes()).unwrap();
        let flags = rustix::fs::fcntl_getfl(call).unwrap();
        rustix::fs::fcntl_setfl(call, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    }
    for number in 0..100u8 {
        rig.honest[1].take_sent();
        rig.honest[0].inject(&frame(9, &[number; 40]));
        guest.send(&frame(1, &[number; 40])).unwrap();
        let mut heard = 0;
        wait_until("both frames", LIMIT, || {
            heard += rig.honest[1].take_sent().len();
            heard == 2
        })
        .unwrap();
    }
    assert!(rig.port(0).link.unwrap().up, "who is not listening is not broken: {}", rig.note(0));
}

#[test]
fn a13_what_a_guest_rewrites_meanwhile_never_changes_a_header() {
    let rig = Rig::new(&[""]);
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let at = Guest::buffer(QUEUE_LEN / 2) + 12;
    let honest = frame(1, &[5; 500]);
    let mut lie = honest.clone();
    lie[6] = 3; // a group address, as a source
    guest.describe(
        1,
        0,
        Descriptor { addr: at - 12, len: u32::try_from(12 + honest.len()).unwrap(), flags: 0, next: 0 },
    );
    guest.write(at - 12, &[0; 12]);
    let file = guest.file().try_clone().unwrap();
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            use std::os::unix::fs::FileExt as _;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all_at(&lie, at).unwrap();
                file.write_all_at(&honest, at).unwrap();
            }
        });
        let mut sent = 0;
        for _ in 0..20_000 {
            guest.push(1, 0);
            guest.kick(1).unwrap();
            sent += 1;
            wait_until("room", LIMIT, || guest.unsent() < 100).unwrap();
        }
        wait_until("all", LIMIT, || rig.port(0).counters.rx == sent).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let counters = rig.port(0).counters;
    let got = rig.honest[0].take_sent();
    assert_eq!(got.len() as u64, counters.forwarded);
    assert!(got.iter().all(|sample| sample.bytes[6] == 2), "a header was sent that was never judged");
    assert!(counters.balance());
}
