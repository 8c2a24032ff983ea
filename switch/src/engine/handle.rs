//! The control thread's end of the channels.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::Waker;
use std::sync::Arc;

use super::clock::Clock;
use super::observe::Observation;
use super::{Command, Report, Snapshot};
use crate::bridge::{Taken, Time};
use crate::port::Port;

/// Commands the engine from another thread.
#[derive(Debug)]
pub struct Handle {
    orders: Orders,
    reports: Receiver<Report>,
    notes: Receiver<Taken>,
    clock: Clock,
    observation: Option<Observation>,
    control: Option<Arc<Waker>>,
}

/// Gives orders to the engine, and hears no reports. Clones give orders to the
/// same engine.
#[derive(Clone, Debug)]
pub struct Orders {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Orders {
    /// Gives an order, to be carried out before the next turn.
    ///
    /// # Errors
    /// [`Ended`] when no data thread is there to take it.
    pub fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).map_err(|_| Ended)?;
        self.waker.wake().map_err(|_| Ended)
    }
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
        observation: Observation,
        control: Option<Arc<Waker>>,
    ) -> Handle {
        let orders = Orders { commands, waker: Arc::new(waker) };
        Handle { orders, reports, notes, clock, observation: Some(observation), control }
    }

    /// The time by the switch's own clock, and by the wall's since 1970.
    pub fn now(&self) -> (Time, Duration) {
        (self.clock.now(), Clock::wall())
    }

    /// The next thing that the bridge noticed of stations, if one is waiting.
    pub fn note(&self) -> Option<Taken> {
        self.notes.try_recv().ok()
    }

    /// A way to give orders from yet another thread.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// What wakes the control thread, if anything does.
    pub fn control_waker(&self) -> Option<Arc<Waker>> {
        self.control.clone()
    }

    /// The capture thread's end of the seam; there is one.
    pub fn take_observation(&mut self) -> Option<Observation> {
        self.observation.take()
    }

    /// Gives an order, to be carried out before the next turn.
    ///
    /// # Errors
    /// [`Ended`] when no data thread is there to take it.
    pub fn send(&self, command: Command) -> Result<(), Ended> {
        self.orders.send(command)
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
