//! Between the thread that reads a front end's messages and the data thread:
//! who has the rings, and how they change hands.
//!
//! The rings with their memory are one value, [`Rings`], and at any time one
//! thread owns it. To change anything the message thread takes it back, which
//! is answered between two turns of the data thread: then nobody touches the
//! guest's memory, and messages that promise so can be replied to.
//!
//! Deliberately absent: locks. The data thread looks at one flag in a turn.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rustix::event::{EventfdFlags, epoll, eventfd};

use super::call::Call;
use super::features::Features;
use super::memory::GuestMemory;
use super::ring::{Breach, Queue};

/// A guest's queues in use, with all that they need.
#[derive(Debug)]
pub(super) struct Rings {
    /// Kept as long as the rings are.
    pub memory: Arc<GuestMemory>,
    pub features: Features,
    /// By the number of the pair.
    pub pairs: Vec<Pair>,
    /// What ended their use; they are not looked at again.
    pub breach: Option<Breach>,
}

/// Two queues; `None`: not in use now.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// What the guest receives by.
    pub rx: Option<Queue>,
    /// What it sends by.
    pub tx: Option<Queue>,
    /// What it sends there is given back, and goes nowhere: the front end has disabled the
    /// queue ("Ring states" of the vhost-user specification).
    pub is_muted: bool,
}

/// What the message thread wants.
#[derive(Debug)]
pub(super) enum Order {
    /// Give the rings back. What is said of the link stays as it is.
    Take(Sender<Option<Box<Rings>>>),
    /// These are the rings from now on; none: the link is down.
    Put(Option<Box<Rings>>, Sender<()>),
    /// Tell the driver of this queue by that call from now on, and once now; the last one is
    /// the answer.
    Call(usize, Option<Call>, Sender<Option<Call>>),
}

/// The data thread has let go of the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the port is closed")]
pub(super) struct Closed;

/// The message thread's side.
#[derive(Debug)]
pub(super) struct MessageSide {
    orders: Sender<Order>,
    pending: Arc<AtomicBool>,
    doorbell: OwnedFd,
    /// Watches the doorbell and the kicks; the data thread's epoll watches it.
    epoll: Arc<OwnedFd>,
    breaches: Receiver<Breach>,
    /// Disconnected when the data thread has let go of the port. An order that
    /// it left in the channel would keep its own reply channel open for ever.
    held: Receiver<()>,
}

/// The data thread's side.
#[derive(Debug)]
pub(super) struct DataSide {
    orders: Receiver<Order>,
    pending: Arc<AtomicBool>,
    epoll: Arc<OwnedFd>,
    breaches: Sender<Breach>,
    /// Wakes the message thread.
    alarm: Arc<OwnedFd>,
    /// Tells the message thread, when it goes, that the port is closed.
    _holds: Sender<()>,
}

/// Both sides. `alarm` is an eventfd that the message thread waits on.
///
/// # Errors
/// Out of descriptors.
pub(super) fn seam(alarm: Arc<OwnedFd>) -> io::Result<(MessageSide, DataSide)> {
    let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    watch(&epoll, &doorbell)?;
    let (orders, orders_out) = bounded(1);
    let (breaches, breaches_out) = bounded(1);
    let (holds, held) = bounded(0);
    let pending = Arc::new(AtomicBool::new(false));
    let messages = MessageSide {
        orders,
        pending: Arc::clone(&pending),
        doorbell,
        epoll: Arc::clone(&epoll),
        breaches: breaches_out,
        held,
    };
    Ok((messages, DataSide { orders: orders_out, pending, epoll, breaches, alarm, _holds: holds }))
}

/// Edge-triggered: each write to `fd` is one event, and nobody ever has to read
/// it.
fn watch(epoll: &OwnedFd, fd: &OwnedFd) -> io::Result<()> {
    let data = epoll::EventData::new_u64(0);
    Ok(epoll::add(epoll, fd, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?)
}

impl MessageSide {
    /// Takes the rings back; `None` if none were in use.
    ///
    /// # Errors
    /// The port is closed.
    pub fn take(&self) -> Result<Option<Box<Rings>>, Closed> {
        self.order(Order::Take)
    }

    /// Gives rings to the data thread, or says that there are none.
    ///
    /// # Errors
    /// The port is closed.
    pub fn put(&self, rings: Option<Box<Rings>>) -> Result<(), Closed> {
        self.order(|reply| Order::Put(rings, reply))
    }

    /// Exchanges what queue `index` is called by, which the data thread has. The guest goes on
    /// meanwhile.
    ///
    /// # Errors
    /// The port is closed.
    pub fn call(&self, index: usize, call: Option<Call>) -> Result<Option<Call>, Closed> {
        self.order(|reply| Order::Call(index, call, reply))
    }

    fn order<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Result<T, Closed> {
        let (reply, answer) = bounded(1);
        self.orders.send(order(reply)).map_err(|_| Closed)?;
        self.pending.store(true, Ordering::Release);
        // Only a counter at its maximum makes this fail.
        let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
        select! {
            recv(answer) -> answer => answer.map_err(|_| Closed),
            // It may have answered before it went.
            recv(self.held) -> _ => answer.try_recv().map_err(|_| Closed),
        }
    }

    /// Lets `kick` wake the data thread.
    ///
    /// # Errors
    /// epoll's refusal.
    pub fn add_kick(&self, kick: &OwnedFd) -> io::Result<()> {
        watch(&self.epoll, kick)
    }

    /// Undoes `add_kick`.
    pub fn remove_kick(&self, kick: &OwnedFd) {
        // The peer holds the other end: closing ours would not end it.
        let _ = epoll::delete(&self.epoll, kick);
    }

    /// Why the data thread stopped using the rings, if it did.
    pub fn breach(&self) -> Option<Breach> {
        self.breaches.try_recv().ok()
    }
}

impl DataSide {
    /// An order, if there is one.
    #[inline]
    pub fn order(&self) -> Option<Order> {
        if !self.pending.load(Ordering::Acquire) {
            return None;
        }
        self.pending.store(false, Ordering::Relaxed);
        self.orders.try_recv().ok()
    }

    /// Tells the message thread that the rings are not used any more.
    #[cold]
    pub fn report(&self, breach: Breach) {
        // One is enough to end a connection.
        let _ = self.breaches.try_send(breach);
        let _ = rustix::io::write(&*self.alarm, &1u64.to_ne_bytes());
    }

    /// What the data thread's epoll watches.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as its owner, `self`.
        unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen when a front end said something while the switch was ending: the
    /// order was in the channel when the data thread let go.
    #[test]
    fn an_order_that_nobody_takes_ends_with_the_port() {
        let alarm = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let (messages, data) = seam(alarm).unwrap();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| messages.take());
            while data.orders.is_empty() {
                std::thread::yield_now();
            }
            drop(data);
            assert!(matches!(asked.join().unwrap(), Err(Closed)));
        });
    }
}
