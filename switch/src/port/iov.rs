//! The kernel's scatter lists for frames on their way out.
//!
//! A frame leaves as virtio-net header, head and rest, from wherever they lie:
//! no byte of payload is copied here.

use std::ops::Range;
use std::ptr;

use crate::frame::Wire;
use crate::offload::VnetHeader;

/// What the kernel accepts in one scatter list (UIO_MAXIOV).
const RUNS_MAX: usize = 1024;

/// Scatter lists of one call, kept between calls so that nothing is allocated
/// once they have grown to the shape of the frames in use.
#[derive(Debug)]
pub(super) struct Iov(Vec<libc::iovec>);

// SAFETY: the addresses are only used during the `transmit` that wrote them,
// while the wires they come from are borrowed; in between they are numbers.
unsafe impl Send for Iov {}

impl Iov {
    pub fn new() -> Iov {
        Iov(Vec::with_capacity(256))
    }

    /// Forgets the last call.
    #[inline]
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds the runs of `wire`, behind its virtio-net header if the device
    /// takes one; says where they are. `None`: more runs than the kernel takes.
    #[inline]
    pub fn push(&mut self, vnet: Option<&VnetHeader>, wire: &Wire<'_>) -> Option<Range<usize>> {
        let start = self.0.len();
        if wire.rest.len() + 2 > RUNS_MAX {
            return None;
        }
        if let Some(vnet) = vnet {
            self.0.push(run(ptr::from_ref(vnet).cast(), VnetHeader::LEN));
        }
        self.add(wire);
        Some(start..self.0.len())
    }

    /// Adds `prefix` and the runs of `wire` to a list that leaves in one call;
    /// false if the kernel would not take so many runs at once.
    #[inline]
    pub fn push_behind(&mut self, prefix: &[u8], wire: &Wire<'_>) -> bool {
        if self.0.len() + wire.rest.len() + 2 > RUNS_MAX {
            return false;
        }
        self.0.push(run(prefix.as_ptr(), prefix.len()));
        self.add(wire);
        true
    }

    #[inline]
    fn add(&mut self, wire: &Wire<'_>) {
        let mut last = run(wire.head.as_ptr(), wire.head.len());
        for piece in wire.rest {
            if ptr::eq(last.iov_base.cast::<u8>().wrapping_add(last.iov_len), piece.as_ptr()) {
                last.iov_len += piece.len();
            } else {
                self.0.push(last);
                last = run(piece.as_ptr(), piece.len());
            }
        }
        self.0.push(last);
    }

    /// Every run, in order.
    #[inline]
    pub fn all(&mut self) -> &mut [libc::iovec] {
        &mut self.0
    }

    /// The runs at `range`, as `push` returned it.
    #[inline]
    pub fn runs(&mut self, range: Range<usize>) -> &mut [libc::iovec] {
        &mut self.0[range]
    }
}

/// Sending only reads: that the kernel's type says `mut` is C's way.
fn run(base: *const u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Piece;

    #[test]
    fn neighbouring_runs_are_joined() {
        let bytes = [7u8; 1000];
        let (front, other) = bytes.split_at(600);
        let pieces = [Piece::from_slice(&front[256..]), Piece::from_slice(&other[100..])];
        let wire = Wire::plain(&front[..256], &pieces);
        let mut iov = Iov::new();
        let vnet = VnetHeader::PLAIN;
        let range = iov.push(Some(&vnet), &wire).unwrap();
        let lens: Vec<usize> = iov.runs(range).iter().map(|run| run.iov_len).collect();
        assert_eq!(lens, [10, 600, 300]);
        let range = iov.push(None, &Wire::plain(&bytes[..60], &[])).unwrap();
        assert_eq!(range, 3..4);
    }
}
