//! A guest whose memory is what the fuzzer likes, and who writes into it between
//! the switch's turns.
//!
//! The memory is small and made of two regions that meet, with a hole behind, so
//! that addresses are easily right, and easily wrong. All of a received frame must
//! lie in it; what is received is sent back into the same guest's other queue.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::super::call::{Bell, Call};
use super::super::features::Features;
use super::super::memory::{GuestMemory, RegionSpec};
use super::super::port::VhostPort;
use super::super::ring::{Base, Queue, RingAddresses};
use super::super::seam::{MessageSide, Pair, Rings, seam};
use super::{Input, memory_file};
use crate::frame::Wire;
use crate::port::{Burst, Port as _, Slots};

/// Bytes of each of the two regions.
const REGION_LEN: u32 = 0x8000;

/// What the memory holds at first.
static ZEROES: [u8; 2 * REGION_LEN as usize] = [0; 2 * REGION_LEN as usize];

/// Descriptors, available and used ring of both queues. The front end has the
/// first byte where its guest has it.
const RINGS: [[u64; 3]; 2] = [[0, 0x400, 0x500], [0x800, 0xc00, 0xd00]];

/// Features that the first byte chooses from: packed, EVENT_IDX, VERSION_1,
/// MRG_RXBUF, GUEST_CSUM, INDIRECT_DESC.
const CHOICES: [u64; 6] = [1 << 34, 1 << 29, 1 << 32, 1 << 15, 1 << 1, 1 << 28];

/// The most turns of one input.
const TURNS_MAX: usize = 16;

/// What is made once.
struct Rig {
    port: VhostPort,
    /// Its other half; nobody orders anything.
    _messages: MessageSide,
    file: File,
    memory: Arc<GuestMemory>,
    bell: Option<Arc<Bell>>,
    call: OwnedFd,
    slots: Slots,
}

impl Rig {
    fn new() -> Rig {
        let alarm = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let (messages, data) = seam(alarm).unwrap();
        let file = memory_file(2 * u64::from(REGION_LEN));
        let region = |start| RegionSpec { guest: start, user: start, len: REGION_LEN.into(), offset: start };
        let memory = GuestMemory::default()
            .with(region(0), &file)
            .and_then(|memory| memory.with(region(REGION_LEN.into()), &file))
            .unwrap();
        Rig {
            port: VhostPort::new(data, 1500),
            _messages: messages,
            file,
            memory: Arc::new(memory),
            bell: Bell::new(),
            call: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
            slots: Slots::new(),
        }
    }

    /// A guest of one pair, as `first` and `second` say.
    fn start(&mut self, first: u8, second: u8) {
        let chosen = CHOICES.iter().enumerate().filter(|(bit, _)| first & (1 << bit) != 0);
        let features = Features::new(chosen.map(|(_, bits)| bits).sum()).unwrap();
        // 1 to 32 descriptors, so that chains meet.
        let size = 1 << (second % 6);
        let base = if features.is_packed() { 0x8000 } else { 0 };
        let mut pair = Pair::default();
        for (queue, [descriptors, available, used]) in [&mut pair.rx, &mut pair.tx].into_iter().zip(RINGS) {
            let addresses = RingAddresses { descriptors, available, used };
            let call = Call::new(self.call.try_clone().unwrap(), self.bell.clone());
            *queue = Queue::new(&self.memory, features, size, addresses, Base::Said(base), Some(call));
            assert!(queue.is_some(), "the rings lie in the memory");
        }
        let memory = Arc::clone(&self.memory);
        self.port.use_rings(Some(Box::new(Rings { memory, features, pairs: vec![pair], breach: None })));
    }

    /// One turn: what was received is sent back.
    fn turn(&mut self) {
        let Rig { port, memory, slots, .. } = self;
        let mut sent = Vec::new();
        {
            let mut burst = Burst::new(slots);
            port.receive(&mut burst);
            let inside = |ptr: *const u8, len: usize| {
                // Both regions are in one file, each mapped from its start.
                [0, REGION_LEN.into()].into_iter().any(|start| {
                    let (first, room) = memory.guest(start, REGION_LEN as usize).unwrap();
                    (first.addr()..=first.addr() + room - len.min(room)).contains(&ptr.addr()) && len <= room
                })
            };
            for frame in &burst.frames {
                assert!(frame.head().len() <= 256);
                let wire = Wire::of(frame);
                let pieces: usize = wire.rest.iter().map(|piece| piece.len()).sum();
                assert!(frame.fault().is_some() || frame.len() as usize == frame.head().len() + pieces);
                assert!(wire.rest.iter().all(|piece| inside(piece.as_ptr(), piece.len())));
                let mut bytes = wire.head.to_vec();
                for piece in wire.rest {
                    // SAFETY: just seen to lie in the guest's memory, which is
                    // mapped; nobody else writes there now.
                    bytes.extend_from_slice(unsafe {
                        std::slice::from_raw_parts(piece.as_ptr(), piece.len())
                    });
                }
                if frame.fault().is_none() {
                    sent.push((bytes, wire.vnet));
                }
            }
        }
        port.release();
        let wires: Vec<Wire<'_>> =
            sent.iter().map(|(bytes, vnet)| Wire { head: bytes, rest: &[], vnet: *vnet }).collect();
        if port.link().up {
            let outcome = port.transmit(&wires);
            assert!(outcome.refused.len() <= wires.len());
            assert!(outcome.refused.is_sorted_by_key(|&(index, _)| index));
        }
        port.arm();
    }
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(Rig::new());
}

