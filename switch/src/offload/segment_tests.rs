//! Segments of super-frames, as tables. Whether the kernel cuts the same is
//! asked in the conformance tests.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;
use crate::offload::sample::{Ip, TCP, Tunnel, UDP, V4, payload, super_frame, tunnelled, v6};
use crate::offload::{GSO_TCPV4, NEEDS_CSUM};

fn cut(vnet: &VnetHeader, frame: &[u8]) -> Vec<Vec<u8>> {
    let segmenter = Segmenter::new(vnet, frame).unwrap();
    (0..segmenter.segments())
        .map(|index| {
            let mut out = vec![0; segmenter.headers_len()];
            segmenter.write_headers(index, &mut out);
            out.extend(&frame[segmenter.payload(index)]);
            out
        })
        .collect()
}

/// Asserts that lengths and checksums are right from the Ethernet header to
/// the transport header, and returns the payload.
fn valid(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    valid_network(packet.net.unwrap(), packet.transport.unwrap(), frame)
}

fn valid_network(net: NetSlice<'_>, transport: TransportSlice<'_>, frame: &[u8]) -> Vec<u8> {
    let (source, destination): (Vec<u8>, Vec<u8>) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.source.to_vec(), header.destination.to_vec())
        }
        NetSlice::Ipv6(ip) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
        NetSlice::Arp(_) => panic!("no IP"),
    };
    let (protocol, l4, body) = match transport {
        TransportSlice::Tcp(tcp) => (TCP, tcp.slice(), tcp.payload()),
        TransportSlice::Udp(udp) => (UDP, udp.slice(), udp.payload()),
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => {
            panic!("neither TCP nor UDP")
        }
    };
    assert_eq!(l4.as_ptr_range().end, frame.as_ptr_range().end, "the lengths reach the frame's end");
    let zero_udp = protocol == UDP && l4[6..8] == [0, 0];
    if !zero_udp {
        let pseudo = [sum(&source), sum(&destination), u16::from(protocol), length(l4.len()), sum(l4)];
        assert_eq!(add(&pseudo), 0xffff, "transport checksum");
    }
    body.to_vec()
}

#[test]
fn segments_are_valid_frames_and_carry_the_whole_payload() {
    let options = Ip::V4 { options: vec![1; 4], fragment: 0 };
    let extended = |protocol| Ip::V6 { first: 60, extensions: vec![protocol, 0, 1, 4, 0, 0, 0, 0] };
    for (tags, ip, protocol) in [
        (&[][..], V4, TCP),
        (&[0x8100], V4, TCP),
        (&[0x88a8, 0x8100], v6(), TCP),
        (&[], options.clone(), TCP),
        (&[], extended(TCP), TCP),
        (&[], V4, UDP),
        (&[], options, UDP),
        (&[], v6(), UDP),
        (&[0x8100], extended(UDP), UDP),
    ] {
        for (len, gso_size) in [(257, 256), (4000, 1448), (2896, 1448), (2897, 1447), (4000, 999)] {
            let (vnet, frame) = super_frame(tags, &ip, protocol, len, gso_size);
            let segments = cut(&vnet, &frame);
            assert_eq!(segments.len(), len.div_ceil(usize::from(gso_size)));
            let bodies: Vec<u8> = segments.iter().flat_map(|segment| valid(segment)).collect();
            assert_eq!(bodies, payload(len), "{tags:?} {ip:?} {protocol} {len} {gso_size}");
        }
    }
}

