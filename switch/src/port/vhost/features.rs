//! What is offered to a front end, and what its choice means for frames.
//!
//! Read first: virtio 1.2 §5.1.3 (the bits of a network device), §6 (those of
//! any device).
//!
//! Deliberately absent: bits of the device's configuration space (MAC, STATUS,
//! MTU, CTRL_VQ). That space belongs to the front end.

use super::transmit::Layout;
use crate::offload::VnetHeader;
use crate::port::Offloads;

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const MRG_RXBUF: u64 = 1 << 15;
const GUEST_ANNOUNCE: u64 = 1 << 21;
const MQ: u64 = 1 << 22;
const ANY_LAYOUT: u64 = 1 << 27;
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
/// Not virtio's: the front end knows the protocol's own features.
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
const HOST_USO: u64 = 1 << 56;

/// Everything that a front end may choose from.
pub(super) const OFFERED: u64 = CSUM
    | GUEST_CSUM
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | GUEST_ANNOUNCE
    | MQ
    | ANY_LAYOUT
    | INDIRECT_DESC
    | EVENT_IDX
    | PROTOCOL_FEATURES
    | VERSION_1
    | RING_PACKED
    | GUEST_USO4
    | GUEST_USO6
    | HOST_USO;

/// What a front end chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Features(u64);

impl Features {
    /// `None` if a bit is among them that was not offered.
    pub fn new(bits: u64) -> Option<Features> {
        (bits & !OFFERED == 0).then_some(Features(bits))
    }

    const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// Queues start disabled, and are enabled by a message each.
    pub const fn enables_queues(self) -> bool {
        self.has(PROTOCOL_FEATURES)
    }

    /// Notifications carry indices (virtio 1.2 §2.7.10).
    pub const fn event_idx(self) -> bool {
        self.has(EVENT_IDX)
    }

    /// Queues are packed ones (virtio 1.2 §2.8).
    pub const fn is_packed(self) -> bool {
        self.has(RING_PACKED)
    }

    /// How frames are written for this guest.
    pub const fn layout(self) -> Layout {
        let merges = self.has(MRG_RXBUF);
        Layout {
            // Drivers from before 1.0 have `num_buffers` only if they use it.
            header_len: if merges || self.has(VERSION_1) { VnetHeader::LEN + 2 } else { VnetHeader::LEN },
            merges,
            csum: self.has(GUEST_CSUM),
        }
    }

    /// What may be left unfinished in frames for this guest.
    pub const fn offloads(self) -> Offloads {
        let csum = self.has(GUEST_CSUM);
        Offloads {
            csum,
            tso4: csum && self.has(GUEST_TSO4),
            tso6: csum && self.has(GUEST_TSO6),
            uso: csum && self.has(GUEST_USO4 | GUEST_USO6),
            ecn: csum && self.has(GUEST_ECN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_become_offloads_and_a_layout() {
        assert_eq!(Features::new(OFFERED).unwrap().offloads(), Offloads::ALL);
        let layout = |bits| Features::new(bits).unwrap().layout();
        assert_eq!(layout(VERSION_1), Layout { header_len: 12, merges: false, csum: false });
        assert_eq!(layout(0), Layout { header_len: 10, merges: false, csum: false });
        assert_eq!(layout(MRG_RXBUF | GUEST_CSUM), Layout { header_len: 12, merges: true, csum: true });
        // Segments have checksums: without them there are none to leave out.
        assert_eq!(Features::new(GUEST_TSO4 | GUEST_TSO6).unwrap().offloads(), Offloads::NONE);
        // One kind of USO is none: a frame is not looked into for its version.
        assert!(!Features::new(GUEST_CSUM | GUEST_USO4).unwrap().offloads().uso);
        assert_eq!(Features::new(1 << 5), None, "the MAC is the front end's");
    }
}
