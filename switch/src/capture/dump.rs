//! A file that the switch writes by itself: what the recorder has kept, read from
//! the capture thread by a thread of its own, as a client reads it.
//!
//! Deliberately absent: when, and which files are kept (`supervisor::recorder`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::pcapng::{Blocks, STATE, json_of};
use super::state::State;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Writes all that comes by `stream` into a new file at `path` that `owner` alone
/// may read, and removes `old` once that is whole, with its sums. If it breaks off
/// or cannot be written, the capture learns why, no half of it is left, and `old`
/// stays; false then.
pub(crate) fn write(mut stream: UnixStream, path: &Path, owner: u32, old: Option<&Path>) -> bool {
    let written = create(path, owner).and_then(|mut file| {
        let copied = copy(&mut stream, &mut file);
        if copied.is_err() {
            let _ = std::fs::remove_file(path);
        }
        copied
    });
    if let Err(error) = written {
        let why = format!("{}: {error}", path.display());
        // If the capture is over, nobody else will write that down.
        if writeln!(stream, "{why}").is_err() {
            tracing::warn!("what was recorded is not written: {why}");
        }
        return false;
    }
    if let Some(old) = old {
        // It may have been taken away already.
        let _ = std::fs::remove_file(old);
    }
    true
}

fn create(path: &Path, owner: u32) -> io::Result<File> {
    // Whoever can write into the directory must not choose what we write to.
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?;
    if owner != rustix::process::geteuid().as_raw() {
        std::os::unix::fs::fchown(&file, Some(owner), None)?;
    }
    Ok(file)
}

fn copy(stream: &mut UnixStream, file: &mut File) -> io::Result<()> {
    let (mut chunk, mut blocks, mut is_ended) = (vec![0; CHUNK], Blocks::default(), false);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) if is_ended && blocks.is_between_blocks() => return Ok(()),
            Ok(0) => {
                let text = "the capture ends without its sums";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Ok(len) => {
                file.write_all(&chunk[..len])?;
                blocks.feed(&chunk[..len]);
                while let Some((kind, block)) = blocks.next_block().map_err(io::Error::other)? {
                    let state = json_of(block).filter(|_| kind == STATE).map(serde_json::from_slice);
                    is_ended |= matches!(state, Some(Ok(State::End(_))));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::pcapng;
    use crate::capture::state::Summary;

    /// A capture of no frames, and where its last block but the sums begins.
    fn capture() -> (Vec<u8>, usize) {
        let mut bytes = Vec::new();
        pcapng::section(&mut bytes, "vswitch test");
        let end = bytes.len();
        pcapng::state(&mut bytes, &serde_json::to_vec(&State::End(Summary::default())).unwrap());
        (bytes, end)
    }

    #[test]
    fn what_comes_is_written_and_the_old_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("1"), dir.path().join("2"));
        std::fs::write(&old, "old").unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&capture().0).unwrap();
        drop(ours);
        assert!(write(theirs, &new, rustix::process::geteuid().as_raw(), Some(&old)));
        assert_eq!(std::fs::read(&new).unwrap(), capture().0);
        assert!(!old.exists());
    }

    #[test]
    fn a_capture_that_breaks_off_leaves_the_old_one_and_no_half_of_itself() {
        let (bytes, end) = capture();
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("1"), dir.path().join("2"));
        std::fs::write(&old, "old").unwrap();
        let damaged = [&bytes[..4], &[1; 8], &bytes[12..]].concat();
        for half in [&[][..], &bytes[..end], &bytes[..bytes.len() - 4], &damaged] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(half).unwrap();
            drop(ours);
            assert!(!write(theirs, &new, rustix::process::geteuid().as_raw(), Some(&old)));
            assert!(!new.exists(), "{} bytes of {}", half.len(), bytes.len());
            assert_eq!(std::fs::read(&old).unwrap(), b"old");
        }
    }

    #[test]
    fn what_is_there_is_not_written_over_and_the_capture_learns_why() {
        let dir = tempfile::tempdir().unwrap();
        let (there, link) = (dir.path().join("there"), dir.path().join("link"));
        std::fs::write(&there, "mine").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        for path in [&there, &link, &dir.path().join("none/a")] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            assert!(!write(theirs, path, rustix::process::geteuid().as_raw(), None));
            let mut said = String::new();
            ours.read_to_string(&mut said).unwrap();
            assert!(said.starts_with(&path.display().to_string()), "{said}");
        }
        assert_eq!(std::fs::read(&there).unwrap(), b"mine");
        assert!(!dir.path().join("elsewhere").exists());
    }
}
