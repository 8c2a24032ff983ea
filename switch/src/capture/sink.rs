//! What waits to be taken by a capture's reader: bounded, so that a slow reader
//! costs frames of its capture, and no memory.
//!
//! Deliberately absent: sockets; whoever has one gives it to
//! [`write_to`](Sink::write_to).

use std::collections::VecDeque;
use std::io::{self, Write};

/// Bytes that may wait. At 100,000 frames a second of 100 bytes it bridges the
/// second that Wireshark takes to start.
pub const WAITING_MAX: usize = 32 << 20;

/// Room that most blocks find whole: 2,048 short frames and a copy of each are 0.6 MB.
const ROOM: usize = 2 << 20;

/// Bytes of a run, about.
const RUN: usize = 128 << 10;

/// What the last record of a run may need beyond that.
const RUN_EXCESS: usize = 8 << 10;

/// Empty runs that are kept: to allocate one for each 128 KiB takes longer than to
/// fill it, for the kernel clears its pages every time.
const SPARE_MAX: usize = 8;

/// Runs of bytes, in order.
#[derive(Debug, Default)]
pub struct Sink {
    runs: VecDeque<Vec<u8>>,
    /// Of the first run, so many have left.
    left: usize,
    len: usize,
    spare: Vec<Vec<u8>>,
}

impl Sink {
    /// Whether no more frames may be written now.
    pub fn is_full(&self) -> bool {
        self.len >= WAITING_MAX
    }

    /// Whether a block of frames might not find room for all of them.
    pub fn is_nearly_full(&self) -> bool {
        self.len + ROOM >= WAITING_MAX
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Has `write` append to what waits.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.runs.back().is_none_or(|run| run.len() >= RUN) {
            let run = self.spare.pop();
            self.runs.push_back(run.unwrap_or_else(|| Vec::with_capacity(RUN + RUN_EXCESS)));
        }
        if let Some(run) = self.runs.back_mut() {
            let before = run.len();
            write(run);
            self.len += run.len() - before;
        }
    }

    /// Gives `out` what it takes.
    ///
    /// # Errors
    /// As `out` does; `WouldBlock` if it takes no more now.
    pub fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        while let Some(run) = self.runs.front_mut() {
            while self.left < run.len() {
                match out.write(&run[self.left..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        self.left += written;
                        self.len -= written;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.left = 0;
            if let Some(mut run) = self.runs.pop_front() {
                run.clear();
                // Super-frames make them longer: those are not kept.
                if self.spare.len() < SPARE_MAX && run.capacity() == RUN + RUN_EXCESS {
                    self.spare.push(run);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes, then none for once.
    struct Slow(Vec<u8>, bool);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let some = bytes.len().min(50_000);
            self.0.extend_from_slice(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_leave_in_order_and_are_bounded() {
        let mut sink = Sink::default();
        let mut expected = Vec::new();
        while !sink.is_full() {
            let byte = u8::try_from(expected.len() / 30_000 % 251).unwrap();
            sink.append(|out| out.extend_from_slice(&[byte; 30_000]));
            expected.extend_from_slice(&[byte; 30_000]);
        }
        assert!(sink.len() < WAITING_MAX + 30_000);
        let mut slow = Slow(Vec::new(), false);
        while let Err(error) = sink.write_to(&mut slow) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert!(sink.is_empty() && slow.0 == expected);
    }
}
