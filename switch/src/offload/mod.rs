//! Work that a sender leaves unfinished: checksums and segmentation, described
//! by the virtio-net header that travels with a frame.
//!
//! Read first: virtio 1.2 §5.1.6 (`struct virtio_net_hdr`), and
//! `include/linux/virtio_net.h` (`virtio_net_hdr_to_skb`), whose checks are the
//! floor of ours. Then, in this order: `header` (the ten bytes), this file
//! (what is accepted), `layers` (where a frame's headers are), `checksum`,
//! `crc32c`, `segment`.
//!
//! Deliberately absent: input and output, `unsafe`, guest memory: whoever calls
//! copies payload into private memory first. Also absent: UFO (`GSO_UDP`, IP
//! fragments of one datagram), which no kernel has handed out since 2017.
#![forbid(unsafe_code)]

mod checksum;
mod crc32c;
mod header;
mod layers;
mod segment;

use crate::bridge::DropReason;

pub use checksum::{complete, complete_checksum};
pub use header::{
    DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM, VnetHeader,
};
pub use layers::is_sctp;
pub use segment::{GSO_SIZE_MIN, SEGMENTS_MAX, Segmenter};

use layers::{Layout, Transport};

/// No IP header is shorter: the kernel takes no `csum_start` below it.
const CSUM_START_MIN: u32 = 20;

/// No headers reach so far. The kernel adds its own headroom to `csum_start`
/// and takes no sum beyond 65,534; this leaves room for any headroom.
const CSUM_START_MAX: u32 = 0x8000;

/// The most datagrams of one USO frame (the kernel's UDP_MAX_SEGMENTS).
const USO_SEGMENTS_MAX: u32 = 128;

/// The kernel's GSO_BY_FRAGS, which no header from outside may say.
const GSO_BY_FRAGS: u16 = 0xffff;

/// What must still happen to a frame before it can cross a real wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Nothing.
    None,
    /// One checksum is to be completed.
    Checksum,
    /// The frame is a super-frame, to be cut into segments.
    Segment(SuperFrame),
    /// A super-frame inside a tunnel, labelled with the offsets of the inner
    /// headers: no egress takes it as it is, it is always segmented here.
    Tunnel(SuperFrame),
}

impl Offload {
    /// Bytes of the longest frame that reaches a wire, of a frame of `len` bytes: the
    /// frame itself, or headers and one segment.
    #[inline]
    pub const fn wire_len(self, len: u32) -> u32 {
        match self {
            Offload::None | Offload::Checksum => len,
            Offload::Segment(s) | Offload::Tunnel(s) => s.wire_len,
        }
    }
}

/// Sizes of a super-frame, computed from headers that were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuperFrame {
    /// Bytes of all headers, Ethernet to layer 4, that each segment repeats.
    pub headers_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Number of segments it becomes.
    pub segments: u32,
    /// Bytes of the longest segment with its headers.
    pub wire_len: u32,
}

impl SuperFrame {
    /// Whether it may be cut into segments here: into at most [`SEGMENTS_MAX`],
    /// of at least [`GSO_SIZE_MIN`] bytes.
    pub const fn may_be_cut(&self) -> bool {
        self.segments == 1 || (self.segments as usize <= SEGMENTS_MAX && self.gso_size >= GSO_SIZE_MIN)
    }
}

/// Checks the virtio-net header of a frame of `len` bytes against its first
/// bytes, `head`, and says what is left to be done.
///
/// Whatever the kernel rejects is rejected; so is what it accepts only to trip
/// over it later: a super-frame without `NEEDS_CSUM` (against virtio 1.2
/// §5.1.6.2.1), one whose `csum_start` is not its layer-4 header, fragments,
/// UFO. `hdr_len` is believed in nothing.
///
/// # Errors
/// `BadOffload` for a header that contradicts the frame, `TunnelGso` for a
/// super-frame in a tunnel that is not understood.
pub fn check(vnet: &VnetHeader, head: &[u8], len: u32) -> Result<Offload, DropReason> {
    if vnet.is_plain() {
        return Ok(Offload::None);
    }
    let start = u32::from(vnet.csum_start);
    let field_end = start + u32::from(vnet.csum_offset) + 2;
    if vnet.flags & NEEDS_CSUM == 0
        || !(CSUM_START_MIN..=CSUM_START_MAX).contains(&start)
        || field_end > len
        || u32::from(vnet.hdr_len) > len
    {
        return Err(DropReason::BadOffload);
    }
    if vnet.gso_type == GSO_NONE {
        return Ok(Offload::Checksum);
    }
    if matches!(vnet.gso_size, 0 | GSO_BY_FRAGS) {
        return Err(DropReason::BadOffload);
    }
    let layout = Layout::find(vnet, head, len)?;
    let headers_len = u32::from(layout.headers_len);
    let (payload, gso_size) = (len - headers_len, u32::from(vnet.gso_size));
    if layout.transport == Transport::Udp && payload > gso_size * USO_SEGMENTS_MAX {
        return Err(DropReason::BadOffload);
    }
    if payload <= gso_size && layout.outer.is_none() {
        return Ok(Offload::Checksum); // not really a super-frame: the kernel forgets the type, too
    }
    let sizes = SuperFrame {
        headers_len: layout.headers_len,
        gso_size: vnet.gso_size,
        segments: payload.div_ceil(gso_size).max(1),
        wire_len: headers_len + payload.min(gso_size),
    };
    Ok(if layout.outer.is_some() { Offload::Tunnel(sizes) } else { Offload::Segment(sizes) })
}

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod sample;
