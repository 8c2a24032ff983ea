//! Frames as they are typed, for `trace`:
//!
//! ```text
//! FORM    = HEX | FILE "#" N | short
//! HEX     = bytes, two digits each; space, `:`, `-` and `.` between them are ignored
//! FILE#N  = frame N of a pcap or pcapng, counted from 1
//! short   = "arp who-has" IPV4 "tell" IPV4 { option }
//!         | "arp" IPV4 "is-at" MAC { option }
//!         | "icmp" IP ">" IP { option }
//!         | ( "udp" | "tcp" ) IP[:PORT] ">" IP[:PORT] { option }
//!         | "ether" MAC ">" MAC { option }
//! option  = "src" MAC | "dst" MAC | "vlan" VID | "type" HEX | "len" BYTES | "mss" BYTES
//! ```
//!
//! A station that is not named by `src` or `dst` has the address 02:00 and its
//! IPv4 address's four bytes (the last four of an IPv6 address), a group its group
//! address. `len` is the length of the whole frame. `mss` makes it a super-frame
//! that is to be cut into segments of so many bytes.
//!
//! Deliberately absent: every other protocol; for those there is hex.

mod build;
mod words;

use std::path::{Path, PathBuf};

use crate::offload::VnetHeader;
use crate::pcap::{Item, ReadError, Reader};

/// A frame that was typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Typed {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What its sender leaves to others.
    pub vnet: VnetHeader,
}

/// Text that means no frame.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It is none of the forms.
    #[error("{what}\n  write hex, FILE#N, or a short form: {example}")]
    Words {
        /// What is wrong with it.
        what: String,
        /// One that is right.
        example: &'static str,
    },
    /// The capture cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: ReadError,
    },
    /// The capture is shorter.
    #[error("{} has {len} frames; there is no frame {number}", path.display())]
    NoFrame {
        /// Which.
        path: PathBuf,
        /// Which frame.
        number: u64,
        /// How many there are.
        len: u64,
    },
}

impl FormError {
    fn words(what: impl Into<String>, example: &'static str) -> FormError {
        FormError::Words { what: what.into(), example }
    }
}

/// Shown with an error about none of the short forms.
const EXAMPLE: &str = "arp who-has 192.168.1.2 tell 192.168.1.1";

/// The frame that `text` means.
///
/// # Errors
/// None, with what would be right.
pub fn read(text: &str) -> Result<Typed, FormError> {
    if let Some((path, number)) = text.rsplit_once('#') {
        let number: u64 = number
            .trim()
            .parse()
            .map_err(|_| FormError::words(format!("`{number}` is no frame's number"), EXAMPLE))?;
        return from_file(Path::new(path), number);
    }
    let mut words = text.split_whitespace();
    match words.next() {
        Some(kind @ ("arp" | "icmp" | "udp" | "tcp" | "ether")) => words::short(kind, words),
        Some(_) => hex(text),
        None => Err(FormError::words("there is no frame", EXAMPLE)),
    }
}

fn hex(text: &str) -> Result<Typed, FormError> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && !":-.".contains(*c)).collect();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits);
    if let Some(odd) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Err(FormError::words(format!("`{text}` is no frame: `{odd}` is no hex digit"), EXAMPLE));
    }
    if !digits.len().is_multiple_of(2) {
        return Err(FormError::words(format!("{} hex digits are not whole bytes", digits.len()), EXAMPLE));
    }
    let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    // Nothing but ASCII digits is left.
    let bytes = (0..digits.len()).step_by(2).filter_map(byte).collect();
    Ok(Typed { bytes, vnet: VnetHeader::PLAIN })
}

/// Frame `number` of a capture; what the capture has not kept of it is zero.
fn from_file(path: &Path, number: u64) -> Result<Typed, FormError> {
    let file = |cause| FormError::File { path: path.to_owned(), cause };
    let mut reader = Reader::open(path).map_err(file)?;
    let mut len = 0;
    while let Some(item) = reader.next_item().map_err(file)? {
        let Item::Frame(mut frame) = item else { continue };
        len += 1;
        if len == number {
            frame.bytes.resize(frame.len as usize, 0);
            return Ok(Typed { bytes: frame.bytes, vnet: VnetHeader::PLAIN });
        }
    }
    Err(FormError::NoFrame { path: path.to_owned(), number, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn bytes(text: &str) -> Vec<u8> {
        read(text).unwrap().bytes
    }

    #[test]
    fn hex_with_and_without_separators() {
        for text in ["0201ff", "02:01:ff", "02 01 ff", "02-01-ff", "0x0201FF", "0201.ff", " 02\n01ff "] {
            assert_eq!(bytes(text), [2, 1, 0xff], "{text}");
        }
        for (text, words) in [
            ("", "there is no frame"),
            ("0201f", "5 hex digits are not whole bytes"),
            ("who-has", "`w` is no hex digit"),
            ("arq who-has", "`r` is no hex digit"),
            ("a.pcap#x", "`x` is no frame's number"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("short form"), "{error}");
        }
    }

    #[test]
    fn frames_out_of_a_capture() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a#b.pcap");
        let header = [0xa1b2_c3d4u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [0; 4], 1u32.to_ne_bytes()];
        let frame = |len: u32, bytes: &[u8]| {
            let captured = u32::try_from(bytes.len()).unwrap().to_ne_bytes();
            [[0; 4], [0; 4], captured, len.to_ne_bytes()].concat().into_iter().chain(bytes.to_vec())
        };
        let frames = frame(2, &[1, 2]).chain(frame(6, &[3]));
        std::fs::write(&path, header.concat().into_iter().chain(frames).collect::<Vec<u8>>()).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(bytes(&format!("{path}#1")), [1, 2]);
        assert_eq!(bytes(&format!("{path}#2")), [3, 0, 0, 0, 0, 0], "its length is what crossed");
        let error = read(&format!("{path}#3")).unwrap_err().to_string();
        assert!(error.ends_with("has 2 frames; there is no frame 3"), "{error}");
        assert!(matches!(read("/nonexistent#1"), Err(FormError::File { .. })));
    }
}
