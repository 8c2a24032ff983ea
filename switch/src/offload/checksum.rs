//! The Internet checksum (RFC 1071): one's-complement sums of 16-bit words.
//!
//! Sums are taken four bytes at a time in the machine's own byte order, which
//! RFC 1071 §2(B) allows, in eight independent 64-bit lanes that the compiler
//! turns into vector additions.
//!
//! Deliberately absent: SCTP's CRC32c, which is no sum; see `crc32c`.

use super::crc32c::crc32c;
use super::layers::SCTP_CHECK;
use super::{VnetHeader, is_sctp};
use crate::frame::HEAD_MAX;

/// Bytes added in one step of the sum.
const STEP: usize = 32;

/// Sum of `bytes` as 16-bit big-endian words, folded to 16 bits; an odd last
/// byte counts as the high half of a word.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let (steps, tail) = bytes.as_chunks::<STEP>();
    // 2^32 words fit into a lane; no frame comes near.
    let mut lanes = [0u64; STEP / 4];
    for step in steps {
        let (words, _) = step.as_chunks::<4>();
        for (lane, &word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, last) = tail.as_chunks::<2>();
    total += words.iter().map(|&word| u64::from(u16::from_ne_bytes(word))).sum::<u64>();
    if let [byte] = *last {
        total += u64::from(u16::from_ne_bytes([byte, 0]));
    }
    u16::from_be_bytes(fold(total).to_ne_bytes())
}

/// One's-complement sum of numbers that are folded already.
pub(super) fn add(terms: &[u16]) -> u16 {
    fold(terms.iter().map(|&term| u64::from(term)).sum())
}

fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the loop left 16 bits")]
    let folded = total as u16;
    folded
}

/// Completes what `vnet` says is missing in `frame`, a frame that [`check`]
/// finds to lack a checksum only: the Internet checksum, or SCTP's CRC32c.
///
/// Returns `None`, and changes nothing, if the field lies outside the frame.
///
/// [`check`]: super::check
pub fn complete(vnet: &VnetHeader, frame: &mut [u8]) -> Option<()> {
    if !is_sctp(vnet, &frame[..frame.len().min(HEAD_MAX)]) {
        return complete_checksum(frame, vnet.csum_start, vnet.csum_offset);
    }
    let packet = frame.get_mut(usize::from(vnet.csum_start)..)?;
    let field = usize::from(SCTP_CHECK)..usize::from(SCTP_CHECK) + 4;
    packet.get_mut(field.clone())?.fill(0);
    let crc = crc32c(packet);
    packet[field].copy_from_slice(&crc.to_le_bytes());
    Some(())
}

/// Completes the checksum of a frame: the sum of everything from `csum_start`
/// to the end, where the field at `csum_start + csum_offset` holds the sum of
/// the pseudo-header so far. A sum of zero is written as 0xffff, which is the
/// same number, since to UDP zero means "none" (the kernel does it for all).
///
/// Returns `None`, and changes nothing, if the field lies outside the frame.
pub fn complete_checksum(bytes: &mut [u8], csum_start: u16, csum_offset: u16) -> Option<()> {
    let covered = bytes.get_mut(usize::from(csum_start)..)?;
    let field_at = usize::from(csum_offset);
    if field_at + 2 > covered.len() {
        return None;
    }
    let check = match !sum(covered) {
        0 => 0xffff,
        check => check,
    };
    covered[field_at..field_at + 2].copy_from_slice(&check.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::NEEDS_CSUM;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(sum(&vec![0xff; 70_000]), 0xffff);
    }

    proptest! {
        #[test]
        fn sums_equal_the_word_by_word_sum(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..8) {
            let bytes = &bytes[at.min(bytes.len())..];
            prop_assert_eq!(sum(bytes), naive(bytes));
        }
    }

    #[test]
    fn a_zero_checksum_is_written_as_all_ones() {
        let mut bytes = [0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(complete_checksum(&mut bytes, 0, 2), Some(()));
        assert_eq!(bytes, [0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(sum(&bytes), 0xffff, "a receiver finds it right");
    }

    #[test]
    fn sctp_gets_a_crc_and_nothing_else_does() {
        let mut frame = vec![0; 14 + 20 + 12 + 31];
        frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        frame[14 + 9] = 132;
        for (index, byte) in frame[34..].iter_mut().enumerate() {
            *byte = u8::try_from(index * 5).unwrap();
        }
        let vnet = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 8, ..VnetHeader::PLAIN };
        let mut sent = frame.clone();
        assert_eq!(complete(&vnet, &mut sent), Some(()));
        let mut zeroed = frame.clone();
        zeroed[42..46].fill(0);
        assert_eq!(sent[42..46], crc32c(&zeroed[34..]).to_le_bytes());
        assert_eq!((&sent[..42], &sent[46..]), (&frame[..42], &frame[46..]));

        for other in [6, 17, 133] {
            frame[14 + 9] = other;
            let (mut ours, mut sum) = (frame.clone(), frame.clone());
            assert_eq!(complete(&vnet, &mut ours), complete_checksum(&mut sum, 34, 8));
            assert_eq!(ours, sum, "protocol {other}");
        }
        frame[14 + 9] = 132;
        let mut cut = frame[..45].to_vec();
        assert_eq!(complete(&vnet, &mut cut), None);
        assert_eq!(cut, frame[..45]);
    }

    #[test]
    fn fields_outside_the_frame_are_left_alone() {
        let mut bytes = [7; 10];
        for (start, offset) in [(10, 0), (9, 0), (8, 1), (11, 0), (0, 9), (u16::MAX, u16::MAX)] {
            assert_eq!(complete_checksum(&mut bytes, start, offset), None, "{start} {offset}");
        }
        assert_eq!(bytes, [7; 10]);
        assert_eq!(complete_checksum(&mut bytes, 8, 0), Some(()));
    }
}
