//! One line that says what became of a frame:
//!
//! ```text
//! comment  = [ learning "; " ] [ spoofed "; " ] verdict
//! learning = "learned " PORT
//!          | "moved from " PORT " to " PORT
//!          | "not learned: max_macs" | "not learned: fdb_size"
//! spoofed  = "spoofed: bound to " PORT
//! verdict  = "forwarded to " PORT | "flooded to " PORT { " " PORT }
//!          | "dropped: " DROP_REASON
//! ```
//!
//! A source that is known where it is needs no word, nor one that is not to be
//! learned.

use std::fmt;

use super::Names;
use crate::bridge::{Learned, Learning, Limit, LookUp, PortId, Refusal, Story, Verdict};

/// A story as one line; see the [module](self).
pub struct Comment<'a> {
    /// What happened.
    pub story: &'a Story,
    /// Where the frame came in.
    pub ingress: PortId,
    /// The ports' names.
    pub names: &'a dyn Names,
}

impl fmt::Debug for Comment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl fmt::Display for Comment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comment { story, ingress, names } = self;
        if let Learning::Told(learned) = story.learning {
            match learned {
                Learned::New => write!(f, "learned {}; ", names.name(*ingress))?,
                Learned::Moved(from) => {
                    write!(f, "moved from {} to {}; ", names.name(from), names.name(*ingress))?
                }
                Learned::Refused(limit) => write!(f, "not learned: {}; ", limit_key(limit))?,
                Learned::Known | Learned::Foreign(_) => {}
            }
        }
        if let Some(bound) = story.bound {
            write!(f, "spoofed: bound to {}; ", names.name(bound))?;
        }
        match story.verdict {
            Verdict::Drop(reason) => write!(f, "dropped: {reason}"),
            Verdict::Forward { to, .. } => {
                let how = if let LookUp::Known(_) = story.look_up { "forwarded" } else { "flooded" };
                write!(f, "{how} to")?;
                to.iter().try_for_each(|port| write!(f, " {}", names.name(port)))
            }
        }
    }
}

/// The configuration key that sets a limit.
pub(super) const fn limit_key(limit: Limit) -> &'static str {
    match limit {
        Limit::Port => "max_macs",
        Limit::Table => "fdb_size",
    }
}

/// The comment of a copy that its port did not send.
pub fn refused(reason: Refusal) -> impl fmt::Display {
    struct Refused(Refusal);
    impl fmt::Display for Refused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "refused: {}", self.0)
        }
    }
    Refused(reason)
}
