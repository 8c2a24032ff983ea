//! What one `receive` brings: up to 64 frames, and the memory they may use.

use arrayvec::ArrayVec;

use crate::frame::Frame;

/// The most frames of one burst.
pub const BURST_FRAMES: usize = crate::bridge::BURST;

/// The most bytes that one burst should bring; a burst ends at the first frame
/// that reaches it.
pub const BURST_BYTES: usize = 512 * 1024;

/// Receive memory shared by every port that needs the kernel to copy frames
/// somewhere: one port is served at a time, so one set is enough.
#[derive(Debug)]
pub struct Slots {
    bytes: Vec<u8>,
}

impl Slots {
    /// Bytes that a frame may have with everything the kernel puts before it;
    /// what is longer arrives cut, and is dropped.
    pub const ROOM: usize = 65_536 + 512;

    /// Bytes from one slot to the next: an odd number of cache lines beyond
    /// whole pages, so that the heads of 64 frames do not share cache sets.
    pub const STRIDE: usize = Slots::ROOM + 64;

    /// Memory for a full burst, touched only where frames arrive.
    pub fn new() -> Slots {
        Slots { bytes: vec![0; Slots::STRIDE * BURST_FRAMES] }
    }

    /// All slots in one run, `STRIDE` apart.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Default for Slots {
    fn default() -> Slots {
        Slots::new()
    }
}

/// The frames of one turn; lives on the turn's stack.
#[derive(Debug)]
pub struct Burst<'a> {
    /// Shared receive memory, for the port that wants it to take.
    pub slots: Option<&'a mut Slots>,
    /// The frames, in order of arrival.
    pub frames: ArrayVec<Frame<'a>, BURST_FRAMES>,
}

impl<'a> Burst<'a> {
    /// An empty burst over `slots`.
    pub fn new(slots: &'a mut Slots) -> Burst<'a> {
        Burst { slots: Some(slots), frames: ArrayVec::new() }
    }
}
