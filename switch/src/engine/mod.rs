//! The data thread: one loop that wakes on epoll, gives each ready port a turn,
//! and between turns carries out commands and keeps the time.
//!
//! A turn: take the port out of its slot (so that every other port can be
//! borrowed, and no frame goes back where it came from); receive a burst; let
//! the bridge judge it; send the copies, grouped by egress; put the port back.
//!
//! Deliberately absent: locks, allocation per frame, formatting, waiting for
//! anything but epoll. Sockets, netlink and files belong to the control thread.

mod clock;
mod command;
mod egress;
mod fast;
mod fate;
mod forward;
mod handle;
mod obey;
pub mod observe;
mod spin;
mod tell;
#[cfg(test)]
mod tests;
mod trace;
mod turns;
mod watched;

pub use command::{Command, PortSnapshot, Report, Snapshot, Tuning};
pub use fate::Fate;
pub use handle::{Closed, Ended, Handle, Orders};
pub use trace::Traced;
pub use turns::{TURN_BUCKETS, TurnTimes};

use std::io;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Poll, Token, Waker};
use std::sync::Arc;

use crate::bridge::{Bridge, PORTS_MAX, PortId, PortSet, Settings, Taken, Time};
use crate::port::{Burst, FastTable, Fault, Finisher, Link, Losses, Port, Rx, Slots, ask_for_huge_pages};
use clock::Clock;
use fast::Fast;
use forward::Forwarding;
use observe::{Change, Observer};
use spin::Spin;

/// Ports use their numbers as tokens; this one is the control thread's call.
const WAKE: Token = Token(PORTS_MAX);

/// Ageing and loss counters are looked after this often.
const TICK: Duration = Duration::from_secs(1);

/// The sweep's next step follows this soon while it has work left.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// Frames that arrived before a stop are forwarded for at most this long.
const DRAIN: Duration = Duration::from_millis(100);

/// A port in the engine. The device may be missing while the port stays.
#[derive(Debug)]
struct Slot {
    port: Option<Box<dyn Port>>,
    link: Link,
    /// Of the device that is there, as they were last asked for.
    losses: Losses,
    /// Of those that were there before.
    losses_before: Losses,
}

/// The data thread's state.
#[derive(Debug)]
pub struct Engine {
    poll: Poll,
    bridge: Bridge,
    ports: Vec<Option<Slot>>,
    ready: PortSet,
    slots: Slots,
    finisher: Finisher,
    /// Per egress port, which frames of the burst leave by it; all zero
    /// between turns.
    masks: Box<[u64; PORTS_MAX]>,
    tuning: Tuning,
    /// The kernel's fast path, if it has one.
    fast: Option<Fast>,
    /// Told of every frame, while somebody looks.
    observer: Option<Box<Observer>>,
    /// The same while nobody does.
    resting: Option<Box<Observer>>,
    commands: Receiver<Command>,
    reports: Sender<Report>,
    notes: Sender<Taken>,
    /// Notes that come before this wait for it.
    tell_at: Time,
    /// When loss counters are looked after next.
    losses_at: Time,
    /// Losses of the ports deleted since the start.
    retired_losses: Losses,
    turns: TurnTimes,
    control: Option<Arc<Waker>>,
    clock: Clock,
    spin: Spin,
    stopping: bool,
}

