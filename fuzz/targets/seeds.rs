//! What a target begins with, written where VSWITCH_FUZZ_SEEDS says: a directory
//! that libFuzzer reads next.

use std::path::Path;

/// Writes `seeds` there, if it is said.
pub fn write(seeds: &[Vec<u8>]) {
    let Some(dir) = std::env::var_os("VSWITCH_FUZZ_SEEDS") else { return };
    for (number, seed) in seeds.iter().enumerate() {
        let written = std::fs::write(Path::new(&dir).join(format!("seed-{number}")), seed);
        written.expect("a directory that can be written to");
    }
}
