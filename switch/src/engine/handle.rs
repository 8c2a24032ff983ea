//! The control thread's end of the channels.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::Waker;

use super::clock::Clock;
use super::{Command, Report, Snapshot};
use crate::bridge::{Taken, Time};
use crate::port::Port;

/// Commands the engine from another thread.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    reports: Receiver<Report>,
    notes: Receiver<Taken>,
    clock: Clock,
}

/// The data thread has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the data thread has ended; see the log, and start the switch again")]
pub struct Ended;

/// What a stopped engine leaves behind.
#[derive(Debug)]
pub struct Closed {
    /// The counters at the end.
    pub snapshot: Snapshot,
    /// The devices, to be closed where waiting harms nobody.
    pub ports: Vec<Box<dyn Port>>,
}

impl Handle {
    pub(super) fn new(
        commands: Sender<Command>,
        waker: Waker,
        reports: Receiver<Report>,
        notes: Receiver<Taken>,
        clock: Clock,
    ) -> Handle {
        Handle { commands, waker, reports, notes, clock }
    }

    /// The time by the switch's own clock, and by the wall's since 1970.
    pub fn now(&self) -> (Time, Duration) {
        (self.clock.now(), Clock::wall())
    }

    /// The next thing that the bridge noticed of stations, if one is waiting.
    pub fn note(&self) -> Option<Taken> {
        self.notes.try_recv().ok()
    }

    /// Gives an order, to be carried out before the next turn.
    ///
    /// # Errors
    /// [`Ended`] when no data thread is there to take it.
    pub fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).map_err(|_| Ended)?;
        self.waker.wake().map_err(|_| Ended)
    }

    /// Gives an order and waits for its answer; `order` puts the reply channel
    /// into the command.
    ///
    /// # Errors
    /// [`Ended`] when the data thread ends before it answers.
    pub fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Command) -> Result<T, Ended> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(order(reply))?;
        answer.recv().map_err(|_| Ended)
    }

    /// The next report, if one is waiting.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone and all it said was read.
    pub fn report(&self) -> Result<Option<Report>, Ended> {
        match self.reports.try_recv() {
            Ok(report) => Ok(Some(report)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Ended),
        }
    }
}
