//! A file that the switch writes by itself: what the recorder has kept, read from
//! the capture thread by a thread of its own, as a client reads it.
//!
//! Deliberately absent: when, and which files are kept (`supervisor::recorder`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Writes all that comes by `stream` into a new file at `path` that `owner` alone
/// may read; `old` is removed before. If it cannot be written, the capture learns
/// why, and no half of it is left; false then.
pub(crate) fn write(mut stream: UnixStream, path: &Path, owner: u32, old: Option<&Path>) -> bool {
    if let Some(old) = old {
        // It may have been taken away already.
        let _ = std::fs::remove_file(old);
    }
    let written = create(path, owner).and_then(|mut file| {
        let copied = copy(&mut stream, &mut file);
        if copied.is_err() {
            let _ = std::fs::remove_file(path);
        }
        copied
    });
    if let Err(error) = &written {
        // If the capture thread has gone, it need not know.
        let _ = writeln!(stream, "{}: {error}", path.display());
    }
    written.is_ok()
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
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => file.write_all(&chunk[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_written_and_the_old_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("1"), dir.path().join("2"));
        std::fs::write(&old, "old").unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"frames").unwrap();
        drop(ours);
        assert!(write(theirs, &new, rustix::process::geteuid().as_raw(), Some(&old)));
        assert_eq!(std::fs::read(&new).unwrap(), b"frames");
        assert!(!old.exists());
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
