//! What makes the recorder write a file by itself, as it is written:
//! `drop:REASON`, `event:KIND` or `filter:EXPR`.
//!
//! Deliberately absent: looking for it (`capture::watch`, and the journal), and
//! compiling filters.

use std::fmt;

use super::error::Fault;
use crate::bridge::{DropReason, Refusal};
use crate::events::Kind;

/// What is worth a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A frame was dropped for that reason.
    Drop(DropReason),
    /// A copy was refused for that reason.
    Refused(Refusal),
    /// Something of that kind happened.
    Event(Kind),
    /// A frame came in that the filter accepts.
    Filter(String),
}

impl Trigger {
    /// Reads what [`Display`](fmt::Display) writes.
    pub(super) fn parse(text: &str) -> Result<Trigger, Fault> {
        let wrong = |fix: String| Err(Fault::new(format!("`recorder_trigger` cannot be `{text}`"), fix));
        match text.split_once(':') {
            Some(("drop", word)) => {
                let dropped = DropReason::ALL.iter().find(|reason| reason.name() == word);
                let refused = Refusal::ALL.iter().find(|reason| reason.name() == word);
                match (dropped, refused) {
                    (Some(reason), _) => Ok(Trigger::Drop(*reason)),
                    (None, Some(reason)) => Ok(Trigger::Refused(*reason)),
                    (None, None) => {
                        let names = DropReason::ALL.iter().map(|reason| reason.name());
                        let names: Vec<_> = names.chain(Refusal::ALL.iter().map(|r| r.name())).collect();
                        wrong(format!("write drop: and one of {}", names.join(", ")))
                    }
                }
            }
            Some(("event", word)) => match kinds().find(|kind| kind.name() == word) {
                Some(kind) => Ok(Trigger::Event(kind)),
                None => {
                    let names: Vec<_> = kinds().map(Kind::name).collect();
                    wrong(format!("write event: and one of {}", names.join(", ")))
                }
            },
            Some(("filter", expr)) if !expr.trim().is_empty() => Ok(Trigger::Filter(expr.to_owned())),
            _ => wrong("write drop:REASON, event:KIND, filter:EXPR or off".to_owned()),
        }
    }
}

/// Events that can be triggers: what the recorder itself makes happen is none.
fn kinds() -> impl Iterator<Item = Kind> {
    let own = [Kind::CaptureStarted, Kind::CaptureStopped, Kind::CaptureLost, Kind::Suppressed];
    Kind::ALL.iter().copied().filter(move |kind| !own.contains(kind))
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Drop(reason) => write!(f, "drop:{reason}"),
            Trigger::Refused(reason) => write!(f, "drop:{reason}"),
            Trigger::Event(kind) => write!(f, "event:{kind}"),
            Trigger::Filter(expr) => write!(f, "filter:{expr}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_read_back_what_they_print() {
        for text in ["drop:no_egress", "drop:oversize", "event:mac_flapping", "filter:arp or tcp port 22"] {
            assert_eq!(Trigger::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "no_egress", "drop:", "drop:storms", "event:capture_started", "filter: ", "on"] {
            assert!(Trigger::parse(text).is_err(), "{text}");
        }
    }

    /// One prefix for both, so no reason may be of both.
    #[test]
    fn drops_and_refusals_have_different_names() {
        for reason in DropReason::ALL {
            assert!(Refusal::ALL.iter().all(|refusal| refusal.name() != reason.name()), "{reason}");
        }
    }
}
