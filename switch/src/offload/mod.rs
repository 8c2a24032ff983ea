//! Work that a sender leaves unfinished: checksums and segmentation, described
//! by the virtio-net header that travels with a frame.
//!
//! Read first: virtio 1.2 §5.1.6 (`struct virtio_net_hdr`), and
//! `include/linux/virtio_net.h` (`virtio_net_hdr_to_skb`), whose checks are the
//! floor of ours.
//!
//! Deliberately absent: input and output, `unsafe`, guest memory: whoever calls
//! copies payload into private memory first.
#![forbid(unsafe_code)]

mod header;

use crate::bridge::DropReason;

pub use header::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// Checks the virtio-net header of a frame against its first bytes.
///
/// # Errors
/// `BadOffload` for a header that the kernel would not take.
pub fn check(_vnet: &VnetHeader, _head: &[u8], _len: u32) -> Result<Offload, DropReason> {
    Err(DropReason::BadOffload)
}

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
