//! What the bridge noticed of stations, on its way to the control thread: a few
//! times a second at most, over a channel whose room was asked for at the start.
//!
//! Deliberately absent: waiting. What the channel has no room for is counted,
//! and its number is told.

use std::time::Duration;

use super::Engine;
use crate::bridge::Time;

/// Notes are told at once, and then no sooner than this: 20 times a second, 64
/// of a kind, whatever comes.
const PAUSE: Duration = Duration::from_millis(50);

/// Room in the channel.
pub(super) const CHANNEL_LEN: usize = 1024;

impl Engine {
    /// When notes are to be told that are waiting, if any are.
    #[inline]
    pub(super) fn next_tell(&mut self) -> Option<Time> {
        if self.bridge.notes_mut().is_empty() { None } else { Some(self.tell_at) }
    }

    /// Tells the notes.
    #[cold]
    pub(super) fn tell(&mut self, now: Time) {
        self.tell_at = now.after(PAUSE);
        let notes = &self.notes;
        self.bridge.notes_mut().take(|taken| notes.try_send(taken).is_ok());
        if let Some(control) = &self.control {
            let _ = control.wake();
        }
    }
}