/// Runs a guest: two bytes choose what it is; then writes into its memory (where,
/// how many bytes, these), with a turn of the switch after each of length 0.
pub fn queues(bytes: &[u8]) {
    RIG.with_borrow_mut(|rig| {
        let mut input = Input(bytes);
        let (first, second) = (input.byte(), input.byte());
        rig.file.write_all_at(&ZEROES, 0).unwrap();
        rig.start(first, second);
        let mut turns = 0;
        while !input.is_empty() && turns < TURNS_MAX {
            let (at, len) = (u64::from(input.word()), usize::from(input.byte()));
            if len == 0 {
                turns += 1;
                rig.turn();
                continue;
            }
            let bytes = input.bytes(len);
            let at = at.min(2 * u64::from(REGION_LEN) - bytes.len() as u64);
            rig.file.write_all_at(bytes, at).unwrap();
        }
        rig.turn();
        rig.port.use_rings(None);
        let mut count = [0; 8];
        // Nothing there, or something: only that it never fills up.
        let _ = rustix::io::read(&rig.call, &mut count);
    });
}

/// Honest guests of both kinds to begin with: a frame in one buffer, one in a
/// chain, one in an indirect table, and two buffers to receive into.
pub fn queues_seeds() -> Vec<Vec<u8>> {
    let descriptor = |addr: u64, len: u32, c: u16, d: u16| {
        [&addr.to_le_bytes()[..], &len.to_le_bytes(), &c.to_le_bytes(), &d.to_le_bytes()].concat()
    };
    let write = |at: u16, bytes: &[u8]| {
        [&at.to_le_bytes()[..], &[u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let turn = [0, 0, 0];
    let table = write(0x3000, &[descriptor(0x4000, 100, 1, 1), descriptor(0x7ff0, 100, 0, 0)].concat());
    let split = [
        write(0, &[descriptor(0x1000, 200, 2, 0), descriptor(0x2000, 1526, 2, 0)].concat()),
        write(0x400, &[0, 0, 2, 0, 0, 0, 1, 0]),
        write(
            0x800,
            &[
                descriptor(0x5000, 72, 0, 0),
                descriptor(0x5100, 12, 1, 2),
                descriptor(0x5200, 400, 0, 0),
                descriptor(0x3000, 32, 4, 0),
            ]
            .concat(),
        ),
        write(0xc00, &[0, 0, 3, 0, 0, 0, 1, 0, 3, 0]),
        table.clone(),
        turn.to_vec(),
    ]
    .concat();
    let available = 1 << 7;
    let packed = [
        write(
            0,
            &[descriptor(0x1000, 200, 0, 2 | available), descriptor(0x2000, 1526, 1, 2 | available)].concat(),
        ),
        write(
            0x800,
            &[
                descriptor(0x5000, 72, 7, available),
                descriptor(0x5100, 12, 8, 1 | available),
                descriptor(0x5200, 400, 8, available),
                descriptor(0x3000, 32, 9, 4 | available),
            ]
            .concat(),
        ),
        table,
        turn.to_vec(),
    ]
    .concat();
    let choices =
        [(0b11_1100, &split), (0b11_1110, &split), (0, &split), (0b11_1101, &packed), (0b11_1111, &packed)];
    choices.into_iter().map(|(first, rest)| [&[first, 3], rest.as_slice(), rest].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_honest_and_whatever_becomes_of_them_breaks_nothing() {
        for seed in queues_seeds() {
            queues(&seed);
            RIG.with_borrow_mut(|rig| {
                // The first turn again, to look at what comes of it.
                rig.file.write_all_at(&ZEROES, 0).unwrap();
                rig.start(seed[0], seed[1]);
                let mut input = Input(&seed[2..]);
                loop {
                    let (at, len) = (u64::from(input.word()), usize::from(input.byte()));
                    if len == 0 {
                        break;
                    }
                    rig.file.write_all_at(input.bytes(len), at).unwrap();
                }
                let mut burst = Burst::new(&mut rig.slots);
                rig.port.receive(&mut burst);
                assert_eq!(burst.frames.len(), 3, "{seed:?}");
                drop(burst);
                rig.port.release();
                rig.port.use_rings(None);
            });
            // One byte after the other is another one.
            for index in 0..seed.len() {
                for change in [1, 0x80, 0xff] {
                    let mut bytes = seed.clone();
                    bytes[index] ^= change;
                    queues(&bytes);
                }
            }
        }
    }
}
