//! The capture thread: takes blocks from the data thread, gives them to every
//! capture, and writes what they make to their readers' sockets, as fast as each
//! reads.
//!
//! It starts with the first capture and ends with the switch. It waits for
//! nothing but its poll: something told, an order of the control thread, or a
//! reader that can take more. While frames are for readers alone and none of them has
//! room, blocks stay here: to take them, only to count what is in them, would keep the
//! data thread recording and the readers from their processor.
//!
//! Deliberately absent: formats (`session`, `pcapng`), and files, which the
//! readers write.

mod captures;

pub use captures::{CAPTURES_MAX, Captures};

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::{Events, Poll, Token, Waker};

use super::client::{Client, Heard, PATIENCE, Reader, Stage};
use super::recorder::{Item, Recorder};
use super::session::{Blame, Label, Labels, Spec};
use super::watch::{Watch, Worth};
use crate::bridge::{BURST, PortId, Time};
use crate::engine::observe::{BLOCKS, Block, Change, Edge, Lost, Mark, Observation, Told};
use crate::engine::{Command, Orders};

/// Readers have this long to take the rest when the switch ends.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The recorder's number among captures, which begin at 1.
const RECORDER: u64 = 0;

/// While so many blocks wait, no frame is put into words: the others are still empty, and
/// no other capture has missed anything. Of frames that come one by one more may wait for
/// a moment, since each has a block of its own.
const BEHIND: usize = BLOCKS / 4;
const BEHIND_SHORT: usize = BLOCKS / 4 * 3;

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
    Reader { id: u64, reader: Option<Reader> },
    /// Keeps the last frames, in so many bytes.
    Record { limit: usize, worth: Option<Worth> },
    /// The name of the port that will be added next under that number.
    Name { id: PortId, label: Label },
    /// That port was not added after all.
    Unname { id: PortId },
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
    /// Blocks that wait for a reader, since none of them has room. Meanwhile the data
    /// thread runs out of empty ones, and need not record what nobody would get.
    kept: VecDeque<(Block, Blame)>,
    /// They waited since something was told last: what is told next says what found no
    /// block meanwhile.
    has_waited: bool,
}

impl Writer {
    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        while self.take_told() {
            self.write();
            self.observation.sleeper.doze();
            let is_idle = self.observation.told.is_empty() && self.inbox.is_empty() && !self.may_take_kept();
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
            Order::Reader { id, reader } => {
                let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
                let taken = reader.map(|reader| client.connect(reader, self.poll.registry(), token(id)));
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
            self.take_kept();
            let told = self.observation.told.try_recv();
            // What was ordered before this was told is here by now.
            while let Ok(order) = self.inbox.try_recv() {
                self.obey(order);
            }
            // All but frames waits for no reader.
            if !matches!(told, Ok(Told::Block(_)) | Err(TryRecvError::Empty)) {
                self.take_all_kept();
            }
            match told {
                Ok(Told::Block(block)) => {
                    let blame = self.take_blame();
                    self.kept.push_back((block, blame));
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

    /// Whether there is a block for a reader that has room, or for somebody who waits
    /// for none.
    fn may_take_kept(&self) -> bool {
        !self.kept.is_empty() && !self.waits_for_readers()
    }

    /// Whether frames are for readers alone, and none of them has room.
    fn waits_for_readers(&self) -> bool {
        let has_no_room =
            |client: &Client| client.stage == Stage::Running && client.session.sink.is_nearly_full();
        self.recorder.is_none() && !self.clients.is_empty() && self.clients.iter().all(has_no_room)
    }

    /// Takes one block that waits, if it need not wait longer.
    fn take_kept(&mut self) {
        if self.may_take_kept() {
            self.take_next_kept();
        }
        self.has_waited |= !self.kept.is_empty() && self.waits_for_readers();
    }

    /// Who is to blame for what was not recorded before what was told now.
    fn take_blame(&mut self) -> Blame {
        if std::mem::take(&mut self.has_waited) { Blame::Readers } else { Blame::Switch }
    }

    fn take_all_kept(&mut self) {
        while self.take_next_kept() {}
    }

    fn take_next_kept(&mut self) -> bool {
        let Some((mut block, blame)) = self.kept.pop_front() else { return false };
        self.take_block(&block, blame);
        block.clear();
        let _ = self.observation.empty.push(block);
        true
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Client> {
        self.clients.iter_mut().filter(|client| client.is_running())
    }

    fn take_block(&mut self, block: &Block, blame: Blame) {
        if let Some(recorder) = &mut self.recorder {
            let clients = &mut self.clients;
            recorder.push_frames(block, |number, item| forget(clients, number, item));
        }
        let worth = self.watch.as_ref().and_then(|watch| watch.sees(block));
        if let Some(seen) = worth
            && self.tell(News::Triggered)
            && let Some(watch) = &mut self.watch
        {
            watch.look_away(seen);
        }
        let mut enough = Vec::new();
        let Writer { clients, observation, .. } = self;
        let behind = if block.frames_len() < BURST { BEHIND_SHORT } else { BEHIND };
        // What waited for its reader is not what others miss.
        let is_behind = || observation.told.len() >= behind;
        for client in clients.iter_mut().filter(|client| client.is_running()) {
            if !client.session.block(block, blame, is_behind) {
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
            let now = mark.snapshot.now;
            recorder.push_lost(now, &mark.lost, |number, item| forget(clients, number, item));
        }
        let blame = self.take_blame();
        for client in self.running() {
            client.session.lose(&mark.lost, mark.untold, blame);
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
        if let Change::PortRemoved { id, lost, .. } = change
            && *lost != Lost::default()
            && let Some(recorder) = &mut self.recorder
        {
            let clients = &mut self.clients;
            recorder.push_lost(time, &[(*id, *lost)], |number, item| forget(clients, number, item));
        }
        // The other ports' losses are told later.
        let blame = if self.has_waited { Blame::Readers } else { Blame::Switch };
        let Writer { clients, labels, .. } = self;
        for client in clients.iter_mut().filter(|client| client.is_running()) {
            client.session.change(time, change, labels, blame);
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

    /// False if there was no room: what nobody takes is not written down, and the
    /// sums are in the capture.
    fn tell(&self, news: News) -> bool {
        let is_told = self.news.try_send(news).is_ok();
        if let Some(control) = &self.control {
            let _ = control.wake();
        }
        is_told
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
mod tests;
