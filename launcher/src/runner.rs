//! What `up` and `down` do to the machine, behind one trait: the real one here,
//! and one in their tests that only remembers.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command as Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::Mode;
use rustix::process::Signal;
use vswitch::control::{Client, Request};

use crate::command::Command;
use crate::disk::{self, Existing};
use crate::facts::public_key;
use crate::identity::SSH_KEY;
use crate::places::{Drop, User};
use crate::plan::Step;
use crate::qmp::Qmp;
use crate::state::{GuestRecord, Process, SwitchRecord};
use crate::{clock, privilege, process, seed};

/// How long a switch may take to say `ready:`.
const SWITCH_READY: Duration = Duration::from_secs(20);

/// What can be asked of a guest's QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Press the power button.
    PowerDown,
    /// End now.
    Quit,
}

/// The machine, as far as labs change it.
pub trait Runner {
    /// Carries out one step. A started process is returned and not waited for.
    ///
    /// # Errors
    /// What went wrong.
    fn execute(&mut self, step: &Step) -> Result<Option<Process>>;

    /// Waits for a started switch to be ready; returns its control socket.
    ///
    /// # Errors
    /// It ended, with what it said, or took too long.
    fn await_switch(&mut self, switch: &SwitchRecord) -> Result<PathBuf>;

    /// Processes with this path in their command line.
    fn find(&mut self, path: &Path) -> Vec<Process>;

    /// Asks a guest's QEMU for something.
    ///
    /// # Errors
    /// It does not answer, or is not that guest's.
    fn ask(&mut self, guest: &GuestRecord, ask: Ask) -> Result<()>;

    /// Asks a switch to end.
    ///
    /// # Errors
    /// It cannot be reached.
    fn stop_switch(&mut self, switch: &SwitchRecord, process: Process) -> Result<()>;

    /// Ends a process at once.
    ///
    /// # Errors
    /// It belongs to somebody else.
    fn kill(&mut self, process: Process) -> Result<()>;

    /// Waits until all have ended, at most `limit`; returns those that have not.
    fn wait_gone(&mut self, processes: &[Process], limit: Duration) -> Vec<Process>;

    /// Removes what a killed switch left; returns the interfaces that stay.
    fn sweep(&mut self, switch: &SwitchRecord) -> Vec<String>;

    /// Removes a file or a whole directory; that it is gone already is success.
    ///
    /// # Errors
    /// What the file system says.
    fn remove(&mut self, path: &Path) -> Result<()>;
}

/// This machine.
#[derive(Debug)]
pub struct Machine {
    user: User,
}

impl Machine {
    /// Acts for `user`. For plain root it takes the right of others to write from
    /// whatever this process and its children make from now on.
    pub fn new(user: User) -> Machine {
        if user.has_passable_run() {
            // QEMU makes sockets there that are for root alone. The mask is this
            // process's; to ask for it is to set it.
            let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
            rustix::process::umask(before | Mode::WGRP | Mode::WOTH);
        }
        Machine { user }
    }

    fn spawn(&self, command: &Command) -> Result<Process> {
        let log = create_log(command.log.as_deref().unwrap_or(Path::new("/dev/null")))?;
        let out = match &command.stdout {
            Some(path) => create_log(path)?,
            None => log.try_clone()?,
        };
        let mut child = Child::new(&command.argv[0]);
        child.args(&command.argv[1..]).stdin(Stdio::null()).stdout(out).stderr(log).current_dir("/");
        let started = privilege::with_root(&self.user.drop, || child.spawn())?;
        let child = started.with_context(|| format!("cannot run {}", command.argv[0]))?;
        // Not waited for: it outlives us. Our end reaps it, or init does.
        Ok(Process::of(i32::try_from(child.id())?)?)
    }

    fn run(&self, command: &Command) -> Result<()> {
        privilege::with_root(&self.user.drop, || {
            // A clone is made by whoever owns the lab, never by root for a user.
            let mut argv = Vec::new();
            if let Drop::To { uid, gid } = self.user.drop {
                argv.extend(["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")]);
                argv.push("--init-groups".to_owned());
            }
            argv.extend(command.argv.iter().cloned());
            disk::run(&argv)
        })?
    }
}

fn signal(process: Process, signal: Signal) -> Result<()> {
    match process.signal(signal) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(e).context("it was started with sudo, and takes it to be ended: sudo vlab down")
        }
        other => other.map(|_| ()).map_err(Into::into),
    }
}

/// Makes `path`, and what is missing above it, this user's alone.
///
/// # Errors
/// It cannot be made, or is another user's.
pub fn private_directory(path: &Path) -> io::Result<()> {
    make_directory(path, false)
}

