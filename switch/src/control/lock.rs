//! One running switch a name: an flock(2) on `NAME.lock`, held for life.
//!
//! The file says who holds it (a pid) and where its control socket is; only
//! the lock itself says that the holder lives. Deliberately absent: trust in
//! the file, which outlives a killed switch.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// A held lock; dropping it removes the file.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// Why a name could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process runs a switch of this name.
    #[error(
        "a switch called `{name}` is running already, as pid {pid}\n  end it: vswitch stop --name {name}; or choose another name: --name NAME"
    )]
    Held {
        /// The name.
        name: String,
        /// The holder.
        pid: String,
    },
    /// The directory of locks and sockets is not safe.
    #[error("{} is not ours alone: {why}\n  remove it, or set XDG_RUNTIME_DIR to a directory of yours", dir.display())]
    Unsafe {
        /// The directory.
        dir: PathBuf,
        /// Who else could write there.
        why: String,
    },
    /// Only root may give files away.
    #[error("cannot give {} to uid {owner}\n  run as root, or leave `owner` out", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// The uid.
        owner: u32,
    },
    /// The kernel's word.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Who holds a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The process, as it wrote itself down.
    pub pid: String,
    /// Its control socket.
    pub control: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, makes its directory if it is missing, and
    /// writes down the own pid and `control`. The file will belong to `owner`.
    ///
    /// # Errors
    /// The lock is held, or files cannot be made there.
    pub fn take(path: &Path, control: &Path, owner: u32) -> Result<Lock, LockError> {
        let io = |cause| LockError::Io { path: path.to_owned(), cause };
        make_dir(path.parent().unwrap_or(Path::new("/")))?;
        // A look by a client holds the lock for an instant: wait that out.
        let mut looks = 0;
        let mut file = loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(io)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Its last holder may have removed the file since we opened it.
                Ok(()) if same_file(&file, path) => break file,
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if looks < 10 => {
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(path, &file)),
                Err(e) => return Err(io(e.into())),
            }
        };
        file.set_len(0).map_err(io)?;
        write!(file, "{}\n{}\n", std::process::id(), control.display()).map_err(io)?;
        give(path, owner)?;
        Ok(Lock { file, path: path.to_owned() })
    }

    /// Who holds the lock at `path`; `None` if nobody does.
    ///
    /// # Errors
    /// The file cannot be read: it belongs to another user.
    pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(read_holder(&file))),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while held, so that nobody locks a file that is about to go.
        if same_file(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives the file at `path` to `owner`.
fn give(path: &Path, owner: u32) -> Result<(), LockError> {
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(owner), None)
        .map_err(|_| LockError::Owner { path: path.to_owned(), owner })
}

/// Makes the directory of locks and sockets, or checks the one that is there.
fn make_dir(dir: &Path) -> Result<(), LockError> {
    let io = |cause| LockError::Io { path: dir.to_owned(), cause };
    let uid = rustix::process::geteuid().as_raw();
    // Under sudo root's directory holds the sockets of several users, each
    // 0600 and their own: they must be able to reach them.
    let mode = if uid == 0 { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(dir) {
        // The umask may have taken away what others need.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(io)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io(e)),
    }
    let found = fs::symlink_metadata(dir).map_err(io)?;
    let unsafe_dir = |why: String| Err(LockError::Unsafe { dir: dir.to_owned(), why });
    if !found.is_dir() {
        return unsafe_dir("it is not a directory".to_owned());
    }
    if found.uid() != uid && found.uid() != 0 {
        return unsafe_dir(format!("it belongs to uid {}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return unsafe_dir(format!("others may write there (mode {:o})", found.mode() & 0o7777));
    }
    Ok(())
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn held(path: &Path, file: &File) -> LockError {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    LockError::Held { name, pid: read_holder(file).pid }
}

fn read_holder(file: &File) -> Holder {
    let mut text = String::new();
    // Two short lines; whatever else is there is nobody's.
    let _ = file.take(4096).read_to_string(&mut text);
    let mut lines = text.lines();
    let pid = lines.next().filter(|pid| !pid.is_empty()).unwrap_or("unknown").to_owned();
    Holder { pid, control: PathBuf::from(lines.next().unwrap_or_default()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_name_is_held_once_and_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/a.lock");
        assert_eq!(Lock::holder(&path).unwrap(), None);
        let lock = Lock::take(&path, Path::new("/x/a.sock"), uid()).unwrap();
        let holder = Lock::holder(&path).unwrap().unwrap();
        assert_eq!((holder.pid, holder.control), (std::process::id().to_string(), "/x/a.sock".into()));
        let error = Lock::take(&path, Path::new("/x"), uid()).unwrap_err().to_string();
        let expected = format!("a switch called `a` is running already, as pid {}\n", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(lock);
        assert!(!path.exists());
        // What a killed switch leaves is taken over.
        fs::write(&path, "1\n/old\n").unwrap();
        assert_eq!(Lock::holder(&path).unwrap(), None);
        let lock = Lock::take(&path, Path::new("/new"), uid()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n/new\n", std::process::id()));
        drop(lock);
    }

    #[test]
    fn directories_that_others_may_write_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let error = Lock::take(&open.join("a.lock"), Path::new("/x"), uid()).unwrap_err();
        assert!(error.to_string().contains("others may write there (mode 777)"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let error = Lock::take(&link.join("a.lock"), Path::new("/x"), uid()).unwrap_err();
        assert!(error.to_string().contains("it is not a directory"), "{error}");
    }
}
