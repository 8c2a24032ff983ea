//! A guest's memory, as its front end shares it: regions of files, mapped here,
//! and the way from the guest's addresses to ours.
//!
//! What is mapped is checked once; from then on every address of the guest goes
//! through [`GuestMemory::guest`], which never returns a byte outside. Nobody
//! makes a reference into these mappings: the guest writes them at any time.
//!
//! Deliberately absent: memory that could make a page fault wait. A file of a
//! network or user-space file system may stall whoever touches it; only memory
//! files (memfd, /dev/shm) and huge pages are taken.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr;
use std::sync::Arc;

use super::sigbus;

/// The most regions of one guest: as many as one message can carry.
pub(super) const REGIONS_MAX: usize = 32;

/// File systems whose pages come from memory at once (statfs(2)).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A region as a message describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionSpec {
    /// First address in the guest's physical memory.
    pub guest: u64,
    /// First address in the front end's own memory: rings are named by these.
    pub user: u64,
    /// Bytes.
    pub len: u64,
    /// Where in the file it begins.
    pub offset: u64,
}

/// Why a region cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The file would let us wait, or is no file.
    #[error(
        "guest memory must be a memfd, a file in /dev/shm or huge pages: use memory-backend-memfd,share=on"
    )]
    NotMemory,
    /// The file ends before the region does.
    #[error("a memory region of {len} bytes at {offset} lies beyond the end of its file")]
    BeyondEnd {
        /// Bytes.
        len: u64,
        /// Where it begins in the file.
        offset: u64,
    },
    /// Two regions share guest addresses.
    #[error("memory regions overlap at guest address {0:#x}")]
    Overlap(u64),
    /// It wraps around the end of all addresses.
    #[error("a memory region wraps around")]
    Wraps,
    /// A guest may have so many.
    #[error("more than {REGIONS_MAX} memory regions")]
    TooMany,
    /// The kernel's word.
    #[error("mapping guest memory: {0}")]
    Os(#[from] io::Error),
}

/// One file mapping; unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    addr: usize,
    len: usize,
    /// Taken before the mapping is.
    guard: Option<sigbus::Guard>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the range is ours alone, and whoever had an address in it has
        // given up the `GuestMemory` that keeps this value.
        let _ = unsafe { libc::munmap(ptr::without_provenance_mut(self.addr), self.len) };
    }
}

/// One mapped region.
#[derive(Clone, Debug)]
struct Region {
    spec: RegionSpec,
    /// Where its first byte is in our memory.
    host: usize,
    mapping: Arc<Mapping>,
}

/// All regions of one guest, in ascending order of guest addresses. Changed by
/// making a new value: the rings of a running guest keep the old one.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// This memory with `file` mapped as `spec` says.
    ///
    /// # Errors
    /// The region contradicts its file or another region.
    pub fn with(&self, spec: RegionSpec, file: &File) -> Result<GuestMemory, RegionError> {
        if self.regions.len() >= REGIONS_MAX {
            return Err(RegionError::TooMany);
        }
        let ends = [spec.guest, spec.user, spec.offset].map(|start| start.checked_add(spec.len));
        if spec.len == 0 || ends.contains(&None) {
            return Err(RegionError::Wraps);
        }
        let position = self.regions.partition_point(|region| region.spec.guest < spec.guest);
        let before = position.checked_sub(1).map(|index| &self.regions[index].spec);
        if before.is_some_and(|before| before.guest + before.len > spec.guest) {
            return Err(RegionError::Overlap(spec.guest));
        }
        if let Some(after) =
            self.regions.get(position).filter(|after| spec.guest + spec.len > after.spec.guest)
        {
            return Err(RegionError::Overlap(after.spec.guest));
        }
        let region = map(spec, file)?;
        let mut regions = self.regions.clone();
        regions.insert(position, region);
        Ok(GuestMemory { regions })
    }

    /// This memory without the region that `spec` describes, if there is one.
    pub fn without(&self, spec: RegionSpec) -> Option<GuestMemory> {
        let same = |region: &Region| {
            (region.spec.guest, region.spec.user, region.spec.len) == (spec.guest, spec.user, spec.len)
        };
        let position = self.regions.iter().position(same)?;
        let mut regions = self.regions.clone();
        regions.remove(position);
        Some(GuestMemory { regions })
    }

    /// Whether a region was cut by its owner while it was in use.
    pub fn is_cut(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.guard.as_ref().is_some_and(sigbus::Guard::is_hit))
    }

    /// Where guest address `addr` is in our memory, and how many of the `len`
    /// bytes from there lie in one run (at least 1); `None` in a hole, or for
    /// no bytes at all.
    #[inline]
    pub fn guest(&self, addr: u64, len: usize) -> Option<(*mut u8, usize)> {
        for region in &self.regions {
            // Wraps below the region's start: then it is beyond any length.
            let at = addr.wrapping_sub(region.spec.guest);
            if at < region.spec.len {
                return run(region, at, len);
            }
        }
        None
    }

    /// Where `len` bytes at the front end's own address `addr` are in our
    /// memory, all in one run.
    pub fn user(&self, addr: u64, len: usize) -> Option<*mut u8> {
        self.regions.iter().find_map(|region| {
            let at = addr.wrapping_sub(region.spec.user);
            if at >= region.spec.len {
                return None;
            }
            run(region, at, len).filter(|&(_, run)| run == len).map(|(ptr, _)| ptr)
        })
    }
}

