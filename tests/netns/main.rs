//! Real devices: veth pairs and TAPs in network namespaces. Needs root; says so
//! and counts as skipped without.
//!
//! Read [`lan`] first: tests of the whole switch start from one with hosts on
//! its ports. Tests of a port by itself start from [`opened`].

mod lan;
mod mixed;
mod opened;
mod pump;

mod capture;
mod explained;
mod fast;
mod faults;
mod hostile;
mod isolation;
mod lifecycle;
mod live;
mod ports;
mod reasons;
mod recorder;
mod refusals;
mod reload;
mod sums;
mod switch_pairs;
mod upkeep;
mod vxlan;
