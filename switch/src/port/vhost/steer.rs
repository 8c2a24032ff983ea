//! Which of a guest's receive queues a frame goes to: frames of one flow keep
//! to one queue, and so their order.
//!
//! A flow is both MAC addresses and, where they are plain to see, IP addresses
//! and ports. Deliberately absent: a secret, and a driver's own wishes (RSS):
//! whoever makes flows collide only crowds his own queue.

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A number that is the same for all frames of a flow.
pub(super) fn flow(head: &[u8]) -> u32 {
    let mut hash = 0;
    let mut add = |bytes: Option<&[u8]>| {
        for chunk in bytes.unwrap_or_default().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
    };
    add(head.get(..12));
    let be16 = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let network = if be16(12) == Some(ETHERTYPE_VLAN) { 18 } else { 14 };
    let (protocol, transport) = match be16(network - 2) {
        Some(ETHERTYPE_IPV4) => {
            add(head.get(network + 12..network + 20));
            let header_len = head.get(network).map_or(0, |first| usize::from(first & 0xf) * 4);
            // Later fragments have no ports: then none of the datagram's count.
            let is_whole = be16(network + 6).is_some_and(|fragment| fragment & 0x3fff == 0);
            (head.get(network + 9).copied().filter(|_| is_whole), network + header_len)
        }
        Some(ETHERTYPE_IPV6) => {
            add(head.get(network + 8..network + 40));
            (head.get(network + 6).copied(), network + 40)
        }
        _ => (None, 0),
    };
    if matches!(protocol, Some(TCP | UDP)) {
        add(head.get(transport..transport + 4));
    }
    // The upper half is the better mixed one: it fits.
    u32::try_from(hash >> 32).unwrap_or(0)
}

/// The finishing steps of SplitMix64.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP frame over IPv4 from `port`, its flags and fragment offset `fragment`.
    fn frame(port: u16, fragment: u16) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        bytes.extend([0x45, 0, 0, 60, 0, 1]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 53, 0, 40, 0, 0]);
        bytes
    }

    #[test]
    fn flows_spread_and_each_keeps_to_one_queue() {
        let mut seen = [0; 4];
        for port in 1024..1124 {
            let first = flow(&frame(port, 0));
            let mut later = frame(port, 0);
            later.extend([7; 200]);
            later[18] = 99;
            assert_eq!(flow(&later), first, "length and identification are no part of it");
            seen[first as usize % 4] += 1;
        }
        assert!(seen.iter().all(|&count| count > 10), "{seen:?}");
    }

    #[test]
    fn fragments_of_a_datagram_stay_together() {
        let first = frame(1024, 0x2000);
        let later = frame(5, 0x2005);
        let last = frame(7, 0x0009);
        assert_eq!((flow(&later), flow(&last)), (flow(&first), flow(&first)));
    }

    #[test]
    fn heads_of_any_length_are_flows() {
        let tagged = [&frame(1024, 0)[..12], &[0x81, 0, 0, 5], &frame(1024, 0)[12..]].concat();
        assert_eq!(flow(&tagged), flow(&frame(1024, 0)));
        for bytes in [frame(1024, 0), tagged] {
            for len in 0..bytes.len() {
                flow(&bytes[..len]);
            }
        }
    }
}
