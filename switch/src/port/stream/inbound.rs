//! Bytes of a stream, cut into frames: each has its length before it, four
//! bytes, highest first, as QEMU writes them (`net_fill_rstate` in net/net.c).
//!
//! One buffer, of a fixed size: what has arrived of a frame waits in it for
//! its rest, and a frame that can never be whole ends the stream.
//!
//! Deliberately absent: the socket, and any look into a frame.

use std::ops::Range;

use super::super::Slots;

/// Bytes that say how long a frame is.
pub(in crate::port) const PREFIX_LEN: usize = 4;

/// The longest frame that is taken, in bytes; QEMU's own limit is 69,632.
pub(in crate::port) const FRAME_LEN_MAX: usize = Slots::ROOM;

/// Room for 64 full frames of MTU 1500 and the longest frame that may have
/// begun behind them.
const BUFFER_LEN: usize = 192 * 1024;

/// Why a stream cannot go on.
pub(super) type Violation = &'static str;

/// Bytes that have arrived and were not lent to a burst yet.
#[derive(Debug)]
pub(super) struct Inbound {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbound {
    /// An empty buffer; its pages are touched only as far as frames need them.
    pub fn new() -> Inbound {
        Inbound { buffer: vec![0; BUFFER_LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Where the next bytes go; never empty if the last [`next`](Self::next)
    /// found no whole frame and [`compact`](Self::compact) was called since.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end..]
    }

    /// `len` bytes were written to the front of [`room`](Self::room).
    #[inline]
    pub fn grow(&mut self, len: usize) {
        self.end += len;
    }

    /// Takes the next whole frame out; `None` while its rest is missing.
    ///
    /// # Errors
    /// It says that it has no bytes, or more than any frame.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Range<usize>>, Violation> {
        let Some(prefix) = self.buffer[self.start..self.end].first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if len == 0 {
            return Err("it sent a frame of length 0");
        }
        if len > FRAME_LEN_MAX {
            return Err("it sent a frame longer than 66048 bytes");
        }
        let at = self.start + PREFIX_LEN;
        if self.end - at < len {
            return Ok(None);
        }
        self.start = at + len;
        Ok(Some(at..at + len))
    }

    /// The bytes at `range`, as `next` returned it.
    #[inline]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Makes room for at least one more frame; ranges from before are void.
    #[inline]
    pub fn compact(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < PREFIX_LEN + FRAME_LEN_MAX {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(len: usize, fill: u8) -> Vec<u8> {
        let mut bytes = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        bytes.resize(PREFIX_LEN + len, fill);
        bytes
    }

    /// Feeds `stream` in pieces of the given sizes; returns the frames.
    fn feed(stream: &[u8], sizes: &[usize]) -> Result<Vec<Vec<u8>>, Violation> {
        let mut inbound = Inbound::new();
        let mut frames = Vec::new();
        let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
        while !rest.is_empty() {
            let room = inbound.room();
            let len = (*sizes.next().unwrap()).min(room.len()).min(rest.len());
            assert!(len > 0, "there is always room for the rest of a frame");
            room[..len].copy_from_slice(&rest[..len]);
            inbound.grow(len);
            rest = &rest[len..];
            while let Some(range) = inbound.next()? {
                frames.push(inbound.bytes(range).to_vec());
            }
            inbound.compact();
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            lens in prop::collection::vec(prop_oneof![1usize..200, 1000usize..2000, 60_000..=FRAME_LEN_MAX], 1..40),
            sizes in prop::collection::vec(1usize..100_000, 1..20),
        ) {
            let frames: Vec<(usize, u8)> = lens.iter().zip(0u8..).map(|(len, fill)| (*len, fill)).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|(len, fill)| framed(*len, *fill)).collect();
            let got = feed(&stream, &sizes).unwrap();
            let expected: Vec<Vec<u8>> = frames.iter().map(|(len, fill)| vec![*fill; *len]).collect();
            prop_assert!(got == expected);
        }

        #[test]
        fn no_bytes_make_it_panic_or_wait_for_more_than_fits(
            stream in prop::collection::vec(any::<u8>(), 1..2000),
            sizes in prop::collection::vec(1usize..300, 1..5),
        ) {
            let _ = feed(&stream, &sizes);
        }
    }

    #[test]
    fn impossible_lengths_end_the_stream() {
        for (prefix, word) in [([0, 0, 0, 0], "length 0"), ([0, 1, 2, 1], "longer"), ([0xff; 4], "longer")] {
            let mut stream = framed(60, 1);
            stream.extend(prefix);
            stream.extend([0; 60]);
            assert!(feed(&stream, &[7]).unwrap_err().contains(word), "{prefix:?}");
        }
        assert_eq!(FRAME_LEN_MAX, 66_048, "as the message says");
    }
}
