//! The data thread's half: bursts from a guest's transmit queues, and frames
//! into its receive queues.
//!
//! A turn looks at the guest's memory and makes no system call; when there is
//! nothing, the engine decides how long to go on looking, and then asks to be
//! kicked ([`Port::arm`]).
//!
//! Deliberately absent: messages. Rings come ready from the other thread.

use std::io;
use std::os::fd::AsRawFd;

use arrayvec::ArrayVec;
use mio::unix::SourceFd;

use super::PAIRS_MAX;
use super::chain::Runs;
use super::memory::GuestMemory;
use super::receive::Received;
use super::ring::{Breach, Queue, Ring};
use super::seam::{DataSide, Order, Pair, Rings};
use super::sigbus;
use super::steer::flow;
use super::transmit::{Ahead, Layout, NotSent, RUNS_MAX, send};
use crate::bridge::{DropReason, Refusal};
use crate::frame::{Frame, Wire};
use crate::port::{Burst, Link, Offloads, Port, Rx, Sent};

/// A port whose other end is a guest's virtqueues.
#[derive(Debug)]
pub(super) struct VhostPort {
    seam: DataSide,
    rings: Option<Box<Rings>>,
    link: Link,
    received: Received,
    /// The pair that the burst at hand came from.
    from: usize,
    runs: Runs,
    /// Pairs that receive, by number.
    receiving: ArrayVec<u16, PAIRS_MAX>,
    /// Kicks are asked for.
    is_armed: bool,
    /// Of `sigbus::hits`, when the rings were looked at.
    hits: u32,
    /// The link went down while sending.
    has_news: bool,
}

impl VhostPort {
    /// A port without rings yet.
    pub fn new(seam: DataSide, mtu: u32) -> VhostPort {
        VhostPort {
            seam,
            rings: None,
            link: Link { up: false, mtu, offloads: Offloads::NONE },
            received: Received::new(),
            from: 0,
            runs: Runs::with_capacity(RUNS_MAX),
            receiving: ArrayVec::new(),
            is_armed: false,
            hits: 0,
            has_news: false,
        }
    }

    /// Carries out an order of the message thread.
    #[cold]
    fn obey(&mut self, order: Order) -> Rx {
        match order {
            Order::Take(reply) => {
                self.receiving.clear();
                let _ = reply.send(self.rings.take());
                Rx::More
            }
            Order::Put(rings, reply) => {
                self.use_rings(rings);
                let _ = reply.send(());
                Rx::Changed
            }
            Order::Call(index, call, reply) => {
                let pair = self.rings.as_mut().and_then(|rings| rings.pairs.get_mut(index / 2));
                let queue =
                    pair.and_then(|pair| if index % 2 == 0 { pair.rx.as_mut() } else { pair.tx.as_mut() });
                let last = queue.and_then(|queue| queue.set_call(call));
                let _ = reply.send(last);
                Rx::More
            }
        }
    }