/// The RUN directory at `path` for `user`'s lab: private, but that QEMU as nobody
/// finds its way to its sockets.
///
/// # Errors
/// As of [`private_directory`].
pub fn run_directory(path: &Path, user: &User) -> io::Result<()> {
    make_directory(path, user.has_passable_run())?;
    // It may be from before sockets there were others'.
    match path.parent().filter(|_| user.has_passable_run()) {
        Some(labs) => make_directory(labs, true),
        None => Ok(()),
    }
}

fn make_directory(path: &Path, passable: bool) -> io::Result<()> {
    let mode = if passable { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let meta = fs::symlink_metadata(path)?;
    let uid = rustix::process::geteuid().as_raw();
    if !meta.is_dir() || meta.uid() != uid {
        let message = format!("{} is not a directory of uid {uid}", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    // Whoever owns the directory above could put another in its place.
    let above = path.parent().unwrap_or(path);
    let owner = fs::metadata(above)?.uid();
    if owner != 0 && owner != uid {
        let message = format!("{} belongs to another user than uid {uid}", above.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if meta.mode() & 0o777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// `text` with the public half of `key` where it is to stand.
fn filled(text: &str, key: Option<&Path>) -> Result<String> {
    let Some(key) = key.filter(|_| text.contains(SSH_KEY)) else { return Ok(text.to_owned()) };
    let path = public_key(key);
    let public = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.replace(SSH_KEY, public.trim_end()))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// A fresh log at `path`; the one of the time before stays as `path.1`.
fn create_log(path: &Path) -> io::Result<File> {
    if path == Path::new("/dev/null") {
        return OpenOptions::new().write(true).open(path);
    }
    rotate(path)?;
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

fn rotate(path: &Path) -> io::Result<()> {
    let mut before = path.as_os_str().to_owned();
    before.push(".1");
    match fs::rename(path, before) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The end of the file at `path`: at most `lines` lines, of its last 8 KiB, and
/// without what a terminal would obey.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(8192)..]).into_owned();
    let clean = |line: &str| line.chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>();
    let all: Vec<String> =
        text.lines().map(|line| clean(line.trim_end())).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

/// What a program said before it ended, as the end of an error message.
pub fn last_words(path: &Path) -> String {
    let lines = tail(path, 8);
    if lines.is_empty() {
        format!(" (and said nothing; {})", path.display())
    } else {
        format!(":\n  {}", lines.join("\n  "))
    }
}

impl Runner for Machine {
    fn execute(&mut self, step: &Step) -> Result<Option<Process>> {
        match step {
            Step::Directory { path, passable } => {
                make_directory(path, *passable).with_context(|| path.display().to_string())?;
            }
            Step::Key { path, part, command } => {
                // What an earlier `up` left half made would make it ask.
                self.remove(part)?;
                self.run(command)?;
                fs::rename(public_key(part), public_key(path))?;
                disk::finish(part, path, Existing::Keep)?;
            }
            Step::Clone { path, part, commands, scratch } => {
                let made = commands.iter().try_for_each(|command| self.run(command));
                for path in scratch {
                    self.remove(path)?;
                }
                made?;
                disk::finish(part, path, Existing::Keep)?;
            }
            Step::File { path, text, key } => {
                let text = filled(text, key.as_deref())?;
                write_private(path, &text).with_context(|| path.display().to_string())?;
            }
            Step::Seed { path, files, key } => {
                let fill =
                    |(name, text): &(String, String)| Ok((name.clone(), filled(text, key.as_deref())?));
                let files = files.iter().map(fill).collect::<Result<Vec<_>>>()?;
                seed::write(path, &files).with_context(|| path.display().to_string())?;
            }
            Step::Switch { command, .. } => return self.spawn(command).map(Some),
            Step::Guest { record, command } => {
                if let Some(log) = &record.console_log {
                    rotate(log)?;
                }
                return self.spawn(command).map(Some);
            }
        }
        Ok(None)
    }

    fn await_switch(&mut self, switch: &SwitchRecord) -> Result<PathBuf> {
        let ready = clock::poll(SWITCH_READY, || {
            let out = fs::read_to_string(&switch.out).unwrap_or_default();
            if let Some(control) = out.lines().find_map(parse_ready) {
                return Some(Ok(control));
            }
            let ended = switch.process.is_none_or(|process| !process.alive());
            ended.then(|| Err(format!("switch {} did not start{}", switch.name, last_words(&switch.log))))
        });
        match ready {
            Some(Ok(control)) => Ok(control),
            Some(Err(why)) => bail!(why),
            None => bail!(
                "switch {} was not ready after {} s{}",
                switch.name,
                SWITCH_READY.as_secs(),
                last_words(&switch.log)
            ),
        }
    }

    fn find(&mut self, path: &Path) -> Vec<Process> {
        process::find(path)
    }

    fn ask(&mut self, guest: &GuestRecord, ask: Ask) -> Result<()> {
        let command = match ask {
            Ask::PowerDown => "system_powerdown",
            Ask::Quit => "quit",
        };
        Qmp::connect(&guest.qmp, &guest.uuid)?.call(command)?;
        Ok(())
    }

    fn stop_switch(&mut self, switch: &SwitchRecord, process: Process) -> Result<()> {
        if let Some(control) = &switch.control
            && Client::connect(control).and_then(|mut client| client.call(&Request::Stop {})).is_ok()
        {
            return Ok(());
        }
        signal(process, Signal::TERM).with_context(|| format!("switch {}", switch.name))
    }

    fn kill(&mut self, process: Process) -> Result<()> {
        signal(process, Signal::KILL).with_context(|| format!("process {}", process.pid))
    }

    fn wait_gone(&mut self, processes: &[Process], limit: Duration) -> Vec<Process> {
        process::wait_gone(processes, limit)
    }

    fn sweep(&mut self, switch: &SwitchRecord) -> Vec<String> {
        let socket = switch.control.as_ref().is_some_and(|control| control.exists());
        if left_behind(switch).is_empty() && !socket {
            return Vec::new();
        }
        // Only vswitch makes and removes interfaces: started under the same
        // name it takes back what is its own, and removes it as it ends.
        let command = Command {
            argv: switch.argv.clone(),
            stdout: Some(switch.out.clone()),
            log: Some(switch.log.clone()),
        };
        if let Ok(process) = self.spawn(&command) {
            let again = SwitchRecord { process: Some(process), ..switch.clone() };
            let control = self.await_switch(&again).ok();
            let _ = self.stop_switch(&SwitchRecord { control, ..again }, process);
            process::wait_gone(&[process], Duration::from_secs(5));
        }
        left_behind(switch)
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        let removed = match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| path.display().to_string())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// `ready: 2 ports, control /run/vswitch/default.sock`. A line without its
/// newline may be half a path; [`str::lines`] would not tell.
fn parse_ready(line: &str) -> Option<PathBuf> {
    let (_, control) = line.strip_prefix("ready: ")?.split_once(", control ")?;
    control.ends_with(".sock").then(|| PathBuf::from(control))
}

/// Interfaces of a dead switch that are still there. Whose one is, is said by
/// its alias `vswitch:UID:SWITCH:RUNID`, never by its name.
fn left_behind(switch: &SwitchRecord) -> Vec<String> {
    let is_its_own = |interface: &&String| {
        let alias = fs::read_to_string(format!("/sys/class/net/{interface}/ifalias")).unwrap_or_default();
        let mut parts = alias.trim().split(':');
        parts.next() == Some("vswitch") && parts.nth(1) == Some(switch.name.as_str())
    };
    switch.interfaces.iter().filter(is_its_own).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines() {
        let path = parse_ready("ready: 2 ports, control /run/vswitch/ping-lan.sock");
        assert_eq!(path.as_deref(), Some(Path::new("/run/vswitch/ping-lan.sock")));
        for other in ["", "ready: 2 ports, control /run/vsw", "tap0: created for alice"] {
            assert_eq!(parse_ready(other), None, "{other}");
        }
    }

    #[test]
    fn only_root_qemus_way_to_its_sockets_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vlab/ping");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        private_directory(path.parent().unwrap()).unwrap();
        for (drop, expected) in [(Drop::Nobody, 0o711), (Drop::Nothing, 0o700), (Drop::Nobody, 0o711)] {
            run_directory(&path, &User { uid: 0, drop }).unwrap();
            assert_eq!(mode(&path), expected);
        }
        assert_eq!(mode(path.parent().unwrap()), 0o711);
        private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_directory_below_somebody_elses_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let above = directory.path().join("vlab-1000");
        private_directory(&above.join("ping")).unwrap();
        // Only root can give it away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&above, Some(65_534), None).unwrap();
            let refused = private_directory(&above.join("ping")).unwrap_err().to_string();
            assert!(refused.ends_with("vlab-1000 belongs to another user than uid 0"), "{refused}");
        }
    }

    #[test]
    fn logs_keep_one_predecessor() {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        for word in ["one", "two", "three"] {
            writeln!(create_log(&path).unwrap(), "{word}\x1b[31m").unwrap();
        }
        assert_eq!(tail(&path, 5), ["three[31m"]);
        assert_eq!(tail(&directory.path().join("a.log.1"), 5), ["two[31m"]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_process_is_started_detached_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new(User { uid: 0, drop: Drop::Nothing });
        let log = directory.path().join("log");
        let argv = ["setsid", "sh", "-c", "echo said; exec sleep 60"].map(str::to_owned).to_vec();
        let process = machine.spawn(&Command { argv, stdout: None, log: Some(log.clone()) }).unwrap();
        clock::poll(Duration::from_secs(10), || (tail(&log, 1) == ["said"]).then_some(())).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
        let session = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(3).unwrap();
        assert_eq!(session, process.pid.to_string(), "a session of its own");
        process.signal(Signal::KILL).unwrap();
        assert_eq!(process::wait_gone(&[process], Duration::from_secs(10)), []);
    }
}
