//! How a frame can end: every way has a name, and is counted.

use super::PortSet;
use crate::frame::VlanId;

/// What becomes of one received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// One copy leaves by each port of `to`, which is never empty.
    Forward {
        /// The egress ports.
        to: PortSet,
        /// Their number.
        copies: u16,
        /// The VLAN that the frame travels in.
        vid: VlanId,
    },
    /// The frame ends here.
    Drop(DropReason),
}

/// Declares a closed enum of reasons with the names that users see, an index
/// into counter arrays, and the list of all.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every reason, in the order of their indices.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// Position in counter arrays.
            #[inline]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The name in `stats`, events and captures.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(super) use reasons;

reasons! {
    /// Why a received frame was forwarded to nobody.
    DropReason {
        /// It came in by a port that is unknown or down.
        PortDown = "port_down",
        /// Shorter than an Ethernet header.
        Runt = "runt",
        /// Longer than any buffer: the kernel cut it.
        Truncated = "truncated",
        /// A VLAN tag is announced, and the frame ends inside it.
        MalformedTag = "malformed_tag",
        /// The virtio-net header contradicts the frame.
        BadOffload = "bad_offload",
        /// A tunnelled super-frame that cannot be segmented here.
        TunnelGso = "tunnel_gso",
        /// The source is all-zero or a group address.
        BadSource = "bad_source",
        /// The port is locked and the source is not bound to it.
        Locked = "locked",
        /// A reserved address (802.1Q table 8-1) that bridges do not forward.
        Reserved = "reserved",
        /// The destination is on the port the frame came from, or is its source.
        Filtered = "filtered",
        /// No port may send it.
        NoEgress = "no_egress",
    }
}

reasons! {
    /// Why a chosen egress port did not send its copy.
    Refusal {
        /// Longer on the wire than the egress port's MTU allows.
        Oversize = "oversize",
        /// The port's queue is full.
        Full = "full",
        /// The port went down.
        Down = "down",
        /// The port was deleted, or is unknown.
        Gone = "gone",
        /// Segmenting it in software would make more or smaller segments than
        /// we allow one frame to become.
        Segments = "segments",
        /// The frame's offload cannot be finished for this port.
        Offload = "offload",
        /// The kernel or the peer rejected it as invalid.
        Invalid = "invalid",
        /// Any other device error.
        Error = "error",
    }
}
