//! Finishes frames for egresses that do not take them as they came: gathers a
//! frame out of its port's memory into our own, and lets `offload` complete its
//! checksum or cut it into segments there.
//!
//! Payload may be memory that a guest rewrites meanwhile; so it is copied once,
//! by raw reads, and only the copy is looked at. The head is the private one
//! that was judged.
//!
//! Deliberately absent: any decision about *where* a frame goes, and a second
//! copy of the payload: a segment is its headers and a piece of the copy.

use super::pieces::Pieces;
use super::{Offloads, Slots};
use crate::bridge::Refusal;
use crate::frame::{Frame, HEAD_MAX, Wire};
use crate::offload::{
    GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Offload, SEGMENTS_MAX, Segmenter, complete, is_sctp,
};

/// The wire of `frame` for an egress that takes it as it came; `None` if a
/// [`Finisher`] has to work on it first.
#[inline]
pub fn as_is<'a>(frame: &Frame<'a>, to: Offloads) -> Option<Wire<'a>> {
    let taken = match frame.offload() {
        Offload::None => true,
        Offload::Checksum => to.csum && !is_sctp(frame.vnet(), frame.head()),
        Offload::Segment(_) => {
            let gso_type = frame.vnet().gso_type;
            let segmented = match gso_type & !GSO_ECN {
                GSO_TCPV4 => to.tso4,
                GSO_TCPV6 => to.tso6,
                GSO_UDP_L4 => to.uso,
                _ => false,
            };
            to.csum && segmented && (to.ecn || gso_type & GSO_ECN == 0)
        }
        Offload::Tunnel(_) => false,
    };
    taken.then(|| Wire::of(frame))
}

/// Copies the bytes of `wire` into `out`, as many as fit, and returns how many.
pub fn gather(wire: &Wire<'_>, out: &mut [u8]) -> usize {
    let mut len = wire.head.len().min(out.len());
    out[..len].copy_from_slice(&wire.head[..len]);
    for piece in wire.rest {
        let room = &mut out[len..];
        let count = piece.len().min(room.len());
        // SAFETY: the piece's memory stays mapped while the wire lives, `room`
        // is ours and at least `count` long, and they cannot overlap since
        // `room` is borrowed mutably. Bytes that a guest changes meanwhile are
        // copied as they are found.
        unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), room.as_mut_ptr(), count) };
        len += count;
    }
    len
}

/// Memory to finish one frame at a time in, allocated once and touched only as
/// far as frames need it.
#[derive(Debug)]
pub struct Finisher {
    frame: Vec<u8>,
    headers: Vec<u8>,
    payloads: Pieces<SEGMENTS_MAX>,
}

impl Default for Finisher {
    fn default() -> Finisher {
        Finisher::new()
    }
}

impl Finisher {
    /// Room for the longest frame that ports receive.
    pub fn new() -> Finisher {
        Finisher {
            frame: vec![0; Slots::ROOM],
            headers: vec![0; SEGMENTS_MAX * HEAD_MAX],
            payloads: Pieces::default(),
        }
    }

    /// What to send for `frame` to an egress that takes the offloads `to`.
    ///
    /// # Errors
    /// `Segments` if it would have to be cut into more, or smaller, segments
    /// than we allow; `Oversize` if it is longer than any frame that ports
    /// receive; `Offload` if its headers do not allow it.
    pub fn finish<'a>(&'a mut self, frame: &Frame<'a>, to: Offloads) -> Result<Finished<'a>, Refusal> {
        if let Some(wire) = as_is(frame, to) {
            return Ok(Finished(Parts::Whole(wire)));
        }
        if let Offload::Segment(sizes) | Offload::Tunnel(sizes) = frame.offload()
            && !sizes.may_be_cut()
        {
            return Err(Refusal::Segments); // before anything is copied: refusing is cheap
        }
        let len = usize::try_from(frame.len()).map_err(|_| Refusal::Oversize)?;
        let bytes = self.frame.get_mut(..len).ok_or(Refusal::Oversize)?;
        gather(&Wire::of(frame), bytes);
        let vnet = frame.vnet();
        match frame.offload() {
            Offload::None => Ok(Finished(Parts::Whole(Wire::plain(bytes, &[])))),
            Offload::Checksum => {
                complete(vnet, bytes).ok_or(Refusal::Offload)?;
                Ok(Finished(Parts::Whole(Wire::plain(bytes, &[]))))
            }
            Offload::Segment(_) | Offload::Tunnel(_) => {
                let segmenter = Segmenter::new(vnet, bytes)?;
                let (headers_len, segments) = (segmenter.headers_len(), segmenter.segments());
                let headers = &mut self.headers[..segments * headers_len];
                self.payloads.clear();
                for (index, out) in headers.chunks_exact_mut(headers_len).enumerate() {
                    segmenter.write_headers(index, out);
                    let payload = &bytes[segmenter.payload(index)];
                    self.payloads.push(payload.as_ptr(), payload.len());
                }
                let payloads = &self.payloads;
                Ok(Finished(Parts::Cut { headers, headers_len, segments, payloads }))
            }
        }
    }
}

/// What became of a frame: one wire, or its segments, until the [`Finisher`]'s
/// next frame.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a>(Parts<'a>);

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    Whole(Wire<'a>),
    Cut { headers: &'a [u8], headers_len: usize, segments: usize, payloads: &'a Pieces<SEGMENTS_MAX> },
}

impl<'a> Finished<'a> {
    /// Number of wires, at least 1.
    pub const fn len(&self) -> usize {
        match self.0 {
            Parts::Whole(_) => 1,
            Parts::Cut { segments, .. } => segments,
        }
    }

    /// Never: there is always something to send.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Whether segments were cut here; one wire stands for the whole frame
    /// otherwise.
    pub const fn is_cut(&self) -> bool {
        matches!(self.0, Parts::Cut { .. })
    }

    /// Wire number `index`, counted from 0 to [`len`](Self::len).
    ///
    /// # Panics
    /// There is none.
    pub fn wire(&self, index: usize) -> Wire<'a> {
        match self.0 {
            Parts::Whole(wire) => {
                assert_eq!(index, 0, "one wire only");
                wire
            }
            Parts::Cut { headers, headers_len, payloads, .. } => {
                let start = index * headers_len;
                Wire::plain(&headers[start..start + headers_len], payloads.rest(index))
            }
        }
    }

    /// The wires in the order to send them.
    pub fn wires(&self) -> impl ExactSizeIterator<Item = Wire<'a>> + use<'a> {
        let parts = *self;
        (0..self.len()).map(move |index| parts.wire(index))
    }
}

#[cfg(test)]
#[path = "finish_tests.rs"]
mod tests;
