//! What an egress does with its copy of a frame, as a value: what `trace` foretells,
//! and what a live trace tells of copies that have left.
//!
//! Deliberately absent: words ([`explain`](crate::explain) has them), and the choice,
//! which is [`Treatment::of`](super::egress::Treatment::of)'s.

use super::egress::longest;
use crate::bridge::Refusal;
use crate::frame::{FRAME_MIN, Frame};
use crate::offload::{self, Offload, VnetHeader};

/// What an egress does with its copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Refuse it.
    Refused {
        /// Why.
        reason: Refusal,
        /// Bytes of the longest frame of this kind that its MTU allows.
        longest: u32,
        /// Bytes that would reach the wire at a time.
        wire_len: u32,
    },
    /// Send it as it came, so many bytes; its receiver finishes what is left.
    AsIs {
        /// Bytes.
        len: u32,
        /// What is left.
        offload: Offload,
    },
    /// Send it with zeroes behind it.
    Padded {
        /// Bytes then.
        len: u32,
    },
    /// Complete its checksum here, and send it.
    Completed {
        /// Bytes.
        len: u32,
    },
    /// Cut it into segments here, and send these.
    Cut {
        /// Segments.
        segments: u32,
        /// Bytes of the longest.
        wire_len: u32,
    },
}

/// What has to be done to a copy before it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// Nothing.
    None,
    /// Zeroes behind it.
    Pad,
    /// Its checksum, or segments.
    Finish,
}

/// What of a frame decides how its fate is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline<'f> {
    /// The first bytes.
    head: &'f [u8],
    len: u32,
    offload: Offload,
}

impl<'f> Outline<'f> {
    /// Of a frame at hand.
    pub fn of(frame: &Frame<'f>) -> Outline<'f> {
        Outline { head: frame.head(), len: frame.len(), offload: frame.offload() }
    }

    /// Of a frame that was forwarded: all of its head is there, and its virtio-net
    /// header was good.
    pub fn of_recorded(head: &'f [u8], len: u32, vnet: &VnetHeader) -> Outline<'f> {
        let plain = vnet.is_plain();
        let checked = if plain { Ok(Offload::None) } else { offload::check(vnet, head, len) };
        Outline { head, len, offload: checked.unwrap_or(Offload::None) }
    }

    /// That it is refused by a port of that MTU.
    pub fn refused(&self, reason: Refusal, mtu: u32) -> Fate {
        Fate::Refused { reason, longest: longest(self.head, mtu), wire_len: self.offload.wire_len(self.len) }
    }

    /// That it is sent, after `work`.
    pub fn sent(&self, work: Work) -> Fate {
        let Outline { len, offload, .. } = *self;
        match (work, offload) {
            (Work::None, _) => Fate::AsIs { len, offload },
            // 60 bytes.
            (Work::Pad, _) => Fate::Padded { len: u32::try_from(FRAME_MIN).unwrap_or(u32::MAX) },
            (Work::Finish, Offload::None | Offload::Checksum) => Fate::Completed { len },
            (Work::Finish, Offload::Segment(sizes) | Offload::Tunnel(sizes)) => {
                Fate::Cut { segments: sizes.segments, wire_len: sizes.wire_len }
            }
        }
    }
}
