//! An ordinary user with a home of his own: no right to anything that root has,
//! and programs that he may run wherever the sources lie.
//!
//! Where the tests themselves run without root, that user is whoever runs them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::netns::run;
use crate::process::binary;

/// `nobody` and `nogroup`, which own nothing.
pub const NOBODY: u32 = 65_534;

/// The user; his home goes with this.
#[derive(Debug)]
pub struct Ordinary {
    home: TempDir,
    /// Whom to become, if we are root.
    uid: Option<u32>,
}

impl Ordinary {
    /// Makes the home, short enough a path for sockets in it.
    ///
    /// # Errors
    /// No room in the temporary directory.
    pub fn new() -> Result<Ordinary> {
        let user = Ordinary {
            home: tempfile::Builder::new().prefix("vt-").tempdir()?,
            uid: geteuid().is_root().then_some(NOBODY),
        };
        std::fs::set_permissions(user.home.path(), PermissionsExt::from_mode(0o755))?;
        user.give(user.home.path())?;
        for dir in ["run", "state", "data"] {
            user.make_dir(dir)?;
        }
        Ok(user)
    }

    /// Root, where the tests have that right, with a home like the others'.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn root() -> Result<Ordinary> {
        let mut user = Ordinary::new()?;
        user.uid = None;
        Ok(user)
    }

    /// His home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// His uid.
    pub fn uid(&self) -> u32 {
        self.uid.unwrap_or_else(|| geteuid().as_raw())
    }

    /// A directory in his home, his alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.home().join(name);
        std::fs::create_dir(&dir)?;
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700))?;
        self.give(&dir)?;
        Ok(dir)
    }

    /// Writes a file of his.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.home().join(name);
        std::fs::write(&path, text)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Makes `path` his.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some(uid) = self.uid {
            chown(path, Some(uid), Some(uid))?;
        }
        Ok(())
    }

    /// A copy of a program under test that he may run: the sources may lie
    /// where only root can look.
    ///
    /// # Errors
    /// It is not built.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.home().join(name);
        if !path.exists() {
            // By a program: a copy that we wrote could not be run as long as
            // another thread's child, about to start, has our descriptors.
            run(Command::new("cp").arg(binary(name)?).arg(&path))?;
        }
        Ok(path)
    }

    /// `program` as him, in a session of his.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(uid) = self.uid {
            // This also lays down every supplementary group.
            command.uid(uid).gid(uid);
        }
        for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER"] {
            command.env_remove(name);
        }
        for (name, dir) in
            [("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state"), ("XDG_DATA_HOME", "data")]
        {
            command.env(name, self.home().join(dir));
        }
        command.env("HOME", self.home()).current_dir(self.home());
        command
    }
}
