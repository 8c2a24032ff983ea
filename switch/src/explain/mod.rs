//! Words for what the bridge decided: one line for the comments of a capture
//! ([`Comment`]), and step by step for `trace` ([`steps`]).
//!
//! Pure: a story and the ports' names in, text out. Both forms come from the one
//! value that the deciding functions wrote.
//!
//! Deliberately absent: any rule of forwarding. What is not in the story is not
//! said.

mod comment;
mod egress;
mod steps;
#[cfg(test)]
mod tests;

pub use comment::{Comment, refused};
pub use egress::fate;
pub use steps::{Step, steps};

use crate::bridge::{PortId, PortSet};

/// The name of each port.
pub trait Names {
    /// The name of `port`.
    fn name(&self, port: PortId) -> &str;
}

impl<S: AsRef<str>> Names for &[S] {
    /// By number; what is beyond the end has none.
    fn name(&self, port: PortId) -> &str {
        self.get(port.index()).map_or("?", AsRef::as_ref)
    }
}

/// The names of a set of ports, ascending by number, with spaces between.
fn list(ports: PortSet, names: &dyn Names) -> String {
    ports.iter().map(|port| names.name(port)).collect::<Vec<_>>().join(" ")
}