#[test]
fn each_tcp_segment_says_its_own_part() {
    let (vnet, frame) = super_frame(&[], &V4, TCP, 3000, 1000);
    let segments = cut(&vnet, &frame);
    let seen: Vec<_> = segments
        .iter()
        .map(|segment| {
            let id = be16(segment, 14 + 4).unwrap();
            let seq = u32::from_be_bytes(segment[38..42].try_into().unwrap());
            (id, seq, segment[14 + 20 + 13])
        })
        .collect();
    const ACK: u8 = 0x10;
    let expected = [
        (0xfffe, 0xffff_ff00, ACK | CWR),
        (0xffff, 0xffff_ff00u32.wrapping_add(1000), ACK),
        (0x0000, 0xffff_ff00u32.wrapping_add(2000), ACK | PSH | FIN),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn tunnelled_segments_are_valid_outside_and_inside() {
    for outer in [V4, v6()] {
        for inner in [V4, v6()] {
            for (tunnel, skip) in [(Tunnel::Vxlan, 8), (Tunnel::Geneve { options: 8 }, 16)] {
                for with_checksum in [true, false] {
                    let (vnet, frame) = tunnelled(&outer, tunnel, &inner, with_checksum, 4000, 1400);
                    let segments = cut(&vnet, &frame);
                    let mut bodies = Vec::new();
                    for (index, segment) in segments.iter().enumerate() {
                        let tunnel_payload = valid(segment);
                        let udp_at = segment.len() - tunnel_payload.len() - 8;
                        assert_eq!(segment[udp_at + 6..udp_at + 8] != [0, 0], with_checksum);
                        let bridged = &tunnel_payload[skip..];
                        bodies.extend(valid(bridged));
                        for packet in [segment, bridged] {
                            if be16(packet, 12) == Some(0x0800) {
                                let id = 0xfffeu16.wrapping_add(length(index));
                                assert_eq!(be16(packet, 18), Some(id), "identifiers of both headers");
                            }
                        }
                    }
                    assert_eq!(bodies, payload(4000), "{outer:?} {tunnel:?} {inner:?} {with_checksum}");
                }
            }
            for (tunnel, skip) in [(Tunnel::Gre { key: true }, 8), (Tunnel::IpInIp, 0)] {
                let (vnet, frame) = tunnelled(&outer, tunnel, &inner, false, 4000, 1400);
                let outer_len = if matches!(outer, Ip::V4 { .. }) { 34 } else { 54 };
                let mut bodies = Vec::new();
                for segment in cut(&vnet, &frame) {
                    let packet = SlicedPacket::from_ethernet(&segment).unwrap();
                    if let NetSlice::Ipv4(ip) = packet.net.unwrap() {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                        assert_eq!(usize::from(header.total_len), segment.len() - 14);
                    } else {
                        assert_eq!(usize::from(be16(&segment, 18).unwrap()), segment.len() - 54);
                    }
                    let inside = &segment[outer_len + skip..];
                    let bridged = if matches!(tunnel, Tunnel::IpInIp) {
                        [&segment[..12], &inner.ethertype().to_be_bytes(), inside].concat()
                    } else {
                        inside.to_vec()
                    };
                    bodies.extend(valid(&bridged));
                }
                assert_eq!(bodies, payload(4000), "{outer:?} {tunnel:?} {inner:?}");
            }
        }
    }
}

#[test]
fn an_outer_checksum_of_zero_is_written_as_all_ones() {
    let (vnet, mut frame) = tunnelled(&V4, Tunnel::Vxlan, &V4, true, 3000, 1000);
    let (check_at, vni_at) = (14 + 20 + 6, 14 + 20 + 8 + 4);
    // Only the outer checksum covers the VNI: what is missing to a sum of all
    // ones is added to it.
    let missing = be16(&cut(&vnet, &frame)[0], check_at).unwrap();
    let vni = add(&[be16(&frame, vni_at).unwrap(), missing]);
    frame[vni_at..vni_at + 2].copy_from_slice(&vni.to_be_bytes());
    assert_eq!(be16(&cut(&vnet, &frame)[0], check_at), Some(0xffff));
}

#[test]
fn a03_small_or_many_segments_are_refused() {
    for (len, gso_size, expected) in [
        (65_000, 1, Err(Refusal::Segments)),
        (65_000, 8, Err(Refusal::Segments)),
        (1000, 255, Err(Refusal::Segments)),
        (1000, 256, Ok(4)),
        (256 * 128, 256, Ok(128)),
        (256 * 128 + 1, 256, Err(Refusal::Segments)),
        (65_400, 536, Ok(123)),
    ] {
        let (vnet, frame) = super_frame(&[], &V4, TCP, len, gso_size);
        let segments = Segmenter::new(&vnet, &frame).map(|segmenter| segmenter.segments());
        assert_eq!(segments, expected, "{len} bytes by {gso_size}");
    }
}

#[test]
fn what_is_no_super_frame_is_not_cut() {
    let (vnet, frame) = super_frame(&[], &V4, TCP, 1000, 1448);
    for vnet in [
        vnet,
        VnetHeader::PLAIN,
        VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..VnetHeader::PLAIN },
        VnetHeader { flags: 0, gso_type: GSO_TCPV4, ..vnet },
    ] {
        assert_eq!(Segmenter::new(&vnet, &frame).map(|s| s.segments()), Err(Refusal::Offload));
    }
}
