//! A vhost-user front end in the test's own process: it shares a memfd as its
//! guest's memory, drives split and packed queues in it by hand, and can lie in
//! all of it. With it a switch's data thread to try that on (`rig`), and whatever
//! lies there are (`attacks`).
//!
//! Deliberately absent: the crate that the switch reads messages with. Messages
//! are written byte by byte here, so that broken ones can be.

pub mod attacks;
mod guest;
mod messages;
mod packed;
mod rig;
mod shared;

pub use guest::{Choice, Descriptor, Guest, INDIRECT, NEXT, QUEUE_LEN, USER, WRITE, feature};
pub use messages::{FrontEnd, Request};
pub use packed::PackedGuest;
pub use rig::{LIMIT, Rig, frame, held};
pub use shared::MEMORY_LEN;
