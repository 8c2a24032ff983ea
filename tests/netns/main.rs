//! The whole switch on real devices: veth pairs and TAPs in network
//! namespaces. Needs root; says so and counts as skipped without.
//!
//! Read [`lan`] first: most tests start from a switch with hosts on its ports.

mod lan;

mod faults;
mod hostile;
mod sums;
mod switch_pairs;
mod vxlan;
