//! What the switch must do with each frame, and under attack: the cases of
//! docs/conformance.md, each in a test that bears its id.

#[cfg(test)] // so that the lints know: a test may unwrap
mod attack;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod offload;
