//! A lab under `vlab` in a namespace of its own, and what can be found of it.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::binary;
use vswitch_tests::qemu::{Console, images};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Time that an installed system has to boot beside another one.
const BOOT: Duration = Duration::from_secs(180);

/// A lab in a namespace of its own, taken down when dropped.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) ns: Netns,
    pub(crate) file: PathBuf,
    _folder: TempDir,
}

impl Lab {
    /// Two of the small test guests.
    pub(crate) fn new(tag: &str) -> Result<Lab> {
        Lab::told(tag, "")
    }

    /// The same two with `words` for them on their kernel command lines.
    pub(crate) fn told(tag: &str, words: &str) -> Result<Lab> {
        let (kernel, initrd) = images()?;
        let text = format!(
            r#"
[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
kernel = "{}"
initrd = "{}"
cmdline = "console=ttyS0 quiet no_timer_check hostname={{name}} ip={{lan.address}} labmac={{lan.mac}} {words}"
memory = "256M"
accel = "tcg"
ready = "console:guest: ready"

[guests.zero]
nics = [{{ network = "lan", address = "192.168.1.150" }}]

[guests.one]
nics = [{{ network = "lan", address = "192.168.1.151", model = "e1000" }}]
"#,
            kernel.display(),
            initrd.display(),
        );
        Lab::of(tag, &text)
    }

    /// The lab that `text` says, under a name of its own.
    pub(crate) fn of(tag: &str, text: &str) -> Result<Lab> {
        let name = format!("vt{}-{tag}", std::process::id());
        let folder = tempfile::Builder::new().prefix("vt-lab-").tempdir()?;
        let file = folder.path().join("lab.toml");
        std::fs::write(&file, format!("name = \"{name}\"\n{text}"))?;
        Ok(Lab { name, ns: Netns::new("lab")?, file, _folder: folder })
    }

    /// A path in the folder of the lab file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// A program, in the lab's namespace.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        // Unlike setns(2) alone, this shows the namespace's own /sys, as a login
        // there would.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.ns.name()]).arg(binary(program)?);
        // Plain root's lab, also where the tests run through sudo.
        for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Runs a command of `vlab` for this lab, whatever its exit status.
    pub(crate) fn try_vlab(&self, command: &str) -> Result<Output> {
        self.try_words(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// The same from words that may hold spaces.
    pub(crate) fn try_words(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.command("vlab")?;
        // In front, for commands that take the rest of the line.
        command.arg("--lab").arg(&self.file).args(words).stdin(Stdio::null()).output().context("vlab")
    }

    /// A command of `vlab` that must succeed; returns its standard output.
    pub(crate) fn vlab(&self, command: &str) -> Result<String> {
        self.words(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// The same from words that may hold spaces.
    pub(crate) fn words(&self, words: &[&str]) -> Result<String> {
        let output = self.try_words(words)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "vlab {words:?}: {}: {stdout}{stderr}", output.status);
        Ok(stdout)
    }

    /// Pastes what `vlab plan` printed into a shell that knows no vlab, and waits
    /// until both guests are ready. Its programs are named in full, or are the
    /// system's own.
    pub(crate) fn paste(&self, script: &str) -> Result<()> {
        let logs = ["zero", "one"]
            .map(|guest| Path::new("/var/lib/vlab").join(&self.name).join(format!("{guest}.console.log")));
        for log in &logs {
            // Of an earlier start: it would answer for this one.
            let _ = std::fs::remove_file(log);
        }
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", self.ns.name(), "sh", "-e", "-c", script]);
        shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        let output = shell.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for log in &logs {
            wait_until(&format!("`guest: ready` in {}", log.display()), BOOT, || {
                std::fs::read_to_string(log).is_ok_and(|text| text.contains("guest: ready"))
            })?;
        }
        Ok(())
    }

    /// Ends what was pasted: the guests first, then their switch.
    pub(crate) fn end_by_hand(&self) -> Result<()> {
        for what in ["qemu", "vswitch"] {
            let is_one = |pid: &i32| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.starts_with(what)
            };
            for pid in self.processes()?.into_iter().filter(is_one).filter_map(Pid::from_raw) {
                kill_process(pid, Signal::TERM)?;
            }
            wait_until(&format!("{what} to end"), LIMIT, || {
                self.processes().is_ok_and(|left| !left.iter().any(is_one))
            })?;
        }
        Ok(std::fs::remove_dir_all(self.run_dir())?)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        Path::new("/run/vlab").join(&self.name)
    }

    /// The shell on a guest's serial console.
    pub(crate) fn console(&self, guest: &str) -> Result<Console> {
        let path = self.run_dir().join(format!("{guest}.serial"));
        let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
        let mut console = Console::new(stream.try_clone()?, stream);
        // The prompt was printed before we came.
        console.send("\n")?;
        console.log_in()?;
        Ok(console)
    }

    /// Pids of the processes that bear the lab's name.
    pub(crate) fn processes(&self) -> Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that ends meanwhile is not there.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&self.name) {
                found.insert(pid);
            }
        }
        Ok(found)
    }

    /// Everything of this lab that can be found: interfaces, files, processes.
    pub(crate) fn traces(&self) -> Result<BTreeSet<String>> {
        let mut traces: BTreeSet<String> =
            self.ns.run("ip -br link")?.lines().map(|line| format!("interface {line}")).collect();
        traces.extend(self.processes()?.iter().map(|pid| format!("process {pid}")));
        for dir in ["/run/vlab", "/run/vswitch"] {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            traces.extend(names.filter(|name| name.contains(&self.name)).map(|name| format!("{dir}/{name}")));
        }
        Ok(traces)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Already down is as good; what is left is killed with the namespace.
        let _ = self.try_vlab("down");
        let _ = std::fs::remove_dir_all(Path::new("/var/lib/vlab").join(&self.name));
    }
}
