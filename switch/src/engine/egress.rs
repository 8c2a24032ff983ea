//! From verdicts to ports: each egress gets the frames of one burst at once,
//! in order, and each copy ends sent or refused by name.
//!
//! Deliberately absent: waiting and queueing. What a port refuses is lost, and
//! counted.

use arrayvec::ArrayVec;

use crate::bridge::{Bridge, PortId, Refusal};
use crate::frame::{FRAME_MIN, Frame, Piece, Wire};
use crate::port::{BURST_FRAMES, Fault, Finisher, Link, Port, Sent, as_is};

use super::observe::Witness;

static ZEROES: [u8; FRAME_MIN] = [0; FRAME_MIN];

/// One egress port while the copies of one burst leave by it.
pub(super) struct Egress<'e, W> {
    pub id: PortId,
    pub port: &'e mut dyn Port,
    pub link: Link,
    pub bridge: &'e mut Bridge,
    pub finisher: &'e mut Finisher,
    pub pad_runts: bool,
    pub fault: Option<Fault>,
    /// Hears what is done with each copy.
    pub witness: &'e mut W,
}

/// Wires on their way out, and the frames of the burst that they are.
#[derive(Default)]
struct Batch<'b> {
    wires: ArrayVec<Wire<'b>, BURST_FRAMES>,
    frames: u64,
}

