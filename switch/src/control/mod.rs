//! The control socket: one JSON object a line, a request and its reply.
//!
//! Read in this order: `protocol` (pure: the words), `reply` (pure: what a
//! switch says of itself), `server` (the control thread's end), `client` (the
//! other end, which the command line and vlab share).
//!
//! Deliberately absent: what a request does. The server hands it to whoever
//! runs the switch, and never touches the bridge.

mod protocol;
mod reply;

pub use protocol::{Envelope, FdbFilter, LINE_MAX, Request, Response, VERSION, decode, encode};
pub use reply::{ErrorReply, Fdb, FdbLine, PortDetail, PortLine, PortState, PortStats, Ports, Show, Stats};
