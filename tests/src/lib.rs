//! Support for the tests and the system benchmark: namespaces, the programs
//! under test, and measured flows of frames.
//!
//! Read in this order: [`skip`] (what a test needs of its host), [`netns`]
//! (hosts to connect), [`process`] (the switch), [`flow`] (frames with a
//! number on each).
//!
//! Deliberately absent: a second implementation of anything that is tested.

pub mod clock;
pub mod flow;
pub mod iperf;
mod link;
pub mod netns;
pub mod process;
pub mod qemu;
pub mod skip;
mod sys;
