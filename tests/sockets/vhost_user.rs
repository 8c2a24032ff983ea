//! What a switch of vhost-user ports takes of the machine, as an ordinary user's
//! process: nothing when its guests are silent, no system calls when they are not.
//!
//! Deliberately absent: how fast it is. That is the benchmarks' affair.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch::control::PortState;
use vswitch_tests::clock::{Deadline, now_nanos, wait_until};
use vswitch_tests::process::end_child;
use vswitch_tests::vhost::Guest;
use vswitch_tests::{require, start};

use crate::ports::{Rig, SOON, frame};

/// A switch of `N` vhost-user ports with a guest at each, all of them up.
fn guests<const N: usize>() -> Result<(Rig, Vec<Guest>)> {
    let rig = Rig::new(&["vhost-user"; N])?;
    let guests = (0..N).map(|number| Guest::connect(&rig.path(number))).collect::<Result<Vec<_>>>()?;
    (0..N).try_for_each(|number| rig.wait_state(number, PortState::Up))?;
    for guest in &guests {
        // They look by themselves, as DPDK does.
        (0..2).for_each(|index| guest.want_calls(index, false));
    }
    Ok((rig, guests))
}

/// Sends to each its neighbour's frames, and takes what has come; returns how
/// many came.
fn exchange(guests: &mut [Guest]) -> Result<u64> {
    let mut came = 0;
    let len = guests.len();
    for (number, guest) in guests.iter_mut().enumerate() {
        let (own, next) = (u8::try_from(number)?, u8::try_from((number + 1) % len)?);
        let sent = frame(next, own, 60);
        while guest.unsent() < 96 {
            guest.send(&sent)?;
        }
        while guest.receive()?.is_some() {
            came += 1;
        }
    }
    Ok(came)
}

/// Numbers of the threads of `pid`, and their names.
fn threads(pid: u32) -> Result<Vec<(i32, String)>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let tid = path.file_name().and_then(|name| name.to_str()).context("a number")?.parse()?;
        threads.push((tid, std::fs::read_to_string(path.join("comm"))?.trim_end().to_owned()));
    }
    Ok(threads)
}

/// Nanoseconds that all threads of `pid` have run.
fn ran(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for (tid, _) in threads(pid)? {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))?;
        sum += text.split(' ').next().context("its first word")?.parse::<u64>()?;
    }
    Ok(sum)
}

#[test]
fn eight_silent_guests_cost_nothing_a_second_after_they_talked() -> Result<()> {
    let (rig, mut guests) = guests::<8>()?;
    let pid = rig.switch().pid();
    let end = now_nanos() + 300_000_000;
    let deadline = Deadline::after(SOON);
    let mut came = 0;
    // However seldom the machine lets them talk.
    while now_nanos() < end || came <= 10_000 {
        came += exchange(&mut guests)?;
        ensure!(!deadline.passed(), "only {came} frames");
    }
    let ended = now_nanos();
    // What is on its way arrives.
    wait_until("the last frames", SOON, || guests.iter().all(|guest| guest.unsent() == 0))?;
    let rest = Duration::from_secs(1).saturating_sub(Duration::from_nanos(now_nanos() - ended));
    std::thread::sleep(rest);
    let (before, start) = (ran(pid)?, now_nanos());
    std::thread::sleep(Duration::from_secs(4));
    let (used, time) = (ran(pid)? - before, now_nanos() - start);
    eprintln!("{came} frames, then {used} ns of CPU in {time} ns");
    ensure!(used * 200 < time, "{used} ns of CPU in {time} ns are 0.5 % of a core or more");
    Ok(())
}

#[test]
fn a_saturated_switch_makes_a_system_call_in_a_thousand_frames_at_most() -> Result<()> {
    require!("strace");
    let (rig, mut guests) = guests::<2>()?;
    // Guests of a test are not always scheduled; the switch would rightly sleep.
    let set = rig.switch().client(&["set", "busy_poll=1s"])?;
    ensure!(set.status.success(), "{set:?}");
    let pid = rig.switch().pid();
    let (tid, _) = threads(pid)?.into_iter().find(|(_, name)| name == "data").context("the data thread")?;
    let (stop, came) = (AtomicBool::new(false), AtomicU64::new(0));
    let (calls, frames) = std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                came.fetch_add(exchange(&mut guests)?, Ordering::Relaxed);
            }
            Ok(())
        });
        let counted = wait_until("frames", SOON, || came.load(Ordering::Relaxed) > 10_000)
            .and_then(|()| count_calls(tid, &came));
        stop.store(true, Ordering::Relaxed);
        load.join().map_err(|_| anyhow::anyhow!("the guests panicked"))??;
        counted
    })?;
    eprintln!("{} system calls in {frames} frames", calls.len());
    // The look at epoll each 10 ms is a matter of time, and of many frames only if
    // the guests were scheduled: where they were not, the others have to be few.
    let is_look = |call: &&String| call.starts_with("epoll_wait(") && call.contains(", 0) ");
    let looks = calls.iter().filter(is_look).count();
    let counted = if frames > 1_000_000 { calls.len() } else { calls.len() - looks };
    ensure!(looks <= 250, "{looks} looks at epoll in two seconds");
    ensure!(frames > 10_000, "only {frames} frames: not much of a load");
    ensure!(counted as u64 * 1000 < frames, "{counted} system calls in {frames} frames: {calls:#?}");
    Ok(())
}

/// The system calls of thread `tid` in two seconds, one a line, and the frames
/// that `came` meanwhile.
fn count_calls(tid: i32, came: &AtomicU64) -> Result<(Vec<String>, u64)> {
    let out = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("strace");
    command.args(["-p", &tid.to_string(), "-o"]).arg(out.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut strace = start::spawn(&mut command).context("strace")?;
    let mut said = String::new();
    BufReader::new(strace.stderr.take().context("a pipe")?).read_line(&mut said)?;
    let counted = if said.contains("attached") {
        let before = came.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(2));
        Ok(came.load(Ordering::Relaxed) - before)
    } else {
        Err(anyhow::anyhow!("strace: {said}"))
    };
    let pid = Pid::from_child(&strace);
    let asked = kill_process(pid, Signal::INT);
    let ended = wait_until("strace to let go", SOON, || matches!(strace.try_wait(), Ok(Some(_))));
    end_child(&mut strace);
    asked?;
    ended?;
    let text = std::fs::read_to_string(out.path())?;
    // What is no call: how strace itself came to its end.
    let calls = text.lines().filter(|line| !line.starts_with("strace:") && line.contains('('));
    Ok((calls.map(str::to_owned).collect(), counted?))
}

/// A port has a name of its own, whatever its socket is called.
#[test]
fn the_log_calls_a_port_by_its_name() -> Result<()> {
    let rig = Rig::new(&["vhost-user,name=zero"])?;
    let guest = Guest::connect(&rig.path(0))?;
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    let who = format!("{} {}", comm.trim_end(), std::process::id());
    rig.switch().wait_stderr(&format!("zero: {who} connected"), SOON)?;
    drop(guest);
    rig.switch().wait_stderr(&format!("zero: {who} disconnected"), SOON)
}
