//! Captures: what a file says beside its frames.

pub mod state;
