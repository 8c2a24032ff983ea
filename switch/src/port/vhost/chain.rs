//! The walk along a chain of descriptors: from numbers that a guest wrote to
//! runs of bytes that are known to be in its memory.
//!
//! Read first: virtio 1.2 §2.7.5. Stricter than it where QEMU is: buffers of no
//! bytes are refused.
//!
//! Deliberately absent: a second look. Each descriptor is read once, and what
//! was checked is what is used.

use super::memory::GuestMemory;
use super::packed::PackedRing;
use super::ring::{Breach, Descriptor};
use super::split::SplitRing;

/// The most runs of one chain. Linux needs 19 for its longest frame.
pub(super) const CHAIN_MAX: usize = 1024;

/// A run of bytes in a guest's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub ptr: *mut u8,
    pub len: usize,
}

/// Runs of the chains at hand, allocated once.
#[derive(Debug)]
pub(super) struct Runs {
    runs: Vec<Run>,
    len_max: usize,
}

// SAFETY: between two calls the addresses are only numbers.
unsafe impl Send for Runs {}

impl Runs {
    /// Room for `len_max` runs.
    pub fn with_capacity(len_max: usize) -> Runs {
        Runs { runs: Vec::with_capacity(len_max), len_max }
    }

    pub fn clear(&mut self) {
        self.runs.clear();
    }

    pub fn len(&self) -> usize {
        self.runs.len()
    }

    pub fn as_slice(&self) -> &[Run] {
        &self.runs
    }

    /// Adds a run, if there is room: it never grows.
    fn push(&mut self, run: Run) -> Result<(), Breach> {
        if self.runs.len() == self.len_max {
            return Err(Breach::Loop);
        }
        self.runs.push(run);
        Ok(())
    }
}

/// Which buffers a chain is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// The driver wrote them.
    Read,
    /// We are to write them.
    Write,
}

impl Access {
    /// Whether a descriptor with `flags` is of this kind.
    #[inline]
    pub fn allows(self, flags: u16) -> bool {
        (flags & Descriptor::WRITE != 0) == (self == Access::Write)
    }
}

/// Adds the runs of the chain that begins at descriptor `head` (below the
/// ring's size) to `runs`, and returns their sum in bytes.
///
/// # Errors
/// Whatever the chain breaks.
pub(super) fn walk_split(
    ring: &SplitRing,
    memory: &GuestMemory,
    head: u16,
    access: Access,
    runs: &mut Runs,
) -> Result<u64, Breach> {
    let mut table: Option<Table> = None;
    let mut index = head;
    let mut left = ring.size();
    let mut bytes = 0u64;
    loop {
        let Descriptor { addr, len, flags, next } = match &table {
            None if usize::from(index) < ring.size() => ring.descriptor(index),
            None => return Err(Breach::Index),
            Some(table) => table.read(index)?,
        };
        if flags & Descriptor::INDIRECT != 0 {
            if flags & Descriptor::NEXT != 0 || table.is_some() {
                return Err(Breach::Nested);
            }
            table = Some(Table::new(memory, addr, len)?);
            left = CHAIN_MAX;
            index = 0;
            continue;
        }
        bytes += add(memory, access, addr, len, flags, runs)?;
        if flags & Descriptor::NEXT == 0 {
            return Ok(bytes);
        }
        left -= 1;
        if left == 0 {
            return Err(Breach::Loop);
        }
        index = next;
    }
}

/// The same in a packed ring, whose chains lie slot after slot: as many as the
/// ring counted when it saw them, whatever their flags say now.
///
/// # Errors
/// Whatever the chain breaks.
pub(super) fn walk_packed(
    ring: &PackedRing,
    memory: &GuestMemory,
    head: u16,
    access: Access,
    runs: &mut Runs,
) -> Result<u64, Breach> {
    let count = ring.count(head);
    let mut bytes = 0u64;
    for slot in ring.slots(head, count) {
        let Descriptor { addr, len, flags, .. } = ring.descriptor(slot);
        if flags & Descriptor::INDIRECT == 0 {
            bytes += add(memory, access, addr, len, flags, runs)?;
            continue;
        }
        if count > 1 || flags & Descriptor::NEXT != 0 {
            return Err(Breach::Nested);
        }
        let table = Table::new(memory, addr, len)?;
        for index in 0..table.len {
            // Of a table's flags only the direction counts (§2.8.7).
            let Descriptor { addr, len, flags, .. } = PackedRing::arranged(table.read(index)?);
            if flags & Descriptor::INDIRECT != 0 {
                return Err(Breach::Nested);
            }
            bytes += add(memory, access, addr, len, flags, runs)?;
        }
    }
    Ok(bytes)
}

/// Adds the runs of one buffer: one, unless regions meet inside it.
/// Returns its bytes.
fn add(
    memory: &GuestMemory,
    access: Access,
    addr: u64,
    len: u32,
    flags: u16,
    runs: &mut Runs,
) -> Result<u64, Breach> {
    if !access.allows(flags) {
        return Err(Breach::Direction);
    }
    if len == 0 {
        return Err(Breach::Empty);
    }
    let bytes = u64::from(len);
    let (mut addr, mut left) = (addr, len as usize);
    while left > 0 {
        let (ptr, len) = memory.guest(addr, left).ok_or(Breach::Hole)?;
        runs.push(Run { ptr, len })?;
        left -= len;
        // A run inside a region, which does not wrap.
        addr += len as u64;
    }
    Ok(bytes)
}

/// An indirect table, whole in the guest's memory.
struct Table {
    first: *const u8,
    /// Descriptors.
    len: u16,
}

impl Table {
    fn new(memory: &GuestMemory, addr: u64, bytes: u32) -> Result<Table, Breach> {
        let bytes = bytes as usize;
        let len = bytes / Descriptor::LEN;
        if len == 0 || len > CHAIN_MAX || !bytes.is_multiple_of(Descriptor::LEN) {
            return Err(Breach::Table);
        }
        let (first, run) = memory.guest(addr, bytes).ok_or(Breach::Hole)?;
        if run < bytes {
            return Err(Breach::Hole);
        }
        Ok(Table { first, len: u16::try_from(len).map_err(|_| Breach::Table)? })
    }

    #[inline]
    fn read(&self, index: u16) -> Result<Descriptor, Breach> {
        if index >= self.len {
            return Err(Breach::Index);
        }
        Ok(read_descriptor(self.first.wrapping_add(usize::from(index) * Descriptor::LEN)))
    }
}

/// Reads the descriptor at `at`, all of which is in the guest's memory.
fn read_descriptor(at: *const u8) -> Descriptor {
    let aligned = at.cast::<Descriptor>();
    if aligned.is_aligned() {
        // SAFETY: in the guest's memory, says the caller, and aligned.
        return unsafe { aligned.read_volatile() };
    }
    // Nothing forbids a driver this; no driver does it.
    // SAFETY: in the guest's memory, byte by byte.
    let byte = |index: usize| unsafe { at.add(index).read_volatile() };
    let bytes: [u8; Descriptor::LEN] = std::array::from_fn(byte);
    let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
    Descriptor {
        addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        len: u32::from_le_bytes([l0, l1, l2, l3]),
        flags: u16::from_le_bytes([f0, f1]),
        next: u16::from_le_bytes([n0, n1]),
    }
}
