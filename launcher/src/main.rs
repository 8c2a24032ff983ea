//! The `vlab` program.

fn main() {}
