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

/// Says, where `./dev test` counts it, that `test` cannot run here.
///
/// # Panics
/// `VSWITCH_NO_SKIP` is set in the environment.
#[cfg(test)]
fn skip(test: &str, needs: &str) {
    use std::io::Write as _;
    let forbidden = std::env::var_os("VSWITCH_NO_SKIP").is_some_and(|value| !value.is_empty());
    assert!(!forbidden, "{test} needs {needs}");
    // Not by `eprintln`, which a test that passes keeps to itself; and if standard error
    // is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: needs {needs}");
}
