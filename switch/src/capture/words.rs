//! Comments: what became of a frame, in the words of [`explain`](crate::explain).
//!
//! A comment is clauses joined by `; `. That of a frame that came in is
//!
//! ```text
//! [ "checksum unfinished; " | "super-frame; " ] COMMENT
//! ```
//!
//! with the COMMENT of `explain`, whose last clause is the verdict; that of a copy is
//!
//! ```text
//! "from " PORT [ "; refused: " REFUSAL ]
//! ```
//!
//! Port names have no spaces, so both can be read back.
//!
//! Deliberately absent: any decision.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::bridge::{PortId, Refusal};
use crate::engine::observe::Seen;
use crate::explain::{self, Comment, Names};
use crate::offload::GSO_NONE;

/// Names by port.
impl Names for BTreeMap<PortId, String> {
    fn name(&self, port: PortId) -> &str {
        self.get(&port).map_or("?", String::as_str)
    }
}

/// Writes what became of a frame that came in by `ingress`. If it is not written
/// `as_it_crossed`, nothing in it is unfinished.
pub fn frame(out: &mut String, seen: &Seen<'_>, ingress: PortId, names: &dyn Names, as_it_crossed: bool) {
    if as_it_crossed && !seen.vnet.is_plain() {
        out.push_str(if seen.vnet.gso_type == GSO_NONE { "checksum unfinished; " } else { "super-frame; " });
    }
    // Writing to a String cannot fail.
    let _ = write!(out, "{}", Comment { story: seen.story, ingress, names });
}

/// Writes what became of a copy that came in by `ingress`.
pub fn copy(out: &mut String, ingress: PortId, refused: Option<Refusal>, names: &dyn Names) {
    let _ = write!(out, "from {}", names.name(ingress));
    if let Some(reason) = refused {
        let _ = write!(out, "; {}", explain::refused(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_name_their_ingress_and_their_refusal() {
        let names: BTreeMap<PortId, String> = [(PortId::new(7), "tap0".to_owned())].into();
        let words = |refused| {
            let mut out = String::new();
            copy(&mut out, PortId::new(7), refused, &names);
            out
        };
        assert_eq!(words(None), "from tap0");
        assert_eq!(words(Some(Refusal::Oversize)), "from tap0; refused: oversize");
    }
}
