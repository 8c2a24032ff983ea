//! The file of a unix socket: made 0600 and its owner's from its first instant,
//! put in the place of one that nobody listens on any more, never of a live
//! one, and removed at the end if it is still ours.
//!
//! Deliberately absent: what is said over the socket, and trust in the file.
//! Whether somebody is behind it, only connect(2) tells.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, StatxFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Which file a path names: device, inode, and, where the file system knows it,
/// the time of its birth, since the number of a file that is gone is used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    born: Option<(i64, u32)>,
}

/// A bound socket's file; dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Why there is no socket at a path.
#[derive(Debug)]
pub enum SocketFileError {
    /// Somebody answers there.
    InUse {
        /// Who, where the kernel tells.
        pid: Option<i32>,
    },
    /// The path is something else.
    NotASocket,
    /// Only root may give files away.
    Owner {
        /// The uid that should have it.
        owner: u32,
    },
    /// The kernel's word.
    Io(io::Error),
}

impl From<Errno> for SocketFileError {
    fn from(errno: Errno) -> SocketFileError {
        SocketFileError::Io(errno.into())
    }
}

impl SocketFile {
    /// A socket of type `kind` bound to `path`, non-blocking, mode 0600,
    /// `owner`'s; and its file.
    ///
    /// # Errors
    /// The path is taken, or the kernel refuses it.
    pub fn bind(path: &Path, owner: u32, kind: SocketType) -> Result<(OwnedFd, SocketFile), SocketFileError> {
        remove_stale(path, kind)?;
        let socket = socket(kind)?;
        // bind(2) makes the file with the mode of the socket; changed by its
        // path afterwards, it could be another file by then.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        let identity = identity(path).map_err(SocketFileError::Io)?;
        let file = SocketFile { path: path.to_owned(), identity };
        if owner != rustix::process::geteuid().as_raw() {
            std::os::unix::fs::lchown(path, Some(owner), None)
                .map_err(|_| SocketFileError::Owner { owner })?;
        }
        Ok((socket, file))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put another one there.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An unbound, non-blocking socket of type `kind`.
///
/// # Errors
/// Out of descriptors.
pub fn socket(kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

/// Which file `path` names now, links not followed.
///
/// # Errors
/// Whatever statx says.
fn identity(path: &Path) -> io::Result<Identity> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let is_born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    Ok(Identity {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        born: is_born.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
    })
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path, kind: SocketType) -> Result<(), SocketFileError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SocketFileError::Io(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketFileError::NotASocket),
        Ok(_) => {}
    }
    let before = identity(path).map_err(SocketFileError::Io)?;
    let probe = socket(kind)?;
    match net::connect(&probe, &SocketAddrUnix::new(path)?) {
        // One that was put there since we asked is somebody's.
        Err(Errno::CONNREFUSED) if identity(path).is_ok_and(|now| now == before) => {
            fs::remove_file(path).map_err(SocketFileError::Io)
        }
        Ok(()) => {
            // Datagram sockets have no credentials to ask for.
            let peer = net::sockopt::socket_peercred(&probe).ok();
            let pid = peer.map(|peer| peer.pid.as_raw_nonzero().get());
            Err(SocketFileError::InUse { pid: pid.filter(|_| kind == SocketType::STREAM) })
        }
        // A live one whose backlog is full, of another type, or that talks
        // with somebody else only.
        Err(Errno::CONNREFUSED | Errno::AGAIN | Errno::PROTOTYPE | Errno::PERM) => {
            Err(SocketFileError::InUse { pid: None })
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bind(path: &Path, kind: SocketType) -> Result<(OwnedFd, SocketFile), SocketFileError> {
        SocketFile::bind(path, rustix::process::geteuid().as_raw(), kind)
    }

    #[test]
    fn a_live_socket_is_never_replaced_and_a_dead_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        for kind in [SocketType::STREAM, SocketType::DGRAM] {
            let (socket, file) = bind(&path, kind).unwrap();
            if kind == SocketType::STREAM {
                net::listen(&socket, 1).unwrap();
            }
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            for second in [SocketType::STREAM, SocketType::DGRAM] {
                let refused = bind(&path, second).unwrap_err();
                let SocketFileError::InUse { pid } = refused else { panic!("{refused:?}") };
                let own = i32::try_from(std::process::id()).ok();
                assert_eq!(pid, own.filter(|_| second == kind && kind == SocketType::STREAM), "{kind:?}");
            }
            // Killed: the file outlives the socket.
            drop(socket);
            std::mem::forget(file);
            let (socket, file) = bind(&path, kind).unwrap();
            drop(file);
            assert!(!path.exists(), "removed at the end");
            drop(socket);
        }
    }

    #[test]
    fn only_what_is_ours_and_a_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path, SocketType::STREAM), Err(SocketFileError::NotASocket)));
        fs::remove_file(&path).unwrap();
        let (_socket, file) = bind(&path, SocketType::STREAM).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
    }
}
