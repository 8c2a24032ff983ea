//! The data thread's half of the fast path: which stations and ports the kernel
//! may use, and what it did.
//!
//! Deliberately absent: when to install a station, and whose counters a passed
//! frame is (the engine's).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::shared::{
    DONE, ENABLED, FLAGS, IFINDEX, ISOLATED, LONGEST, SETTLED, SHORTEST, SLOW, Shared, Station,
};
use super::{SLOTS, Slot};
use crate::frame::{ETHER_HEADER_LEN, FRAME_MIN, MacAddr};
use crate::port::bpf;

/// How a port looks to the fast path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastFace {
    /// Its interface's number.
    pub ifindex: u32,
    /// Payload bytes of the longest frame that may leave there.
    pub mtu: u32,
    /// Whether it is up; a port that is not is skipped.
    pub up: bool,
    /// Whether it exchanges nothing with other isolated ports.
    pub isolated: bool,
}

/// Frames that the kernel sent from one port to another since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Where they came in.
    pub from: Slot,
    /// Where they left.
    pub to: Slot,
    /// Their number.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The stations and ports of the fast path.
#[derive(Debug)]
pub struct FastTable {
    shared: Arc<Shared>,
    /// Stations that the kernel may know at a time.
    capacity: u32,
    /// Frames and bytes of each pair of ports that were counted already: a row
    /// for each ingress.
    counted: Box<[[[u64; 2]; SLOTS as usize]]>,
    /// One more than the highest slot that was ever in use.
    used: u16,
    /// Of the youngest station.
    generation: u64,
    /// Up to which generation, once every slot is done with what it had then.
    settling: Option<(u64, [u64; SLOTS as usize])>,
}

impl FastTable {
    pub(super) fn new(shared: Arc<Shared>, capacity: u32) -> FastTable {
        let counted = vec![[[0; 2]; SLOTS as usize]; SLOTS.into()].into();
        let table = FastTable { shared, capacity, counted, used: 0, generation: 0, settling: None };
        table.set_padding(false);
        table
    }

    /// How many stations it may have.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The slots that were ever in use, and those between.
    fn used(&self) -> impl Iterator<Item = Slot> + use<> {
        Slot::all().take(self.used.min(self.shared.mapped()).into())
    }

    /// Says how the port in `slot` looks.
    pub fn set_port(&mut self, slot: Slot, face: FastFace) {
        self.used = self.used.max(slot.get() + 1);
        let FastFace { ifindex, mtu, up, isolated } = face;
        let word = |field| self.shared.word32(Some(slot), field);
        word(IFINDEX).store(ifindex, Ordering::Relaxed);
        let header = u32::try_from(ETHER_HEADER_LEN).unwrap_or(0);
        word(LONGEST).store(mtu.saturating_add(header), Ordering::Relaxed);
        let flags = if up { ENABLED | if isolated { ISOLATED } else { 0 } } else { 0 };
        let before = word(FLAGS).load(Ordering::Relaxed).cast_signed();
        if opens(before, flags) {
            // What was not taken until now may be waiting, in front of what will be.
            self.shared.word(None, SETTLED).store(0, Ordering::Relaxed);
            self.settling = None;
        }
        word(FLAGS).store(flags.cast_unsigned(), Ordering::Release);
    }

    /// Leaves short frames to the engine, which pads them.
    pub fn set_padding(&self, pads: bool) {
        let shortest = if pads { FRAME_MIN } else { ETHER_HEADER_LEN };
        let shortest = u32::try_from(shortest).unwrap_or(0);
        self.shared.word32(None, SHORTEST).store(shortest, Ordering::Relaxed);
    }

    /// Lets the kernel forward from and to a station on the port in `slot`,
    /// which was last `heard` so long ago; in place of what it knew of it.
    ///
    /// # Errors
    /// The table is full, or memory is short: its frames stay ours.
    pub fn install(&mut self, mac: MacAddr, slot: Slot, heard: Duration) -> io::Result<()> {
        let station = Station {
            slot: slot.get().into(),
            padding: 0,
            generation: self.generation + 1,
            gated: 0,
            seen: now_ns().saturating_sub(u64::try_from(heard.as_nanos()).unwrap_or(u64::MAX)),
        };
        bpf::update(self.shared.stations(), &key(mac), station)?;
        self.generation += 1;
        Ok(())
    }

