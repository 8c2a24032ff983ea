//! The files of `scenarios/`.

use std::path::Path;

use vswitch_tests::scenario::{check, check_files};

#[test]
fn every_scenario_file_holds() {
    check_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/scenarios"));
}

/// The check itself must be able to fail.
#[test]
fn a_wrong_expectation_is_found() {
    for wrong in [
        "ports a b\nsend a 0a > * expect",
        "ports a b\nsend a 0a > * drop runt",
        "ports a b\nsend a 0a > * size=13 expect b",
        "ports a b\nsend a 0a > *\nfdb 0a on b",
        "ports a b\nsend a 0a > *\nfdb len 2",
        "ports a b\nsend a 0a > *\ncount a learned 2",
        "ports a b\nsend a 0a * expect b",
        "after 301",
    ] {
        assert!(std::panic::catch_unwind(|| check(wrong)).is_err(), "{wrong}");
    }
}
