//! What a measured frame looks like: an Ethernet header, then a stamp (flow,
//! number, intended time), then a pattern that the sink knows.
//!
//! Plain flows use EtherType 88b5 (IEEE 802a, local experiments), so that no
//! host answers them. Flows of super-frames are TCP over IPv4 with a
//! virtio-net header, as a guest's stack would hand them over.

use vswitch::frame::MacAddr;

/// EtherType of plain flows.
pub const ETHERTYPE: u16 = 0x88b5;
/// Length of a virtio-net header as TAPs and packet sockets use it, in bytes.
pub const VNET_LEN: usize = 10;
/// The shortest plain frame that can carry a stamp, in bytes.
pub const LEN_MIN: usize = 14 + STAMP_LEN;
/// The longest frame, in bytes: an IPv4 packet of 65,535 bytes.
pub const LEN_MAX: usize = 14 + 65_535;

const STAMP_LEN: usize = 26;
const MAGIC: u32 = 0x7653_7746;
const PLAIN_AT: usize = 14;
const TCP_AT: usize = 14 + 20 + 20;

/// A stream of numbered frames between two stations.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Tells flows apart at a sink.
    pub id: u16,
    /// Bytes of each frame, without FCS and virtio-net header.
    pub len: usize,
    vnet: [u8; VNET_LEN],
    template: Vec<u8>,
    stamp_at: usize,
    /// Stations that the frames are to and from, in the order of a header.
    stations: [u32; 2],
}

/// What a sink reads from a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The flow.
    pub flow: u16,
    /// Number in the flow, from 0.
    pub number: u64,
    /// When it should have been sent, in ns of the monotonic clock.
    pub due_ns: u64,
}

