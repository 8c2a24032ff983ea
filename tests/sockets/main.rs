//! Unix sockets with real polling, without root where it is not the point.
//!
//! `control` is row A14 of the conformance table as far as the control socket
//! itself goes; what requests do is tested with the whole switch. `commands`
//! runs the client commands of the program as it was built.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed the test")]

mod commands;
mod control;
mod rig;
