//! What is asked of a capture. Pure: what the words mean is checked by whoever
//! runs the switch.

use serde::{Deserialize, Serialize};

use crate::capture::bpf::Insn;

/// Which way a frame crossed a port, or that it did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It came in, whatever became of it.
    In,
    /// A copy was sent.
    Out,
    /// It came in and was dropped, or a copy was refused.
    Dropped,
}

/// A filter: its program, and its text, which is only shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// As it was typed.
    pub text: String,
    /// Instructions of the classic BPF machine: `[code, jt, jf, k]`.
    pub program: Vec<Insn>,
}

/// A capture: everything, unless something is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Only at these ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Only these directions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directions: Vec<Direction>,
    /// Only what it accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Only the first bytes of each frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
    /// Only so many frames and copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Not what comes, but what the recorder has kept of so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// With each frame that comes in, every step of the decision on it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub steps: bool,
    /// Checksums finished and super-frames cut, as readers like it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub segment: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}
