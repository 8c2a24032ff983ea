//! vswitch: a userspace Ethernet learning switch for virtual machines.
//!
//! Read in this order: [`frame`] (what travels), [`bridge`] (what is decided),
//! [`offload`] (what a sender left unfinished), [`port`] (where frames come in
//! and leave).

pub mod bridge;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod engine;
pub mod events;
pub mod explain;
pub mod form;
pub mod frame;
pub mod live;
pub mod metrics;
pub mod offload;
pub mod output;
pub mod pcap;
pub mod port;
pub mod replay;
pub mod run;
pub mod supervisor;
pub mod top;
pub mod trace;