impl Engine {
    /// An engine without ports, and the handle that commands it. `secret` keys
    /// the FDB's hash; `control` is woken when there is a report to read.
    ///
    /// # Errors
    /// When the kernel has no epoll instance or eventfd left to give.
    pub fn new(
        settings: Settings,
        tuning: Tuning,
        secret: [u64; 2],
        control: Option<Arc<Waker>>,
    ) -> io::Result<(Engine, Handle)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (commands_in, commands) = crossbeam_channel::bounded(1024);
        let (reports, reports_out) = crossbeam_channel::bounded(1024);
        let (notes, notes_out) = crossbeam_channel::bounded(tell::CHANNEL_LEN);
        let clock = Clock::start();
        let (observer, observation) = observe::seam();
        let bridge = Bridge::new(settings, secret);
        ask_for_huge_pages(bridge.fdb_memory());
        let engine = Engine {
            poll,
            bridge,
            ports: (0..PORTS_MAX).map(|_| None).collect(),
            ready: PortSet::EMPTY,
            slots: Slots::new(),
            finisher: Finisher::new(),
            masks: Box::new([0; PORTS_MAX]),
            tuning,
            fast: None,
            observer: None,
            resting: Some(Box::new(observer)),
            commands,
            reports,
            notes,
            tell_at: Time::START,
            losses_at: Time::START,
            retired_losses: Losses::default(),
            turns: TurnTimes::default(),
            control: control.clone(),
            clock,
            spin: Spin::default(),
            stopping: false,
        };
        Ok((engine, Handle::new(commands_in, waker, reports_out, notes_out, clock, observation, control)))
    }

    /// Lets the kernel forward what `table` holds, as far as
    /// [`Tuning::fast_path`] allows.
    #[must_use]
    pub fn with_fast_path(mut self, table: FastTable) -> Engine {
        let mut fast = Fast::new(table);
        fast.enable(self.tuning.fast_path && obey::can_age(self.bridge.settings().ageing));
        fast.set_padding(self.tuning.pad_runts);
        self.fast = Some(fast);
        self
    }

    /// Runs until [`Command::Stop`]; returns what is left to close and count.
    ///
    /// # Errors
    /// When epoll itself fails.
    pub fn run(mut self) -> io::Result<Closed> {
        let mut events = Events::with_capacity(PORTS_MAX + 1);
        let mut now = self.clock.now();
        let mut next_tick = now.after(TICK);
        while !self.stopping {
            let told = self.next_tell().map_or(next_tick, |tell| tell.min(next_tick));
            let wait = self.wait(now, told);
            if let Some(observer) = self.observer.as_mut() {
                observer.settle(now, wait.is_some_and(|wait| !wait.is_zero()));
            }
            match wait {
                Some(wait) => self.poll(&mut events, wait)?,
                None => self.pause(now),
            }
            now = self.clock.now();
            if self.round(now) {
                self.spin.saw_frames(now);
            }
            if let Some(fast) = self.fast.as_mut() {
                fast.settle();
            }
            if now >= next_tick {
                next_tick = now.after(self.tick(now));
            }
            if self.next_tell().is_some_and(|tell| now >= tell) {
                self.tell(now);
            }
        }
        // From here on the kernel forwards nothing by itself.
        self.set_tuning(self.tuning);
        self.drain(&mut events)?;
        self.end_captures();
        self.count_fast();
        let snapshot = self.snapshot(self.clock.now());
        let ports = self.ports.iter_mut().filter_map(|slot| slot.as_mut()?.port.take()).collect();
        Ok(Closed { snapshot, ports })
    }

    /// Waits for readiness, notes which ports have it, and obeys commands.
    fn poll(&mut self, events: &mut Events, wait: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(wait)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut woken = false;
        for event in events.iter() {
            match u8::try_from(event.token().0) {
                Ok(number) => self.ready.insert(PortId::new(number)),
                Err(_) => woken = true,
            }
        }
        if woken {
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
        }
        Ok(())
    }

    /// One turn for each ready port; true if any frame came. Never inlined: its
    /// instructions are counted by this name (benches/hot/count).
    #[inline(never)]
    pub(crate) fn round(&mut self, now: Time) -> bool {
        let mut any = false;
        let mut start = now;
        for id in self.spin.turns(self.ready).iter() {
            if self.turn(now, id) {
                any = true;
                let end = self.clock.now();
                self.turns.record(Duration::from_nanos(end.as_nanos().saturating_sub(start.as_nanos())));
                start = end;
            }
        }
        any
    }

    /// One turn: a burst from `id`, judged and sent on. True if a frame came.
    fn turn(&mut self, now: Time, id: PortId) -> bool {
        let Some(mut ingress) = self.ports[id.index()].as_mut().and_then(|slot| slot.port.take()) else {
            self.ready.remove(id);
            return false;
        };
        let mut burst = Burst::new(&mut self.slots);
        let rx = ingress.receive(&mut burst);
        let frames = burst.frames.as_slice();
        let any = !frames.is_empty();
        let verdicts_len = frames.len();
        let mut faults = ArrayVec::<(PortId, Fault), PORTS_MAX>::new();
        if any {
            let mut forwarding = Forwarding {
                bridge: &mut self.bridge,
                fast: self.fast.as_mut(),
                ports: &mut self.ports,
                masks: &mut self.masks,
                finisher: &mut self.finisher,
                pad_runts: self.tuning.pad_runts,
                verdicts: ArrayVec::new(),
                faults: &mut faults,
            };
            match self.observer.as_mut() {
                None => forwarding.forward(now, id, frames, &mut ()),
                Some(observer) => forwarding.forward_watched(now, id, frames, observer),
            }
        }
        drop(burst);
        ingress.release();
        if let Some(slot) = self.ports[id.index()].as_mut() {
            slot.port = Some(ingress);
        }
        if any {
            self.spin.wake(id, verdicts_len);
        }
        match rx {
            Rx::More => self.ready.insert(id),
            Rx::Drained => self.ready.remove(id),
            Rx::Changed => self.relink(id),
            Rx::Fault(fault) => {
                self.ready.remove(id);
                faults.push((id, fault));
            }
        }
        // By reference: to move them is to copy 8 KiB in every turn.
        for &(port, fault) in &faults {
            self.fail(port, fault);
        }
        any
    }

    /// Takes a port down after its device failed, and says so.
    #[cold]
    fn fail(&mut self, id: PortId, fault: Fault) {
        if let Some(slot) = self.ports[id.index()].as_mut() {
            slot.link.up = false;
            self.set_bridge_link(id, false);
        }
        self.update_fast(id);
        // A full channel loses nothing that matters: the control thread reads
        // every device's state again when it catches up.
        let _ = self.reports.try_send(Report::Fault { id, fault });
        if let Some(control) = &self.control {
            let _ = control.wake();
        }
    }

    /// Ageing and loss counters; returns when to come again.
    fn tick(&mut self, now: Time) -> Duration {
        if now >= self.losses_at {
            self.losses_at = now.after(TICK);
            for slot in self.ports.iter_mut().flatten() {
                if let Some(port) = slot.port.as_mut() {
                    slot.losses = port.losses();
                }
            }
        }
        let mut tick = TICK;
        let mut more = false;
        let next = if let Some(fast) = self.fast.as_mut() {
            // Whose frames do not come here must not age for that.
            more = fast.refresh(&mut self.bridge, now);
            if fast.is_used() {
                tick = tick.min(self.bridge.settings().ageing / 4).max(SWEEP_PAUSE);
            }
            self.bridge.sweep_asking(now, |mac, port| fast.age(mac, port))
        } else {
            self.bridge.sweep(now)
        };
        more |= next.is_some_and(|next| next <= now);
        self.show_change(Change::Swept);
        if let Some(fast) = self.fast.as_mut() {
            fast.recall(&mut self.bridge);
        }
        if more { SWEEP_PAUSE } else { tick }
    }

    /// Makes the fast path fit what `id` has become.
    fn update_fast(&mut self, id: PortId) {
        if let Some(fast) = self.fast.as_mut() {
            fast.look_at(&mut self.bridge, id, self.ports[id.index()].as_ref());
            fast.recall(&mut self.bridge);
        }
    }

    /// Counts what the kernel has forwarded until now.
    fn count_fast(&mut self) {
        if let Some(fast) = self.fast.as_mut() {
            fast.count(&mut self.bridge);
        }
    }

    fn drain(&mut self, events: &mut Events) -> io::Result<()> {
        let end = self.clock.now().after(DRAIN);
        loop {
            self.poll(events, Duration::ZERO)?;
            let now = self.clock.now();
            if !self.round(now) && self.ready.is_empty() || now >= end {
                return Ok(());
            }
        }
    }
}
