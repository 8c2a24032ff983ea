//! Any memory at all of a guest whose queues run.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitch::port::vhost_fuzz::{queues, queues_seeds};

#[path = "seeds.rs"]
mod seeds;

fuzz_target!(init: seeds::write(&queues_seeds()), |bytes: &[u8]| queues(bytes));
