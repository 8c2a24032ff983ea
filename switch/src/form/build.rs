//! Bytes for what the short forms mean.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{ArpOperation, ArpPacket, EtherType as Ether, PacketBuilder};

use super::Typed;
use crate::frame::{ETHER_HEADER_LEN, MacAddr, TAG_LEN, TPID_C, VlanId};
use crate::offload::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// A frame that may be typed is as long as one that ports receive.
const LEN_MAX: usize = 131_072;

/// What an Ethernet header is followed by.
pub(super) enum Layer3 {
    None,
    ArpRequest { whom: Ipv4Addr, tell: Ipv4Addr },
    ArpReply { who: Ipv4Addr, at: MacAddr },
    Icmp { from: IpAddr, to: IpAddr },
    Udp { from: SocketAddr, to: SocketAddr },
    Tcp { from: SocketAddr, to: SocketAddr },
}

/// What else was typed.
#[derive(Default)]
pub(super) struct Options {
    pub src: Option<MacAddr>,
    pub dst: Option<MacAddr>,
    pub vlans: Vec<VlanId>,
    pub ethertype: Option<u16>,
    pub len: Option<usize>,
    pub mss: Option<u16>,
}

/// The frame, or what is wrong with it.
pub(super) fn build(layer3: &Layer3, options: &Options) -> Result<Typed, String> {
    if options.len.is_some_and(|len| len > LEN_MAX) {
        return Err(format!("a frame has at most {LEN_MAX} bytes"));
    }
    if options.ethertype.is_some() && !matches!(layer3, Layer3::None) {
        return Err("`type` is for ether".to_owned());
    }
    let (src, dst) = stations(layer3);
    let mut bytes = Vec::new();
    bytes.extend(options.dst.unwrap_or(dst).octets());
    bytes.extend(options.src.unwrap_or(src).octets());
    for vid in &options.vlans {
        bytes.extend(TPID_C.to_be_bytes());
        bytes.extend(vid.get().to_be_bytes());
    }
    bytes.extend(ethertype(layer3, options).to_be_bytes());
    let l2_len = ETHER_HEADER_LEN + TAG_LEN * options.vlans.len();
    let headers_len = l2_len + packet(layer3, 0)?.len();
    let len = options.len.unwrap_or(headers_len);
    // A bare Ethernet frame may be typed as short as one wants to see it fail.
    let payload = match len.checked_sub(headers_len) {
        Some(payload) => payload,
        None if matches!(layer3, Layer3::None) => 0,
        None => return Err(format!("this frame has at least {headers_len} bytes")),
    };
    bytes.extend(packet(layer3, payload)?);
    bytes.resize(len, 0);
    Ok(Typed { bytes, vnet: unfinished(layer3, options, l2_len)? })
}

/// Source and destination of stations that were not named.
fn stations(layer3: &Layer3) -> (MacAddr, MacAddr) {
    match *layer3 {
        Layer3::None => (MacAddr::ZERO, MacAddr::BROADCAST),
        Layer3::ArpRequest { tell, .. } => (station(tell.into()), MacAddr::BROADCAST),
        Layer3::ArpReply { at, .. } => (at, MacAddr::BROADCAST),
        Layer3::Icmp { from, to } => (station(from), station(to)),
        Layer3::Udp { from, to } | Layer3::Tcp { from, to } => (station(from.ip()), station(to.ip())),
    }
}

fn station(ip: IpAddr) -> MacAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            match () {
                () if ip.is_broadcast() => MacAddr::BROADCAST,
                // RFC 1112, section 6.4.
                () if ip.is_multicast() => MacAddr::new([0x01, 0x00, 0x5e, b & 0x7f, c, d]),
                () => MacAddr::new([2, 0, a, b, c, d]),
            }
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            // RFC 2464, section 7.
            let [first, second] = if ip.is_multicast() { [0x33, 0x33] } else { [2, 0] };
            MacAddr::new([first, second, a, b, c, d])
        }
    }
}

fn ethertype(layer3: &Layer3, options: &Options) -> u16 {
    let ip = |ip: &IpAddr| if ip.is_ipv4() { Ether::IPV4.0 } else { Ether::IPV6.0 };
    match layer3 {
        Layer3::None => options.ethertype.unwrap_or(Ether::IPV4.0),
        Layer3::ArpRequest { .. } | Layer3::ArpReply { .. } => Ether::ARP.0,
        Layer3::Icmp { from, .. } => ip(from),
        Layer3::Udp { from, .. } | Layer3::Tcp { from, .. } => ip(&from.ip()),
    }
}

