//! The lock of a lab: one `vlab` changes it at a time.
//!
//! It is an flock, so that it goes with its holder however that ends. The file
//! lies in RUN, which `down` removes while it holds the lock; whoever gets the
//! lock afterwards therefore checks that its file is still the one at that path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, whose directory exists.
    ///
    /// # Errors
    /// `WouldBlock` with the holder's pid when somebody has it; what the file
    /// system says otherwise.
    pub fn take(path: &Path) -> io::Result<Lock> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut pid = String::new();
                    file.read_to_string(&mut pid)?;
                    let message = format!("another vlab is at work on this lab (pid {})", pid.trim());
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
                }
                Err(e) => return Err(e.into()),
            }
            let same = fs::metadata(path).is_ok_and(|there| {
                file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
            });
            if same {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Lock { _file: file });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_once_and_free_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = Lock::take(&path).unwrap();
        let refused = Lock::take(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        drop(Lock::take(&path).unwrap());
        // The lab went down and came up: a new file, a new lock.
        fs::remove_file(&path).unwrap();
        Lock::take(&path).unwrap();
    }
}
