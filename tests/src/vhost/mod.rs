//! A vhost-user front end in the test's own process: it shares a memfd as its
//! guest's memory, drives split queues in it by hand, and can lie in all of it.
//!
//! Deliberately absent: the crate that the switch reads messages with. Messages
//! are written byte by byte here, so that broken ones can be.

mod guest;
mod messages;

pub use guest::{Descriptor, Guest, INDIRECT, NEXT, QUEUE_LEN, WRITE};
pub use messages::{FrontEnd, Request};
