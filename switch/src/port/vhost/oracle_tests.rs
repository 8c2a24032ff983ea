//! Our walk along split chains beside that of the `virtio-queue` crate, on random
//! tables in the same memory: where ours finds a chain good, both find the same
//! buffers; where ours finds it broken, so can be seen in what the other made of it.

use proptest::prelude::*;
use virtio_queue::QueueT as _;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::chain::{Access, Runs};
use super::memory::{GuestMemory, RegionSpec};
use super::ring::{Breach, Descriptor, Ring as _, RingAddresses};
use super::split::SplitRing;
use super::transmit::RUNS_MAX;

const SIZE: u16 = 8;
const MEMORY_LEN: u32 = 0x4000;
/// Descriptors, available ring, used ring, and two indirect tables.
const AVAILABLE: u32 = 0x100;
const USED: u32 = 0x200;
const TABLES: u32 = 0x300;

/// A descriptor that is often right: in memory, of some bytes, going on.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let addr = prop_oneof![
        8 => (0x1000..MEMORY_LEN).prop_map(u64::from),
        1 => Just(u64::from(MEMORY_LEN) - 1),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![10 => 1..600u32, 1 => Just(0), 1 => any::<u32>()];
    let flags = prop_oneof![6 => Just(0), 6 => Just(1), 1 => Just(2), 1 => Just(3), 1 => 0..8u16];
    let next = prop_oneof![10 => 0..SIZE, 1 => any::<u16>()];
    let plain =
        (addr, len, flags, next).prop_map(|(addr, len, flags, next)| Descriptor { addr, len, flags, next });
    let table = (0..4u32, prop_oneof![6 => (1..8u32).prop_map(|len| 16 * len), 1 => 0..80u32], 0..8u16)
        .prop_map(|(table, len, odd)| Descriptor {
            addr: u64::from(TABLES + 0x80 * table),
            len,
            flags: Descriptor::INDIRECT | if odd == 0 { Descriptor::NEXT } else { 0 },
            next: odd,
        });
    prop_oneof![4 => plain, 1 => table]
}

fn bytes(descriptors: &[Descriptor]) -> Vec<u8> {
    let one = |it: &Descriptor| {
        [&it.addr.to_le_bytes()[..], &it.len.to_le_bytes(), &it.flags.to_le_bytes(), &it.next.to_le_bytes()]
            .concat()
    };
    descriptors.iter().flat_map(one).collect()
}

/// What ours says of the chain at `head`: runs as (guest address, length).
fn ours(image: &[u8], access: Access) -> Result<Vec<(u64, u64)>, Breach> {
    let file =
        std::fs::File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    std::os::unix::fs::FileExt::write_all_at(&file, image, 0).unwrap();
    let region = RegionSpec { guest: 0, user: 0, len: MEMORY_LEN.into(), offset: 0 };
    let memory = GuestMemory::default().with(region, &file).unwrap();
    let addresses = RingAddresses { descriptors: 0, available: AVAILABLE.into(), used: USED.into() };
    let mut ring = SplitRing::new(&memory, SIZE.into(), addresses, 0, false, None).unwrap();
    assert_eq!(ring.waiting(), Ok(1));
    let mut runs = Runs::with_capacity(RUNS_MAX);
    let head = ring.head(0)?;
    let sum = ring.walk(&memory, head, access, &mut runs)?;
    let (start, _) = memory.guest(0, 1).unwrap();
    let runs: Vec<(u64, u64)> =
        runs.as_slice().iter().map(|run| ((run.ptr.addr() - start.addr()) as u64, run.len as u64)).collect();
    assert_eq!(sum, runs.iter().map(|(_, len)| len).sum::<u64>());
    Ok(runs)
}

/// What `virtio-queue` says: its descriptors, as it yields them.
fn theirs(image: &[u8]) -> Vec<(u64, u64, bool, bool)> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_LEN as usize)]).unwrap();
    memory.write_slice(image, GuestAddress(0)).unwrap();
    let mut queue = virtio_queue::Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    queue.set_desc_table_address(Some(0), Some(0));
    queue.set_avail_ring_address(Some(AVAILABLE), Some(0));
    queue.set_used_ring_address(Some(USED), Some(0));
    queue.set_ready(true);
    assert!(queue.is_valid(&memory));
    let chain = queue.pop_descriptor_chain(&memory).into_iter().flatten();
    chain.map(|it| (it.addr().0, it.len().into(), it.is_write_only(), it.has_next())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_finds_what_virtio_queue_finds(
        table in prop::collection::vec(descriptor(), usize::from(SIZE)),
        tables in prop::collection::vec(descriptor(), 32),
        head in prop_oneof![12 => 0..SIZE, 1 => any::<u16>()],
        writes in any::<bool>(),
    ) {
        let mut image = vec![0; MEMORY_LEN as usize];
        image[..0x80].copy_from_slice(&bytes(&table));
        image[TABLES as usize..][..0x200].copy_from_slice(&bytes(&tables));
        image[AVAILABLE as usize + 2] = 1;
        image[AVAILABLE as usize + 4..][..2].copy_from_slice(&head.to_le_bytes());
        let access = if writes { Access::Write } else { Access::Read };
        let (ours, theirs) = (ours(&image, access), theirs(&image));
        let is_good = |&(addr, len, is_write, _): &(u64, u64, bool, bool)| {
            len > 0 && is_write == writes && addr.checked_add(len).is_some_and(|end| end <= MEMORY_LEN.into())
        };
        let is_whole = theirs.last().is_some_and(|&(.., has_next)| !has_next) && theirs.iter().all(is_good);
        match ours {
            Ok(runs) => {
                prop_assert!(is_whole, "{theirs:?}");
                prop_assert_eq!(runs, theirs.iter().map(|&(addr, len, ..)| (addr, len)).collect::<Vec<_>>());
            }
            // Stricter than the crate, as QEMU is.
            Err(Breach::Nested | Breach::Table) => {}
            Err(breach) => prop_assert!(!is_whole, "{breach:?} of {theirs:?}"),
        }
    }
}
