//! Behind each frame that came in, if somebody asked for it: every step of the decision
//! on it, and what each egress did.
//!
//! It is what the data thread was told while it decided, in the words of
//! [`explain`](crate::explain), as `vswitch trace` has them of a frame that is only
//! asked about.
//!
//! Deliberately absent: frames of the past. The recorder does not keep what explains
//! them.

use super::{Session, Shot};
use crate::capture::state::{State, Told};
use crate::control::Explained;
use crate::frame::HEAD_MAX;

impl Session {
    /// Explains frame number `index` of its turn, which was just written.
    pub(super) fn explain(&mut self, shot: &Shot<'_>, index: u8) {
        let Shot { turn, seen, id, .. } = *shot;
        // Turns before anybody asked have none.
        let Some(account) = turn.accounts.get(usize::from(index)) else { return };
        let egress = turn.fates(index);
        let head = &seen.bytes[..seen.bytes.len().min(HEAD_MAX)];
        let explained = Explained { ingress: turn.ingress, head, len: seen.len, account, egress: &egress };
        let trace = explained.in_words(&self.names);
        let date_ns = self.epoch_ns + turn.time.as_nanos();
        self.say(&State::Trace(Told { frame: id, date_ns, trace }));
    }
}
