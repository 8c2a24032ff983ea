//! Any messages at all of a front end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitch::port::vhost_fuzz::{messages, messages_seeds};

#[path = "seeds.rs"]
mod seeds;

fuzz_target!(init: seeds::write(&messages_seeds()), |bytes: &[u8]| messages(bytes));