impl Flow {
    /// A flow of plain frames of `len` bytes.
    ///
    /// # Panics
    /// `len` is not within [`LEN_MIN`] and [`LEN_MAX`].
    pub fn new(id: u16, destination: MacAddr, source: MacAddr, len: usize) -> Flow {
        assert!((LEN_MIN..=LEN_MAX).contains(&len), "a frame of {len} bytes");
        let mut template: Vec<u8> = (0..len).map(|at| pattern(at, id)).collect();
        template[..6].copy_from_slice(&destination.octets());
        template[6..12].copy_from_slice(&source.octets());
        template[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        Flow { id, len, vnet: [0; VNET_LEN], template, stamp_at: PLAIN_AT, stations: [1, 1] }
    }

    /// The same flow as TCP super-frames with `segment` bytes of payload for
    /// each segment; only devices with a virtio-net header can send it.
    ///
    /// # Panics
    /// The frame has no room for TCP and the stamp.
    #[must_use]
    pub fn with_segments(mut self, segment: u16) -> Flow {
        assert!(self.len >= TCP_AT + STAMP_LEN, "no room for TCP");
        self.stamp_at = TCP_AT;
        let total = u16::try_from(self.len - 14).expect("LEN_MAX was checked");
        let header = &mut self.template[12..TCP_AT];
        header.fill(0);
        header[..2].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut header[2..22];
        ip[..4].copy_from_slice(&[0x45, 0, total.to_be_bytes()[0], total.to_be_bytes()[1]]);
        ip[6..10].copy_from_slice(&[0x40, 0, 64, 6]);
        ip[12..20].copy_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]); // RFC 2544's own network
        let sum = !fold(words(ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        // The pseudo-header's sum, which whoever finishes the checksum expects.
        let pseudo = fold(words(&ip[12..20]) + 6 + u32::from(total - 20));
        let tcp = &mut header[22..];
        tcp[..4].copy_from_slice(&[0, 9, 0, 9]);
        tcp[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
        tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
        // NEEDS_CSUM, TCPV4; hdr_len, gso_size, csum_start, csum_offset.
        self.vnet[..2].copy_from_slice(&[1, 1]);
        for (at, value) in [(2, 54), (4, segment), (6, 34), (8, 16)] {
            self.vnet[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// The same flow to `destinations` and from `sources` stations by turns. Their
    /// addresses follow on that of the first; none of the counts may be 0.
    #[must_use]
    pub fn with_stations(mut self, destinations: u32, sources: u32) -> Flow {
        self.stations = [destinations, sources].map(|count| count.max(1));
        self
    }

    /// Whether all frames are between the same two stations.
    pub fn is_one_conversation(&self) -> bool {
        self.stations == [1, 1]
    }

    /// The same flow in the other direction.
    #[must_use]
    pub fn reversed(mut self) -> Flow {
        self.stations.reverse();
        let (destination, source) = self.template[..12].split_at_mut(6);
        destination.swap_with_slice(source);
        self
    }

    /// The frames' virtio-net header.
    pub fn vnet_header(&self) -> &[u8; VNET_LEN] {
        &self.vnet
    }

    /// A frame without a stamp, for [`stamp`](Self::stamp) to number.
    pub fn blank(&self) -> Vec<u8> {
        self.template.clone()
    }

    /// Writes number and time into `frame`, which [`blank`](Self::blank) made.
    pub fn stamp(&self, frame: &mut [u8], number: u64, due_ns: u64) {
        let stamp = &mut frame[self.stamp_at..self.stamp_at + STAMP_LEN];
        stamp[..4].copy_from_slice(&MAGIC.to_be_bytes());
        stamp[4..6].copy_from_slice(&self.id.to_be_bytes());
        stamp[6..14].copy_from_slice(&number.to_be_bytes());
        stamp[14..22].copy_from_slice(&due_ns.to_be_bytes());
        stamp[22..].copy_from_slice(&check(self.id, number, due_ns).to_be_bytes());
        if self.stations != [1, 1] {
            frame[..12].copy_from_slice(&self.addresses(number));
        }
    }

    /// Destination and source of frame `number`.
    fn addresses(&self, number: u64) -> [u8; 12] {
        let mut addresses: [u8; 12] = self.template[..12].try_into().expect("a header is longer");
        for (address, count) in addresses.chunks_exact_mut(6).zip(self.stations) {
            let further = u32::try_from(number % u64::from(count)).expect("less than a u32");
            let low: [u8; 4] = address[2..].try_into().expect("four of six bytes");
            address[2..].copy_from_slice(&u32::from_be_bytes(low).wrapping_add(further).to_be_bytes());
        }
        addresses
    }

    /// Whether `frame`, which carries this flow's stamp, is what was sent,
    /// byte for byte. A finished checksum is no harm.
    pub fn is_unharmed(&self, frame: &[u8]) -> bool {
        let after = self.stamp_at + STAMP_LEN;
        if frame.len() != self.len || frame[after..] != self.template[after..] {
            return false;
        }
        let are_addresses = if self.stations == [1, 1] {
            frame[..12] == self.template[..12]
        } else {
            read_stamp(frame).is_some_and(|s| s.is_ok_and(|s| frame[..12] == self.addresses(s.number)))
        };
        are_addresses && frame[12..PLAIN_AT] == self.template[12..PLAIN_AT]
    }
}

/// Reads the stamp of a measured frame; `None`: it is somebody else's.
/// `Err(())`: it is ours, and its stamp is broken.
pub fn read_stamp(frame: &[u8]) -> Option<Result<Stamp, ()>> {
    let at = match frame.get(12..14)? {
        [0x88, 0xb5] => PLAIN_AT,
        [0x08, 0x00] => TCP_AT,
        _ => return None,
    };
    let stamp: &[u8; STAMP_LEN] = frame.get(at..at + STAMP_LEN)?.try_into().ok()?;
    let number = |range: std::ops::Range<usize>| stamp[range].iter().fold(0, |n, b| n << 8 | u64::from(*b));
    if number(0..4) != u64::from(MAGIC) {
        return if at == PLAIN_AT { Some(Err(())) } else { None };
    }
    let flow = u16::from_be_bytes([stamp[4], stamp[5]]);
    let found = Stamp { flow, number: number(6..14), due_ns: number(14..22) };
    let sound = number(22..26) == u64::from(check(flow, found.number, found.due_ns));
    Some(if sound { Ok(found) } else { Err(()) })
}

fn pattern(at: usize, id: u16) -> u8 {
    at.to_le_bytes()[0].wrapping_mul(31) ^ at.to_le_bytes()[1] ^ id.to_le_bytes()[0]
}

fn check(flow: u16, number: u64, due_ns: u64) -> u32 {
    let mixed = (number ^ due_ns.rotate_left(17) ^ u64::from(flow) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [a, b, c, d, ..] = mixed.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_every_flipped_byte_shows() {
        let flow = Flow::new(3, MacAddr::BROADCAST, MacAddr::new([2, 0, 0, 0, 0, 1]), 60);
        let mut frame = flow.blank();
        flow.stamp(&mut frame, 12_345_678_901, 42);
        assert_eq!(read_stamp(&frame), Some(Ok(Stamp { flow: 3, number: 12_345_678_901, due_ns: 42 })));
        assert!(flow.is_unharmed(&frame));
        for at in 0..frame.len() {
            let mut harmed = frame.clone();
            harmed[at] ^= 0x10;
            let seen = matches!(read_stamp(&harmed), Some(Ok(_))) && flow.is_unharmed(&harmed);
            assert!(!seen, "byte {at}");
        }
    }

    #[test]
    fn stations_take_turns_and_another_one_is_harm() {
        let station = |last| MacAddr::new([2, 0, 0, 0, 0xff, last]);
        let flow = Flow::new(1, station(0xff), station(0), 60).with_stations(3, 2);
        let mut frame = flow.blank();
        for (number, to, from) in [(0, [0, 0xff, 0xff], 0), (1, [1, 0, 0], 1), (5, [1, 0, 1], 1)] {
            flow.stamp(&mut frame, number, 9);
            assert_eq!((&frame[3..6], frame[11]), (&to[..], from), "{number}");
            assert!(flow.is_unharmed(&frame));
            frame[11] ^= 1;
            assert!(!flow.is_unharmed(&frame));
        }
        let mut back = frame.clone();
        let reversed = flow.reversed();
        reversed.stamp(&mut back, 2, 9);
        assert_eq!((back[5], &back[9..12]), (0, &[1, 0, 1][..]));
    }

    #[test]
    fn super_frames_have_a_sound_ip_header() {
        let flow =
            Flow::new(1, MacAddr::BROADCAST, MacAddr::new([2, 0, 0, 0, 0, 1]), LEN_MAX).with_segments(1448);
        let mut frame = flow.blank();
        flow.stamp(&mut frame, 1, 2);
        assert_eq!(fold(words(&frame[14..34])), 0xffff);
        assert!(matches!(read_stamp(&frame), Some(Ok(_))) && flow.is_unharmed(&frame));
    }
}
