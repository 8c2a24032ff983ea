//! The capture thread: takes blocks from the data thread, gives them to every
//! capture, and writes what they make to their readers' sockets, as fast as each
//! reads.
//!
//! It starts with the first capture and ends with the switch. It waits for
//! nothing but its poll: something told, an order of the control thread, or a
//! reader that can take more.
//!
//! Deliberately absent: formats (`session`, `pcapng`), and files, which the
//! readers write.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::{Events, Poll, Token, Waker};

use super::client::{Client, Heard, PATIENCE, Stage};
use super::recorder::{Item, Recorder};
use super::session::{Label, Labels, Names, SNAPLEN_MAX, Spec};
use super::watch::{Watch, Worth};
use crate::bridge::{PortId, PortSet, Time};
use crate::engine::observe::{BLOCKS, Block, Change, Edge, Mark, Observation, Told, Want};
use crate::engine::{Command, Ended, Orders};

/// The most captures at a time.
pub const CAPTURES_MAX: usize = 16;

/// Readers have this long to take the rest when the switch ends.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The recorder's number among captures, which begin at 1.
const RECORDER: u64 = 0;

/// News that wait to be taken; more are not written down.
const NEWS_MAX: usize = 64;

/// A capture that misses frames says so this often.
const MISSING_EVERY: Duration = Duration::from_secs(1);

const WAKE: Token = Token(usize::MAX);

/// What happened to a capture, for the control thread to write down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// The recorder has what is worth a file.
    Triggered,
    /// It began.
    Started {
        /// Its number.
        id: u64,
    },
    /// It misses frames, so many until now.
    Missing {
        /// Its number.
        id: u64,
        /// Frames.
        missed: u64,
    },
    /// It is over.
    Stopped {
        /// Its number.
        id: u64,
        /// What its reader said, or how it ended.
        why: String,
        /// Frames written.
        written: u64,
        /// Frames that were not.
        missed: u64,
    },
}

