//! Which frames go as they are, and what is made of those that do not.

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;
use crate::bridge::DropReason;
use crate::frame::Piece;
use crate::offload::{DATA_VALID, GSO_UDP, NEEDS_CSUM, VnetHeader};

const TCP_CHECK: u16 = 16;

/// A TCPv4 frame with `len` bytes of payload behind 54 of headers; its checksum
/// field holds the sum of the pseudo-header.
fn tcp(len: usize) -> Vec<u8> {
    let ip_len = u16::try_from(40 + len).unwrap().to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, ip_len[0], ip_len[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let pseudo = 2 * 0x0a00u32 + 3 + 6 + u32::try_from(20 + len).unwrap();
    let pseudo = (pseudo & 0xffff) + (pseudo >> 16);
    frame[50..52].copy_from_slice(&u16::try_from(pseudo).unwrap().to_be_bytes());
    frame.extend((0..len).map(|i| u8::try_from(i % 253).unwrap()));
    frame
}

fn unfinished(gso_type: u8, gso_size: u16) -> VnetHeader {
    VnetHeader { flags: NEEDS_CSUM, gso_type, hdr_len: 54, gso_size, csum_start: 34, csum_offset: TCP_CHECK }
}

/// Head and rest as a port would cut `bytes`, the rest in two pieces.
fn with_frame<T>(vnet: VnetHeader, bytes: &[u8], work: impl FnOnce(&Frame<'_>) -> T) -> T {
    let (head, rest) = bytes.split_at(bytes.len().min(HEAD_MAX));
    let (first, second) = rest.split_at(rest.len() / 3);
    let pieces = [Piece::from_slice(first), Piece::from_slice(second)];
    work(&Frame::new(head, &pieces, vnet))
}

fn bytes_of(wire: &Wire<'_>) -> Vec<u8> {
    let mut out = vec![0; wire.len()];
    assert_eq!(gather(wire, &mut out), out.len());
    out
}

/// The transport checksum of an IPv4 TCP frame is right.
fn checksum_holds(frame: &[u8]) -> bool {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Tcp(tcp))) =
        (packet.net, packet.transport)
    else {
        panic!("no TCPv4");
    };
    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()) == Ok(tcp.checksum())
}

#[test]
fn offloads_decide_what_goes_as_it_is() {
    let all = Offloads::ALL;
    let (plain, sum) = (VnetHeader::PLAIN, VnetHeader { gso_type: 0, ..unfinished(0, 0) });
    let super_frame = unfinished(GSO_TCPV4, 1000);
    for (name, vnet, to, expected) in [
        ("complete", plain, Offloads::NONE, Some(1)),
        ("unfinished checksum", sum, all, Some(1)),
        ("unfinished checksum", sum, Offloads { csum: false, ..all }, None),
        ("super-frame", super_frame, all, Some(1)),
        ("super-frame", super_frame, Offloads { tso6: false, uso: false, ecn: false, ..all }, Some(1)),
        ("super-frame", super_frame, Offloads { tso4: false, ..all }, None),
        ("super-frame", super_frame, Offloads { csum: false, ..all }, None),
        ("with ECN", unfinished(GSO_TCPV4 | GSO_ECN, 1000), all, Some(1)),
        ("with ECN", unfinished(GSO_TCPV4 | GSO_ECN, 1000), Offloads { ecn: false, ..all }, None),
        ("of one segment", unfinished(GSO_TCPV4, 3000), Offloads { tso4: false, ..all }, Some(1)),
    ] {
        with_frame(vnet, &tcp(3000), |frame| {
            assert_eq!(frame.fault(), None, "{name}");
            let wire = as_is(frame, to);
            assert_eq!(wire.map(|_| 1), expected, "{name} to {to:?}");
            if let Some(wire) = wire {
                assert_eq!(bytes_of(&wire), tcp(3000), "{name}");
                let mut finisher = Finisher::new();
                let finished = finisher.finish(frame, to).unwrap();
                assert!(!finished.is_cut() && finished.wire(0).vnet == *frame.vnet());
            }
        });
    }
}

#[test]
fn a_checksum_is_completed_on_a_copy() {
    let vnet = VnetHeader { gso_type: 0, ..unfinished(0, 0) };
    for len in [0, 1, 3, 200, 202, 203, 1446, 9000] {
        let bytes = tcp(len);
        with_frame(vnet, &bytes, |frame| {
            let mut finisher = Finisher::new();
            let finished = finisher.finish(frame, Offloads::NONE).unwrap();
            assert_eq!(finished.len(), 1);
            let wire = finished.wire(0);
            assert!(wire.vnet.is_plain());
            let sent = bytes_of(&wire);
            assert!(checksum_holds(&sent), "{len} bytes");
            assert_eq!((&sent[..50], &sent[52..]), (&bytes[..50], &bytes[52..]));
        });
        assert_eq!(bytes, tcp(len), "the port's memory is not touched");
    }
}

#[test]
fn an_sctp_crc_is_left_to_nobody() {
    let vnet = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 8, ..VnetHeader::PLAIN };
    let mut bytes = tcp(500);
    bytes[23] = 132;
    with_frame(vnet, &bytes, |frame| {
        assert!(as_is(frame, Offloads::ALL).is_none());
        let mut finisher = Finisher::new();
        let wire = finisher.finish(frame, Offloads::ALL).unwrap().wire(0);
        let sent = bytes_of(&wire);
        assert!(wire.vnet.is_plain());
        assert_eq!((&sent[..42], &sent[46..]), (&bytes[..42], &bytes[46..]));
        assert_ne!(sent[42..46], bytes[42..46]);
    });
}

