//! vlab: labs of QEMU guests on one Ethernet.
//!
//! Read in this order. Pure: [`lab`] (what the file says), [`names`]
//! (identities that follow from it), [`identity`] (what a guest is told), [`places`] (where its files go), [`guest`]
//! (QEMU's command line), [`plan`] (the steps of `up`). On disk: [`state`] (what
//! was made), [`lock`], [`disk`]. Acting: [`runner`] (the one trait between a
//! plan and the machine), [`up`], [`ready`], [`down`], [`status`], [`console`].
//!
//! Deliberately absent: a daemon. `vlab` ends after every command; what goes on
//! is `vswitch` and QEMU, and what is known of them is in [`state`].
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr)]

pub mod accel;
pub mod changes;
pub mod clock;
pub mod command;
pub mod console;
pub mod control_port;
pub mod dialogue;
pub mod disk;
pub mod down;
pub mod facts;
pub mod firmware;
pub mod guest;
pub mod host_leg;
pub mod identity;
pub mod install;
pub mod iso9660;
pub mod lab;
pub mod link;
pub mod lock;
pub mod names;
pub mod owner;
pub mod places;
pub mod plan;
pub mod privilege;
pub mod process;
pub mod qmp;
pub mod ready;
pub mod runner;
pub mod say;
pub mod seed;
pub mod ssh;
pub mod state;
pub mod status;
pub mod up;
