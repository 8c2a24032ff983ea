//! What `check` accepts and refuses, as tables. Case A02 of the conformance
//! list compares the same question with the kernel.

use super::sample::{Ip, TCP, Tunnel, UDP, V4, super_frame, tunnelled, v6};
use super::*;
use crate::frame::HEAD_MAX;

fn verdict(vnet: &VnetHeader, frame: &[u8]) -> Result<Offload, DropReason> {
    check(vnet, &frame[..frame.len().min(HEAD_MAX)], u32::try_from(frame.len()).unwrap())
}

#[test]
fn honest_super_frames_are_measured() {
    let options = Ip::V4 { options: vec![1; 8], fragment: 0 };
    // Destination options, eight bytes, before TCP or UDP.
    let extended = |protocol| Ip::V6 { first: 60, extensions: vec![protocol, 0, 1, 4, 0, 0, 0, 0] };
    for (name, tags, ip, protocol, len, gso_size, expected) in [
        ("TCPv4", &[][..], V4, TCP, 4000, 1448, (66, 3, 1514)),
        ("TCPv4, exact", &[], V4, TCP, 2896, 1448, (66, 2, 1514)),
        ("TCPv4, one byte more", &[], V4, TCP, 2897, 1448, (66, 3, 1514)),
        ("TCPv4 in a VLAN", &[0x8100], V4, TCP, 4000, 1448, (70, 3, 1518)),
        ("TCPv4 in two", &[0x88a8, 0x8100], V4, TCP, 4000, 1448, (74, 3, 1522)),
        ("TCPv4 with options", &[], options, TCP, 4000, 1440, (74, 3, 1514)),
        ("TCPv6", &[], v6(), TCP, 4000, 1428, (86, 3, 1514)),
        ("TCPv6 with an extension", &[], extended(TCP), TCP, 4000, 1420, (94, 3, 1514)),
        ("UDPv4", &[], V4, UDP, 4000, 1472, (42, 3, 1514)),
        ("UDPv6", &[], extended(UDP), UDP, 4000, 1444, (70, 3, 1514)),
    ] {
        let (vnet, frame) = super_frame(tags, &ip, protocol, len, gso_size);
        let (headers_len, segments, wire_len) = expected;
        let sizes = SuperFrame { headers_len, gso_size, segments, wire_len };
        assert_eq!(verdict(&vnet, &frame), Ok(Offload::Segment(sizes)), "{name}");
        for hdr_len in [0, 1, 14, headers_len - 1, headers_len + 1, 1500] {
            let lie = VnetHeader { hdr_len, ..vnet };
            assert_eq!(verdict(&lie, &frame), Ok(Offload::Segment(sizes)), "{name}, hdr_len {hdr_len}");
            assert_eq!(lie.checked(Offload::Segment(sizes)).hdr_len, headers_len, "the truth travels on");
        }
        let ecn = verdict(&VnetHeader { gso_type: vnet.gso_type | GSO_ECN, ..vnet }, &frame);
        if protocol == TCP {
            assert_eq!(ecn, Ok(Offload::Segment(sizes)), "{name} with ECN");
        } else {
            assert_eq!(ecn, Err(DropReason::BadOffload), "{name} with ECN");
        }
        let small = VnetHeader { gso_size: u16::try_from(len).unwrap(), ..vnet };
        assert_eq!(verdict(&small, &frame), Ok(Offload::Checksum), "{name}, of one segment");
        assert!(small.checked(Offload::Checksum).gso_type == GSO_NONE, "{name}, of one segment");
    }
}

