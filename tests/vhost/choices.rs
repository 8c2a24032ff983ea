//! What guests may choose: headers from before virtio 1.0, notifications by index,
//! USO, several pairs of queues, a front end that listens.

use std::os::unix::net::UnixListener;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::{Choice, Guest, LIMIT, Rig, feature, frame};

/// The next frame that comes, whole.
fn whole(guest: &mut Guest) -> Vec<u8> {
    let mut got = None;
    wait_until("a frame", LIMIT, || {
        got = guest.receive().unwrap();
        got.is_some()
    })
    .unwrap();
    got.unwrap()
}

/// A driver from before virtio 1.0 without merged buffers has ten bytes before
/// each frame; and a front end that knows no protocol features enables no queue.
#[test]
fn legacy_guests_have_shorter_headers_and_queues_that_are_enabled() {
    let rig = Rig::new(&["", ""]);
    let legacy = Choice { features: 0, pairs: 1 };
    assert_eq!(legacy.header_len(), 10);
    let mut old = Guest::connect_as(rig.path(0), legacy).unwrap();
    let mut new = Guest::connect(rig.path(1)).unwrap();
    rig.wait_link(0, true);
    rig.wait_link(1, true);
    for number in 0..300u16 {
        let sent = frame(1, &vec![number.to_le_bytes()[0]; usize::from(number)]);
        old.send(&sent).unwrap();
        assert_eq!(whole(&mut new).split_off(12), sent);
        new.send(&sent).unwrap();
        let got = whole(&mut old);
        assert_eq!((&got[..10], &got[10..]), (&[0; 10][..], &sent[..]));
    }
}

/// Without merged buffers `num_buffers` says 1 all the same (virtio 1.2 §5.1.6.4),
/// and a frame that does not fit one buffer is refused.
#[test]
fn guests_without_merged_buffers_get_what_fits_one() {
    let rig = Rig::new(&[""]);
    let choice = Choice { features: feature::VERSION_1 | feature::PROTOCOL_FEATURES, pairs: 1 };
    let mut guest = Guest::connect_as(rig.path(0), choice).unwrap();
    rig.wait_link(0, true);
    rig.honest[0].inject(&frame(9, b"one"));
    let got = whole(&mut guest);
    assert_eq!((&got[..12], &got[12..]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &frame(9, b"one")[..]));
    // Its next buffer is shorter than the frame.
    let short = vswitch_tests::vhost::Descriptor {
        addr: Guest::buffer(1),
        len: 100,
        flags: vswitch_tests::vhost::WRITE,
        next: 0,
    };
    guest.describe(0, 1, short);
    rig.honest[0].inject(&frame(9, &[1; 200]));
    wait_until("a refusal", LIMIT, || rig.port(0).counters.refused() == 1).unwrap();
    rig.honest[0].inject(&frame(9, b"two"));
    assert_eq!(whole(&mut guest).split_off(12), frame(9, b"two"));
}

#[test]
fn kicks_and_calls_by_index_come_when_they_are_wanted() {
    let rig = Rig::new(&["", ""]);
    let choice = Choice::default().and(feature::EVENT_IDX);
    let mut a = Guest::connect_as(rig.path(0), choice).unwrap();
    let mut b = Guest::connect_as(rig.path(1), choice).unwrap();
    rig.wait_link(0, true);
    rig.wait_link(1, true);
    let exchange = |a: &mut Guest, b: &mut Guest, count: u8| {
        for number in 0..count {
            // `send` kicks only if the switch's index asks for it.
            a.send(&frame(1, &[number])).unwrap();
            assert_eq!(whole(b).split_off(12), frame(1, &[number]));
        }
    };
    b.want_call_after(0, 1);
    exchange(&mut a, &mut b, 1);
    b.calls(0);
    for _ in 0..60 {
        b.want_call_after(0, 10);
        exchange(&mut a, &mut b, 9);
        assert_eq!(b.calls(0), 0, "not yet");
        exchange(&mut a, &mut b, 1);
        assert_eq!(b.calls(0), 1, "the tenth");
    }
    // Asleep in between, it is woken by the kick that its index asked for.
    for number in 0..50u8 {
        wait_until("it to ask", LIMIT, || a.is_asked(1)).unwrap();
        a.send(&frame(1, &[number])).unwrap();
        assert_eq!(whole(&mut b).split_off(12), frame(1, &[number]));
    }
}

