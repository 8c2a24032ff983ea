//! The machine: what the header of a report says, and what its CPUs did.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use vswitch_tests::process::{binary, cpu_time};

use crate::record::Header;
use crate::subject::Subject;

/// Who, where and when.
pub(crate) fn header(subjects: &[Subject], quick: bool, rounds: u32) -> Header {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    let mut versions: BTreeMap<String, String> =
        subjects.iter().map(|s| (s.name().to_owned(), s.version())).collect();
    versions.insert("iperf3".into(), first_line("iperf3", &["--version"]));
    let mut command: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    command.insert(0, "vbench".into());
    Header {
        commit: commit(),
        date: first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
        cores: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        kernel: first_line("uname", &["-r"]),
        versions,
        mtu: 1500,
        rounds,
        quick,
        command: command.join(" "),
    }
}

/// `word` as a shell takes it for one.
fn quoted(word: String) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,/:+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The commit that is checked out, with a `+` if files differ from it.
fn commit() -> String {
    // Root may ask about a tree that is the user's.
    let git = |args: &[&str]| first_line("git", &[&["-c", "safe.directory=*"], args].concat());
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { commit + "+" } else { commit }
}

/// First line that a program prints; empty if it cannot.
pub(crate) fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Version of the switch under test.
pub(crate) fn vswitch_version() -> String {
    let Ok(path) = binary("vswitch") else { return "not built".into() };
    first_line(&path.to_string_lossy(), &["--version"])
}

/// Time that all CPUs together were not idle since the machine started, in
/// steps of 10 ms.
pub(crate) fn busy() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let fields = text.lines().next().and_then(|l| l.strip_prefix("cpu ")).context("/proc/stat")?;
    let ticks: Vec<u64> = fields.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq (proc(5)).
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum();
    Ok(Duration::from_millis(busy * 10))
}

/// CPU time of all threads of `pids`, in ns where the kernel accounts so.
pub(crate) fn process_time(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| fine_time(*pid).map_or_else(|| cpu_time(*pid), Ok)).sum()
}

/// Run time from the schedstat of each thread: /proc/PID/stat counts in steps
/// of 10 ms, which hides an idle process's wake-ups.
fn fine_time(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        let words = ["--only", "64 B, split rings", "--run=--busy-poll=1ms", "it's", ""];
        let words = words.map(|word| quoted(word.to_owned())).join(" ");
        assert_eq!(words, r"--only '64 B, split rings' --run=--busy-poll=1ms 'it'\''s' ''");
    }
}
