//! Reads captures, ours and others': pcapng and the older pcap, in either byte
//! order, one item after the other, without holding the file in memory.
//!
//! Read first: draft-ietf-opsawg-pcapng sections 3 and 4, and
//! draft-ietf-opsawg-pcap. Every byte comes from outside: lengths are bounded
//! before memory is asked for, and what does not fit is an error that says where.
//!
//! Deliberately absent: writing, any link type but Ethernet, and what our own
//! blocks mean.

mod bytes;
mod classic;
mod ng;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bytes::Order;

/// No block or frame that is longer is read, in bytes: frames have at most 128
/// KiB, and blocks of ours that list an FDB are bounded, too.
pub const BLOCK_MAX: usize = 16 << 20;

/// One interface of a capture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// Its name; empty if the file has none.
    pub name: String,
}

/// Which way a frame crossed its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Way {
    /// The file does not say.
    #[default]
    Unknown,
    /// In.
    Inbound,
    /// Out.
    Outbound,
}

/// One frame of a capture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Captured {
    /// Number of its interface, counted from 0.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub date_ns: u64,
    /// Bytes as it crossed.
    pub len: u32,
    /// The first of them.
    pub bytes: Vec<u8>,
    /// Which way.
    pub way: Way,
    /// Frames of this interface that were missed since the one before.
    pub drops: u64,
    /// What is said of it, line by line.
    pub comments: Vec<String>,
}

/// What comes next in a capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// The next interface.
    Interface(Interface),
    /// A frame.
    Frame(Captured),
    /// A block of a kind that is not pcapng's own, without its lengths.
    Other {
        /// Its kind.
        kind: u32,
        /// What is in it.
        body: Vec<u8>,
    },
}

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file itself.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("neither pcapng nor pcap\n  write one with: vswitch capture -w FILE, or tcpdump -w FILE")]
    Format,
    /// It ends within an item.
    #[error("cut short at byte {at}: whoever wrote it was interrupted")]
    CutShort {
        /// Where that item begins.
        at: u64,
    },
    /// Something that cannot be.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Where the item begins.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Frames of another kind.
    #[error("link type {0} is not Ethernet (1)")]
    Link(u32),
}

/// A capture, item by item.
pub struct Reader<R> {
    source: Source<R>,
    format: Format,
}

enum Format {
    Ng(ng::State),
    Classic(classic::State),
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("at", &self.source.at).finish_non_exhaustive()
    }
}

impl Reader<BufReader<File>> {
    /// Opens the capture at `path`.
    ///
    /// # Errors
    /// It cannot be opened, or is none.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Reader::new(BufReader::with_capacity(1 << 20, File::open(path)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads a capture from its beginning.
    ///
    /// # Errors
    /// It is none.
    pub fn new(reader: R) -> Result<Reader<R>, ReadError> {
        let mut source = Source { reader, at: 0, begun: 0 };
        let mut magic = [0; 4];
        match source.fill(&mut magic) {
            Err(ReadError::CutShort { .. }) => return Err(ReadError::Format),
            other => other?,
        }
        let format = match u32::from_ne_bytes(magic) {
            ng::SECTION => Format::Ng(ng::State::begin(&mut source)?),
            magic => Format::Classic(classic::State::begin(&mut source, magic)?),
        };
        Ok(Reader { source, format })
    }

    /// The next item, `None` at the end.
    ///
    /// # Errors
    /// The file is cut short or damaged; there is nothing behind that.
    pub fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        match &mut self.format {
            Format::Ng(state) => state.next(&mut self.source),
            Format::Classic(state) => state.next(&mut self.source),
        }
    }
}

/// Bytes with their position.
struct Source<R> {
    reader: R,
    at: u64,
    /// Where the item at hand begins.
    begun: u64,
}

impl<R: Read> Source<R> {
    /// Whether another item begins; notes where.
    fn begin(&mut self, first: &mut [u8]) -> Result<bool, ReadError> {
        self.begun = self.at;
        let mut read = 0;
        while read < first.len() {
            match self.reader.read(&mut first[read..]) {
                Ok(0) if read == 0 => return Ok(false),
                Ok(0) => return Err(ReadError::CutShort { at: self.begun }),
                Ok(len) => read += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += read as u64;
        Ok(true)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ReadError::CutShort { at: self.begun })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `len` bytes, which may be at most [`BLOCK_MAX`].
    fn take(&mut self, len: usize) -> Result<Vec<u8>, ReadError> {
        if len > BLOCK_MAX {
            return Err(self.damaged("a length of more than 16 MiB"));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn damaged(&self, what: &'static str) -> ReadError {
        ReadError::Damaged { at: self.begun, what }
    }
}
