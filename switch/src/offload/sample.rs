//! Super-frames for tests, built header by header.

use super::checksum::{add, sum};
use super::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// IP version and what lies between it and the transport header.
#[derive(Clone, Debug)]
pub(super) enum Ip {
    V4 { options: Vec<u8>, fragment: u16 },
    V6 { first: u8, extensions: Vec<u8> },
}

pub(super) const V4: Ip = Ip::V4 { options: Vec::new(), fragment: 0x4000 };

pub(super) fn v6() -> Ip {
    Ip::V6 { first: 0, extensions: Vec::new() }
}

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// ACK, PSH, FIN, CWR.
pub(super) const FLAGS: u8 = 0x10 | 0x08 | 0x01 | 0x80;

pub(super) fn ethernet(tags: &[u16], kind: u16) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tpid in tags {
        out.extend(tpid.to_be_bytes());
        out.extend(100u16.to_be_bytes());
    }
    out.extend(kind.to_be_bytes());
    out
}

impl Ip {
    pub(super) fn ethertype(&self) -> u16 {
        match self {
            Ip::V4 { .. } => 0x0800,
            Ip::V6 { .. } => 0x86dd,
        }
    }

    fn addresses(&self) -> Vec<u8> {
        match self {
            Ip::V4 { .. } => vec![10, 0, 0, 1, 10, 0, 0, 2],
            Ip::V6 { .. } => {
                (0..32u8).map(|i| if i % 16 == 0 { 0xfd } else { i % 16 / 15 * (1 + i / 16) }).collect()
            }
        }
    }

    /// The folded sum of the pseudo-header, as a sender leaves it.
    fn pseudo(&self, protocol: u8, len: usize) -> u16 {
        add(&[sum(&self.addresses()), u16::from(protocol), u16::try_from(len).unwrap()])
    }

    /// This header before `payload` of `protocol`.
    pub(super) fn around(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Ip::V4 { options, fragment } => {
                let header_len = 20 + options.len();
                let len = u16::try_from(header_len + payload.len()).unwrap();
                out.extend([0x40 | u8::try_from(header_len / 4).unwrap(), 0]);
                out.extend(len.to_be_bytes());
                out.extend([0xff, 0xfe]); // the second segment's identifier is 0xffff, the third's 0
                out.extend(fragment.to_be_bytes());
                out.extend([64, protocol, 0, 0]);
                out.extend(self.addresses());
                out.extend(options);
                let check = !sum(&out);
                out[10..12].copy_from_slice(&check.to_be_bytes());
            }
            Ip::V6 { first, extensions } => {
                out.extend([0x60, 0, 0, 0]);
                out.extend(u16::try_from(extensions.len() + payload.len()).unwrap().to_be_bytes());
                out.extend([if extensions.is_empty() { protocol } else { *first }, 64]);
                out.extend(self.addresses());
                out.extend(extensions);
            }
        }
        out.extend(payload);
        out
    }

    /// A TCP or UDP packet whose checksum is the pseudo-header's sum.
    pub(super) fn unfinished(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(40_000u16.to_be_bytes());
        l4.extend(443u16.to_be_bytes());
        let (check_at, header_len) = if protocol == TCP { (16, 32) } else { (6, 8) };
        if protocol == TCP {
            l4.extend(0xffff_ff00u32.to_be_bytes()); // wraps round
            l4.extend(7u32.to_be_bytes());
            l4.extend([0x80, FLAGS, 0x20, 0, 0, 0, 0, 0]);
            l4.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        } else {
            l4.extend(u16::try_from(header_len + payload.len()).unwrap().to_be_bytes());
            l4.extend([0, 0]);
        }
        assert_eq!(l4.len(), header_len);
        l4.extend(payload);
        let pseudo = self.pseudo(protocol, l4.len());
        l4[check_at..check_at + 2].copy_from_slice(&pseudo.to_be_bytes());
        self.around(protocol, &l4)
    }

    /// An outer UDP packet around `payload`; its checksum, if wanted, is the
    /// pseudo-header's sum.
    pub(super) fn udp_around(&self, payload: &[u8], with_checksum: bool) -> Vec<u8> {
        let len = 8 + payload.len();
        let mut udp = Vec::new();
        udp.extend(50_000u16.to_be_bytes());
        udp.extend(4789u16.to_be_bytes());
        udp.extend(u16::try_from(len).unwrap().to_be_bytes());
        let check = if with_checksum { self.pseudo(UDP, len) } else { 0 };
        udp.extend(check.to_be_bytes());
        udp.extend(payload);
        self.around(UDP, &udp)
    }
}

