//! The programs under test: finding them, running the switch, asking it.
//!
//! `./dev` builds the programs; a test that runs by itself needs
//! `cargo build -p vswitch -p vlab` first.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::clock::{wait_for, wait_until};
use crate::netns::Netns;
use crate::start;
use crate::user::Ordinary;

/// Time that a switch has to become ready, or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Path of `vswitch` or `vlab`: from VSWITCH_BIN or VLAB_BIN, else beside the
/// running test or benchmark.
///
/// # Errors
/// It is not built; the message says how to.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(format!("{}_BIN", name.to_uppercase())) {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    // target/debug/deps/netns-… or target/debug/vbench.
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: cargo build -p {name}"))
}

/// A switch that stands still, and goes on when this is dropped.
#[derive(Debug)]
pub struct Paused {
    pid: Pid,
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It fails only for one that has ended.
        let _ = kill_process(self.pid, Signal::CONT);
    }
}

/// A running `vswitch run`.
#[derive(Debug)]
pub struct Switch {
    child: Child,
    control: PathBuf,
    ready: String,
    stdout: Option<JoinHandle<String>>,
    stderr: Arc<Mutex<String>>,
    drained: Option<JoinHandle<()>>,
    program: PathBuf,
    /// What a killed switch of root leaves behind, if nobody else chose its name.
    lock: Option<PathBuf>,
    _dir: TempDir,
}