    /// What tells of orders and kicks.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.seam.fd()
    }

    /// Goes on with other rings, or with none.
    pub(super) fn use_rings(&mut self, rings: Option<Box<Rings>>) {
        self.rings = rings;
        self.is_armed = false;
        self.receiving.clear();
        self.hits = sigbus::hits();
        self.link.up = false;
        if let Some(rings) = &self.rings {
            let receiving = |(number, pair): (u16, &Pair)| pair.rx.as_ref().map(|_| number);
            self.receiving.extend((0..).zip(&rings.pairs).filter_map(receiving));
            self.link.up = !self.receiving.is_empty();
            self.link.offloads = rings.features.offloads();
        }
        // Cut while it was being prepared, perhaps.
        if self.rings.as_ref().is_some_and(|rings| rings.memory.is_cut()) {
            self.end(Breach::Cut);
        }
    }

    /// Whether the memory of the rings was cut since they were last looked at.
    #[inline]
    fn is_cut(&mut self) -> bool {
        if sigbus::hits() == self.hits {
            return false;
        }
        self.hits = sigbus::hits();
        self.rings.as_ref().is_some_and(|rings| rings.breach.is_none() && rings.memory.is_cut())
    }

    /// Stops using the rings: their guest broke the rules.
    #[cold]
    fn end(&mut self, breach: Breach) {
        if let Some(rings) = &mut self.rings {
            rings.breach = Some(breach);
        }
        self.receiving.clear();
        self.link.up = false;
        self.seam.report(breach);
    }

    /// Which of the pairs that receive is to get each of `wires`: a bit mask of
    /// them for each.
    fn steer(&self, wires: &[Wire<'_>]) -> [u64; PAIRS_MAX] {
        let mut masks = [0; PAIRS_MAX];
        let len = self.receiving.len();
        if len == 1 {
            masks[0] = u64::MAX >> (64 - wires.len());
        } else {
            for (index, wire) in wires.iter().enumerate() {
                masks[flow(wire.head) as usize % len] |= 1 << index;
            }
        }
        masks
    }
}

/// Makes all frames of `burst` such as go nowhere.
#[cold]
fn mute(burst: &mut Burst<'_>) {
    for frame in &mut burst.frames {
        *frame = Frame::broken(frame.head(), DropReason::PortDown);
    }
}

/// The pair after `last` that has frames, and whether others have some too.
#[inline]
fn next_pair(pairs: &mut [Pair], last: usize) -> Result<Option<(usize, bool)>, Breach> {
    let mut next = None;
    for step in 1..=pairs.len() {
        let number = (last + step) % pairs.len();
        let Some(ring) = pairs[number].tx.as_mut() else { continue };
        if ring.waiting()? > 0 {
            if let Some(next) = next {
                return Ok(Some((next, true)));
            }
            next = Some(number);
        }
    }
    Ok(next.map(|next| (next, false)))
}

