//! Captures: every frame with its verdict, as pcapng.
//!
//! Read in this order: `engine::observe` (how frames leave the data thread),
//! [`session`] (what of them is wanted, and the sums), [`words`] (comments),
//! [`pcapng`] and [`state`] (how it is written), `writer` and `client` (the thread
//! that does it), `recorder`, `watch` and `dump` (the last frames,
//! always, and when they become a file by themselves), [`bpf`] and [`libpcap`]
//! (filters), [`reader`], [`ender`] and [`rotate`] (the command, its end, and its files), [`extcap`]
//! (Wireshark's interfaces).
//!
//! Deliberately absent: anything that could make the data thread wait. A reader
//! that is slow loses frames of its capture, and is told how many.

pub mod bpf;
mod client;
pub mod command;
pub(crate) mod dump;
pub mod ender;
pub mod extcap;
pub mod libpcap;
pub mod pcapng;
pub mod reader;
mod recorder;
pub mod rotate;
pub mod session;
mod sink;
pub mod state;
mod watch;
pub mod words;
mod writer;

pub use client::Reader;
pub use watch::Worth;
pub use writer::{CAPTURES_MAX, Captures, News};

/// What events call the capture of that number.
pub fn name(id: u64) -> String {
    format!("capture {id}")
}
