//! Unix sockets with real polling, without root where it is not the point.
//!
//! `stream` and `dgram` are ports of a whole switch that an ordinary user runs,
//! with guests that speak as QEMU does. `vhost_user` is what such a switch takes of
//! the machine with guests in shared memory: asleep, and at full speed. `capture` is
//! what a capture has of their frames, `live` what a live trace says of them, and
//! `million` a capture of a million frames, judged once more.
//!
//! `control` is row A14 of the conformance table as far as the control socket
//! itself goes, `hostile` the same against a whole switch, and `hostile_capture` what
//! is asked of captures there. `commands` runs the client commands of the program as
//! it was built. `follow` is the server with clients that follow events; `events`,
//! `metrics`, `reload` and `top` are a whole switch.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed the test")]

mod capture;
mod commands;
mod control;
mod dgram;
mod events;
mod follow;
mod hostile;
mod hostile_capture;
mod live;
mod metrics;
mod million;
mod ports;
mod reload;
mod rig;
mod stream;
mod top;
mod vhost_user;
