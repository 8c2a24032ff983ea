//! Ethernet frames as the switch sees them: addresses, tags, the header, and
//! the two shapes of a frame, received ([`Frame`]) and to be sent ([`Wire`]).
//!
//! Read first: IEEE 802.3 clause 3 (the frame), 802.1Q clause 9 (the tag).
//! Frames carry no FCS here: "64 bytes on the wire" is 60 in memory.
//!
//! Deliberately absent: copies of a payload, allocation, any layer above 2
//! (that is `offload`), and any read through a [`Piece`] (that is `port`).

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use crate::bridge::DropReason;
use crate::offload::{self, Offload, VnetHeader};

/// The longest head of a frame, in bytes, that is fetched into our own memory
/// and judged. No decision reads past it, and every copy carries it.
pub const HEAD_MAX: usize = 256;

/// Destination, source and EtherType: the shortest frame that is one.
pub const ETHER_HEADER_LEN: usize = 14;

/// Length of one VLAN tag, TPID and TCI.
pub const TAG_LEN: usize = 4;

/// The shortest frame without FCS that 802.3 allows on a wire.
pub const FRAME_MIN: usize = 60;

/// TPID of a customer tag (C-tag), 802.1Q table 9-1.
pub const TPID_C: u16 = 0x8100;
/// TPID of a service tag (S-tag), 802.1Q table 9-1.
pub const TPID_S: u16 = 0x88a8;
/// TPID used for stacked tags before 802.1ad settled on 88a8.
pub const TPID_OLD_QINQ: u16 = 0x9100;

/// An EUI-48 address.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// 00:00:00:00:00:00, never a valid source.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// An address from its six octets in transmission order.
    pub const fn new(octets: [u8; 6]) -> MacAddr {
        MacAddr(octets)
    }

    /// The six octets in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Group bit set (multicast or broadcast).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// All ones.
    pub fn is_broadcast(self) -> bool {
        self == MacAddr::BROADCAST
    }

    /// May stand in the source field: neither all-zero nor a group address
    /// (802.3 clause 3.2.3).
    pub fn is_valid_source(self) -> bool {
        !self.is_group() && self != MacAddr::ZERO
    }

    /// Last octet if this is one of the sixteen reserved addresses
    /// 01-80-C2-00-00-00 … 0F that a bridge does not forward
    /// (802.1Q table 8-1).
    pub fn reserved(self) -> Option<u8> {
        match self.0 {
            [0x01, 0x80, 0xc2, 0x00, 0x00, last @ 0x00..=0x0f] => Some(last),
            _ => None,
        }
    }

    /// The address as the low 48 bits of an integer, first octet highest.
    pub fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Inverse of [`to_u64`](Self::to_u64); bits above 48 are ignored.
    pub fn from_u64(value: u64) -> MacAddr {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: write six pairs of hex digits, as 02:00:00:00:00:01")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<MacAddr, ParseMacError> {
        let fail = || ParseMacError(text.to_owned());
        let mut octets = [0; 6];
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(fail)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(fail());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        match parts.next() {
            None => Ok(MacAddr(octets)),
            Some(_) => Err(fail()),
        }
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<MacAddr, ParseMacError> {
        text.parse()
    }
}

/// A VLAN identifier, 0 … 4095. 0 is "no VLAN": a VLAN-unaware switch keeps
/// its whole FDB under it (shared learning).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
pub struct VlanId(u16);

impl VlanId {
    /// The single FDB of a VLAN-unaware switch.
    pub const UNAWARE: VlanId = VlanId(0);

    /// The low twelve bits of `value`.
    pub const fn new(value: u16) -> VlanId {
        VlanId(value & 0xfff)
    }

    /// 0 … 4095.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One VLAN tag (802.1Q clause 9.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// 0x8100, 0x88a8 or 0x9100.
    pub tpid: u16,
    /// Priority (3 bits), DEI (1 bit), VID (12 bits).
    pub tci: u16,
}

impl Tag {
    /// The VLAN that the tag names.
    pub const fn vid(self) -> VlanId {
        VlanId::new(self.tci)
    }