/// The run of at most `len` bytes from offset `at` of `region`.
#[inline]
fn run(region: &Region, at: u64, len: usize) -> Option<(*mut u8, usize)> {
    // The region is mapped whole, so its length and offsets in it are `usize`.
    let left = usize::try_from(region.spec.len - at).ok()?;
    let at = usize::try_from(at).ok()?;
    if len == 0 {
        return None;
    }
    Some((ptr::with_exposed_provenance_mut(region.host + at), len.min(left)))
}

fn map(spec: RegionSpec, file: &File) -> Result<Region, RegionError> {
    let stat = rustix::fs::fstat(file).map_err(io::Error::from)?;
    let system = rustix::fs::fstatfs(file).map_err(io::Error::from)?;
    let magic = u64::try_from(system.f_type).unwrap_or(0);
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile
        || !matches!(magic, TMPFS_MAGIC | HUGETLBFS_MAGIC)
    {
        return Err(RegionError::NotMemory);
    }
    // `with` has seen that this does not wrap.
    let end = spec.offset + spec.len;
    if u64::try_from(stat.st_size).is_ok_and(|size| size < end) {
        return Err(RegionError::BeyondEnd { len: spec.len, offset: spec.offset });
    }
    // From the file's first byte on, and in whole pages of its own size: huge
    // pages can be mapped and unmapped no other way. Address space is free.
    let page = u64::try_from(stat.st_blksize).unwrap_or(1).max(rustix::param::page_size() as u64);
    let len = end.checked_next_multiple_of(page).ok_or(RegionError::Wraps)?;
    let len = usize::try_from(len).map_err(|_| RegionError::Wraps)?;
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    // SAFETY: a new mapping of a file, at an address that the kernel chooses.
    let addr = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            file.as_fd().as_raw_fd(),
            0,
        )
    };
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    let addr = addr.expose_provenance();
    // SAFETY: the mapping was made above. Not for children that we may start.
    let _ = unsafe { libc::madvise(ptr::with_exposed_provenance_mut(addr), len, libc::MADV_DONTFORK) };
    let mut mapping = Mapping { addr, len, guard: None };
    mapping.guard = Some(sigbus::Guard::new(addr, len).ok_or(RegionError::TooMany)?);
    // The offset is less than the mapping's length, which is a `usize`.
    let offset = usize::try_from(spec.offset).map_err(|_| RegionError::Wraps)?;
    Ok(Region { spec, host: addr + offset, mapping: Arc::new(mapping) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(len: u64) -> File {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(len).unwrap();
        file
    }

    const PAGE: u64 = 4096;

    fn spec(guest: u64, len: u64) -> RegionSpec {
        RegionSpec { guest, user: guest.wrapping_add(0x7000_0000_0000), len, offset: 0 }
    }

    #[test]
    fn addresses_are_found_in_their_region_and_nowhere_else() {
        let file = memfd(4 * PAGE);
        let memory = GuestMemory::default()
            .with(RegionSpec { offset: PAGE, ..spec(0x10_0000, 2 * PAGE) }, &file)
            .and_then(|memory| memory.with(spec(0x10_2000, PAGE), &file))
            .and_then(|memory| memory.with(spec(0, PAGE), &file))
            .unwrap();
        // SAFETY: the run is mapped, and nobody else writes it.
        unsafe { memory.guest(0x10_0000, 1).unwrap().0.write(7) };
        let ptr = memory.user(0x7000_0010_0000, 8).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { ptr.read() }, 7, "one byte by both its addresses");
        let len = |addr, len| memory.guest(addr, len).map(|(_, len)| len);
        assert_eq!(len(0x10_0fff, 2), Some(2));
        assert_eq!(len(0x10_1fff, 2), Some(1), "the next region is another run");
        assert_eq!(
            (len(0x10_3000, 1), len(PAGE, 1), len(0xf_ffff, 1), len(u64::MAX, 1)),
            (None, None, None, None)
        );
        assert_eq!(len(0, 0), None);
        assert_eq!(memory.user(0x7000_0010_1fff, 2), None, "a ring is one run");

        let less = memory.without(spec(0, PAGE)).unwrap();
        assert!(less.guest(0, 1).is_none() && less.guest(0x10_0000, 1).is_some());
        assert!(less.without(spec(0, PAGE)).is_none());
    }

    #[test]
    fn regions_that_lie_are_refused() {
        let file = memfd(2 * PAGE);
        let empty = GuestMemory::default();
        let one = empty.with(spec(PAGE, 2 * PAGE), &file).unwrap();
        let fault =
            |memory: &GuestMemory, spec, file: &File| memory.with(spec, file).unwrap_err().to_string();
        assert!(fault(&empty, spec(0, 3 * PAGE), &file).contains("beyond the end"));
        let late = RegionSpec { offset: 2 * PAGE, ..spec(0, 1) };
        assert!(fault(&empty, late, &file).contains("beyond the end"));
        for overlapping in [spec(0, PAGE + 1), spec(2 * PAGE, PAGE), spec(PAGE, 1)] {
            assert!(fault(&one, overlapping, &file).contains("overlap"));
        }
        for wrapping in [
            spec(u64::MAX, 2),
            RegionSpec { user: u64::MAX, ..spec(0, 2) },
            RegionSpec { offset: u64::MAX, ..spec(0, 2) },
            spec(0, 0),
        ] {
            assert!(fault(&empty, wrapping, &file).contains("wraps"));
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        for bad in [File::open("/dev/zero").unwrap(), File::from(std::os::fd::OwnedFd::from(reader))] {
            assert!(fault(&empty, spec(0, PAGE), &bad).contains("must be a memfd"));
        }
        let mut full = empty;
        for n in 0..REGIONS_MAX as u64 {
            full = full.with(spec(n * PAGE, PAGE), &file).unwrap();
        }
        assert!(fault(&full, spec(1 << 30, PAGE), &file).contains("more than 32"));
    }

    #[test]
    fn memory_cut_by_its_owner_reads_as_zeroes_and_is_told() {
        let file = memfd(8 * PAGE);
        let memory = GuestMemory::default().with(spec(0, 8 * PAGE), &file).unwrap();
        let other = GuestMemory::default().with(spec(0, 8 * PAGE), &memfd(8 * PAGE)).unwrap();
        let (last, _) = memory.guest(7 * PAGE, 8).unwrap();
        // SAFETY: mapped; the file is as long as the mapping.
        unsafe { last.write_volatile(1) };
        let before = sigbus::hits();
        file.set_len(PAGE).unwrap();
        // SAFETY: mapped; the page is gone, which is what the guard is for.
        assert_eq!(unsafe { last.read_volatile() }, 0);
        assert!(memory.is_cut() && !other.is_cut() && sigbus::hits() > before);
        // SAFETY: as above: there is memory again.
        assert_eq!(unsafe { (last.write_volatile(2), last.read_volatile()).1 }, 2);
    }
}