#[test]
fn segments_come_with_complete_headers_and_the_payload_in_order() {
    let mut finisher = Finisher::new();
    for (len, gso_size) in [(3000, 1000), (64_000, 1446), (65_495, 512), (257, 256)] {
        with_frame(unfinished(GSO_TCPV4, gso_size), &tcp(len), |frame| {
            let finished = finisher.finish(frame, Offloads { csum: true, ..Offloads::NONE }).unwrap();
            assert!(finished.is_cut() && finished.wires().len() == len.div_ceil(usize::from(gso_size)));
            let mut payload = Vec::new();
            for wire in finished.wires() {
                assert!(wire.vnet.is_plain() && wire.len() <= usize::try_from(frame.wire_len()).unwrap());
                let sent = bytes_of(&wire);
                assert!(checksum_holds(&sent), "{len} by {gso_size}");
                payload.extend_from_slice(&sent[54..]);
            }
            assert_eq!(payload, tcp(len)[54..]);
        });
    }
}

#[test]
fn a03_costly_super_frames_are_refused_before_they_are_copied() {
    let mut finisher = Finisher::new();
    for gso_size in [1, 2, 3, 4, 5, 6, 7, 8, 255, 400] {
        with_frame(unfinished(GSO_TCPV4, gso_size), &tcp(65_000), |frame| {
            assert_eq!(finisher.finish(frame, Offloads::NONE).map(|f| f.len()), Err(Refusal::Segments));
            assert!(as_is(frame, Offloads::ALL).is_some(), "the kernel may have its fill");
        });
    }
    assert!(finisher.frame.iter().all(|&byte| byte == 0));
}

#[test]
fn frames_longer_than_ports_receive_are_refused() {
    let vnet = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..VnetHeader::PLAIN };
    with_frame(vnet, &vec![0; Slots::ROOM + 1], |frame| {
        let mut finisher = Finisher::new();
        assert_eq!(finisher.finish(frame, Offloads::NONE).map(|f| f.len()), Err(Refusal::Oversize));
    });
}

#[test]
fn gathering_stops_where_the_room_ends() {
    let bytes: Vec<u8> = (0..=255).collect();
    let pieces = [Piece::from_slice(&bytes[10..20]), Piece::from_slice(&bytes[20..40])];
    let wire = Wire::plain(&bytes[..10], &pieces);
    for room in [0, 5, 10, 15, 20, 39, 40, 50] {
        let mut out = vec![0xee; room];
        let len = gather(&wire, &mut out);
        assert_eq!(len, room.min(40));
        assert_eq!(out[..len], bytes[..len]);
        assert!(out[len..].iter().all(|&byte| byte == 0xee));
    }
}

/// A02's million: nothing that a guest can write makes us panic, send what is
/// longer than we say, or pass on what we did not check.
#[test]
fn a02_a_million_random_headers() {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"thirty-two bytes of determinism!");
    let mut finisher = Finisher::new();
    let templates = [tcp(0), tcp(3000), tcp(300), tcp(1446)];
    let (mut forwarded, mut cut) = (0u32, 0u32);
    for round in 0..1_000_000u32 {
        let mut bits = rng.next_u64();
        let mut take = |count: u64| {
            let value = bits % count;
            bits /= count;
            usize::try_from(value).unwrap()
        };
        let mut bytes = templates[take(4)].clone();
        if take(4) == 0 {
            rng.fill_bytes(&mut bytes[12..54]);
        }
        let len = [bytes.len(), 14, 60, bytes.len() - 1][take(4)].min(bytes.len());
        let mut random = [0; VnetHeader::LEN];
        rng.fill_bytes(&mut random);
        let mut vnet: VnetHeader = zerocopy::transmute!(random);
        // Mostly near the truth, where the edges are.
        if take(8) != 0 {
            vnet.flags &= 3;
            vnet.gso_type = [0, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN][take(6)];
        }
        if take(4) != 0 {
            vnet.flags |= NEEDS_CSUM;
            vnet.csum_start = [34, 34, 34, 20, 54, 74][take(6)];
            vnet.csum_offset = [16, 16, 6, 0, 18][take(5)];
            vnet.hdr_len %= 128;
            vnet.gso_size = [256, 512, 1000, 1448, 1, 0, 0xffff, 300][take(8)];
        }
        with_frame(vnet, &bytes[..len], |frame| {
            let hints = frame.vnet().flags & !(NEEDS_CSUM | DATA_VALID);
            assert_eq!(hints, 0, "round {round}: {vnet:?}");
            if let Some(fault) = frame.fault() {
                assert!(matches!(fault, DropReason::BadOffload | DropReason::TunnelGso));
                return;
            }
            for to in [Offloads::NONE, Offloads::ALL, Offloads { csum: true, ..Offloads::NONE }] {
                let Ok(finished) = finisher.finish(frame, to) else { continue };
                forwarded += 1;
                cut += u32::from(finished.is_cut());
                let sent: usize = finished.wires().map(|wire| wire.len()).sum();
                assert!(sent >= len);
                if finished.is_cut() {
                    let longest = finished.wires().map(|wire| wire.len()).max();
                    assert_eq!(longest, usize::try_from(frame.wire_len()).ok(), "round {round}: {vnet:?}");
                }
            }
        });
    }
    assert!(forwarded > 100_000 && cut > 10_000, "the test reaches its paths: {forwarded} {cut}");
}
