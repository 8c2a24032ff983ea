//! Room in a port for the [`Piece`]s that its frames point to: at most one for
//! each frame of a burst, since these ports receive a frame in one run of bytes.

use arrayvec::ArrayVec;

use super::BURST_FRAMES;
use crate::frame::{HEAD_MAX, Piece};

/// The pieces of one burst, kept between bursts so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Pieces<const N: usize = BURST_FRAMES>(ArrayVec<Piece<'static>, N>);

// SAFETY: between bursts the addresses are only numbers; within one, the burst
// borrows both the port that holds them and the memory they name.
unsafe impl<const N: usize> Send for Pieces<N> {}

/// Splits a frame in private memory into its head and its rest.
#[inline]
pub(super) fn head_len(frame_len: usize) -> usize {
    frame_len.min(HEAD_MAX)
}

impl<const N: usize> Pieces<N> {
    /// Forgets the last burst.
    #[inline]
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Names the bytes behind the head of the next frame: `len` of them, which
    /// may be 0, at `ptr`.
    #[inline]
    pub fn push(&mut self, ptr: *const u8, len: usize) {
        self.0.push(Piece::new(ptr, len));
    }

    /// The rest of frame number `index` of the burst.
    #[inline]
    pub fn rest(&self, index: usize) -> &[Piece<'_>] {
        let piece = &self.0[index..=index];
        if piece[0].is_empty() { &[] } else { piece }
    }
}
