//! Where the headers of a super-frame are: Ethernet, tags, IP, perhaps a tunnel
//! and a second IP, and the transport header that `csum_start` names.
//!
//! Everything is found by walking the headers themselves, never by believing
//! `hdr_len`, and must lie inside the head. Read first: RFC 791 §3.1, RFC 8200
//! §4, RFC 7348 §5 (VXLAN), RFC 8926 §3.4 (Geneve), RFC 2890 §2 (GRE).
//!
//! Deliberately absent: fragments, IPv6 jumbograms, tunnels in tunnels, and
//! UDP port numbers: a tunnel is known by inner headers that end exactly where
//! `csum_start` says, as every port may carry VXLAN.

use super::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader};
use crate::bridge::DropReason;
use crate::frame::{ETHER_HEADER_LEN, TAG_LEN, Tag};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_BRIDGED: u16 = 0x6558;

const PROTOCOL_IPIP: u8 = 4;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_IPV6: u8 = 41;
const PROTOCOL_GRE: u8 = 47;
const PROTOCOL_SCTP: u8 = 132;

pub(super) const IPV6_HEADER_LEN: usize = 40;
pub(super) const UDP_HEADER_LEN: usize = 8;
const TUNNEL_HEADER_LEN: usize = 8;

/// Offset of the checksum in a TCP and in a UDP header.
pub(super) const TCP_CHECK: u16 = 16;
pub(super) const UDP_CHECK: u16 = 6;
/// Offset of the CRC in an SCTP header.
pub(super) const SCTP_CHECK: u16 = 8;

/// Tags that are skipped before an IP header (an outer S-tag and a C-tag).
const TAGS_MAX: usize = 2;

/// IPv6 extension headers that are skipped before a transport header.
const EXTENSIONS_MAX: usize = 8;

/// Which IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    V4,
    V6,
}

/// The protocol that is segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// An IP header that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Network {
    pub version: Version,
    /// Offset of the IP header, in bytes from the frame's first.
    pub at: usize,
    /// Offset of the header behind it and its options or extensions.
    pub next_at: usize,
    /// What that header is.
    protocol: u8,
}

/// The outer half of a tunnelled frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outer {
    pub network: Network,
    /// Whether the outer IP carries UDP, whose length and checksum change with
    /// the segment; GRE and plain IP in IP have neither.
    pub udp: bool,
}

/// The headers of a super-frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub outer: Option<Outer>,
    /// The IP header right before the transport header.
    pub network: Network,
    pub transport: Transport,
    /// Bytes of all headers.
    pub headers_len: u16,
}

impl Layout {
    /// Finds the headers of a super-frame of `len` bytes, described by `vnet`,
    /// in its first bytes.
    pub(super) fn find(vnet: &VnetHeader, head: &[u8], len: u32) -> Result<Layout, DropReason> {
        let bad = DropReason::BadOffload;
        let (transport, version) = match vnet.gso_type {
            GSO_UDP_L4 => (Transport::Udp, None),
            other => match other & !GSO_ECN {
                GSO_TCPV4 => (Transport::Tcp, Some(Version::V4)),
                GSO_TCPV6 => (Transport::Tcp, Some(Version::V6)),
                _ => return Err(bad),
            },
        };
        let start = usize::from(vnet.csum_start);
        let fits = |network: &Network| {
            network.next_at == start
                && network.protocol == transport.protocol()
                && version.is_none_or(|v| v == network.version)
        };
        let first = ether(head, 0).and_then(|(kind, at)| network(head, at, kind)).ok_or(bad)?;
        if u64::from(len) > first.len_max() {
            return Err(bad);
        }
        let (outer, network) = if fits(&first) {
            (None, first)
        } else if start > first.next_at && first.is_tunnel() {
            let inner = first.inner(head, fits).ok_or(DropReason::TunnelGso)?;
            (Some(Outer { network: first, udp: first.protocol == PROTOCOL_UDP }), inner)
        } else {
            return Err(bad);
        };
        // Headers longer than the head are nobody's to judge.
        let end = transport.end(vnet, head).filter(|&end| end <= head.len());
        let headers_len = end.and_then(|end| u16::try_from(end).ok()).filter(|&end| u32::from(end) <= len);
        match headers_len {
            Some(headers_len) => Ok(Layout { outer, network, transport, headers_len }),
            None if outer.is_some() => Err(DropReason::TunnelGso),
            None => Err(bad),
        }
    }
}

impl Transport {
    const fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        }
    }

    /// Where the transport header at `csum_start` ends; `None` if it is none,
    /// or if its checksum is not where `csum_offset` says.
    fn end(self, vnet: &VnetHeader, head: &[u8]) -> Option<usize> {
        let start = usize::from(vnet.csum_start);
        match self {
            Transport::Tcp if vnet.csum_offset == TCP_CHECK => {
                let words = usize::from(*head.get(start + 12)? >> 4);
                (words >= 5).then_some(start + words * 4)
            }
            Transport::Udp if vnet.csum_offset == UDP_CHECK => Some(start + UDP_HEADER_LEN),
            Transport::Tcp | Transport::Udp => None,
        }
    }
}

