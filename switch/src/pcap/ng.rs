//! pcapng, block by block.

use std::io::Read;

use super::bytes::Cursor;
use super::{Captured, Interface, Item, Order, ReadError, Source, Way};

/// A section header, the same in either byte order.
pub(super) const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_FRAME: u32 = 3;
const NAMES: u32 = 4;
const STATISTICS: u32 = 5;
const FRAME: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;

/// How an interface counts time.
#[derive(Clone, Copy)]
struct Clock {
    /// Units in a second.
    per_second: u64,
    offset_s: i64,
    snaplen: u32,
}

impl Clock {
    fn date_ns(self, units: u64) -> u64 {
        let ns = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        let shifted = i128::try_from(ns).unwrap_or(i128::MAX) + i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(shifted.max(0)).unwrap_or(u64::MAX)
    }
}

pub(super) struct State {
    order: Order,
    /// Interfaces of the sections before: numbers begin anew in each.
    before: u32,
    clocks: Vec<Clock>,
}

impl State {
    /// Reads on after the first four bytes of a file.
    pub fn begin<R: Read>(source: &mut Source<R>) -> Result<State, ReadError> {
        let mut state = State { order: Order::Little, before: 0, clocks: Vec::new() };
        state.section(source)?;
        Ok(state)
    }

    /// A section header behind its kind.
    fn section<R: Read>(&mut self, source: &mut Source<R>) -> Result<(), ReadError> {
        let mut bytes = [0; 8];
        source.fill(&mut bytes)?;
        let [a, b, c, d, magic @ ..] = bytes;
        self.order = match (Order::Little.u32(magic), Order::Big.u32(magic)) {
            (BYTE_ORDER, _) => Order::Little,
            (_, BYTE_ORDER) => Order::Big,
            _ => return Err(source.damaged("a section without a byte order")),
        };
        self.before += u32::try_from(self.clocks.len()).unwrap_or(u32::MAX);
        self.clocks.clear();
        let len = self.order.u32([a, b, c, d]) as usize;
        if len < 28 || !len.is_multiple_of(4) {
            return Err(source.damaged("a section header of an impossible length"));
        }
        source.take(len - 12).map(drop)
    }

    pub fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Item>, ReadError> {
        loop {
            let mut kind = [0; 4];
            if !source.begin(&mut kind)? {
                return Ok(None);
            }
            let kind = self.order.u32(kind);
            if kind == SECTION {
                self.section(source)?;
                continue;
            }
            let mut len = [0; 4];
            source.fill(&mut len)?;
            let len = self.order.u32(len) as usize;
            if len < 12 || !len.is_multiple_of(4) {
                return Err(source.damaged("a block of an impossible length"));
            }
            let mut body = source.take(len - 8)?;
            let end: Option<[u8; 4]> = body.last_chunk().copied();
            if end.map(|end| self.order.u32(end) as usize) != Some(len) {
                return Err(source.damaged("a block that ends with another length"));
            }
            body.truncate(len - 12);
            let cut = || source.damaged("a block that is too short for its kind");
            let cursor = Cursor { order: self.order, rest: &body };
            match kind {
                INTERFACE => {
                    let item = self.interface(cursor).ok_or_else(cut)??;
                    return Ok(Some(Item::Interface(item)));
                }
                FRAME => return self.frame(cursor).ok_or_else(cut).map(|frame| Some(Item::Frame(frame))),
                SIMPLE_FRAME => {
                    return self.simple(cursor).ok_or_else(cut).map(|frame| Some(Item::Frame(frame)));
                }
                NAMES | STATISTICS => {}
                kind => return Ok(Some(Item::Other { kind, body })),
            }
        }
    }

    fn interface(&mut self, mut cursor: Cursor<'_>) -> Option<Result<Interface, ReadError>> {
        let link = cursor.u16()?;
        cursor.u16()?;
        let snaplen = cursor.u32()?;
        let mut clock = Clock { per_second: 1_000_000, offset_s: 0, snaplen };
        let mut interface = Interface::default();
        while let Some((code, value)) = cursor.option() {
            match (code, value) {
                (IF_NAME, name) => interface.name = text(name),
                (IF_TSRESOL, &[resolution]) => {
                    let (base, power) =
                        if resolution & 0x80 == 0 { (10u64, resolution) } else { (2, resolution & 0x7f) };
                    clock.per_second = base.checked_pow(power.into())?;
                }
                (IF_TSOFFSET, offset) => {
                    clock.offset_s = cursor.order.u64(offset.try_into().ok()?).cast_signed();
                }
                _ => {}
            }
        }
        self.clocks.push(clock);
        Some(if link == ETHERNET { Ok(interface) } else { Err(ReadError::Link(link.into())) })
    }

    fn frame(&self, mut cursor: Cursor<'_>) -> Option<Captured> {
        let interface = cursor.u32()?;
        let clock = self.clocks.get(interface as usize)?;
        let date = u64::from(cursor.u32()?) << 32 | u64::from(cursor.u32()?);
        let captured_len = cursor.u32()? as usize;
        let len = cursor.u32()?;
        let bytes = cursor.padded(captured_len)?.to_vec();
        let mut frame = Captured {
            interface: self.before + interface,
            date_ns: clock.date_ns(date),
            len: len.max(u32::try_from(captured_len).ok()?),
            bytes,
            ..Captured::default()
        };
        while let Some((code, value)) = cursor.option() {
            match code {
                OPT_COMMENT => frame.comments.push(text(value)),
                EPB_FLAGS => {
                    frame.way = match cursor.order.u32(value.try_into().ok()?) & 3 {
                        1 => Way::Inbound,
                        2 => Way::Outbound,
                        _ => Way::Unknown,
                    };
                }
                EPB_DROPCOUNT => frame.drops = cursor.order.u64(value.try_into().ok()?),
                _ => {}
            }
        }
        Some(frame)
    }

    fn simple(&self, mut cursor: Cursor<'_>) -> Option<Captured> {
        let snaplen = self.clocks.first()?.snaplen;
        let len = cursor.u32()?;
        let captured = if snaplen == 0 { len } else { len.min(snaplen) };
        let bytes = cursor.padded(captured as usize)?.to_vec();
        Some(Captured { interface: self.before, len, bytes, ..Captured::default() })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
