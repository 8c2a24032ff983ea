//! What `vlab` says, and who reads it.

use std::process::{Command, Stdio};

#[test]
fn a_reader_that_went_away_is_no_reason_to_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_vlab"))
        .args(["plan", "--lab", "absent.toml"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1), "the fault of the command, not a panic's 101");
}
