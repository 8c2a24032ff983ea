//! vlab: labs of QEMU guests on one Ethernet.
//!
//! Read in this order: [`lab`] (what the file says), [`names`] (identities
//! that follow from it).
#![forbid(unsafe_code)]

pub mod lab;
pub mod names;
