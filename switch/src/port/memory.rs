//! A port without a device, for tests and benches: what is injected through a
//! [`MemoryHandle`] is received, and what is transmitted can be read there.
//!
//! It behaves as real ports do: it is edge-triggered, stops on its budget, cuts
//! frames into head and rest, and refuses when told to. Once its buffers have
//! grown to the frames in use, it allocates nothing.
//!
//! Deliberately absent: any promise about contention. A mutex joins the two
//! ends; that is why no switch outside tests may hold such a port.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::unix::SourceFd;
use rustix::event::{EventfdFlags, eventfd};

use super::pieces::{Pieces, head_len};
use super::{BURST_BYTES, BURST_FRAMES, Burst, Fault, Link, Losses, Port, Rx, Sent};
use crate::bridge::{DropReason, Refusal};
use crate::frame::{Frame, Wire};
use crate::offload::VnetHeader;

/// A frame with its virtio-net header, in memory of its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// What is unfinished in the frame.
    pub vnet: VnetHeader,
    /// The frame, without FCS.
    pub bytes: Vec<u8>,
    /// Injected as a frame that its port could not take whole.
    pub fault: Option<DropReason>,
}

impl Sample {
    /// A complete frame.
    pub fn plain(bytes: &[u8]) -> Sample {
        Sample { bytes: bytes.to_vec(), ..Sample::default() }
    }
}

/// What the two ends share.
#[derive(Debug)]
struct Shared {
    inbound: VecDeque<Sample>,
    sent: VecDeque<Sample>,
    spare: Vec<Sample>,
    keep: bool,
    sent_frames: u64,
    sent_bytes: u64,
    refuse: Option<Refusal>,
    room: Option<usize>,
    rx_fault: Option<Fault>,
    tx_fault: Option<Fault>,
    /// Frames still to be served from the port's own samples; see `repeat`.
    repeat: u64,
    samples: Option<Vec<Sample>>,
    link: Link,
    losses: Losses,
}

/// The switch's end.
#[derive(Debug)]
pub struct MemoryPort {
    shared: Arc<Mutex<Shared>>,
    ready: Arc<OwnedFd>,
    /// The burst being read; goes back to `spare` on release.
    serving: Vec<Sample>,
    /// Frames served over and over.
    samples: Vec<Sample>,
    next_sample: usize,
    pieces: Pieces,
}

/// The other end, as a guest or a test holds it. Clones name the same port.
#[derive(Clone, Debug)]
pub struct MemoryHandle {
    shared: Arc<Mutex<Shared>>,
    ready: Arc<OwnedFd>,
}

/// A port with `link`, and its other end.
///
/// # Errors
/// If the process is out of file descriptors.
pub fn memory(link: Link) -> io::Result<(MemoryPort, MemoryHandle)> {
    let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let shared = Arc::new(Mutex::new(Shared {
        inbound: VecDeque::with_capacity(BURST_FRAMES),
        sent: VecDeque::with_capacity(BURST_FRAMES),
        spare: Vec::with_capacity(2 * BURST_FRAMES),
        keep: true,
        sent_frames: 0,
        sent_bytes: 0,
        refuse: None,
        room: None,
        rx_fault: None,
        tx_fault: None,
        repeat: 0,
        samples: None,
        link,
        losses: Losses::default(),
    }));
    let port = MemoryPort {
        shared: Arc::clone(&shared),
        ready: Arc::clone(&ready),
        serving: Vec::with_capacity(BURST_FRAMES),
        samples: Vec::new(),
        next_sample: 0,
        pieces: Pieces::default(),
    };
    Ok((port, MemoryHandle { shared, ready }))
}

