//! A12 and A13: whatever a front end or its guest says, its port goes down with
//! the reason, and nobody else notices.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::{Descriptor, FrontEnd, Guest, INDIRECT, NEXT, QUEUE_LEN, Request, WRITE};

use crate::rig::{LIMIT, Rig, frame, held};

/// Time in which a port has gone down after its guest broke a rule.
const REACTION: Duration = Duration::from_millis(100);

/// A buffer that holds a frame.
fn good() -> Descriptor {
    Descriptor { addr: Guest::buffer(200), len: 100, flags: 0, next: 0 }
}

/// Runs `attack` on the transmit queue of a guest, and expects its connection to
/// end for `reason`, in time, and two others to go on meanwhile.
#[expect(clippy::disallowed_methods, reason = "the time that it takes is what is tested")]
fn breaks(rig: &Rig, reason: &str, attack: impl FnOnce(&mut Guest)) {
    let mut guest = Guest::connect(rig.path(0)).unwrap();
    rig.wait_link(0, true);
    attack(&mut guest);
    let start = Instant::now();
    guest.kick(1).unwrap();
    rig.wait_link(0, false);
    assert!(start.elapsed() < REACTION, "{reason}: after {:?}", start.elapsed());
    guest.front_end.wait_end().unwrap();
    let note = rig.wait_gone(0);
    assert!(note.contains(reason), "`{note}` instead of `{reason}`");
    rig.honest[1].take_sent();
    rig.honest[0].inject(&frame(9, reason.as_bytes()));
    let arrived =
        || rig.honest[1].take_sent().iter().any(|sample| sample.bytes == frame(9, reason.as_bytes()));
    wait_until("an honest frame", LIMIT, arrived).unwrap();
}

/// Sends the chain at descriptor 0.
fn chain(guest: &mut Guest, descriptors: &[Descriptor]) {
    for (number, descriptor) in (0..).zip(descriptors) {
        guest.describe(1, number, *descriptor);
    }
    guest.push(1, 0);
}

#[test]
fn a12_descriptors_that_lie_end_their_port_by_name() {
    let rig = Rig::new(&[""]);
    let next = |next| Descriptor { flags: NEXT, next, ..good() };
    let table = Guest::buffer(210);
    let indirect = |len| Descriptor { addr: table, len, flags: INDIRECT, next: 0 };
    breaks(&rig, "has a loop", |guest| chain(guest, &[next(1), next(0)]));
    breaks(&rig, "has a loop", |guest| chain(guest, &[next(0)]));
    breaks(&rig, "outside its table", |guest| chain(guest, &[next(QUEUE_LEN)]));
    breaks(&rig, "outside its table", |guest| chain(guest, &[next(u16::MAX)]));
    breaks(&rig, "outside its table", |guest| guest.push(1, QUEUE_LEN));
    breaks(&rig, "outside the shared memory", |guest| {
        chain(guest, &[Descriptor { addr: 4 << 20, ..good() }]);
    });
    breaks(&rig, "outside the shared memory", |guest| {
        chain(guest, &[Descriptor { addr: u64::MAX - 10, ..good() }]);
    });
    breaks(&rig, "outside the shared memory", |guest| {
        chain(guest, &[Descriptor { len: u32::MAX, ..good() }]);
    });
    breaks(&rig, "length 0", |guest| chain(guest, &[Descriptor { len: 0, ..good() }]));
    breaks(&rig, "length 0", |guest| chain(guest, &[next(1), Descriptor { len: 0, ..good() }]));
    breaks(&rig, "wrong direction", |guest| chain(guest, &[Descriptor { flags: WRITE, ..good() }]));
    breaks(&rig, "nested", |guest| {
        guest.write_descriptor(table, indirect(16));
        chain(guest, &[indirect(16)]);
    });
    breaks(&rig, "nested or has a successor", |guest| {
        chain(guest, &[Descriptor { flags: INDIRECT | NEXT, next: 1, ..indirect(16) }, good()]);
    });
    for len in [0, 8, 17, 16 * 1025] {
        breaks(&rig, "indirect table has a wrong length", |guest| chain(guest, &[indirect(len)]));
    }
    breaks(&rig, "outside its table", |guest| {
        guest.write_descriptor(table, Descriptor { flags: NEXT, next: 1, ..good() });
        chain(guest, &[indirect(16)]);
    });
    for ahead in [QUEUE_LEN + 1, 32_768, u16::MAX] {
        breaks(&rig, "ran ahead", |guest| guest.lie_about_available(1, ahead));
    }
}