impl Network {
    /// Length of the longest frame whose IP length field can say the truth.
    fn len_max(&self) -> u64 {
        let ip = match self.version {
            Version::V4 => self.at,
            Version::V6 => self.at + IPV6_HEADER_LEN,
        };
        ip as u64 + 0xffff
    }

    const fn is_tunnel(&self) -> bool {
        matches!(self.protocol, PROTOCOL_UDP | PROTOCOL_GRE | PROTOCOL_IPIP | PROTOCOL_IPV6)
    }

    /// The IP header inside the tunnel that this header carries, if `fits`.
    fn inner(&self, head: &[u8], fits: impl Fn(&Network) -> bool) -> Option<Network> {
        let at = self.next_at;
        let bridged = |at| ether(head, at).and_then(|(kind, at)| network(head, at, kind));
        match self.protocol {
            PROTOCOL_IPIP => network(head, at, ETHERTYPE_IPV4).filter(fits),
            PROTOCOL_IPV6 => network(head, at, ETHERTYPE_IPV6).filter(fits),
            PROTOCOL_GRE => {
                // A checksum (bit 15) or a sequence number (bit 12) would have
                // to change with each segment, and no other bit is plain GRE.
                let key = match be16(head, at)? {
                    0 => 0,
                    0x2000 => 4,
                    _ => return None,
                };
                encapsulated(head, be16(head, at + 2)?, at + 4 + key).filter(fits)
            }
            PROTOCOL_UDP => {
                let tunnel = at + UDP_HEADER_LEN;
                let &flags = head.get(tunnel)?;
                let vxlan = (flags & 0x08 != 0).then(|| bridged(tunnel + TUNNEL_HEADER_LEN)).flatten();
                vxlan.filter(&fits).or_else(|| {
                    let options = usize::from(flags & 0x3f) * 4;
                    let is_geneve = flags & 0xc0 == 0;
                    let inside = tunnel + TUNNEL_HEADER_LEN + options;
                    let kind = be16(head, tunnel + 2)?;
                    is_geneve.then(|| encapsulated(head, kind, inside)).flatten().filter(&fits)
                })
            }
            _ => None,
        }
    }
}

/// Whether what a frame lacks is SCTP's CRC32c, for which the virtio-net header
/// has no word: no receiver can be trusted to complete it.
#[inline]
pub fn is_sctp(vnet: &VnetHeader, head: &[u8]) -> bool {
    vnet.csum_offset == SCTP_CHECK
        && ether(head, 0).and_then(|(kind, at)| network(head, at, kind)).is_some_and(|network| {
            network.protocol == PROTOCOL_SCTP && network.next_at == usize::from(vnet.csum_start)
        })
}

/// EtherType behind the tags of the Ethernet header at `at`, and where that
/// payload begins.
fn ether(head: &[u8], at: usize) -> Option<(u16, usize)> {
    let mut next = at + ETHER_HEADER_LEN;
    let mut kind = be16(head, next - 2)?;
    for _ in 0..TAGS_MAX {
        if !Tag::is_tpid(kind) {
            break;
        }
        next += TAG_LEN;
        kind = be16(head, next - 2)?;
    }
    Some((kind, next))
}

/// The IP header at `at`, or behind the Ethernet header there.
fn encapsulated(head: &[u8], kind: u16, at: usize) -> Option<Network> {
    if kind == ETHERTYPE_BRIDGED {
        let (kind, at) = ether(head, at)?;
        network(head, at, kind)
    } else {
        network(head, at, kind)
    }
}

/// The IP header at `at`, which an EtherType of `kind` announces.
fn network(head: &[u8], at: usize, kind: u16) -> Option<Network> {
    let header = head.get(at..)?;
    match kind {
        ETHERTYPE_IPV4 => {
            let &[first, _, _, _, _, _, fragment, offset, _, protocol, ..] = header.first_chunk::<20>()?;
            let words = usize::from(first & 0xf);
            // More-fragments, or an offset: there is no transport header to trust.
            let whole = fragment & 0x3f == 0 && offset == 0;
            (first >> 4 == 4 && words >= 5 && whole).then_some(Network {
                version: Version::V4,
                at,
                next_at: at + words * 4,
                protocol,
            })
        }
        ETHERTYPE_IPV6 => {
            let &[first, _, _, _, _, _, mut protocol, ..] = header.first_chunk::<IPV6_HEADER_LEN>()?;
            let mut next_at = at + IPV6_HEADER_LEN;
            for _ in 0..EXTENSIONS_MAX {
                // Hop-by-hop, routing and destination options: those that the
                // kernel segments behind.
                if !matches!(protocol, 0 | 43 | 60) {
                    break;
                }
                let &[following, words, ..] = head.get(next_at..)?.first_chunk::<8>()?;
                protocol = following;
                next_at += (usize::from(words) + 1) * 8;
            }
            (first >> 4 == 6).then_some(Network { version: Version::V6, at, next_at, protocol })
        }
        _ => None,
    }
}

/// The big-endian number at `at`.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|&pair| u16::from_be_bytes(pair))
}
