//! Frames that wait until the peer's queue has room: copies, in order, in one
//! run of bytes of a fixed size.
//!
//! A datagram socket's queue may be as short as 10, less than one burst; this
//! is the socket buffer that a stream has and a datagram has not, and no longer
//! than that one. Deliberately absent: growing.

use std::collections::VecDeque;

use super::super::{BURST_FRAMES, gather};
use crate::frame::Wire;
use arrayvec::ArrayVec;

/// Bytes: 170 full frames of MTU 1500, what a stream's buffer holds.
const BYTES: usize = 256 * 1024;

/// Frames, however short.
const FRAMES: usize = 512;

/// Frames in the order in which they are to be sent.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Box<[u8]>,
    /// Where the first begins, and the last ends.
    start: usize,
    end: usize,
    lens: VecDeque<usize>,
}

impl Held {
    /// None; the memory is touched only as far as frames wait.
    pub fn new() -> Held {
        let lens = VecDeque::with_capacity(FRAMES);
        Held { bytes: vec![0; BYTES].into_boxed_slice(), start: 0, end: 0, lens }
    }

    /// Whether none waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Keeps a copy of `wire`; false: there is no room for it.
    pub fn push(&mut self, wire: &Wire<'_>) -> bool {
        let len = wire.len();
        // What was sent from the front is used again once it is half of all,
        // so that bytes are moved at most twice.
        if self.bytes.len() - self.end < len && self.start >= self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.lens.len() == FRAMES || self.bytes.len() - self.end < len {
            return false;
        }
        gather(wire, &mut self.bytes[self.end..self.end + len]);
        self.end += len;
        self.lens.push_back(len);
        true
    }

    /// The first of them.
    pub fn wires(&self) -> ArrayVec<Wire<'_>, BURST_FRAMES> {
        let mut at = self.start;
        let lens = self.lens.iter().take(BURST_FRAMES);
        lens.map(|len| {
            at += len;
            Wire::plain(&self.bytes[at - len..at], &[])
        })
        .collect()
    }

    /// The first `count` were sent, or never will be.
    pub fn pop(&mut self, count: usize) {
        self.start += self.lens.drain(..count).sum::<usize>();
        if self.lens.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_and_whole_however_often_it_fills() {
        let mut held = Held::new();
        let (mut pushed, mut popped) = (0u32, 0u32);
        let frame = |number: u32| {
            let mut bytes = vec![0xaa; 14 + (number as usize * 37) % 3000];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            bytes
        };
        for round in 0..400usize {
            let mut refused = 0;
            while refused == 0 {
                if held.push(&Wire::plain(&frame(pushed), &[])) {
                    pushed += 1;
                } else {
                    refused += 1;
                }
            }
            assert!(pushed - popped <= u32::try_from(FRAMES).unwrap());
            let count = (1 + round * 7 % 64).min(held.wires().len());
            for wire in &held.wires()[..count] {
                assert_eq!(wire.head, frame(popped));
                popped += 1;
            }
            held.pop(count);
        }
        while !held.is_empty() {
            let wires = held.wires();
            let count = wires.len();
            for wire in &wires {
                assert_eq!(wire.head, frame(popped));
                popped += 1;
            }
            drop(wires);
            held.pop(count);
        }
        assert_eq!(pushed, popped);
    }

    #[test]
    fn short_frames_are_counted_and_long_ones_fit() {
        let mut held = Held::new();
        let short = [1; 14];
        let taken = (0..1000).filter(|_| held.push(&Wire::plain(&short, &[]))).count();
        assert_eq!(taken, FRAMES);
        held.pop(FRAMES);
        assert!(held.is_empty() && held.push(&Wire::plain(&vec![1; 66_000], &[])));
    }
}