#[test]
fn a12_receive_buffers_that_lie_end_their_port_by_name() {
    let rig = Rig::new(&[""]);
    for (reason, descriptor) in [
        ("wrong direction", Descriptor { addr: Guest::buffer(0), len: 4096, flags: 0, next: 0 }),
        ("outside the shared memory", Descriptor { addr: 1 << 40, len: 4096, flags: WRITE, next: 0 }),
        ("length 0", Descriptor { addr: Guest::buffer(0), len: 0, flags: WRITE, next: 0 }),
        ("has a loop", Descriptor { addr: Guest::buffer(0), len: 10, flags: WRITE | NEXT, next: 0 }),
    ] {
        breaks(&rig, reason, |guest| {
            guest.describe(0, 0, descriptor);
            rig.honest[0].inject(&frame(8, b"for a liar"));
        });
    }
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

#[test]
fn a12_messages_that_lie_end_their_connection_by_name() {
    let rig = Rig::new(&[""]);
    let refused = |reason: &str, front_end: &mut FrontEnd| {
        assert!(front_end.wait_end().is_ok(), "still connected, instead of `{reason}`");
        let note = rig.wait_gone(0);
        assert!(note.contains(reason), "`{note}` instead of `{reason}`");
    };
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let state = |index: u32, value: u32| [index.to_ne_bytes(), value.to_ne_bytes()].concat();

    for (reason, request, body) in [
        ("features that were not offered", Request::SetFeatures, words(&[1 << 5])),
        ("features that were not offered", Request::SetProtocolFeatures, words(&[1 << 4])),
        ("power of two", Request::SetVringNum, state(0, 100)),
        ("power of two", Request::SetVringNum, state(0, 0)),
        ("power of two", Request::SetVringNum, state(0, 1 << 16)),
        ("queue 2 does not exist", Request::SetVringNum, state(2, 256)),
        ("queue 4294967295 does not exist", Request::SetVringBase, state(u32::MAX, 0)),
        ("no descriptor to be kicked by", Request::SetVringKick, words(&[0x101])),
        ("its message was refused", Request::SendRarp, words(&[0])),
        ("its message was refused", Request::SetVringNum, vec![0; 3]),
        ("its message was refused", Request::SetMemTable, words(&[1, 0, 4096, 0, 0])),
        ("its message was refused", Request::SetMemTable, words(&[u64::from(u32::MAX)])),
    ] {
        let mut front_end = FrontEnd::connect(rig.path(0)).unwrap();
        front_end.send(request, &body, &[]).unwrap();
        refused(reason, &mut front_end);
    }

    // Descriptors that are something else.
    let (reader, _writer) = std::io::pipe().unwrap();
    let zero = std::fs::File::open("/dev/zero").unwrap();
    let short = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    for (reason, request, body, fd) in [
        ("no eventfd", Request::SetVringKick, words(&[1]), reader.as_fd()),
        ("no eventfd", Request::SetVringCall, words(&[0]), zero.as_fd()),
        ("must be a memfd", Request::SetMemTable, words(&[1, 0, 4096, 0, 0]), zero.as_fd()),
        ("must be a memfd", Request::SetMemTable, words(&[1, 0, 4096, 0, 0]), reader.as_fd()),
        ("beyond the end of its file", Request::SetMemTable, words(&[1, 0, 4096, 0, 0]), short.as_fd()),
    ] {
        let mut front_end = FrontEnd::connect(rig.path(0)).unwrap();
        front_end.send(request, &body, &[fd]).unwrap();
        refused(reason, &mut front_end);
    }

    // Rings outside the memory that was shared.
    let end = 0x5000_0000_0000 + (4 << 20);
    for addresses in [[0x1000, end, end], [end - 4096, end - 4096, end - 100], [end - 16, 0, 0]] {
        let mut guest = Guest::with_memory(rig.path(0)).unwrap();
        guest.start_queue(1, 256).unwrap();
        let [descriptors, used, available] = addresses;
        let body = words(&[1, descriptors, used, available, 0]);
        guest.front_end.send(Request::SetVringAddr, &body, &[]).unwrap();
        refused("do not lie in the shared memory", &mut guest.front_end);
    }

    // Half a message, and then nothing.
    let mut front_end = FrontEnd::connect(rig.path(0)).unwrap();
    front_end.stream().write_all(&[8, 0, 0, 0, 1, 0]).unwrap();
    refused("half a message", &mut front_end);
    let mut front_end = FrontEnd::connect(rig.path(0)).unwrap();
    front_end.stream().write_all(&words(&[8 | 1 << 32, 8])[..12]).unwrap();
    refused("half a message", &mut front_end);
}

#[test]
fn a12_memory_cut_under_a_guest_ends_its_port_alone() {
    let rig = Rig::new(&[""]);
    for _ in 0..3 {
        breaks(&rig, "cut short", |guest| {
            guest.send(&frame(1, &[1; 1000])).unwrap();
            wait_until("a frame", LIMIT, || guest.unsent() == 0).unwrap();
            // The rings stay, so that this process may go on using them.
            guest.file.set_len(Guest::buffer(0)).unwrap();
            // Somebody must look there: the data thread, to send this.
            rig.honest[0].inject(&frame(8, b"to the void"));
        });
    }
}

#[test]
fn a12_a_thousand_attacks_leave_nothing_behind() {
    let rig = Rig::new(&[""]);
    let attack = |number: u32| {
        let mut guest = Guest::connect(rig.path(0)).unwrap();
        match number % 4 {
            0 => chain(&mut guest, &[Descriptor { addr: 1 << 40, ..good() }]),
            1 => guest.lie_about_available(1, 999),
            2 => guest.front_end.send(Request::SendRarp, &[0; 8], &[]).unwrap(),
            _ => return,
        }
        let _ = guest.kick(1);
        guest.front_end.wait_end().unwrap();
    };
    attack(0);
    rig.wait_gone(0);
    let before = held();
    for number in 0..1000 {
        attack(number);
    }
    rig.wait_gone(0);
    // Other tests of this process come and go: theirs are few.
    let settled = || {
        let now = held();
        now.0 <= before.0 + 200 && now.1 <= before.1 + 40
    };
    wait_until("descriptors and mappings to go", LIMIT, settled).unwrap();
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
    let file = guest.file.try_clone().unwrap();
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
