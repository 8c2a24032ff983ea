//! Support for the tests and the system benchmark: namespaces, the programs
//! under test, and measured flows of frames.
//!
//! Read in this order: [`skip`] (what a test needs of its host), [`netns`]
//! (hosts to connect), [`process`] (the switch), [`flow`] (frames with a
//! number on each), [`scenario`] (the core alone, in words) with [`model`] (what
//! it must do).
//!
//! Deliberately absent: a second implementation of anything that is tested, but
//! for the bridge's model, which is as naive as it can be.

pub mod bpf;
pub mod capture;
pub mod capturing;
pub mod clock;
pub mod flow;
pub mod guest_socket;
pub mod iperf;
mod link;
pub mod live_trace;
#[rustfmt::skip]
pub mod model;
pub mod netns;
pub mod process;
pub mod qemu;
pub mod replays;
pub mod scenario;
pub mod skip;
pub mod start;
mod sys;
pub mod user;
pub mod vhost;
