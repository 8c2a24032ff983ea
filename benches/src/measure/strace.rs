//! System calls of one thread, counted by strace.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use vswitch_tests::clock::wait_until;
use vswitch_tests::process::end_child;

use super::idle;

const LIMIT: Duration = Duration::from_secs(10);

/// How many the thread called `name` of process `pid` makes in `length`.
pub(super) fn count(pid: u32, name: &str, length: Duration) -> Result<u64> {
    let thread = thread(pid, name)?;
    let out = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("strace");
    command.args(["-c", "-U", "calls,name", "-p", &thread.to_string(), "-o"]).arg(out.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    crate::child::die_with_us(&mut command);
    let mut child = command.spawn().context("strace")?;
    let counted =
        wait_until("strace to attach", LIMIT, || is_traced(pid, thread)).and_then(|()| idle::pause(length));
    // It detaches and writes its table.
    end_child(&mut child);
    counted?;
    let text = std::fs::read_to_string(out.path())?;
    total(&text).with_context(|| format!("strace -c: {text}"))
}

/// The thread of `pid` that is called `name`.
fn thread(pid: u32, name: &str) -> Result<u32> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let text = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if text.trim_end() == name {
            return task.file_name().to_string_lossy().parse().context("/proc/PID/task");
        }
    }
    anyhow::bail!("process {pid} has no thread `{name}`")
}

fn is_traced(pid: u32, thread: u32) -> bool {
    let path = format!("/proc/{pid}/task/{thread}/status");
    let text = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
    text.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

/// Calls in the last line of the table; a table of nothing is empty.
fn total(text: &str) -> Option<u64> {
    if text.trim().is_empty() {
        return Some(0);
    }
    let line = text.lines().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_the_last_line() {
        let table = "    calls syscall\n--------- ------------\n      977 epoll_wait\n        3 write\n\
                     --------- ------------\n      980 total\n";
        assert_eq!((total(table), total("\n"), total("strace: attach failed")), (Some(980), Some(0), None));
    }
}