    /// Takes a station back. Frames that the kernel is just sending go out.
    pub fn withdraw(&mut self, mac: MacAddr) {
        // That it is not there is as good.
        let _ = bpf::delete(self.shared.stations(), &key(mac));
    }

    /// How long ago the station on the port in `slot` was last heard, to some
    /// 0.15 s; `None` if it is not installed there.
    pub fn age(&mut self, mac: MacAddr, slot: Slot) -> Option<Duration> {
        let station: Station = bpf::look_up(self.shared.stations(), &key(mac)).ok()?;
        if station.slot != u32::from(slot.get()) {
            return None;
        }
        let age = Duration::from_nanos(now_ns().saturating_sub(station.seen));
        // The kernel uses an entry's memory again at once. A filter that was looking
        // at the former one wrote a number of another port here; as long as this port
        // has not reached it, the station waits for all that waits at the port.
        if station.gated > self.load(slot, SLOW) {
            // If memory is short, the next look does it.
            let _ = self.install(mac, slot, age);
        }
        Some(age)
    }

    /// Looks whether what waited when the youngest stations came is through,
    /// so that they need not wait for others any more.
    pub fn settle(&mut self) {
        if self.settling.is_none() {
            if self.shared.word(None, SETTLED).load(Ordering::Relaxed) == self.generation {
                return;
            }
            // What opened a port is to be seen before this is read.
            fence(Ordering::SeqCst);
            let mut waiting = [0; SLOTS as usize];
            for slot in self.used() {
                waiting[slot.index()] = self.load(slot, SLOW);
            }
            self.settling = Some((self.generation, waiting));
        }
        // Often nothing waits, and then there may be no further round for a second.
        let Some((generation, waited)) = &self.settling else { return };
        let is_through = |slot: Slot| {
            let done = self.load(slot, DONE);
            // A slot that was given to another port begins anew. Opening a port, too,
            // makes everyone wait anew.
            let is_closed = self.shared.word32(Some(slot), FLAGS).load(Ordering::Relaxed) == 0;
            done >= waited[slot.index()] || done >= self.load(slot, SLOW) || is_closed
        };
        if self.used().all(is_through) {
            self.shared.word(None, SETTLED).store(*generation, Ordering::Release);
            self.settling = None;
        }
    }

    fn load(&self, slot: Slot, field: i16) -> u64 {
        self.shared.word(Some(slot), field).load(Ordering::Acquire)
    }

    /// Tells of every pair of ports, or every one with a certain port, between which
    /// the kernel has sent frames since it was told last.
    pub fn passed(&mut self, of: Option<Slot>, mut tell: impl FnMut(Passed)) {
        for from in self.used() {
            let all = of.is_none_or(|of| of == from);
            for to in self.used().filter(|to| all || of == Some(*to)) {
                let (frames, bytes) = self.shared.pair(from, to);
                let counted = &mut self.counted[from.index()][to.index()];
                if counted[0] != frames {
                    let [frames_before, bytes_before] = std::mem::replace(counted, [frames, bytes]);
                    tell(Passed { from, to, frames: frames - frames_before, bytes: bytes - bytes_before });
                }
            }
        }
    }
}

/// Whether frames that were left to us with flags `before` are taken with `after`.
/// Longer frames than before need not be asked about: one that was too long holds up its
/// own source until it is through.
const fn opens(before: i32, after: i32) -> bool {
    let opens_for_all = before & ENABLED == 0;
    let opens_for_isolated = before & ISOLATED != 0 && after & ISOLATED == 0;
    after & ENABLED != 0 && (opens_for_all || opens_for_isolated)
}

/// A station's key: six bytes of address, two of zero.
fn key(mac: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.octets();
    [a, b, c, d, e, f, 0, 0]
}

/// The clock that the filter reads, in ns.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lets_more_pass_opens_a_port() {
        let isolated = ENABLED | ISOLATED;
        for (before, after) in [(0, ENABLED), (0, isolated), (isolated, ENABLED)] {
            assert!(opens(before, after), "{before} to {after}");
        }
        for (before, after) in [
            (0, 0),
            (ENABLED, ENABLED),
            (isolated, isolated),
            (ENABLED, isolated),
            (ENABLED, 0),
            (isolated, 0),
        ] {
            assert!(!opens(before, after), "{before} to {after}");
        }
    }
}