/// How a switch ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output after the `ready:` line.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Switch {
    /// Starts `vswitch run ARGS` in `ns` and waits for its `ready:` line.
    ///
    /// # Errors
    /// It ended before, or took longer than 20 s; the message has its stderr.
    pub fn start(ns: &Netns, args: &[&str]) -> Result<Switch> {
        let program = binary("vswitch")?;
        Switch::spawn(ns.command(&program), program, args)
    }

    /// The same with one `--port` for each of `ports`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with_ports(ns: &Netns, ports: &[&str]) -> Result<Switch> {
        let args: Vec<&str> = ports.iter().flat_map(|port| ["--port", port]).collect();
        Switch::start(ns, &args)
    }

    /// Starts `vswitch run ARGS` as an ordinary user, in the namespace of the
    /// tests.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_as(user: &Ordinary, args: &[&str]) -> Result<Switch> {
        let program = user.program("vswitch")?;
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        user.give(dir.path())?;
        Switch::spawn_in(dir, user.command(&program), program, args)
    }

    /// The same from `command`, which runs `vswitch` wherever and as whomever
    /// the caller arranged; `run`, `--control` and `args` are added.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn spawn(command: Command, program: PathBuf, args: &[&str]) -> Result<Switch> {
        Switch::spawn_in(tempfile::Builder::new().prefix("vt-").tempdir()?, command, program, args)
    }

    /// The same with the control socket in `dir`.
    fn spawn_in(dir: TempDir, mut command: Command, program: PathBuf, args: &[&str]) -> Result<Switch> {
        let control = dir.path().join("switch.sock");
        let name = format!("vt-{}-{}", std::process::id(), serial());
        command.args(["run", "--control"]).arg(&control).args(args);
        let mut lock = None;
        if !args.contains(&"--name") {
            command.args(["--name", &name]);
            lock = Some(Path::new("/run/vswitch").join(format!("{name}.lock")));
        }
        // A Ctrl-C at the terminal is for us; we end the switch ourselves.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start::spawn(&mut command).with_context(|| program.display().to_string())?;
        let stderr = Arc::new(Mutex::new(String::new()));
        let drained = child.stderr.take().map(|pipe| drain_lines(pipe, Arc::clone(&stderr)));
        let (ready_tx, ready_rx) = crossbeam_channel::bounded(1);
        let stdout = child.stdout.take().map(|pipe| {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(pipe);
                let (mut first, mut rest) = (String::new(), String::new());
                // A broken pipe ends the text; what was read counts.
                let _ = lines.read_line(&mut first);
                let _ = ready_tx.send(first);
                let _ = lines.read_to_string(&mut rest);
                rest
            })
        });
        // From here on, dropping ends the child.
        let mut switch = Switch {
            child,
            control,
            ready: String::new(),
            stdout,
            stderr,
            drained,
            program,
            lock,
            _dir: dir,
        };
        switch.ready = ready_rx.recv_timeout(LIMIT).unwrap_or_default().trim_end().to_owned();
        if !switch.ready.starts_with("ready:") {
            let first = std::mem::take(&mut switch.ready);
            let ended = switch.end(Signal::KILL)?;
            bail!("vswitch run {args:?} was not ready: {first}\n{}", ended.stderr.trim_end());
        }
        Ok(switch)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has all of its threads stand still until what is returned is dropped.
    ///
    /// # Errors
    /// It has ended, or a thread of it did not stop.
    pub fn pause(&self) -> Result<Paused> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, Signal::STOP)?;
        let paused = Paused { pid };
        // Each thread by itself: the signal stops them one after the other.
        let threads = format!("/proc/{}/task", self.pid());
        let is_stopped = |thread: std::fs::DirEntry| {
            std::fs::read_to_string(thread.path().join("status"))
                .is_ok_and(|text| text.contains("State:\tT (stopped)"))
        };
        wait_until("the switch to stand still", LIMIT, || {
            std::fs::read_dir(&threads).is_ok_and(|threads| threads.flatten().all(is_stopped))
        })?;
        Ok(paused)
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// The line it printed when it was ready.
    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has written `text` to standard error.
    ///
    /// # Errors
    /// It did not within `limit`; the message has what it did write.
    pub fn wait_stderr(&self, text: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("`{text}` on stderr"), limit, || self.stderr().contains(text))
            .with_context(|| self.stderr())
    }

    /// Runs a client command against this switch, as `["fdb", "show"]`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn client(&self, args: &[&str]) -> Result<Output> {
        start::output(&mut self.client_command(args)).with_context(|| format!("vswitch {args:?}"))
    }

    /// A client command against this switch that was not started yet.
    pub fn client_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--control").arg(&self.control).stdin(Stdio::null());
        // A Ctrl-C at the terminal is for us; we end what we start.
        command.process_group(0);
        command
    }

    /// Runs a client command with `--json` and returns its answer.
    ///
    /// # Errors
    /// It failed, or printed no JSON; the message has its answer.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let with: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let output = self.client(&with)?;
        let answer = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "vswitch {args:?}: {}: {}", output.status, answer.trim());
        serde_json::from_slice(&output.stdout).with_context(|| format!("vswitch {args:?} --json"))
    }

    /// CPU time it has used, user and system.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        resident_bytes(self.pid())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// It took longer than 20 s.
    pub fn stop(self) -> Result<Ended> {
        self.end(Signal::TERM)
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// The kernel did not let go of it.
    pub fn kill(self) -> Result<Ended> {
        self.end(Signal::KILL)
    }

    /// Ends it with `signal`.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn end(mut self, signal: Signal) -> Result<Ended> {
        signal_child(&self.child, signal);
        let status = wait_for("vswitch to end", LIMIT, || self.child.try_wait().ok().flatten())
            .with_context(|| self.stderr())?;
        let stdout = self.stdout.take().and_then(|t| t.join().ok()).unwrap_or_default();
        if let Some(thread) = self.drained.take() {
            // It ends with the pipe; a panic there loses only text.
            let _ = thread.join();
        }
        Ok(Ended { status, stdout, stderr: self.stderr() })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        end_child(&mut self.child);
        // Only after a kill: whoever ends by himself must do it himself.
        let was_killed = matches!(self.child.try_wait(), Ok(Some(status)) if status.signal() == Some(9));
        if let Some(lock) = self.lock.take().filter(|_| was_killed) {
            let _ = std::fs::remove_file(lock);
        }
    }
}

/// Ends `child` by its pid, politely first, and waits for it.
pub fn end_child(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    signal_child(child, Signal::TERM);
    let ended =
        wait_until("a child to end", Duration::from_secs(2), || matches!(child.try_wait(), Ok(Some(_))));
    if ended.is_err() {
        // Not yet waited for, so the pid is still ours.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn signal_child(child: &Child, signal: Signal) {
    // A child that was not waited for keeps its pid, so this hits no other.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn drain_lines(pipe: impl std::io::Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

fn serial() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// CPU time that process `pid` has used, user and system, in clock ticks of
/// 10 ms.
///
/// # Errors
/// It does not exist.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; utime and stime are fields 14
    // and 15, that is 12 and 13 counted from behind it (proc(5)).
    let (_, fields) = text.rsplit_once(") ").context("/proc/PID/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Memory of process `pid` in bytes, of what it shares only its part: what many
/// of a kind take together is the sum of these.
///
/// # Errors
/// It does not exist, or is another user's.
pub fn proportional_bytes(pid: u32) -> Result<u64> {
    kib_in(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Resident memory of process `pid` in bytes.
///
/// # Errors
/// It does not exist.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    kib_in(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn kib_in(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in {path}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
    Ok(kib * 1024)
}