/// A test that panicked with the lock held says so itself; the other end need
/// not add its own panic.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryHandle {
    fn wake(&self) {
        // Only a counter at its maximum of 2^64 - 2 makes this fail, and then
        // the port is readable anyway.
        let _ = rustix::io::write(&*self.ready, &1u64.to_ne_bytes());
    }

    /// Sends a complete frame into the switch.
    pub fn inject(&self, frame: &[u8]) {
        self.inject_with(VnetHeader::PLAIN, frame);
    }

    /// Sends a frame with unfinished work into the switch.
    pub fn inject_with(&self, vnet: VnetHeader, frame: &[u8]) {
        self.inject_all([(vnet, frame)]);
    }

    /// Sends several frames at once: the switch wakes when all are there.
    pub fn inject_all<'f>(&self, frames: impl IntoIterator<Item = (VnetHeader, &'f [u8])>) {
        let mut shared = lock(&self.shared);
        for (vnet, frame) in frames {
            let mut sample = shared.spare.pop().unwrap_or_default();
            sample.fill(vnet, [frame]);
            shared.inbound.push_back(sample);
        }
        drop(shared);
        self.wake();
    }

    /// Sends a frame that arrives broken, as one that was cut short does.
    pub fn inject_broken(&self, head: &[u8], reason: DropReason) {
        let mut sample = Sample::plain(head);
        sample.fault = Some(reason);
        lock(&self.shared).inbound.push_back(sample);
        self.wake();
    }

    /// Makes the port serve `samples` in turn, `frames` of them in total, from
    /// its own memory: a source as fast as the port can be.
    pub fn repeat(&self, samples: Vec<Sample>, frames: u64) {
        let mut shared = lock(&self.shared);
        shared.samples = Some(samples);
        shared.repeat = frames;
        drop(shared);
        self.wake();
    }

    /// Serves `frames` more of the samples given to `repeat`.
    pub fn repeat_more(&self, frames: u64) {
        lock(&self.shared).repeat += frames;
        self.wake();
    }

    /// Takes out what was sent since the last call.
    pub fn take_sent(&self) -> Vec<Sample> {
        lock(&self.shared).sent.drain(..).collect()
    }

    /// Only counts what is sent from now on, and keeps no copy.
    pub fn count_only(&self) {
        let mut shared = lock(&self.shared);
        shared.keep = false;
        shared.sent.clear();
    }

    /// Frames and bytes sent since the start.
    pub fn sent_totals(&self) -> (u64, u64) {
        let shared = lock(&self.shared);
        (shared.sent_frames, shared.sent_bytes)
    }

    /// Injected frames that were not received yet.
    pub fn waiting(&self) -> usize {
        lock(&self.shared).inbound.len()
    }

    /// Refuses every wire with `refusal`, or none.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        lock(&self.shared).refuse = refusal;
    }

    /// Takes `frames` more and is then full; `None`: has room for ever.
    pub fn set_room(&self, frames: Option<usize>) {
        lock(&self.shared).room = frames;
    }

    /// The next `receive` brings what is waiting and reports `fault`.
    pub fn fail_receive(&self, fault: Fault) {
        lock(&self.shared).rx_fault = Some(fault);
        self.wake();
    }

    /// `transmit` reports `fault` and refuses everything, until `None`.
    pub fn fail_transmit(&self, fault: Option<Fault>) {
        lock(&self.shared).tx_fault = fault;
    }

    /// The link as the switch sees it.
    pub fn link(&self) -> Link {
        lock(&self.shared).link
    }

    /// Changes what the port says of its link.
    pub fn set_link(&self, link: Link) {
        lock(&self.shared).link = link;
    }

    /// Sets what the port reports as lost.
    pub fn set_losses(&self, losses: Losses) {
        lock(&self.shared).losses = losses;
    }
}

impl Sample {
    /// Overwrites this sample, keeping its allocation.
    fn fill<'b>(&mut self, vnet: VnetHeader, runs: impl IntoIterator<Item = &'b [u8]>) {
        self.vnet = vnet;
        self.fault = None;
        self.bytes.clear();
        for run in runs {
            self.bytes.extend_from_slice(run);
        }
    }

    /// Overwrites this sample with a wire.
    fn record(&mut self, wire: &Wire<'_>) {
        self.fill(wire.vnet, [wire.head]);
        for piece in wire.rest {
            let old_len = self.bytes.len();
            self.bytes.reserve(piece.len());
            // SAFETY: the piece's memory stays mapped while the wire lives, and
            // the vector has room for it; bytes that a guest changes meanwhile
            // are copied as they are found.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    piece.as_ptr(),
                    self.bytes.as_mut_ptr().add(old_len),
                    piece.len(),
                );
                self.bytes.set_len(old_len + piece.len());
            }
        }
    }

    fn frame<'a>(&'a self, pieces: &'a Pieces, index: usize) -> Frame<'a> {
        let head = &self.bytes[..head_len(self.bytes.len())];
        match self.fault {
            Some(reason) => Frame::broken(head, reason),
            None => Frame::new(head, pieces.rest(index), self.vnet),
        }
    }
}

impl MemoryPort {
    /// How many samples to serve now, at most `want`.
    fn take_repeat(&mut self, shared: &mut Shared, want: usize) -> usize {
        if let Some(samples) = shared.samples.take() {
            (self.samples, self.next_sample) = (samples, 0);
        }
        if self.samples.is_empty() {
            return 0;
        }
        let count = usize::try_from(shared.repeat).unwrap_or(usize::MAX).min(want);
        shared.repeat -= count as u64;
        count
    }
}