    /// Whether `ethertype` announces a tag.
    pub const fn is_tpid(ethertype: u16) -> bool {
        matches!(ethertype, TPID_C | TPID_S | TPID_OLD_QINQ)
    }
}

/// The fourteen or eighteen bytes that the bridge decides on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EtherHeader {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Outermost tag, if there is one.
    pub tag: Option<Tag>,
    /// EtherType (or 802.3 length) behind the outermost tag.
    pub ethertype: u16,
}

impl EtherHeader {
    /// Reads the header of a frame.
    ///
    /// # Errors
    /// `Runt` under 14 bytes; `MalformedTag` if a tag is announced and the
    /// frame ends before the EtherType behind it.
    #[inline]
    pub fn parse(head: &[u8]) -> Result<EtherHeader, DropReason> {
        let Some((first, rest)) = head.split_first_chunk::<ETHER_HEADER_LEN>() else {
            return Err(DropReason::Runt);
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *first;
        let outer = u16::from_be_bytes([t0, t1]);
        let (tag, ethertype) = if Tag::is_tpid(outer) {
            let Some(&[c0, c1, e0, e1]) = rest.first_chunk::<TAG_LEN>() else {
                return Err(DropReason::MalformedTag);
            };
            let tci = u16::from_be_bytes([c0, c1]);
            (Some(Tag { tpid: outer, tci }), u16::from_be_bytes([e0, e1]))
        } else {
            (None, outer)
        };
        Ok(EtherHeader {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            tag,
            ethertype,
        })
    }
}

/// A run of payload bytes that a port holds for the length of one burst.
///
/// The bytes may be memory that a guest writes at the same time, so they are
/// never seen as `&[u8]`: only `port` reads them, by raw copies.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    ptr: *const u8,
    len: usize,
    burst: PhantomData<&'a ()>,
}

impl<'a> Piece<'a> {
    /// Names `len` bytes at `ptr`. Only ports call this; the memory must stay
    /// mapped and in place for `'a`.
    pub(crate) const fn new(ptr: *const u8, len: usize) -> Piece<'a> {
        Piece { ptr, len, burst: PhantomData }
    }

    /// A piece of private, initialised memory.
    pub const fn from_slice(bytes: &'a [u8]) -> Piece<'a> {
        Piece::new(bytes.as_ptr(), bytes.len())
    }

    /// Where the bytes begin. Reading through it is for `port` alone.
    pub(crate) const fn as_ptr(&self) -> *const u8 {
        self.ptr
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A received frame, borrowed from the memory of the port it came from until
/// that port's `release`.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    head: &'a [u8],
    rest: &'a [Piece<'a>],
    vnet: VnetHeader,
    len: u32,
    offload: Offload,
    fault: Option<DropReason>,
}

