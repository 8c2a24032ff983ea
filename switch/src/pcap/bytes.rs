//! Numbers in the byte order that a file says, and a cursor over them.

/// A file's byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    pub fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Order::Little => u64::from_le_bytes(bytes),
            Order::Big => u64::from_be_bytes(bytes),
        }
    }
}

/// What is left to read of a block.
pub(super) struct Cursor<'b> {
    pub order: Order,
    pub rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    pub fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    /// `len` bytes, and those that fill them up to a multiple of four.
    pub fn padded(&mut self, len: usize) -> Option<&'b [u8]> {
        let whole = self.bytes(len.checked_next_multiple_of(4)?)?;
        whole.get(..len)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u16(&mut self) -> Option<u16> {
        Some(self.order.u16(self.array()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(self.order.u32(self.array()?))
    }

    /// The next option, its code and its value; `None` at their end.
    pub fn option(&mut self) -> Option<(u16, &'b [u8])> {
        let code = self.u16()?;
        let len = self.u16()?;
        if code == 0 {
            return None;
        }
        Some((code, self.padded(usize::from(len))?))
    }
}