/// What is behind the Ethernet header, with `payload` zeroes at its end.
fn packet(layer3: &Layer3, payload: usize) -> Result<Vec<u8>, String> {
    let payload = vec![0; payload];
    let mut out = Vec::new();
    let written = match *layer3 {
        Layer3::None => Ok(()),
        Layer3::ArpRequest { whom, tell } => {
            out = arp(ArpOperation::REQUEST, (station(tell.into()), tell), (MacAddr::ZERO, whom));
            Ok(())
        }
        Layer3::ArpReply { who, at } => {
            out = arp(ArpOperation::REPLY, (at, who), (MacAddr::BROADCAST, who));
            Ok(())
        }
        Layer3::Icmp { from: IpAddr::V4(from), to: IpAddr::V4(to) } => {
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64);
            builder.icmpv4_echo_request(1, 1).write(&mut out, &payload)
        }
        Layer3::Icmp { from: IpAddr::V6(from), to: IpAddr::V6(to) } => {
            let builder = PacketBuilder::ipv6(from.octets(), to.octets(), 64);
            builder.icmpv6_echo_request(1, 1).write(&mut out, &payload)
        }
        Layer3::Udp { from: SocketAddr::V4(from), to: SocketAddr::V4(to) } => {
            let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64);
            builder.udp(from.port(), to.port()).write(&mut out, &payload)
        }
        Layer3::Udp { from: SocketAddr::V6(from), to: SocketAddr::V6(to) } => {
            let builder = PacketBuilder::ipv6(from.ip().octets(), to.ip().octets(), 64);
            builder.udp(from.port(), to.port()).write(&mut out, &payload)
        }
        Layer3::Tcp { from: SocketAddr::V4(from), to: SocketAddr::V4(to) } => {
            let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64);
            builder.tcp(from.port(), to.port(), 1, 65_535).ack(1).write(&mut out, &payload)
        }
        Layer3::Tcp { from: SocketAddr::V6(from), to: SocketAddr::V6(to) } => {
            let builder = PacketBuilder::ipv6(from.ip().octets(), to.ip().octets(), 64);
            builder.tcp(from.port(), to.port(), 1, 65_535).ack(1).write(&mut out, &payload)
        }
        Layer3::Icmp { .. } | Layer3::Udp { .. } | Layer3::Tcp { .. } => {
            return Err("IPv4 and IPv6 in one frame".to_owned());
        }
    };
    written.map_err(|_| "IP packets end at 65535 bytes".to_owned())?;
    Ok(out)
}

fn arp(operation: ArpOperation, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let packet = etherparse::ArpEthIpv4Packet {
        operation,
        sender_mac: sender.0.octets(),
        sender_ipv4: sender.1.octets(),
        target_mac: target.0.octets(),
        target_ipv4: target.1.octets(),
    };
    ArpPacket::from(packet).to_bytes().to_vec()
}