/// Bytes that differ from their neighbours.
pub(super) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

/// The virtio-net header of a TCP or UDP super-frame whose transport header
/// begins at `start`.
pub(super) fn vnet(ip: &Ip, protocol: u8, start: usize, gso_size: u16) -> VnetHeader {
    let (csum_offset, header_len, gso_type) = match (protocol, ip) {
        (TCP, Ip::V4 { .. }) => (16, 32, GSO_TCPV4),
        (TCP, Ip::V6 { .. }) => (16, 32, GSO_TCPV6),
        _ => (6, 8, GSO_UDP_L4),
    };
    VnetHeader {
        flags: NEEDS_CSUM,
        gso_type,
        hdr_len: u16::try_from(start + header_len).unwrap(),
        gso_size,
        csum_start: u16::try_from(start).unwrap(),
        csum_offset,
    }
}

/// A super-frame: header and bytes.
pub(super) fn super_frame(
    tags: &[u16],
    ip: &Ip,
    protocol: u8,
    len: usize,
    gso_size: u16,
) -> (VnetHeader, Vec<u8>) {
    let mut frame = ethernet(tags, ip.ethertype());
    let between = match ip {
        Ip::V4 { options, .. } => 20 + options.len(),
        Ip::V6 { extensions, .. } => 40 + extensions.len(),
    };
    let start = frame.len() + between;
    frame.extend(ip.unfinished(protocol, &payload(len)));
    (vnet(ip, protocol, start, gso_size), frame)
}

/// What surrounds an inner frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tunnel {
    Vxlan,
    Geneve { options: usize },
    Gre { key: bool },
    IpInIp,
}

/// A TCP super-frame inside a tunnel, labelled with its inner offsets.
pub(super) fn tunnelled(
    outer: &Ip,
    tunnel: Tunnel,
    inner: &Ip,
    with_checksum: bool,
    len: usize,
    gso_size: u16,
) -> (VnetHeader, Vec<u8>) {
    let bridged = {
        let mut frame = ethernet(&[], inner.ethertype());
        frame.extend(inner.unfinished(TCP, &payload(len)));
        frame
    };
    let packet = match tunnel {
        Tunnel::Vxlan => {
            outer.udp_around(&[&[8, 0, 0, 0, 0, 0, 42, 0][..], &bridged].concat(), with_checksum)
        }
        Tunnel::Geneve { options } => {
            let words = u8::try_from(options / 4).unwrap();
            let header = [words, 0, 0x65, 0x58, 0, 0, 42, 0];
            outer.udp_around(&[&header[..], &vec![0; options], &bridged].concat(), with_checksum)
        }
        Tunnel::Gre { key } => {
            let header: &[u8] = if key { &[0x20, 0, 0x65, 0x58, 0, 0, 0, 9] } else { &[0, 0, 0x65, 0x58] };
            outer.around(47, &[header, &bridged].concat())
        }
        Tunnel::IpInIp => {
            let protocol = if matches!(inner, Ip::V4 { .. }) { 4 } else { 41 };
            outer.around(protocol, &inner.unfinished(TCP, &payload(len)))
        }
    };
    let frame = [ethernet(&[], outer.ethertype()), packet].concat();
    let start = frame.len() - len - 32;
    (vnet(inner, TCP, start, gso_size), frame)
}
