//! pcap, as libpcap has written it since 1998: one header, then frames.

use std::io::Read;

use super::bytes::Cursor;
use super::{Captured, Interface, Item, Order, ReadError, Source};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

pub(super) struct State {
    order: Order,
    /// Nanoseconds in a unit of the time's fraction.
    unit_ns: u64,
    announced: bool,
}

impl State {
    /// Reads on after the first four bytes, `magic` in this machine's order.
    pub fn begin<R: Read>(source: &mut Source<R>, magic: u32) -> Result<State, ReadError> {
        let bytes = magic.to_ne_bytes();
        let candidates = [Order::Little, Order::Big].into_iter();
        let found = candidates.flat_map(|order| match order.u32(bytes) {
            MICROSECONDS => Some((order, 1000)),
            NANOSECONDS => Some((order, 1)),
            _ => None,
        });
        let (order, unit_ns) = found.last().ok_or(ReadError::Format)?;
        let mut header = [0; 20];
        source.fill(&mut header)?;
        let mut cursor = Cursor { order, rest: &header[16..] };
        // The upper bits tell of an FCS, which no capture of Linux has.
        let link = cursor.u32().unwrap_or(0) & 0xffff;
        if link != ETHERNET {
            return Err(ReadError::Link(link));
        }
        Ok(State { order, unit_ns, announced: false })
    }

    pub fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Item>, ReadError> {
        if !std::mem::replace(&mut self.announced, true) {
            return Ok(Some(Item::Interface(Interface::default())));
        }
        let mut header = [0; 16];
        if !source.begin(&mut header)? {
            return Ok(None);
        }
        let mut cursor = Cursor { order: self.order, rest: &header };
        // Sixteen bytes are four numbers.
        let [secs, fraction, captured_len, len] = std::array::from_fn(|_| cursor.u32().unwrap_or(0));
        let bytes = source.take(captured_len as usize)?;
        let date_ns = u64::from(secs) * 1_000_000_000 + u64::from(fraction) * self.unit_ns;
        Ok(Some(Item::Frame(Captured { date_ns, len: len.max(captured_len), bytes, ..Captured::default() })))
    }
}
