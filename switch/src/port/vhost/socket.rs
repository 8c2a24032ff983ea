//! The unix socket that front ends connect to, over the port's [`SocketFile`].
//!
//! Deliberately absent: making directories.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{self, SocketType};

use crate::port::socket_file::{SocketFile, SocketFileError};

/// Connections that may wait while one is looked at.
const BACKLOG: i32 = 16;

/// A listening socket; its file is removed when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    _file: SocketFile,
}

impl Socket {
    /// Listens at `path` for processes of `owner`. A socket that nobody listens
    /// on any more is replaced.
    ///
    /// # Errors
    /// The path is taken, or the kernel refuses it.
    pub fn bind(path: &Path, owner: u32) -> Result<Socket, SocketFileError> {
        let (socket, file) = SocketFile::bind(path, owner, SocketType::STREAM)?;
        net::listen(&socket, BACKLOG)?;
        Ok(Socket { listener: socket.into(), _file: file })
    }

    /// The listening socket, which does not block.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// `NAME PID` of the process at the other end.
pub(super) fn peer(stream: &UnixStream) -> Option<String> {
    let pid = net::sockopt::socket_peercred(stream).ok()?.pid.as_raw_nonzero();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} {pid}", name.trim_end()))
}
