//! Cuts a super-frame into the frames that a wire would have seen.
//!
//! What changes from segment to segment is what the kernel changes
//! (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`,
//! `ipv6_gso_segment`, `__skb_udp_tunnel_segment`): lengths, IPv4 identifiers
//! (one more each, in the outer header too), TCP sequence numbers, FIN and PSH
//! (last only), CWR (first only) and checksums. A table test compares them byte
//! for byte.
//!
//! Deliberately absent: a second copy of the payload. A segment is its own
//! headers and a range of the super-frame.

use std::ops::Range;

use super::checksum::{add, sum};
use super::layers::{IPV6_HEADER_LEN, Layout, Network, TCP_CHECK, Transport, UDP_CHECK, Version, be16};
use super::{Offload, VnetHeader, check};
use crate::bridge::Refusal;

/// The most segments that one frame may become here: an honest 64 KiB at the
/// smallest common MSS, 536, is 122.
pub const SEGMENTS_MAX: usize = 128;

/// The smallest segment payload that is cut here, in bytes: smaller ones cost
/// us more per byte than they cost their sender.
pub const GSO_SIZE_MIN: u16 = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A super-frame in private memory, ready to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Segmenter<'a> {
    frame: &'a [u8],
    layout: Layout,
    gso_size: usize,
    segments: usize,
}

impl<'a> Segmenter<'a> {
    /// Prepares to cut `frame`, which `vnet` describes.
    ///
    /// # Errors
    /// `Offload` if it is no super-frame that [`check`] accepts; `Segments` if
    /// it would become more than [`SEGMENTS_MAX`] frames, or frames with less
    /// payload than [`GSO_SIZE_MIN`].
    pub fn new(vnet: &VnetHeader, frame: &'a [u8]) -> Result<Segmenter<'a>, Refusal> {
        let head = &frame[..frame.len().min(crate::frame::HEAD_MAX)];
        let len = u32::try_from(frame.len()).map_err(|_| Refusal::Offload)?;
        let sizes = match check(vnet, head, len) {
            Ok(Offload::Segment(sizes) | Offload::Tunnel(sizes)) => sizes,
            Ok(Offload::None | Offload::Checksum) | Err(_) => return Err(Refusal::Offload),
        };
        let layout = Layout::find(vnet, head, len).map_err(|_| Refusal::Offload)?;
        if !sizes.may_be_cut() {
            return Err(Refusal::Segments);
        }
        let segments = usize::try_from(sizes.segments).map_err(|_| Refusal::Segments)?;
        Ok(Segmenter { frame, layout, gso_size: usize::from(sizes.gso_size), segments })
    }

    /// Number of segments, 1 … [`SEGMENTS_MAX`].
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// Bytes of the headers of each segment, at most
    /// [`HEAD_MAX`](crate::frame::HEAD_MAX).
    pub fn headers_len(&self) -> usize {
        usize::from(self.layout.headers_len)
    }

    /// Where the payload of segment `index` is in the super-frame.
    pub fn payload(&self, index: usize) -> Range<usize> {
        let len = self.frame.len();
        let start = (self.headers_len() + index * self.gso_size).min(len);
        start..(start + self.gso_size).min(len)
    }

    /// Writes the headers of segment `index` into `out`, which is
    /// [`headers_len`](Self::headers_len) bytes long.
    pub fn write_headers(&self, index: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.frame[..self.headers_len()]);
        let payload = &self.frame[self.payload(index)];
        let end = out.len() + payload.len();
        let payload_sum = sum(payload);
        if let Some(outer) = &self.layout.outer {
            write_network(&outer.network, index, end, out);
        }
        write_network(&self.layout.network, index, end, out);
        let at = self.layout.network.next_at;
        match self.layout.transport {
            Transport::Tcp => self.write_tcp(index, out),
            Transport::Udp => put(out, at + 4, end - at),
        }
        let check_at = match self.layout.transport {
            Transport::Tcp => at + usize::from(TCP_CHECK),
            Transport::Udp => at + usize::from(UDP_CHECK),
        };
        let check = self.checksum(at, check_at, end, payload_sum, out);
        // To UDP zero means "no checksum"; all ones is the same sum.
        let never_zero = self.layout.transport == Transport::Udp && check == 0;
        put(out, check_at, usize::from(if never_zero { 0xffff } else { check }));
        if let Some(outer) = self.layout.outer.filter(|outer| outer.udp) {
            let at = outer.network.next_at;
            put(out, at + 4, end - at);
            let check_at = at + usize::from(UDP_CHECK);
            if out[check_at..check_at + 2] != [0, 0] {
                let check = self.checksum(at, check_at, end, payload_sum, out);
                put(out, check_at, usize::from(if check == 0 { 0xffff } else { check }));
            }
        }
    }

    fn write_tcp(&self, index: usize, out: &mut [u8]) {
        let tcp = &mut out[self.layout.network.next_at..];
        let mut seq = [0; 4];
        seq.copy_from_slice(&tcp[4..8]);
        // Below 128 x 65,535, so it fits.
        let offset = u32::try_from(index * self.gso_size).unwrap_or(0);
        tcp[4..8].copy_from_slice(&u32::from_be_bytes(seq).wrapping_add(offset).to_be_bytes());
        if index + 1 < self.segments {
            tcp[13] &= !(FIN | PSH);
        }
        if index > 0 {
            tcp[13] &= !CWR;
        }
    }

    /// The checksum of a segment's TCP or UDP header at `at` and everything
    /// behind it. The super-frame's field holds the sum of its pseudo-header;
    /// only the length in it is exchanged, as the addresses there are not
    /// always those of the IP header (source routes). The field of `out` is
    /// zero for the time of the sum.
    fn checksum(&self, at: usize, check_at: usize, end: usize, payload_sum: u16, out: &mut [u8]) -> u16 {
        let pseudo = be16(self.frame, check_at).unwrap_or(0);
        put(out, check_at, 0);
        !add(&[pseudo, !length(self.frame.len() - at), length(end - at), sum(&out[at..]), payload_sum])
    }
}

/// Makes an IP header that of segment `index`, `end` bytes long in all.
fn write_network(network: &Network, index: usize, end: usize, out: &mut [u8]) {
    let at = network.at;
    match network.version {
        Version::V4 => {
            put(out, at + 2, end - at);
            let id = be16(out, at + 4).unwrap_or(0);
            put(out, at + 4, usize::from(id.wrapping_add(length(index))));
            put(out, at + 10, 0);
            let check = !sum(&out[at..ipv4_end(out, at)]);
            put(out, at + 10, usize::from(check));
        }
        Version::V6 => put(out, at + 4, end - at - IPV6_HEADER_LEN),
    }
}

fn ipv4_end(bytes: &[u8], at: usize) -> usize {
    at + usize::from(bytes[at] & 0xf) * 4
}

/// A number that `check` has bounded by 65,535.
fn length(value: usize) -> u16 {
    debug_assert!(value <= 0xffff, "{value} was checked");
    u16::try_from(value).unwrap_or(u16::MAX)
}

fn put(out: &mut [u8], at: usize, value: usize) {
    out[at..at + 2].copy_from_slice(&length(value).to_be_bytes());
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
