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
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock;
use crate::state::Process;

/// The identity of this boot of the kernel.
///
/// # Errors
/// /proc is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// State letter and start time, from field 3 and 22 of /proc/PID/stat. The
/// command in field 2 may hold anything, also `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn stat(pid: i32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
}

impl Process {
    /// The process that has number `pid` now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> io::Result<Process> {
        stat(pid).map(|(_, start_ticks)| Process { pid, start_ticks })
    }

    /// A handle on the process; `None` when it has ended.
    fn open(self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Only now is it certain that the number still means that process.
        let (state, start_ticks) = stat(self.pid).ok()?;
        let ended = matches!(state, 'Z' | 'X');
        (start_ticks == self.start_ticks && !ended).then_some(fd)
    }

    /// Whether it has not ended.
    pub fn alive(self) -> bool {
        self.open().is_some()
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
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
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
