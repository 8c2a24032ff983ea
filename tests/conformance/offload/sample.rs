//! Super-frames of each sort, built with etherparse, and lies about them.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TcpOptionElement, UdpHeader};
use vswitch::offload::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// A super-frame and its header, both honest.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub name: &'static str,
    pub vnet: VnetHeader,
    pub frame: Vec<u8>,
}

/// One of each sort, with and without tags, and one that only lacks a checksum.
pub(super) fn all() -> Vec<Sample> {
    let mut all = Vec::new();
    for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
        all.extend(Sample::each(tags, 3000, 1000));
        let mut checksum = Sample::tcp4(tags, 300, 1000);
        (checksum.vnet.gso_type, checksum.vnet.gso_size) = (GSO_NONE, 0);
        all.push(checksum);
    }
    all
}

impl Sample {
    pub(super) fn tcp4(tags: &[u16], len: usize, gso_size: u16) -> Sample {
        let [tcp4, ..] = Sample::each(tags, len, gso_size);
        tcp4
    }

    /// Each sort of super-frame behind `tags`, with `len` bytes of payload.
    pub(super) fn each(tags: &[u16], len: usize, gso_size: u16) -> [Sample; 8] {
        let (v4, v6) = (vec![], vec![]);
        // No-operation options, eight bytes; destination options with padding.
        let (v4_options, v6_extension) = (vec![1; 8], vec![0, 0, 1, 4, 0, 0, 0, 0]);
        let build = |name, gso_type, between| build(name, tags, gso_type, between, len, gso_size);
        [
            build("TCPv4", GSO_TCPV4, &v4),
            build("TCPv4 with IP options", GSO_TCPV4, &v4_options),
            build("TCPv6", GSO_TCPV6, &v6),
            build("TCPv6 with an extension", GSO_TCPV6, &v6_extension),
            build("USO over IPv4", GSO_UDP_L4, &v4),
            build("USO over IPv4 with options", GSO_UDP_L4, &v4_options),
            build("USO over IPv6", GSO_UDP_L4 | V6, &v6),
            build("USO over IPv6 with an extension", GSO_UDP_L4 | V6, &v6_extension),
        ]
    }
}

/// Marks USO over IPv6 in `build`, as the type alone does not say.
const V6: u8 = 0x40;

fn build(
    name: &'static str,
    tags: &[u16],
    gso_type: u8,
    between: &[u8],
    len: usize,
    gso_size: u16,
) -> Sample {
    let is_v6 = gso_type == GSO_TCPV6 || gso_type & V6 != 0;
    let gso_type = gso_type & !V6;
    let is_tcp = gso_type != GSO_UDP_L4;
    let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i * 7 % 253).unwrap()).collect();

    let mut l4 = Vec::new();
    if is_tcp {
        let mut tcp = TcpHeader::new(40_000, 443, 0xffff_fc00, 501);
        tcp.acknowledgment_number = 77;
        (tcp.ack, tcp.psh, tcp.fin, tcp.cwr, tcp.ece) = (true, true, true, true, true);
        tcp.set_options(&[TcpOptionElement::Timestamp(1, 2)]).unwrap();
        tcp.write(&mut l4).unwrap();
    } else {
        let length = u16::try_from(8 + len).unwrap();
        UdpHeader { source_port: 40_000, destination_port: 443, length, checksum: 0 }.write(&mut l4).unwrap();
    }
    let header_len = l4.len();
    l4.extend(payload);
    let protocol = if is_tcp { IpNumber::TCP } else { IpNumber::UDP };

    let mut ip = Vec::new();
    let addresses;
    if is_v6 {
        let (source, destination) = ([0xfd; 16], [0xfc; 16]);
        let payload_length = u16::try_from(between.len() + l4.len()).unwrap();
        let next_header = if between.is_empty() { protocol } else { IpNumber::IPV6_DESTINATION_OPTIONS };
        let header = Ipv6Header {
            payload_length,
            next_header,
            hop_limit: 64,
            source,
            destination,
            ..Ipv6Header::default()
        };
        header.write(&mut ip).unwrap();
        let mut extension = between.to_vec();
        if let Some(first) = extension.first_mut() {
            *first = protocol.0;
        }
        ip.extend(extension);
        addresses = [source, destination].concat();
    } else {
        let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let body = u16::try_from(between.len() + l4.len()).unwrap();
        let mut header =
            Ipv4Header::new(body - u16::try_from(between.len()).unwrap(), 64, protocol, source, destination)
                .unwrap();
        header.identification = 0xfff0;
        header.options = between.try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        header.write_raw(&mut ip).unwrap();
        addresses = [source, destination].concat();
    }

    // The sum of the pseudo-header, where a sender leaves the checksum.
    let length = u16::try_from(l4.len()).unwrap();
    let mut words = addresses;
    words.extend([0, protocol.0]);
    words.extend(length.to_be_bytes());
    let mut pseudo: u32 = words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while pseudo > 0xffff {
        pseudo = (pseudo & 0xffff) + (pseudo >> 16);
    }
    let csum_offset = if is_tcp { 16 } else { 6 };
    l4[csum_offset..csum_offset + 2].copy_from_slice(&u16::try_from(pseudo).unwrap().to_be_bytes());

    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tpid in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend([0x20, 5]);
    }
    frame.extend(if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    frame.extend(ip);
    let start = frame.len();
    frame.extend(l4);
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type,
        hdr_len: u16::try_from(start + header_len).unwrap(),
        gso_size,
        csum_start: u16::try_from(start).unwrap(),
        csum_offset: u16::try_from(csum_offset).unwrap(),
    };
    Sample { name, vnet, frame }
}

/// Headers that say of a frame of `len` bytes what is not so, and the honest one.
pub(super) fn lies(honest: VnetHeader, len: usize) -> Vec<VnetHeader> {
    let mut lies = vec![honest];
    for gso_type in [0, GSO_TCPV4, 2, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, 6, 0x20, 0x41, 0x80, 0x81, 0x84, 0x85] {
        lies.push(VnetHeader { gso_type, ..honest });
        lies.push(VnetHeader { gso_type, flags: 0, ..honest });
    }
    for gso_size in [0, 1, 7, 23, 24, 2999, 3000, 3001, 0xfffe, 0xffff] {
        lies.push(VnetHeader { gso_size, ..honest });
    }
    for hdr_len in [0, 1, 13, 14, 1000, 3000, 4000, 0xffff] {
        lies.push(VnetHeader { hdr_len, ..honest });
    }
    let end = u16::try_from(len).unwrap();
    for behind in [0, 1, 2, 3] {
        lies.push(VnetHeader { csum_start: end - behind, csum_offset: 0, ..honest });
        lies.push(VnetHeader { csum_offset: end - honest.csum_start - behind, ..honest });
        lies.push(VnetHeader { hdr_len: end + 1 - behind, ..honest });
    }
    for csum_start in [0, 13, 14, 19, 20, 33, 34, 35, 54, 200, 3000, 0x7fff, 0x8000, 0xfff0, 0xffff] {
        lies.push(VnetHeader { csum_start, ..honest });
    }
    for csum_offset in [0, 6, 15, 16, 17, 1000, 2998, 0xfffe, 0xffff] {
        lies.push(VnetHeader { csum_offset, ..honest });
    }
    for flags in [2, 3, 4, 5, 8, 9, 0xfe, 0xff] {
        lies.push(VnetHeader { flags, ..honest });
    }
    lies
}
