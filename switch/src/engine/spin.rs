//! Ports whose frames arrive in memory: looked at without a system call while
//! traffic flows, asleep in epoll when none does.
//!
//! A port with frames is *awake*: each round looks at it, and its other end is
//! asked not to notify. When no frame came from anywhere for the time of
//! `busy_poll`, every port that is awake is asked to notify and looked at once
//! more; only then does the thread sleep. While it does not, epoll is asked now
//! and then, for ports of other kinds and for commands.
//!
//! Deliberately absent: a thread that spins for ever.

use std::time::Duration;

use super::Engine;
use super::command::Report;
use crate::bridge::{PortId, PortSet, Time};
use crate::port::Port;

/// epoll is asked so often while polled ports have frames and no other kind of
/// port is there. Nothing waits for it: commands and whatever becomes of a
/// connection are seen in memory. At 300,000 frames a second, which is slow for
/// these ports, it is one system call in 3,000 frames.
const PAUSE_ALONE: Duration = Duration::from_millis(10);

/// The same if ports of other kinds wait for it, too.
const PAUSE_MIXED: Duration = Duration::from_micros(20);

/// A round with fewer frames than this is followed by a pause of this length.
/// Each look at a ring takes its cache lines from the core that fills it, and
/// a ring that is looked at all the time is filled, and emptied, a few frames at
/// a time: two queues of 64-byte frames then moved 1.2 to 3.9 million a second,
/// and 8.0 to 8.7 with the pause.
const ROUND_FULL: usize = 64;
const GATHER: Duration = Duration::from_micros(1);

/// Each so many rounds, ports that are asleep are looked at as well: a look is
/// cheaper than the system call that would tell of their frames.
const SWEEP_ROUNDS: u32 = 16;

/// Which ports are polled, and when to stop.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// Ports that can be polled.
    polled: PortSet,
    /// Those of them that were not asked to notify.
    awake: PortSet,
    /// Ports that epoll alone tells of.
    others: PortSet,
    last_frame: Time,
    /// When epoll is to be asked again.
    next_poll: Time,
    rounds: u32,
    /// Frames of the last round.
    frames: usize,
}

impl Spin {
    /// Takes note of a device.
    pub fn add(&mut self, id: PortId, port: &dyn Port) {
        let is_polled = port.is_polled();
        self.polled.set(id, is_polled);
        self.awake.set(id, is_polled);
        self.others.set(id, !is_polled);
    }

    /// Forgets a device.
    pub fn remove(&mut self, id: PortId) {
        self.polled.remove(id);
        self.awake.remove(id);
        self.others.remove(id);
    }

    /// A frame came in this round.
    pub fn saw_frames(&mut self, now: Time) {
        self.last_frame = now;
    }

    /// Frames came from `id`.
    #[inline]
    pub fn wake(&mut self, id: PortId, frames: usize) {
        self.frames += frames;
        if self.polled.contains(id) {
            self.awake.insert(id);
        }
    }

    /// The ports to look at in this round.
    #[inline]
    pub fn turns(&mut self, ready: PortSet) -> PortSet {
        self.rounds = self.rounds.wrapping_add(1);
        self.frames = 0;
        if self.awake.is_empty() {
            ready
        } else if self.rounds.is_multiple_of(SWEEP_ROUNDS) {
            ready | self.polled
        } else {
            ready | self.awake
        }
    }
}

impl Engine {
    /// How long to wait in epoll before the next round; `None`: not at all, and
    /// without asking it.
    pub(super) fn wait(&mut self, now: Time, next_tick: Time) -> Option<Duration> {
        let busy_poll = self.tuning.busy_poll;
        let is_spinning = !busy_poll.is_zero() && now < self.spin.last_frame.after(busy_poll);
        if !is_spinning {
            self.arm();
        }
        if !is_spinning && self.ready.is_empty() {
            return Some(Duration::from_nanos(next_tick.as_nanos().saturating_sub(now.as_nanos())));
        }
        // Only memory is to be looked at, and epoll was asked a moment ago.
        let in_memory = !(self.spin.awake | self.ready).is_empty()
            && self.ready.without(self.spin.polled).is_empty()
            && self.commands.is_empty();
        if in_memory && now < self.spin.next_poll {
            return None;
        }
        let pause = if self.spin.others.is_empty() { PAUSE_ALONE } else { PAUSE_MIXED };
        self.spin.next_poll = now.after(pause);
        Some(Duration::ZERO)
    }

    /// Waits a moment if the last round brought few frames, so that the next one
    /// brings more.
    pub(super) fn pause(&self, now: Time) {
        if self.spin.frames >= ROUND_FULL {
            return;
        }
        let end = now.after(GATHER);
        while self.clock.now() < end {
            std::hint::spin_loop();
        }
    }

    /// Asks every port that is awake to notify; those that have frames already
    /// are ready.
    fn arm(&mut self) {
        for id in std::mem::take(&mut self.spin.awake).iter() {
            let port = self.ports[id.index()].as_mut().and_then(|slot| slot.port.as_mut());
            if port.is_some_and(|port| port.arm()) {
                self.ready.insert(id);
            }
        }
    }

    /// Takes over what a port says of its link, and tells the control thread.
    #[cold]
    pub(super) fn relink(&mut self, id: PortId) {
        // Whatever was ordered, it is looked at again.
        self.ready.insert(id);
        self.spin.wake(id, 0);
        let Some(slot) = self.ports[id.index()].as_mut() else { return };
        let Some(port) = slot.port.as_ref() else { return };
        let link = port.link();
        if link == slot.link {
            return;
        }
        slot.link = link;
        self.set_bridge_link(id, link.up);
        // A full channel: the control thread asks for a snapshot anyway when it
        // is asked what there is.
        let _ = self.reports.try_send(Report::Link { id, link });
        if let Some(control) = &self.control {
            let _ = control.wake();
        }
    }
}