impl Port for VhostPort {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.seam.fd().as_raw_fd()), token, mio::Interest::READABLE)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.seam.fd().as_raw_fd()))
    }

    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) -> Rx {
        if let Some(order) = self.seam.order() {
            return self.obey(order);
        }
        if self.is_cut() {
            self.end(Breach::Cut);
            return Rx::Changed;
        }
        if std::mem::take(&mut self.has_news) {
            return Rx::Changed;
        }
        let Some(rings) = self.rings.as_mut().filter(|rings| rings.breach.is_none()) else {
            return Rx::Drained;
        };
        let found = match next_pair(&mut rings.pairs, self.from) {
            Ok(None) => return Rx::Drained,
            Ok(Some(found)) => Ok(found),
            Err(breach) => Err(breach),
        };
        let (number, others) = match found {
            Ok(found) => found,
            Err(breach) => {
                self.end(breach);
                return Rx::Changed;
            }
        };
        self.from = number;
        if std::mem::take(&mut self.is_armed) {
            rings.pairs.iter_mut().filter_map(|pair| pair.tx.as_mut()).for_each(Queue::hush);
        }
        let header_len = rings.features.layout().header_len;
        // Only queues in use are found.
        let filled = match rings.pairs[number].tx.as_mut() {
            Some(Queue::Split(ring)) => self.received.fill(ring, &rings.memory, header_len, burst),
            Some(Queue::Packed(ring)) => self.received.fill(ring, &rings.memory, header_len, burst),
            None => return Rx::Drained,
        };
        if rings.pairs[number].is_muted {
            mute(burst);
        }
        match filled {
            Ok(more) if more || others => Rx::More,
            Ok(_) => Rx::Drained,
            Err(breach) => {
                // As `end`; the frames before the fault still borrow the rest.
                rings.breach = Some(breach);
                self.receiving.clear();
                self.link.up = false;
                self.seam.report(breach);
                Rx::Changed
            }
        }
    }

    fn release(&mut self) {
        if self.received.is_empty() {
            return;
        }
        // By now everybody has read what they wanted of this memory.
        if self.is_cut() {
            self.end(Breach::Cut);
            self.has_news = true;
        }
        let rings = self.rings.as_mut().filter(|rings| rings.breach.is_none());
        self.received.release(rings.and_then(|rings| rings.pairs[self.from].tx.as_mut()));
    }

    fn transmit(&mut self, wires: &[Wire<'_>]) -> Sent {
        let mut sent = Sent::default();
        if self.is_cut() {
            self.end(Breach::Cut);
            self.has_news = true;
        }
        if self.receiving.is_empty() || wires.is_empty() {
            sent.refused.extend((0..).zip(wires).map(|(index, _)| (index, Refusal::Down)));
            return sent;
        }
        let masks = self.steer(wires);
        let mut breach = None;
        if let Some(rings) = self.rings.as_deref_mut() {
            for (&pair, &mask) in self.receiving.iter().zip(&masks) {
                // Only pairs that receive are in the list.
                let Some(queue) = rings.pairs[usize::from(pair)].rx.as_mut().filter(|_| mask != 0) else {
                    continue;
                };
                let (memory, layout, runs) = (&rings.memory, rings.features.layout(), &mut self.runs);
                let outcome = match queue {
                    Queue::Split(ring) => send_all(ring, memory, layout, wires, mask, runs, &mut sent),
                    Queue::Packed(ring) => send_all(ring, memory, layout, wires, mask, runs, &mut sent),
                };
                breach = breach.or(outcome.err());
            }
        }
        let breach = breach.or_else(|| self.is_cut().then_some(Breach::Cut));
        if let Some(breach) = breach {
            self.end(breach);
            // The engine learns of it in this port's next turn, which comes at
            // the latest when the message thread takes the rings back.
            self.has_news = true;
        }
        if self.receiving.len() > 1 {
            sent.refused.sort_unstable_by_key(|&(index, _)| index);
        }
        sent
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        // Whether anybody is there, the rings say.
        self.link.mtu = link.mtu;
    }

    fn is_polled(&self) -> bool {
        true
    }

    fn arm(&mut self) -> bool {
        if self.is_armed {
            return false;
        }
        self.is_armed = true;
        let Some(rings) = self.rings.as_mut().filter(|rings| rings.breach.is_none()) else { return false };
        let mut any = false;
        for ring in rings.pairs.iter_mut().filter_map(|pair| pair.tx.as_mut()) {
            // A queue that lies has something to be looked at.
            any |= ring.listen().unwrap_or(true);
        }
        any
    }
}

/// Sends those of `wires` whose bits are set in `mask` by `ring`, and shows the
/// guest what came.
fn send_all(
    ring: &mut impl Ring,
    memory: &GuestMemory,
    layout: Layout,
    wires: &[Wire<'_>],
    mask: u64,
    runs: &mut Runs,
    sent: &mut Sent,
) -> Result<(), Breach> {
    let mut breach = None;
    let mut left = mask;
    let mut ahead = match Ahead::look(ring, memory, mask.count_ones() as usize) {
        Ok(ahead) => ahead,
        Err(error) => {
            breach = Some(error);
            Ahead::none()
        }
    };
    while left != 0 {
        let index = left.trailing_zeros();
        left &= left - 1;
        let outcome = match breach {
            Some(breach) => Err(NotSent::Broken(breach)),
            None => send(ring, memory, layout, &wires[index as usize], &mut ahead, runs),
        };
        let refusal = match outcome {
            Ok(()) => continue,
            Err(NotSent::Refused(refusal)) => refusal,
            Err(NotSent::Broken(error)) => {
                breach = Some(error);
                Refusal::Down
            }
        };
        // At most 64 wires.
        sent.refused.push((u8::try_from(index).unwrap_or(u8::MAX), refusal));
    }
    ring.publish();
    breach.map_or(Ok(()), Err)
}
