//! The control socket: one JSON object a line, a request and its reply.
//!
//! Read in this order: `protocol` (pure: the words), `reply`, `stats` and `live` (pure:
//! what a switch says of itself), `lock` (one switch a name), `server` and
//! `connection` (the control thread's end), `client` (the other end, which the
//! command line and vlab share).
//!
//! Deliberately absent: what a request does. The server hands it to whoever
//! runs the switch, and never touches the bridge.

mod capture;
mod client;
mod connection;
#[cfg(test)]
mod doc_tests;
mod live;
mod lock;
mod protocol;
mod reply;
mod server;
mod stats;
mod trace;

pub use capture::{Capture, Direction, Filter};
pub use client::{Client, ClientError, Follower, Running, running};
pub use connection::PATIENCE;
pub use live::{Changed, Events};
pub use lock::{Holder, Lock, LockError};
pub use protocol::{Envelope, FdbFilter, LINE_MAX, Request, Response, VERSION, decode, encode};
pub use reply::{ErrorReply, Fdb, FdbLine, PortDetail, PortLine, PortState, Ports, Show};
pub use server::{BindError, CLIENTS_MAX, FOLLOWERS_MAX, Server};
pub use stats::{PortStats, Stats};
pub use trace::{Explained, Trace, TraceEgress, Unfinished};

#[cfg(test)]
pub(crate) use reply::examples;