impl Port for MemoryPort {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.ready.as_raw_fd()), token, mio::Interest::READABLE)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.ready.as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        let shared = Arc::clone(&self.shared);
        let mut shared = lock(&shared);
        let mut bytes = 0;
        self.pieces.clear();
        self.serving.clear();
        while self.serving.len() < BURST_FRAMES && bytes < BURST_BYTES {
            let Some(sample) = shared.inbound.pop_front() else { break };
            bytes += sample.bytes.len();
            self.serving.push(sample);
        }
        let room = if bytes < BURST_BYTES { BURST_FRAMES - self.serving.len() } else { 0 };
        let repeat = self.take_repeat(&mut shared, room);
        let first = self.next_sample;
        self.next_sample += repeat;
        let more = !shared.inbound.is_empty() || (shared.repeat > 0 && !self.samples.is_empty());
        let fault = if more { None } else { shared.rx_fault.take() };
        drop(shared);

        let port: &'a MemoryPort = {
            let again = (first..first + repeat).map(|n| &self.samples[n % self.samples.len()]);
            for sample in self.serving.iter().chain(again) {
                let behind = &sample.bytes[head_len(sample.bytes.len())..];
                self.pieces.push(behind.as_ptr(), behind.len());
            }
            self
        };
        let again = (first..first + repeat).map(|n| &port.samples[n % port.samples.len()]);
        for (index, sample) in port.serving.iter().chain(again).enumerate() {
            burst.frames.push(sample.frame(&port.pieces, index));
        }
        match fault {
            Some(fault) => Rx::Fault(fault),
            None if more => Rx::More,
            None => Rx::Drained,
        }
    }

    fn release(&mut self) {
        if !self.samples.is_empty() {
            self.next_sample %= self.samples.len();
        }
        if !self.serving.is_empty() {
            lock(&self.shared).spare.append(&mut self.serving);
        }
    }

    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent {
        let mut outcome = Sent::default();
        let mut guard = lock(&self.shared);
        let shared = &mut *guard;
        outcome.fault = shared.tx_fault;
        for (index, wire) in (0u8..).zip(wires) {
            let refusal = match (shared.tx_fault, shared.refuse, &mut shared.room) {
                (Some(Fault::Down | Fault::Protocol(_)), _, _) => Some(Refusal::Down),
                (Some(Fault::Gone), _, _) => Some(Refusal::Gone),
                (Some(Fault::Os(_)), _, _) => Some(Refusal::Error),
                (None, Some(refusal), _) => Some(refusal),
                (None, None, Some(0)) => Some(Refusal::Full),
                (None, None, Some(room)) => {
                    *room -= 1;
                    None
                }
                (None, None, None) => None,
            };
            if let Some(refusal) = refusal {
                outcome.refused.push((index, refusal));
                continue;
            }
            shared.sent_frames += 1;
            shared.sent_bytes += wire.len() as u64;
            if shared.keep {
                let mut sample = shared.spare.pop().unwrap_or_default();
                sample.record(wire);
                shared.sent.push_back(sample);
            }
        }
        outcome
    }

    fn link(&self) -> Link {
        lock(&self.shared).link
    }

    fn set_link(&mut self, link: Link) {
        lock(&self.shared).link = link;
    }

    fn losses(&mut self) -> Losses {
        lock(&self.shared).losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Offloads, Slots};

    const LINK: Link = Link { up: true, mtu: 1500, offloads: Offloads::ALL };

    #[test]
    fn frames_pass_both_ways_and_stop_on_the_budget() {
        let (mut port, handle) = memory(LINK).unwrap();
        let mut slots = Slots::new();
        for number in 0..70u8 {
            handle.inject(&[number; 300]);
        }
        let mut burst = Burst::new(&mut slots);
        assert_eq!(port.receive(&mut burst), Rx::More);
        assert_eq!(burst.frames.len(), BURST_FRAMES);
        let frame = &burst.frames[5];
        assert_eq!((frame.head(), frame.len()), (&[5u8; 256][..], 300));

        let (mut other, other_handle) = memory(LINK).unwrap();
        other_handle.set_room(Some(2));
        let wires: Vec<Wire<'_>> = burst.frames.iter().take(3).map(Wire::of).collect();
        assert_eq!(other.transmit(&wires).refused[..], [(2, Refusal::Full)]);
        let sent = other_handle.take_sent();
        assert_eq!(sent, [Sample::plain(&[0; 300]), Sample::plain(&[1; 300])]);

        drop(burst);
        port.release();
        let mut burst = Burst::new(&mut slots);
        assert_eq!(port.receive(&mut burst), Rx::Drained);
        assert_eq!(burst.frames.len(), 6);
    }

    #[test]
    fn samples_are_served_in_turn() {
        let (mut port, handle) = memory(LINK).unwrap();
        let mut slots = Slots::new();
        handle.repeat(vec![Sample::plain(&[1; 60]), Sample::plain(&[2; 60]), Sample::plain(&[3; 60])], 100);
        let mut seen = Vec::new();
        loop {
            let mut burst = Burst::new(&mut slots);
            let rx = port.receive(&mut burst);
            seen.extend(burst.frames.iter().map(|frame| frame.head()[0]));
            drop(burst);
            port.release();
            if rx == Rx::Drained {
                break;
            }
        }
        let expected: Vec<u8> = (0..100).map(|n| [1, 2, 3][n % 3]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn injecting_makes_the_port_readable() {
        let (mut port, handle) = memory(LINK).unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        port.register(poll.registry(), mio::Token(7)).unwrap();
        for _ in 0..3 {
            handle.inject(&[0; 60]);
            poll.poll(&mut events, None).unwrap();
            assert_eq!(events.iter().next().map(mio::event::Event::token), Some(mio::Token(7)));
        }
    }
}