/// 3,000 bytes of UDP over IPv4 for segments of 1,000, and its virtio-net header.
fn super_frame() -> ([u8; 10], Vec<u8>) {
    let payload: Vec<u8> = (0..3000u16).map(|n| n.to_be_bytes()[1] ^ n.to_be_bytes()[0]).collect();
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0]);
    bytes.extend((20 + udp_len).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = sum16(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&(!sum).to_be_bytes());
    bytes.extend(1000u16.to_be_bytes());
    bytes.extend(2000u16.to_be_bytes());
    bytes.extend(udp_len.to_be_bytes());
    // The sum of the pseudo header; the rest is promised.
    let pseudo = [&bytes[26..34], &[0, 17], &udp_len.to_be_bytes()].concat();
    bytes.extend(sum16(&pseudo).to_be_bytes());
    bytes.extend(payload);
    // NEEDS_CSUM, GSO_UDP_L4, headers of 42 bytes, segments of 1,000, the checksum
    // of what begins at 34 goes to its byte 6.
    ([1, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0], bytes)
}

/// The ones' complement sum of 16-bit words (RFC 1071).
fn sum16(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

#[test]
fn uso_frames_pass_whole_to_who_takes_them_and_in_segments_to_others() {
    use feature::{CSUM, GUEST_CSUM, GUEST_USO4, GUEST_USO6, HOST_USO};
    let rig = Rig::new(&["", "", ""]);
    let sender = Choice::default().and(CSUM | HOST_USO);
    let taker = Choice::default().and(GUEST_CSUM | GUEST_USO4 | GUEST_USO6);
    let mut from = Guest::connect_as(rig.path(0), sender).unwrap();
    let mut takes = Guest::connect_as(rig.path(1), taker).unwrap();
    let mut other = Guest::connect(rig.path(2)).unwrap();
    (0..3).for_each(|number| rig.wait_link(number, true));
    let (header, sent) = super_frame();
    for _ in 0..10 {
        from.send_by(0, &header, &sent).unwrap();
        let got = whole(&mut takes);
        assert_eq!((got[0], got[1], &got[4..6]), (1, 5, &[0xe8, 3][..]), "its virtio-net header");
        assert_eq!(got[12..], sent[..]);
        for segment in 0..3 {
            let got = whole(&mut other);
            assert_eq!(got[..2], [0, 0], "finished");
            let bytes = &got[12..];
            assert_eq!((bytes.len(), &bytes[38..40]), (1042, &1008u16.to_be_bytes()[..]));
            assert_eq!(bytes[42..], sent[42 + 1000 * segment..][..1000]);
            let pseudo = [&bytes[26..34], &[0, 17], &bytes[38..40]].concat();
            assert_eq!(sum16(&[&pseudo[..], &bytes[34..]].concat()), 0xffff, "its checksum");
        }
    }
}

/// Station `from` to station `to`: UDP over IPv4 from `port`, which makes a flow.
fn flow(from: u8, to: u8, port: u16, number: u32) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
    bytes.extend([0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 53, 0, 26, 0, 0]);
    bytes.extend(number.to_be_bytes());
    bytes.resize(60, 0);
    bytes
}

