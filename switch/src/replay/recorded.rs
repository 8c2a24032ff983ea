//! The verdict that a capture recorded, read out of a frame's comment.
//!
//! A comment is clauses with `; ` between them, one of which is the verdict:
//! `forwarded to PORT`, `flooded to PORT...` or `dropped: REASON`. Everything else
//! is about how it came to be, and is not compared: a changed configuration that
//! learns less, and forwards the same, treats the frame the same.

use std::collections::BTreeSet;
use std::fmt;

use crate::bridge::DropReason;

/// What became of a frame.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// It left by these ports.
    To(BTreeSet<String>),
    /// It was dropped, for this reason.
    Dropped(String),
}

impl Recorded {
    /// The verdict in a frame's comments, if there is one.
    pub fn read(comments: &[String]) -> Option<Recorded> {
        comments.iter().flat_map(|comment| comment.split("; ")).find_map(|clause| {
            if let Some(reason) = clause.strip_prefix("dropped: ") {
                return Some(Recorded::Dropped(reason.to_owned()));
            }
            let ports =
                ["forwarded to ", "flooded to ", "to "].iter().find_map(|how| clause.strip_prefix(how));
            Some(Recorded::To(ports?.split(' ').map(str::to_owned).collect()))
        })
    }

    /// What was wrong with the frame before it was judged, and cannot be seen in
    /// what is kept of it.
    pub fn fault(&self) -> Option<DropReason> {
        let Recorded::Dropped(name) = self else { return None };
        [DropReason::Truncated, DropReason::BadOffload, DropReason::TunnelGso]
            .into_iter()
            .find(|reason| reason.name() == name)
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recorded::Dropped(reason) => write!(f, "dropped: {reason}"),
            Recorded::To(ports) => {
                f.write_str("to")?;
                ports.iter().try_for_each(|port| write!(f, " {port}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(comment: &str) -> Option<String> {
        Recorded::read(&[comment.to_owned()]).map(|recorded| recorded.to_string())
    }

    #[test]
    fn the_verdict_is_found_among_the_clauses() {
        for (comment, verdict) in [
            ("learned tap0; flooded to vm2 tap1", Some("to tap1 vm2")),
            ("moved from a to b; spoofed: bound to c; forwarded to d", Some("to d")),
            ("not learned: max_macs; dropped: filtered", Some("dropped: filtered")),
            ("dropped: locked", Some("dropped: locked")),
            ("refused: oversize", None),
            ("a remark of somebody's", None),
        ] {
            assert_eq!(read(comment).as_deref(), verdict, "{comment}");
        }
        assert_eq!(Recorded::read(&["hello".to_owned(), "dropped: runt".to_owned()]).unwrap().fault(), None);
        assert_eq!(
            Recorded::Dropped("truncated".to_owned()).fault(),
            Some(DropReason::Truncated),
            "what a port saw is the port's to say"
        );
    }
}