/// The virtio-net header of a super-frame, if it is to be one.
fn unfinished(layer3: &Layer3, options: &Options, l2_len: usize) -> Result<VnetHeader, String> {
    let Some(mss) = options.mss else { return Ok(VnetHeader::PLAIN) };
    if mss == 0 {
        return Err("`mss` is at least 1".to_owned());
    }
    let (gso_type, csum_offset, ip) = match layer3 {
        Layer3::Tcp { from, .. } if from.is_ipv4() => (GSO_TCPV4, 16, 20),
        Layer3::Tcp { .. } => (GSO_TCPV6, 16, 40),
        Layer3::Udp { from, .. } => (GSO_UDP_L4, 6, if from.is_ipv4() { 20 } else { 40 }),
        Layer3::None | Layer3::ArpRequest { .. } | Layer3::ArpReply { .. } | Layer3::Icmp { .. } => {
            return Err("`mss` is for tcp and udp".to_owned());
        }
    };
    let l4_len = if gso_type == GSO_UDP_L4 { 8 } else { 20 };
    // A few tags and headers: far below 64 KiB.
    let offset = |at: usize| u16::try_from(at).map_err(|_| "too many tags".to_owned());
    let csum_start = offset(l2_len + ip)?;
    let hdr_len = offset(l2_len + ip + l4_len)?;
    Ok(VnetHeader { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size: mss, csum_start, csum_offset })
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::super::{Typed, read};
    use crate::frame::{EtherHeader, Frame};
    use crate::offload::Offload;

    fn typed(text: &str) -> Typed {
        read(text).unwrap()
    }

    fn header(bytes: &[u8]) -> (String, String, Option<u16>, u16) {
        let EtherHeader { src, dst, tag, ethertype } = EtherHeader::parse(bytes).unwrap();
        (src.to_string(), dst.to_string(), tag.map(|tag| tag.vid().get()), ethertype)
    }

    #[test]
    fn arp_as_hosts_send_it() {
        let request = typed("arp who-has 192.168.1.2 tell 192.168.1.1 src 02:00:00:00:00:01");
        let expected = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 \
                        0200c0a80101 c0a80101 000000000000 c0a80102";
        assert_eq!(request.bytes[14..], typed(expected).bytes[14..]);
        assert_eq!(
            header(&request.bytes),
            ("02:00:00:00:00:01".into(), "ff:ff:ff:ff:ff:ff".into(), None, 0x806)
        );
        let reply =
            typed("arp 192.168.1.2 is-at 02:00:00:00:00:02 dst 02:00:00:00:00:01 vlan 7 len 60").bytes;
        assert_eq!(
            (header(&reply), reply.len()),
            (("02:00:00:00:00:02".into(), "02:00:00:00:00:01".into(), Some(7), 0x806), 60)
        );
    }

    #[test]
    fn packets_are_what_others_read() {
        for (text, len, stations) in [
            ("icmp 10.0.0.1 > 10.0.0.2", 42, ["02:00:0a:00:00:01", "02:00:0a:00:00:02"]),
            ("icmp fd00::1 > ff02::1 len 100", 100, ["02:00:00:00:00:01", "33:33:00:00:00:01"]),
            ("udp 10.0.0.1 > 224.0.0.251:5353", 42, ["02:00:0a:00:00:01", "01:00:5e:00:00:fb"]),
            ("udp 10.0.0.1 > 255.255.255.255", 42, ["02:00:0a:00:00:01", "ff:ff:ff:ff:ff:ff"]),
            ("tcp [fd00::1]:80 > [fd00::2]:81 len 1514", 1514, ["02:00:00:00:00:01", "02:00:00:00:00:02"]),
        ] {
            let Typed { bytes, .. } = typed(text);
            let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
            assert!(matches!(sliced.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))), "{text}");
            match sliced.transport.unwrap() {
                TransportSlice::Udp(udp) => assert!([7, 5353].contains(&udp.destination_port())),
                TransportSlice::Tcp(tcp) => assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 81)),
                TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) => assert!(text.starts_with("icmp")),
                other => panic!("{other:?}"),
            }
            let (src, dst, ..) = header(&bytes);
            assert_eq!((bytes.len(), [src.as_str(), dst.as_str()]), (len, stations), "{text}");
        }
    }

    #[test]
    fn bare_frames_of_any_length() {
        let tagged = "ether 02:00:00:00:00:01 > 02:00:00:00:00:02 vlan 5 vlan 6 type 88b5 len 64";
        let bytes = typed(tagged).bytes;
        assert_eq!((header(&bytes).2, &bytes[16..22]), (Some(5), &[0x81, 0, 0, 6, 0x88, 0xb5][..]));
        assert_eq!(bytes.len(), 64);
        assert_eq!(typed("ether 02:00:00:00:00:01 > 02:00:00:00:00:02 len 13").bytes.len(), 13);
    }

    #[test]
    fn super_frames_that_the_switch_takes() {
        for (text, segments) in [
            ("tcp 10.0.0.1 > 10.0.0.2 len 14534 mss 1448", 10),
            ("tcp fd00::1 > fd00::2 len 14534 mss 1448 vlan 9", 10),
            ("udp 10.0.0.1 > 10.0.0.2 len 3042 mss 1000", 3),
        ] {
            let Typed { bytes, vnet } = typed(text);
            let (head, rest) = bytes.split_at(200);
            let pieces = [crate::frame::Piece::from_slice(rest)];
            let Offload::Segment(super_frame) = Frame::new(head, &pieces, vnet).offload() else {
                panic!("{text}");
            };
            assert_eq!(super_frame.segments, segments, "{text}");
        }
    }
}