#[test]
fn two_pairs_of_queues_carry_flows_each_in_order() {
    const FLOWS: usize = 16;
    let rig = Rig::new(&["queues=2", "queues=4"]);
    let choice = Choice { pairs: 2, ..Choice::default() };
    let mut a = Guest::connect_as(rig.path(0), choice).unwrap();
    let mut b = Guest::connect_as(rig.path(1), choice).unwrap();
    rig.wait_link(0, true);
    rig.wait_link(1, true);
    b.send(&flow(2, 9, 1, 0)).unwrap();
    let heard = |a: &mut Guest| (0..2).any(|pair| a.receive_by(pair).unwrap().is_some());
    wait_until("station 2 to be known", LIMIT, || heard(&mut a)).unwrap();
    let (mut sent, mut next, mut by) = ([0; FLOWS], [0; FLOWS], [0; 2]);
    let mut queue = [None; FLOWS];
    for round in 0..500usize {
        for (number, sent) in sent.iter_mut().enumerate() {
            // A guest, too, keeps a flow to one of its queues.
            let port = 1000 + u16::try_from(number).unwrap();
            a.send_by(number % 2, &[0; 10], &flow(1, 2, port, *sent)).unwrap();
            *sent += 1;
        }
        wait_until("the round", LIMIT, || {
            for (pair, count) in by.iter_mut().enumerate() {
                while let Some(frame) = b.receive_by(pair).unwrap() {
                    let bytes = &frame[12..];
                    let flow = usize::from(u16::from_be_bytes([bytes[34], bytes[35]])) - 1000;
                    let number = u32::from_be_bytes([bytes[42], bytes[43], bytes[44], bytes[45]]);
                    assert_eq!(number, next[flow], "flow {flow}");
                    assert_eq!(*queue[flow].get_or_insert(pair), pair, "flow {flow} changed its queue");
                    next[flow] += 1;
                    *count += 1;
                }
            }
            next == sent
        })
        .unwrap_or_else(|error| panic!("round {round}: {error}: {next:?}"));
    }
    assert!(by.iter().all(|&count| count > 1000), "both are used: {by:?}");
    let counters = rig.port(0).counters;
    assert_eq!((counters.rx, counters.dropped()), (8000, 0));
}

/// The front end listens, and the port comes: at first, and again when it has gone.
#[test]
fn a_port_in_client_mode_serves_traffic_and_comes_again() {
    let rig = Rig::new(&["mode=client", ""]);
    let mut b = Guest::connect(rig.path(1)).unwrap();
    rig.wait_link(1, true);
    rig.wait_link(0, false);
    for round in 0..3u8 {
        let listener = UnixListener::bind(rig.path(0)).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut a = Guest::accept(stream, Choice::default()).unwrap();
        rig.wait_link(0, true);
        for number in 0..200 {
            a.send(&frame(1, &[round, number])).unwrap();
            assert_eq!(whole(&mut b).split_off(12), frame(1, &[round, number]));
            b.send(&frame(2, &[round, number])).unwrap();
            assert_eq!(whole(&mut a).split_off(12), frame(2, &[round, number]));
        }
        std::fs::remove_file(rig.path(0)).unwrap();
        drop((a, listener));
        rig.wait_link(0, false);
        assert_eq!(rig.wait_gone(0), "", "nobody was at fault");
    }
}

/// A listener that takes nobody in must not keep the port from being closed.
#[test]
fn a_port_in_client_mode_ends_beside_a_listener_that_is_full() {
    let rig = Rig::new(&["mode=client"]);
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let address = SocketAddrUnix::new(rig.path(0)).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    wait_until("the listener to be full", LIMIT, || {
        let flags = SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let is_full = rustix::net::connect(&socket, &address).is_err();
        waiting.push(socket);
        is_full
    })
    .unwrap();
    // Until it has tried.
    std::thread::sleep(std::time::Duration::from_millis(600));
    std::fs::remove_file(rig.path(0)).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(rig);
        tell.send(()).unwrap();
    });
    told.recv_timeout(LIMIT).expect("the port is closed");
}
