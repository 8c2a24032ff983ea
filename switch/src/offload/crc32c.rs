//! CRC32c, the checksum of SCTP (RFC 9260 appendix A), one byte at a time.
//!
//! The virtio-net header cannot say "CRC": a veth lets SCTP leave its checksum
//! unfinished, and a packet socket then reports it as any other. Whoever
//! believes that writes a 16-bit sum over half the field; so such frames are
//! always completed here.
//!
//! Deliberately absent: speed. SCTP from a namespace of this machine is rare.

/// Castagnoli's polynomial 0x1edc6f41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0u32;
    while index < 256 {
        let mut value = index;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 0 { value >> 1 } else { (value >> 1) ^ POLYNOMIAL };
            bit += 1;
        }
        table[index as usize] = value;
        index += 1;
    }
    table
};

/// The CRC32c of `bytes`, complemented before and after as SCTP sends it.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_3720() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        for (bytes, expected) in [
            (&[0x00; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (&falling, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(crc32c(bytes), expected, "{bytes:02x?}");
        }
    }
}
