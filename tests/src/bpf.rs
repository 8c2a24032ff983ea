//! A TCX program as a user might attach one: it returns the same verdict for
//! every frame.
//!
//! Deliberately absent: anything else that programs can do. Read first: bpf(2).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// TCX_PASS: the frame goes on, and no later program sees it.
pub const PASS: i32 = 0;

const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u64 = 3;
const TCX_INGRESS: u64 = 46;

/// A call of bpf(2) whose answer is a descriptor; `words` are the first 64-bit
/// words of its attributes.
fn bpf(command: libc::c_long, words: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the words, and what the one address among them
    // names, which the caller keeps over the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else holds.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Attaches a program that returns `verdict` behind those that are on the
/// ingress of interface `ifindex` of the thread's namespace; dropping the link
/// detaches it.
///
/// # Errors
/// No right to, or a kernel before 6.6.
pub fn attach_ingress(ifindex: u32, verdict: i32) -> io::Result<OwnedFd> {
    // r0 = verdict; exit
    let program = [0xb7 | u64::from(verdict.cast_unsigned()) << 32, 0x95];
    let licence = c"GPL";
    let load = [SCHED_CLS | 2 << 32, program.as_ptr() as u64, licence.as_ptr() as u64, 0, 0, 0];
    let loaded = bpf(PROG_LOAD, &load)?;
    let fd = u64::from(loaded.as_raw_fd().cast_unsigned());
    bpf(LINK_CREATE, &[fd | u64::from(ifindex) << 32, TCX_INGRESS, 0, 0])
}
