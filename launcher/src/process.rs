//! Processes that may have ended, and whose number may be another's by now.
//!
//! A process is {pid, start time}. Signals go through a pidfd: opened, then
//! checked against the start time, then used, so that nothing can slip in
//! between.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use crate::clock;
use crate::state::Process;

/// The identity of this boot of the kernel.
///
/// # Errors
/// /proc is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What /proc/PID/stat says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// It has begun to end. Its files (devices, sockets, locks) may be open still:
    /// only its pidfd tells when they are not.
    is_ending: bool,
    /// When it began, in clock ticks since the boot.
    start_ticks: u64,
}

/// The kernel's PF_EXITING (include/linux/sched.h), among the flags of
/// /proc/PID/stat.
const PF_EXITING: u32 = 0x4;

/// How long an ending process may take to be gone: a switch closes devices, and
/// the kernel waits for grace periods there.
const ENDING: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Fields 3 (state), 9 (flags) and 22 (start time) of /proc/PID/stat. The
/// command in field 2 may hold anything, also `)`.
fn parse_stat(stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X");
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    let start_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat { is_ending: is_dead || flags & PF_EXITING != 0, start_ticks })
}

/// Whether the process of `pidfd` has ended within `limit`, all its threads with
/// it.
fn has_ended(pidfd: &OwnedFd, limit: Timespec) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
}

impl Process {
    /// The process that has number `pid` now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> io::Result<Process> {
        stat(pid).map(|stat| Process { pid, start_ticks: stat.start_ticks })
    }

    /// A handle on the process; `None` when it has ended.
    fn open(self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Only now is it certain that the number still means that process.
        let is_same = stat(self.pid).ok()?.start_ticks == self.start_ticks;
        (is_same && !has_ended(&fd, Timespec::default())).then_some(fd)
    }

    /// Whether it has not ended. One that is just ending is waited for: whoever
    /// asks may want to start another in its place, which needs its devices.
    pub fn alive(self) -> bool {
        let Some(fd) = self.open() else { return false };
        let is_ending = stat(self.pid).map_or(true, |stat| stat.is_ending);
        !(is_ending && has_ended(&fd, ENDING))
    }

    /// Sends `signal`; false when it has ended already.
    ///
    /// # Errors
    /// It belongs to somebody else.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(fd) = self.open() else { return Ok(false) };
        match pidfd_send_signal(fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// How long it has been running.
    pub fn age(self) -> Option<Duration> {
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        let ticks = rustix::param::clock_ticks_per_second();
        let start = Duration::from_millis(self.start_ticks.checked_mul(1000)?.checked_div(ticks)?);
        Duration::try_from_secs_f64(uptime).ok()?.checked_sub(start)
    }
}

/// How a process that we started, and that has ended, came to its end if not well: `exit
/// status 1`, `signal 9`. `None` also for what is no child of this process.
pub fn failure(process: Process) -> Option<String> {
    let status = waitpid(Pid::from_raw(process.pid), WaitOptions::NOHANG).ok().flatten()?.1;
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => Some(format!("signal {signal}")),
        (None, Some(code)) if code != 0 => Some(format!("exit status {code}")),
        (None, _) => None,
    }
}

/// Waits until all have ended, at most `limit`; returns those that have not.
pub fn wait_gone(processes: &[Process], limit: Duration) -> Vec<Process> {
    let start = clock::now();
    let mut left: Vec<Process> = processes.to_vec();
    loop {
        let mut open = Vec::new();
        left.retain(|process| process.open().map(|fd| open.push(fd)).is_some());
        let rest = limit.saturating_sub(start.elapsed());
        if left.is_empty() || rest.is_zero() {
            return left;
        }
        let mut fds: Vec<PollFd<'_>> = open.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let timeout = Timespec {
            tv_sec: i64::try_from(rest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(rest.subsec_nanos()),
        };
        // An error here (EINTR) only means looking again.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

/// Processes that have `argument` in their command line, as a whole argument or
/// within one: how an interrupted start is found, whose number was never
/// written down. `argument` must be a path that only this lab uses.
pub fn find(argument: &Path) -> Vec<Process> {
    let needle = argument.as_os_str().as_bytes();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let process = Process::of(pid).ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let program = line.split(|b| *b == 0).next()?;
            let known = [&b"qemu"[..], b"vswitch", b"setsid", b"setpriv", b"debugfs", b"ssh-keygen"];
            let name = program.rsplit(|b| *b == b'/').next()?;
            let ours = known.iter().any(|known| name.starts_with(known))
                && line.windows(needle.len()).any(|window| window == needle);
            (ours && process.alive()).then_some(process)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_with_a_hostile_command_name() {
        let stat = "42 (a) R (b) 1) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 0 0";
        assert_eq!(parse_stat(stat), Some(Stat { is_ending: false, start_ticks: 987_654 }));
        let ending = "42 (a) R 1 42 42 0 -1 4195076 1 2 3 4 5 6 7 8 20 0 1 0 987654 0 0";
        assert_eq!(parse_stat(ending), Some(Stat { is_ending: true, start_ticks: 987_654 }));
        assert_eq!(parse_stat("42 (x"), None);
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive() && own.age().is_some());
        let other = Process { start_ticks: own.start_ticks + 1, ..own };
        assert!(!other.alive());
        assert!(!other.signal(Signal::KILL).unwrap(), "the signal must not reach us");
    }

    #[test]
    fn an_ended_child_is_gone_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(wait_gone(&[process], Duration::ZERO), [process]);
        assert!(process.signal(Signal::KILL).unwrap());
        assert_eq!(wait_gone(&[process], Duration::from_secs(10)), []);
        assert!(!process.alive(), "a zombie counts as ended");
        child.wait().unwrap();
    }
}
