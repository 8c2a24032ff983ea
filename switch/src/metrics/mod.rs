//! Counters for Prometheus and its kind: `--metrics ADDR` answers `GET /metrics`.
//!
//! Read in this order: `text` (what is said, pure), `http` (how it is asked for,
//! pure), `server` (sockets).
//!
//! Deliberately absent: a web server. One path, one method, one answer a
//! connection; whoever asks otherwise is told so, and whoever is slow is closed.
//! And a runtime: the control thread's poll loop is enough for a question every
//! few seconds.

mod http;
mod server;
mod text;

pub use server::{BindError, Server};
pub use text::{PortReading, Reading, open_metrics, prometheus};