impl<W: Witness> Egress<'_, W> {
    /// Sends the frames of `burst` whose bits are set in `mask`.
    pub fn send(&mut self, burst: &[Frame<'_>], mut mask: u64) {
        let mut batch = Batch::default();
        while mask != 0 {
            let index = mask.trailing_zeros();
            let frame = &burst[index as usize];
            mask &= mask - 1;
            match Treatment::of(frame, self.link, self.pad_runts) {
                Treatment::Oversize => self.refuse(index, Refusal::Oversize),
                Treatment::AsIs(wire) => {
                    batch.wires.push(wire);
                    batch.frames |= 1 << index;
                }
                Treatment::Pad(wire) => {
                    self.witness.padded(index);
                    self.flush(&mut batch);
                    self.transmit(&[wire], 1 << index);
                }
                // Order within a flow is kept: what came before leaves first.
                Treatment::Finish => {
                    self.witness.finished(index);
                    self.flush(&mut batch);
                    self.finish(index, frame);
                }
            }
        }
        self.flush(&mut batch);
    }

    fn flush(&mut self, batch: &mut Batch<'_>) {
        if !batch.wires.is_empty() {
            self.transmit(&batch.wires, batch.frames);
            batch.wires.clear();
            batch.frames = 0;
        }
    }

    /// Sends whole frames, those of the burst whose bits are set in `frames`,
    /// and counts each.
    fn transmit(&mut self, wires: &[Wire<'_>], frames: u64) {
        let sent = write(self.port, self.pad_runts, wires);
        self.fault = self.fault.or(sent.fault);
        let mut bytes: usize = wires.iter().map(Wire::len).sum();
        let counters = self.bridge.counters_mut().port_mut(self.id);
        for &(index, reason) in &sent.refused {
            bytes -= wires[usize::from(index)].len();
            counters.refused[reason.index()] += 1;
            self.witness.refused(nth_bit(frames, index), reason);
        }
        counters.tx += (wires.len() - sent.refused.len()) as u64;
        counters.tx_bytes += bytes as u64;
    }

    /// Completes or segments one frame here, because its receiver cannot. A
    /// frame of which one segment is refused is refused, and cut short there.
    fn finish(&mut self, index: u32, frame: &Frame<'_>) {
        let finished = match self.finisher.finish(frame, self.link.offloads) {
            Ok(finished) => finished,
            Err(reason) => return self.refuse(index, reason),
        };
        let mut bytes = 0;
        let mut sent_len = 0;
        let mut refused = None;
        let mut wires = finished.wires();
        while refused.is_none() {
            let chunk: ArrayVec<Wire<'_>, BURST_FRAMES> = wires.by_ref().take(BURST_FRAMES).collect();
            if chunk.is_empty() {
                break;
            }
            let sent = write(self.port, self.pad_runts, &chunk);
            self.fault = self.fault.or(sent.fault);
            sent_len += chunk.len() - sent.refused.len();
            bytes += chunk.iter().map(Wire::len).sum::<usize>();
            refused = sent.refused.first().map(|&(_, reason)| reason);
        }
        let counters = self.bridge.counters_mut().port_mut(self.id);
        if finished.is_cut() {
            counters.segments += sent_len as u64;
        }
        match refused {
            None => {
                counters.tx += 1;
                counters.tx_bytes += bytes as u64;
            }
            Some(reason) => {
                counters.refused[reason.index()] += 1;
                self.witness.refused(index, reason);
            }
        }
    }

    fn refuse(&mut self, index: u32, reason: Refusal) {
        self.bridge.counters_mut().port_mut(self.id).refused[reason.index()] += 1;
        self.witness.refused(index, reason);
    }
}

/// What a link makes of a frame, before its port has a say.
pub(super) enum Treatment<'a> {
    /// Too long for the MTU.
    Oversize,
    /// It leaves as it came.
    AsIs(Wire<'a>),
    /// The same, with zeroes behind it.
    Pad(Wire<'a>),
    /// A [`Finisher`] completes its checksum, or cuts it into segments.
    Finish,
}

impl<'a> Treatment<'a> {
    /// What `link` makes of `frame`.
    #[inline(always)]
    pub fn of(frame: &Frame<'a>, link: Link, pad_runts: bool) -> Treatment<'a> {
        if frame.wire_len() > longest(frame.head(), link.mtu) {
            return Treatment::Oversize;
        }
        match as_is(frame, link.offloads) {
            Some(wire) if pad_runts && wire.len() < FRAME_MIN => Treatment::Pad(wire),
            Some(wire) => Treatment::AsIs(wire),
            None => Treatment::Finish,
        }
    }
}

/// The longest frame in bytes, beginning with `head`, that fits the MTU: 14 bytes of header more, and 4
/// for an outer 8100 tag, as the kernel allows (`is_skb_forwardable` in
/// net/core/dev.c; 88a8 and QinQ get no more).
#[inline]
pub(super) fn longest(head: &[u8], mtu: u32) -> u32 {
    let tag = match head.get(12..14) {
        Some([0x81, 0x00]) => 4,
        _ => 0,
    };
    mtu.saturating_add(14 + tag)
}

/// Calls `with` for the position of each bit of `mask`.
#[inline]
pub(super) fn each_bit(mut mask: u64, mut with: impl FnMut(u32)) {
    while mask != 0 {
        with(mask.trailing_zeros());
        mask &= mask - 1;
    }
}

/// The position of bit number `n` of those that are set in `mask`.
#[inline]
fn nth_bit(mut mask: u64, n: u8) -> u32 {
    for _ in 0..n {
        mask &= mask.wrapping_sub(1);
    }
    mask.trailing_zeros()
}

/// Hands wires to the port. If short frames are padded, only the last may be
/// short: a frame alone, or the end of a segmented one.
fn write(port: &mut dyn Port, pad_runts: bool, wires: &[Wire<'_>]) -> Sent {
    let Some((last, front)) = wires.split_last() else { return Sent::default() };
    if !pad_runts || last.len() >= FRAME_MIN {
        return port.transmit(wires);
    }
    let mut sent = if front.is_empty() { Sent::default() } else { port.transmit(front) };
    // Under 60 bytes have under 60 pieces that are not empty.
    let mut rest: ArrayVec<Piece<'_>, FRAME_MIN> =
        last.rest.iter().copied().filter(|piece| !piece.is_empty()).collect();
    rest.push(Piece::from_slice(&ZEROES[last.len()..]));
    let padded = port.transmit(&[Wire { rest: &rest, ..*last }]);
    // At most 64 wires: the index fits.
    let index = u8::try_from(front.len()).unwrap_or(u8::MAX);
    sent.refused.extend(padded.refused.first().map(|&(_, reason)| (index, reason)));
    sent.fault = sent.fault.or(padded.fault);
    sent
}
