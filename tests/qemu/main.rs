//! Real guests on the switch: what the tutorial's reader does, what guests send
//! each other, and whole labs.
//!
//! Each test lives in a network namespace of its own, so `tap0` is free there
//! however many tests run, and QEMU's user-mode network ends at that
//! namespace's loopback. At most two tests run guests at a time.

mod capture;
mod change;
mod debian;
mod host;
mod install;
mod internet;
mod json;
mod kill;
mod lab;
mod links;
mod rig;
mod rootless;
mod router;
mod traffic;
mod tutorial;
mod uefi;
mod vhost_user;