#[test]
fn headers_that_contradict_their_frame() {
    let (vnet, frame) = super_frame(&[], &V4, TCP, 4000, 1448);
    let (vnet6, frame6) = super_frame(&[], &v6(), TCP, 4000, 1428);
    let (uso, datagrams) = super_frame(&[], &V4, UDP, 4000, 20);
    let mut short_tcp = frame.clone();
    short_tcp[14 + 20 + 12] = 0x40;
    let (_, fragment) = super_frame(&[], &Ip::V4 { options: vec![], fragment: 0x2000 }, TCP, 4000, 1448);
    let (_, offset) = super_frame(&[], &Ip::V4 { options: vec![], fragment: 1 }, TCP, 4000, 1448);
    let fragment_header = Ip::V6 { first: 44, extensions: vec![TCP, 0, 0, 0, 0, 0, 0, 1] };
    let (vnet6_fragment, frame6_fragment) = super_frame(&[], &fragment_header, TCP, 4000, 1420);
    let endless = Ip::V6 { first: 60, extensions: [60, 0, 1, 4, 0, 0, 0, 0].repeat(9) };
    let (vnet6_endless, frame6_endless) = super_frame(&[], &endless, TCP, 4000, 1400);
    let (three_tags_vnet, three_tags) = super_frame(&[0x88a8, 0x8100, 0x8100], &V4, TCP, 4000, 1448);
    let no_ip = {
        let mut frame = frame.clone();
        frame[12] = 0x88;
        frame
    };
    let wrong_version = {
        let mut frame = frame.clone();
        frame[14] = 0x65;
        frame
    };
    for (name, vnet, frame) in [
        ("start before any IP header", VnetHeader { csum_start: 19, ..vnet }, &frame),
        ("start one byte off", VnetHeader { csum_start: 35, ..vnet }, &frame),
        ("start in the payload", VnetHeader { csum_start: 200, ..vnet }, &frame),
        ("start behind the frame", VnetHeader { csum_start: 5000, ..vnet }, &frame),
        ("start at the end of numbers", VnetHeader { csum_start: u16::MAX, ..vnet }, &frame),
        ("offset behind the frame", VnetHeader { csum_offset: u16::MAX, ..vnet }, &frame),
        ("offset of another protocol", VnetHeader { csum_offset: 6, ..vnet }, &frame),
        ("gso_size 0", VnetHeader { gso_size: 0, ..vnet }, &frame),
        ("gso_size by fragments", VnetHeader { gso_size: 0xffff, ..vnet }, &frame),
        ("hdr_len beyond the frame", VnetHeader { hdr_len: 5000, ..vnet }, &frame),
        ("no checksum to finish", VnetHeader { flags: 0, ..vnet }, &frame),
        ("UFO", VnetHeader { gso_type: GSO_UDP, ..vnet }, &frame),
        ("unknown type", VnetHeader { gso_type: 2, ..vnet }, &frame),
        ("only ECN", VnetHeader { gso_type: GSO_ECN, ..vnet }, &frame),
        ("a tunnel type nobody negotiated", VnetHeader { gso_type: 0x21, ..vnet }, &frame),
        ("v6 on v4", VnetHeader { gso_type: GSO_TCPV6, ..vnet }, &frame),
        ("v4 on v6", VnetHeader { gso_type: GSO_TCPV4, ..vnet6 }, &frame6),
        ("UDP on TCP", VnetHeader { gso_type: GSO_UDP_L4, csum_offset: 6, ..vnet }, &frame),
        ("TCP on UDP", VnetHeader { gso_type: GSO_TCPV4, csum_offset: 16, ..uso }, &datagrams),
        ("200 datagrams", uso, &datagrams),
        ("a TCP header of 16 bytes", vnet, &short_tcp),
        ("more fragments", vnet, &fragment),
        ("a later fragment", vnet, &offset),
        ("an IPv6 fragment", vnet6_fragment, &frame6_fragment),
        ("nine extension headers", vnet6_endless, &frame6_endless),
        ("three tags", three_tags_vnet, &three_tags),
        ("neither IPv4 nor IPv6", vnet, &no_ip),
        ("another version in the IP header", vnet, &wrong_version),
    ] {
        assert_eq!(verdict(&vnet, frame), Err(DropReason::BadOffload), "{name}");
    }
    for cut in 0..66 {
        assert_eq!(verdict(&vnet, &frame[..cut]), Err(DropReason::BadOffload), "cut to {cut}");
    }
    let long = [&frame[..], &vec![0; 65_536]].concat();
    assert_eq!(verdict(&vnet, &long), Err(DropReason::BadOffload), "longer than an IP length can say");
    assert!(matches!(verdict(&vnet, &long[..14 + 65_535]), Ok(Offload::Segment(_))), "the longest");
}

