//! The control thread's hold on the capture thread: it starts the thread, gives it
//! orders, and takes the news.
//!
//! Deliberately absent: waiting. An order has no answer; what came of it is news.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use mio::{Poll, Waker};

use super::{News, Order, RECORDER, WAKE, Writer};
use crate::bridge::{PortId, PortSet};
use crate::capture::Reader;
use crate::capture::session::{Label, Labels, Names, SNAPLEN_MAX, Spec};
use crate::capture::watch::Worth;
use crate::engine::observe::{BLOCKS, Block, Observation, Want};
use crate::engine::{Command, Ended, Orders};

/// The most captures at a time.
pub const CAPTURES_MAX: usize = 16;

/// How much nicer the thread is than others. Where it has no processor to itself it is
/// to take a tenth of one, not half: with a full capture of 64-byte frames, which the
/// data thread's one core had to do as well, 0.38 of the rate was left without, 0.62 with
/// 5 and 0.75 to 0.99 with 10.
const NICER: i32 = 10;

/// News that wait to be taken; more are not written down.
const NEWS_MAX: usize = 64;

/// The control thread's hold on the capture thread.
#[derive(Debug)]
pub struct Captures {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    engine: Orders,
    thread: Option<JoinHandle<()>>,
    last_id: u64,
    /// Captures that the thread holds.
    held: Arc<AtomicUsize>,
    /// Captures of chosen ports: their names, as long as the thread holds them.
    chosen: Vec<(u64, Weak<Names>)>,
    news: Receiver<News>,
}

impl Captures {
    /// Starts the thread, with empty blocks for the data thread. `control` is woken
    /// when there are news.
    ///
    /// # Errors
    /// The kernel has no thread or epoll instance left to give.
    pub fn start(
        mut observation: Observation,
        engine: Orders,
        control: Option<Arc<Waker>>,
    ) -> io::Result<Captures> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        observation.sleeper.set_waker(Arc::clone(&waker));
        for _ in 0..BLOCKS {
            // There is room for all of them.
            let _ = observation.empty.push(Block::new());
        }
        let (orders, inbox) = crossbeam_channel::bounded(1024);
        let held = Arc::new(AtomicUsize::new(0));
        let (news_in, news) = crossbeam_channel::bounded(NEWS_MAX);
        let mut writer = Writer {
            poll,
            observation,
            inbox,
            engine: engine.clone(),
            held: Arc::clone(&held),
            news: news_in,
            control,
            names: VecDeque::new(),
            names_len: 0,
            labels: Labels::new(),
            recorder: None,
            watch: None,
            clients: Vec::new(),
            kept: VecDeque::with_capacity(BLOCKS),
            has_waited: false,
        };
        let thread = std::thread::Builder::new().name("capture".to_owned()).spawn(move || {
            // Of this thread alone. Without it there are more frames in captures, and fewer
            // on the network.
            let _ = rustix::process::nice(NICER);
            writer.run();
        })?;
        Ok(Captures {
            orders,
            waker,
            engine,
            thread: Some(thread),
            last_id: 0,
            held,
            chosen: Vec::new(),
            news,
        })
    }

    /// Whether the thread is there; it ends before the switch only by a fault.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Whether another capture may begin.
    pub fn has_room(&self) -> bool {
        self.held.load(Ordering::SeqCst) < CAPTURES_MAX
    }

    /// Begins a capture while the switch has the ports of `labels`; returns its
    /// number, by which its reader is handed over.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn begin(&mut self, spec: Spec, labels: Labels) -> Result<u64, Ended> {
        self.last_id += 1;
        let (id, want) = (self.last_id, spec.want(&labels));
        self.chosen.extend(spec.ports.as_ref().map(|names| (id, Arc::downgrade(names))));
        self.held.fetch_add(1, Ordering::SeqCst);
        self.order(Order::Begin { id, spec: Box::new(spec), labels });
        self.engine.send(Command::Observe { id, want: Some(want) })?;
        Ok(id)
    }

    /// Keeps the last frames from now on, in at most `limit` bytes, and says when
    /// there is what is `worth` a file among them.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn record(&self, limit: usize, worth: Option<Worth>) -> Result<(), Ended> {
        self.order(Order::Record { limit, worth });
        let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX, accounts: false };
        self.engine.send(Command::Observe { id: RECORDER, want: Some(want) })
    }

    /// Gives capture `id` its reader, or the news that there is none.
    pub fn hand_over(&self, id: u64, reader: Option<Reader>) {
        self.order(Order::Reader { id, reader });
    }

    /// Says what the port is called that the engine is about to get. A capture of
    /// chosen ports gets its frames if it was chosen by that name, and no others
    /// of its number.
    pub fn name(&mut self, id: PortId, label: Label) {
        self.chosen.retain(|(_, names)| names.strong_count() > 0);
        for (capture, names) in &self.chosen {
            let is_wanted = names.upgrade().is_some_and(|names| names.contains(&label.name));
            // If the data thread is gone, there is nothing to be told.
            let _ = self.engine.send(Command::ObservePort { id: *capture, port: id, is_wanted });
        }
        self.order(Order::Name { id, label });
    }

    /// Says that the engine refused the port that was named last under that number.
    pub fn unname(&self, id: PortId) {
        self.order(Order::Unname { id });
    }

    /// What happened, if it was not taken yet.
    pub fn news(&self) -> Option<News> {
        self.news.try_recv().ok()
    }

    /// Waits for the thread, which ends soon after the data thread.
    pub fn join(mut self) {
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported, and harmed no frame.
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        // The thread takes orders whatever its readers do. If it is gone, there
        // is nobody to obey.
        let _ = self.orders.send(order);
        let _ = self.waker.wake();
    }
}
