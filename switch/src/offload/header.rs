//! `struct virtio_net_hdr`, the ten bytes that describe unfinished work.

use super::Offload;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Flag: the checksum at `csum_start + csum_offset` covers only the pseudo
/// header (VIRTIO_NET_HDR_F_NEEDS_CSUM).
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the checksums of a complete frame were verified
/// (VIRTIO_NET_HDR_F_DATA_VALID).
pub const DATA_VALID: u8 = 2;
/// Not a super-frame.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// UDP fragmentation (UFO): obsolete, still produced by some kernels.
pub const GSO_UDP: u8 = 3;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP segmentation (USO).
pub const GSO_UDP_L4: u8 = 5;
/// Or-ed to a TCP type: the segments carry ECN's CWR.
pub const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), without
/// `num_buffers`. Fields are in the host's byte order, as TAPs and packet
/// sockets use them by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of the `GSO_` types, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of the headers before the payload; a hint, not to be trusted.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Offset of the first byte that the checksum covers.
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Bytes of the header.
    pub const LEN: usize = 10;

    /// Nothing is left to be done.
    pub const PLAIN: VnetHeader =
        VnetHeader { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// The header that may travel on with a frame of which `offload` is known:
    /// only what was checked is kept. Flags that nobody negotiated are gone,
    /// and `hdr_len`, which a sender may lie about, is what the headers say.
    #[must_use]
    pub const fn checked(self, offload: Offload) -> VnetHeader {
        match offload {
            Offload::None => VnetHeader { flags: self.flags & DATA_VALID, ..VnetHeader::PLAIN },
            Offload::Checksum => VnetHeader {
                flags: NEEDS_CSUM,
                csum_start: self.csum_start,
                csum_offset: self.csum_offset,
                ..VnetHeader::PLAIN
            },
            Offload::Segment(s) | Offload::Tunnel(s) => {
                VnetHeader { flags: NEEDS_CSUM, hdr_len: s.headers_len, ..self }
            }
        }
    }

    /// Whether the frame is complete: no checksum to finish, no segments to cut.
    #[inline]
    pub const fn is_plain(&self) -> bool {
        self.flags & NEEDS_CSUM == 0 && self.gso_type == GSO_NONE
    }
}

const _: () = assert!(size_of::<VnetHeader>() == VnetHeader::LEN, "the kernel's layout");
