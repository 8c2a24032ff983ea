//! vbench.
fn main() {}
