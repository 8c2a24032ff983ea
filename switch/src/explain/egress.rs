//! What an egress would do with its copy, in words.

use crate::engine::Fate;
use crate::offload::Offload;

/// What a port would do, as one line behind its name.
pub fn fate(fate: Fate) -> String {
    use crate::bridge::Refusal;
    match fate {
        Fate::Refused { reason: Refusal::Oversize, longest, wire_len } => {
            format!("refused: oversize ({wire_len} bytes; its MTU allows {longest})")
        }
        Fate::Refused { reason: Refusal::Segments, .. } => {
            "refused: segments (cutting it here would make more or smaller ones than is allowed)".to_owned()
        }
        Fate::Refused { reason, .. } => format!("refused: {reason}"),
        Fate::AsIs { len, offload: Offload::None } => format!("sent, {len} bytes"),
        Fate::AsIs { len, offload: Offload::Checksum } => {
            format!("sent, {len} bytes; the receiver completes the checksum")
        }
        Fate::AsIs { len, offload: Offload::Segment(s) | Offload::Tunnel(s) } => {
            format!(
                "sent, {len} bytes in one; the receiver cuts {} segments of at most {} bytes",
                s.segments, s.wire_len
            )
        }
        Fate::Padded { len } => format!("sent, padded to {len} bytes"),
        Fate::Completed { len } => format!("sent, {len} bytes, its checksum completed here"),
        Fate::Cut { segments, wire_len } => {
            format!("sent, cut here into {segments} segments of at most {wire_len} bytes")
        }
    }
}