impl<'a> Frame<'a> {
    /// A frame whose first bytes (at most [`HEAD_MAX`]; all of them, if there
    /// are fewer) are in `head`, private memory, and whose remaining bytes are
    /// `rest`. The virtio-net header is checked here, once, for every port
    /// kind: a frame whose header lies carries the reason to drop it.
    #[inline]
    pub fn new(head: &'a [u8], rest: &'a [Piece<'a>], vnet: VnetHeader) -> Frame<'a> {
        debug_assert!(head.len() <= HEAD_MAX, "a head is at most {HEAD_MAX} bytes");
        let len = head.len() + rest.iter().map(Piece::len).sum::<usize>();
        // Ports receive at most 128 KiB; a longer sum can only be a lie.
        let Ok(len) = u32::try_from(len) else {
            return Frame::broken(head, DropReason::Truncated);
        };
        let mut frame =
            Frame { head, rest, vnet: vnet.checked(Offload::None), len, offload: Offload::None, fault: None };
        if !vnet.is_plain() {
            match offload::check(&vnet, head, len) {
                Ok(offload) => {
                    frame.vnet = vnet.checked(offload);
                    frame.offload = offload;
                }
                Err(reason) => frame.fault = Some(reason),
            }
        }
        frame
    }

    /// A frame that its port could not take whole; it is counted, and dropped
    /// for `reason`.
    pub fn broken(head: &'a [u8], reason: DropReason) -> Frame<'a> {
        let len = u32::try_from(head.len()).unwrap_or(u32::MAX);
        Frame { head, rest: &[], vnet: VnetHeader::PLAIN, len, offload: Offload::None, fault: Some(reason) }
    }

    /// The first bytes, private to us: what is judged is what is sent.
    pub const fn head(&self) -> &'a [u8] {
        self.head
    }

    /// The bytes behind the head.
    pub const fn rest(&self) -> &'a [Piece<'a>] {
        self.rest
    }

    /// The virtio-net header that came with the frame, less what was not
    /// checked in it ([`VnetHeader::checked`]).
    pub const fn vnet(&self) -> &VnetHeader {
        &self.vnet
    }

    /// Length in bytes as it crossed, without FCS and virtio-net header.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether the frame has no byte at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The work that the sender left to us or to the receiver.
    pub const fn offload(&self) -> Offload {
        self.offload
    }

    /// Why the frame cannot be forwarded whatever the bridge thinks of it.
    pub const fn fault(&self) -> Option<DropReason> {
        self.fault
    }

    /// Length in bytes of the longest frame that reaches a wire: the frame
    /// itself, or headers and one segment of a super-frame.
    #[inline]
    pub const fn wire_len(&self) -> u32 {
        self.offload.wire_len(self.len)
    }
}

/// A frame on its way out of a port.
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    /// The bytes that were judged.
    pub head: &'a [u8],
    /// The bytes behind them.
    pub rest: &'a [Piece<'a>],
    /// What the receiver must know of unfinished checksums and segmentation.
    pub vnet: VnetHeader,
}

impl<'a> Wire<'a> {
    /// The frame as it came.
    #[inline]
    pub const fn of(frame: &Frame<'a>) -> Wire<'a> {
        Wire { head: frame.head, rest: frame.rest, vnet: frame.vnet }
    }

    /// A finished frame in one run of private memory.
    pub const fn plain(head: &'a [u8], rest: &'a [Piece<'a>]) -> Wire<'a> {
        Wire { head, rest, vnet: VnetHeader::PLAIN }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Piece::len).sum::<usize>()
    }

    /// Whether there is no byte to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_read_back_what_they_print() {
        let mac: MacAddr = "02:bb:79:C6-45:9b".parse().unwrap_or(MacAddr::ZERO);
        assert_eq!(mac, MacAddr::ZERO, "mixed separators are refused");
        let mac: MacAddr = "02:bb:79:C6:45:9b".parse().unwrap();
        assert_eq!(mac.to_string(), "02:bb:79:c6:45:9b");
        assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        for bad in ["", "02", "02:00:00:00:00", "02:00:00:00:00:0g", "2:0:0:0:0:1", "+2:00:00:00:00:01"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_that_no_station_may_use() {
        for (text, valid) in [
            ("02:00:00:00:00:01", true),
            ("00:00:00:00:00:00", false),
            ("01:00:5e:00:00:01", false),
            ("ff:ff:ff:ff:ff:ff", false),
        ] {
            assert_eq!(text.parse::<MacAddr>().unwrap().is_valid_source(), valid, "{text}");
        }
    }

    #[test]
    fn headers_cut_short() {
        let mut bytes = [0u8; 18];
        assert_eq!(EtherHeader::parse(&bytes[..13]), Err(DropReason::Runt));
        assert!(EtherHeader::parse(&bytes[..14]).is_ok());
        for tpid in [TPID_C, TPID_S, TPID_OLD_QINQ] {
            bytes[12..14].copy_from_slice(&tpid.to_be_bytes());
            bytes[14..16].copy_from_slice(&0x6fffu16.to_be_bytes());
            assert_eq!(EtherHeader::parse(&bytes[..17]), Err(DropReason::MalformedTag));
            let tag = EtherHeader::parse(&bytes).unwrap().tag.unwrap();
            assert_eq!((tag.tpid, tag.vid().get()), (tpid, 0xfff));
        }
    }
}
