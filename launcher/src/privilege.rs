//! Under sudo, `vlab` itself acts as the invoking user: files become the
//! user's, and a link planted in the user's directories leads nowhere the user
//! could not go. Only starting a program takes root back, for that moment.
//!
//! The kernel keeps ids per thread and threads inherit them, so [`enter`]
//! comes first in `main`.

use std::io;
use std::process::Command;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::places::Drop;

/// Lays root aside, where `drop` says so. The real ids stay root's.
///
/// # Errors
/// The kernel refuses.
pub fn enter(drop: &Drop) -> io::Result<()> {
    let Drop::To { uid, gid } = drop else { return Ok(()) };
    // A user whom no name service knows has one group.
    set_thread_groups(&groups_of(*uid).unwrap_or_else(|_| vec![Gid::from_raw(*gid)]))?;
    set_thread_res_gid(None, Gid::from_raw(*gid), None)?;
    set_thread_res_uid(None, Uid::from_raw(*uid), None)?;
    Ok(())
}

/// Starts a program with root's rights where this process was given them;
/// commands that must not have them say so themselves, by `setpriv`.
///
/// # Errors
/// The kernel refuses.
pub fn with_root<T>(drop: &Drop, start: impl FnOnce() -> T) -> io::Result<T> {
    let Drop::To { uid, gid } = drop else { return Ok(start()) };
    set_thread_res_uid(None, Uid::ROOT, None)?;
    let raised = set_thread_res_gid(None, Gid::ROOT, None);
    let started = raised.map(|()| start());
    set_thread_res_gid(None, Gid::from_raw(*gid), None)?;
    set_thread_res_uid(None, Uid::from_raw(*uid), None)?;
    Ok(started?)
}

/// All groups of a user. `id` asks the name service, which needs the C library.
fn groups_of(uid: u32) -> io::Result<Vec<Gid>> {
    let output = Command::new("id").arg("-G").arg(uid.to_string()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let groups: Option<Vec<Gid>> =
        text.split_ascii_whitespace().map(|word| Some(Gid::from_raw(word.parse().ok()?))).collect();
    match groups {
        Some(groups) if output.status.success() && !groups.is_empty() => Ok(groups),
        Some(_) | None => Err(io::Error::other(format!("`id -G {uid}` names no groups"))),
    }
}