#[test]
fn lone_checksums_may_be_anywhere_in_the_frame() {
    let frame = [0u8; 1000];
    let at = |csum_start, csum_offset| {
        let vnet = VnetHeader { flags: NEEDS_CSUM, csum_start, csum_offset, ..VnetHeader::PLAIN };
        verdict(&vnet, &frame)
    };
    for (start, offset) in [(20, 0), (34, 16), (84, 16), (400, 6), (998, 0), (34, 964)] {
        assert_eq!(at(start, offset), Ok(Offload::Checksum), "{start} {offset}");
    }
    for (start, offset) in [(0, 0), (19, 6), (999, 0), (34, 965), (1000, 0), (u16::MAX, u16::MAX)] {
        assert_eq!(at(start, offset), Err(DropReason::BadOffload), "{start} {offset}");
    }
}

#[test]
fn complete_frames_keep_nothing_but_the_word_that_they_are_valid() {
    let odd = VnetHeader { flags: 0xfe, hdr_len: 9, gso_size: 8, csum_start: 7, csum_offset: 6, gso_type: 0 };
    assert_eq!(check(&odd, &[], 0), Ok(Offload::None));
    assert_eq!(odd.checked(Offload::None), VnetHeader { flags: DATA_VALID, ..VnetHeader::PLAIN });
}

#[test]
fn tunnels_are_known_by_what_they_carry() {
    for outer in [V4, v6()] {
        for inner in [V4, v6()] {
            for (tunnel, extra) in [
                (Tunnel::Vxlan, 8 + 8 + 14),
                (Tunnel::Geneve { options: 0 }, 8 + 8 + 14),
                (Tunnel::Geneve { options: 32 }, 8 + 8 + 32 + 14),
                (Tunnel::Gre { key: false }, 4 + 14),
                (Tunnel::Gre { key: true }, 8 + 14),
                (Tunnel::IpInIp, 0),
            ] {
                let (vnet, frame) = tunnelled(&outer, tunnel, &inner, true, 3000, 1400);
                let ip = |ip: &Ip| if matches!(ip, Ip::V4 { .. }) { 20 } else { 40 };
                let headers_len = 14 + ip(&outer) + extra + ip(&inner) + 32;
                let sizes = SuperFrame {
                    headers_len,
                    gso_size: 1400,
                    segments: 3,
                    wire_len: u32::from(headers_len) + 1400,
                };
                let name = format!("{outer:?} {tunnel:?} {inner:?}");
                assert_eq!(verdict(&vnet, &frame), Ok(Offload::Tunnel(sizes)), "{name}");
                let small = VnetHeader { gso_size: 4000, ..vnet };
                let one = SuperFrame { gso_size: 4000, segments: 1, wire_len: frame_len(&frame), ..sizes };
                assert_eq!(verdict(&small, &frame), Ok(Offload::Tunnel(one)), "{name}, of one segment");
                for lie in [
                    VnetHeader { csum_start: vnet.csum_start + 4, ..vnet },
                    VnetHeader { gso_type: vnet.gso_type ^ GSO_TCPV4 ^ GSO_TCPV6, ..vnet },
                    VnetHeader { gso_type: GSO_UDP_L4, csum_offset: 6, ..vnet },
                ] {
                    assert_eq!(verdict(&lie, &frame), Err(DropReason::TunnelGso), "{name} {lie:?}");
                }
            }
        }
    }
}

fn frame_len(frame: &[u8]) -> u32 {
    u32::try_from(frame.len()).unwrap()
}

#[test]
fn tunnels_that_are_not_understood() {
    let with_byte = |at: usize, byte: u8| {
        let (vnet, mut frame) = tunnelled(&V4, Tunnel::Gre { key: false }, &V4, true, 3000, 1400);
        frame[at] = byte;
        verdict(&vnet, &frame)
    };
    assert_eq!(with_byte(34, 0x80), Err(DropReason::TunnelGso), "GRE with a checksum");
    assert_eq!(with_byte(34, 0x10), Err(DropReason::TunnelGso), "GRE with a sequence number");
    let (vnet, frame) = tunnelled(&v6(), Tunnel::Geneve { options: 120 }, &v6(), true, 3000, 1400);
    assert_eq!(verdict(&vnet, &frame), Err(DropReason::TunnelGso), "headers longer than a head");
}