/// What the control thread orders.
#[derive(Debug)]
enum Order {
    /// A capture, which begins at its mark.
    Begin { id: u64, spec: Box<Spec>, labels: Labels },
    /// Its reader; `None`: it hung up before it was one.
    Reader { id: u64, stream: Option<UnixStream> },
    /// Keeps the last frames, in so many bytes.
    Record { limit: usize, worth: Option<Worth> },
    /// The name of the port that will be added next under that number.
    Name { id: PortId, label: Label },
    /// That port was not added after all.
    Unname { id: PortId },
}

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
        observation: Observation,
        engine: Orders,
        control: Option<Arc<Waker>>,
    ) -> io::Result<Captures> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        observation.sleeper.set_waker(Arc::clone(&waker));
        for _ in 0..BLOCKS {
            // There is room for all of them.
            let _ = observation.empty.try_send(Block::new());
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
        };
        let thread = std::thread::Builder::new().name("capture".to_owned()).spawn(move || writer.run())?;
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
        let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX };
        self.engine.send(Command::Observe { id: RECORDER, want: Some(want) })
    }

    /// Gives capture `id` its reader, or the news that there is none.
    pub fn hand_over(&self, id: u64, stream: Option<UnixStream>) {
        self.order(Order::Reader { id, stream });
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

/// The thread's own state.
#[derive(Debug)]
struct Writer {
    poll: Poll,
    observation: Observation,
    inbox: Receiver<Order>,
    engine: Orders,
    held: Arc<AtomicUsize>,
    news: Sender<News>,
    control: Option<Arc<Waker>>,
    /// Names of ports whose adding has not been told yet, each with its number
    /// among all names said.
    names: VecDeque<(u64, PortId, Label)>,
    names_len: u64,
    /// The ports there are at this point of what is told.
    labels: Labels,
    recorder: Option<Recorder>,
    watch: Option<Watch>,
    clients: Vec<Client>,
}

impl Writer {
    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        while self.take_told() {
            self.write();
            self.observation.sleeper.doze();
            let is_idle = self.observation.told.is_empty() && self.inbox.is_empty();
            let wait = if is_idle { self.wait() } else { Some(Duration::ZERO) };
            let polled = self.poll(&mut events, wait);
            self.observation.sleeper.rise();
            if let Err(error) = polled {
                tracing::error!("the capture thread ends: {error}");
                return;
            }
        }
        self.end(&mut events);
    }

    /// The data thread is gone: its last marks were told, and readers get the
    /// rest for a while.
    fn end(&mut self, events: &mut Events) {
        let end = now() + LAST_PATIENCE;
        // What is recalled is there still.
        for client in self.clients.iter_mut().filter(|client| client.stage != Stage::Recalling) {
            client.stage = Stage::Over(end);
        }
        loop {
            self.write();
            let left = end.saturating_duration_since(now());
            let wait = if self.clients.iter().any(Client::is_eager) { Duration::ZERO } else { left };
            if self.clients.is_empty() || left.is_zero() || self.poll(events, Some(wait)).is_err() {
                return;
            }
        }
    }

    fn poll(&mut self, events: &mut Events, wait: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        while let Ok(order) = self.inbox.try_recv() {
            self.obey(order);
        }
        for event in events.iter().filter(|event| event.token() != WAKE) {
            if event.is_writable()
                && let Some(client) = self.clients.iter_mut().find(|client| token(client.id) == event.token())
            {
                client.unblock();
            }
            self.listen(event.token());
        }
        Ok(())
    }

    /// How long nothing needs to be done.
    fn wait(&self) -> Option<Duration> {
        if self.clients.iter().any(Client::is_eager) {
            return Some(Duration::ZERO);
        }
        let ends = self.clients.iter().filter_map(|client| match client.stage {
            Stage::Over(end) => Some(end),
            Stage::Waiting | Stage::Running | Stage::Recalling | Stage::Ending => None,
        });
        ends.min().map(|end| end.saturating_duration_since(now()))
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Begin { id, spec, labels } => {
                self.clients.push(Client::new(id, *spec, labels, self.names_len, now()));
            }
            Order::Reader { id, stream } => {
                let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
                let taken = stream.map(|stream| client.connect(stream, self.poll.registry(), token(id)));
                match taken {
                    // It may have hung up before it was registered.
                    Some(Ok(())) => self.listen(token(id)),
                    Some(Err(error)) => {
                        tracing::warn!("capture {id}: {error}");
                        self.drop_client(id);
                    }
                    None => self.drop_client(id),
                }
            }
            Order::Record { limit, worth } => {
                self.recorder = Some(Recorder::new(limit));
                self.watch = worth.map(Watch::new);
            }
            Order::Name { id, label } => {
                self.names_len += 1;
                // A later capture comes with the names of its time.
                if !self.clients.is_empty() || self.recorder.is_some() {
                    self.names.push_back((self.names_len, id, label));
                }
            }
            Order::Unname { id } => {
                if let Some(at) = self.names.iter().rposition(|(_, named, _)| *named == id) {
                    self.names.remove(at);
                }
            }
        }
    }

    /// Takes what the data thread has told; false if it will tell no more.
    fn take_told(&mut self) -> bool {
        // As many as there are blocks, then the readers get their turn.
        for _ in 0..BLOCKS {
            let told = self.observation.told.try_recv();
            // What was ordered before this was told is here by now.
            while let Ok(order) = self.inbox.try_recv() {
                self.obey(order);
            }
            match told {
                Ok(Told::Block(mut block)) => {
                    self.take_block(&block);
                    block.clear();
                    let _ = self.observation.empty.try_send(block);
                }
                Ok(Told::Mark(mark)) => self.take_mark(&mark),
                Ok(Told::Change { time, change }) => self.take_change(time, &change),
                Ok(Told::Fdb { id, time, entries, next }) => {
                    let client = self.running().find(|client| client.id == id);
                    if let Some(client) = client {
                        client.session.fdb(time, &entries, next.is_none());
                        client.fdb_next = next;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Client> {
        self.clients.iter_mut().filter(|client| client.is_running())
    }

    fn take_block(&mut self, block: &Block) {
        if let Some(recorder) = &mut self.recorder {
            let clients = &mut self.clients;
            recorder.push_frames(block, |number, item| forget(clients, number, item));
        }
        if self.watch.as_mut().is_some_and(|watch| watch.sees(block)) {
            self.tell(News::Triggered);
        }
        let mut enough = Vec::new();
        for client in self.running() {
            if !client.session.block(block) {
                client.session.end(None, block.last_time().unwrap_or_default(), "count");
                client.stage = Stage::Over(now() + PATIENCE);
                enough.push(client.id);
            }
        }
        for id in enough {
            self.forget(id);
        }
    }

    fn take_mark(&mut self, mark: &Mark) {
        if let Some(recorder) = &mut self.recorder {
            let clients = &mut self.clients;
            recorder.push_lost(&mark.lost, |number, item| forget(clients, number, item));
        }
        for client in self.running() {
            client.session.lose(&mark.lost, mark.untold);
        }
        // The recorder's own marks are nobody's.
        let Some(client) = self.clients.iter_mut().find(|client| client.id == mark.id) else { return };
        match (mark.edge, client.stage) {
            (Edge::Start, Stage::Waiting) => {
                self.labels = std::mem::take(&mut client.labels);
                let names_len = client.names_len;
                self.names.retain(|(number, ..)| *number > names_len);
                if client.session.recalls() {
                    // Without a recorder, none is ordered.
                    if let Some(recorder) = &self.recorder {
                        client.begin_recall(mark, recorder);
                    }
                    if client.is_asked {
                        client.end_recall("asked", now() + PATIENCE);
                    }
                    self.forget(mark.id);
                    self.tell(News::Started { id: mark.id });
                    return;
                }
                client.session.start(mark, &self.labels);
                client.stage = if client.is_asked { Stage::Ending } else { Stage::Running };
                client.fdb_next = mark.fdb_next.filter(|_| client.session.wants_fdb());
                if client.is_asked {
                    self.forget(mark.id);
                }
                self.tell(News::Started { id: mark.id });
            }
            (Edge::End, Stage::Running | Stage::Ending) => {
                let asked = client.stage == Stage::Ending;
                client.session.end(Some(mark), mark.snapshot.now, if asked { "asked" } else { "stopped" });
                client.stage = Stage::Over(now() + PATIENCE);
            }
            (Edge::Start | Edge::End, _) => {}
        }
    }

    fn take_change(&mut self, time: Time, change: &Change) {
        if let Change::PortAdded { id, .. } = change
            && let Some(at) = self.names.iter().position(|(_, named, _)| named == id)
            && let Some((.., label)) = self.names.remove(at)
        {
            if let Some(recorder) = &mut self.recorder {
                let clients = &mut self.clients;
                recorder.push_name(*id, &label, |number, item| forget(clients, number, item));
            }
            self.labels.insert(*id, label);
        }
        let Writer { clients, labels, .. } = self;
        for client in clients.iter_mut().filter(|client| client.is_running()) {
            client.session.change(time, change, labels);
        }
    }

    /// Asks for more of the FDB, for readers that have taken enough of what waits.
    fn ask_fdb(&mut self) {
        for client in self.clients.iter_mut().filter(|client| client.is_running()) {
            if !client.session.sink.is_full()
                && let Some(start) = client.fdb_next.take()
            {
                // If the data thread is gone, its end is told next.
                let _ = self.engine.send(Command::ObserveFdb { id: client.id, start });
            }
        }
    }

    /// The data thread need not tell anything for capture `id` any more.
    fn forget(&self, id: u64) {
        let _ = self.engine.send(Command::Observe { id, want: None });
    }

    /// Hears what a reader says.
    fn listen(&mut self, from: Token) {
        let Some(client) = self.clients.iter_mut().find(|client| token(client.id) == from) else { return };
        let (id, heard) = (client.id, client.listen());
        match heard {
            Heard::Nothing => {}
            Heard::End if !client.is_asked => {
                client.is_asked = true;
                let reason = client.reason();
                if !reason.is_empty() {
                    tracing::warn!("capture {id} ends: {reason}");
                }
                // If its first mark is still on its way, the end follows that.
                if client.stage == Stage::Recalling {
                    client.end_recall("asked", now() + PATIENCE);
                } else if client.stage == Stage::Running {
                    client.stage = Stage::Ending;
                    self.forget(id);
                }
            }
            Heard::End => {}
            Heard::Gone => self.drop_client(id),
        }
    }

    /// Gives every reader what it takes, and lets go of those that are done.
    fn write(&mut self) {
        let (mut gone, mut news) = (Vec::new(), Vec::new());
        let now = now();
        for client in &mut self.clients {
            if client.stage == Stage::Recalling
                && let Some(recorder) = &self.recorder
                && let Some(why) = client.recall(recorder)
            {
                client.end_recall(why, now + PATIENCE);
            }
            if !client.write(now) || client.is_done(now) {
                gone.push(client.id);
            }
            if now >= client.next_news {
                let missed = client.session.missed();
                if missed > client.told_missed {
                    (client.told_missed, client.next_news) = (missed, now + MISSING_EVERY);
                    news.push(News::Missing { id: client.id, missed });
                }
            }
        }
        for news in news {
            self.tell(news);
        }
        for id in gone {
            self.drop_client(id);
        }
        self.ask_fdb();
    }

    fn tell(&self, news: News) {
        // What nobody takes is not written down; the sums are in the capture.
        let _ = self.news.try_send(news);
        if let Some(control) = &self.control {
            let _ = control.wake();
        }
    }

    fn drop_client(&mut self, id: u64) {
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        let client = self.clients.remove(at);
        if !matches!(client.stage, Stage::Over(_) | Stage::Recalling) {
            self.forget(id);
        }
        self.held.fetch_sub(1, Ordering::SeqCst);
        if client.stage != Stage::Waiting {
            let why = client.why(now());
            let (written, missed) = (client.session.written(), client.session.missed());
            self.tell(News::Stopped { id, why, written, missed });
        }
    }
}

impl Drop for Writer {
    /// However the thread ends, by a panic too: the data thread is not to go on
    /// recording for nobody, nor to keep the fast path closed.
    fn drop(&mut self) {
        while let Ok(order) = self.inbox.try_recv() {
            if let Order::Begin { id, .. } = order {
                self.forget(id);
            }
        }
        for client in &self.clients {
            self.forget(client.id);
        }
        if self.recorder.is_some() {
            self.forget(RECORDER);
        }
    }
}

/// Lets captures of the past know of what the recorder forgets.
fn forget(clients: &mut [Client], number: u64, item: &Item) {
    for client in clients {
        client.miss(number, item);
    }
}

const fn token(id: u64) -> Token {
    #[expect(clippy::cast_possible_truncation, reason = "nobody begins 2^32 captures")]
    Token(id as usize)
}

/// The capture thread's own clock: how long readers may take.
#[expect(clippy::disallowed_methods, reason = "no frame is judged by it")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::super::session::SNAPLEN_MAX;
    use super::*;
    use crate::bridge::{PortSet, Settings};
    use crate::engine::observe::Want;
    use crate::engine::{Engine, Tuning};

    #[test]
    fn a_thread_that_ends_has_the_data_thread_record_no_more() {
        let tuning = Tuning { busy_poll: Duration::ZERO, pad_runts: false, fast_path: true };
        let (engine, mut handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
        let data = std::thread::spawn(move || drop(engine.run().unwrap()));
        let observation = handle.take_observation().unwrap();
        let told = observation.told.clone();
        let poll = Poll::new().unwrap();
        let (orders, inbox) = crossbeam_channel::bounded(8);
        let (news, _) = crossbeam_channel::bounded(NEWS_MAX);
        let spec = || Spec {
            switch: String::new(),
            config: String::new(),
            ports: None,
            kinds: [true; 4],
            filter: None,
            filter_text: String::new(),
            snaplen: SNAPLEN_MAX,
            count: None,
            segment: false,
            last: None,
        };
        let writer = Writer {
            poll,
            observation,
            inbox,
            engine: handle.orders(),
            held: Arc::default(),
            news,
            control: None,
            names: VecDeque::new(),
            names_len: 0,
            labels: Labels::new(),
            recorder: None,
            watch: None,
            clients: vec![Client::new(1, spec(), Labels::new(), 0, now())],
        };
        // One that it holds, and one that it has not heard of yet.
        let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX };
        for id in [1, 2] {
            handle.send(Command::Observe { id, want: Some(want) }).unwrap();
        }
        let begin = Order::Begin { id: 2, spec: Box::new(spec()), labels: Labels::new() };
        orders.send(begin).unwrap();
        drop(writer);
        let mut marks = Vec::new();
        while marks.len() < 4 {
            match told.recv_timeout(Duration::from_secs(20)).unwrap() {
                Told::Mark(mark) => marks.push((mark.id, mark.edge)),
                Told::Block(_) | Told::Change { .. } | Told::Fdb { .. } => {}
            }
        }
        marks.sort_by_key(|(id, _)| *id);
        assert_eq!(marks, [(1, Edge::Start), (1, Edge::End), (2, Edge::Start), (2, Edge::End)]);
        handle.send(Command::Stop).unwrap();
        data.join().unwrap();
    }
}
