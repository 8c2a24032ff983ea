//! Whole labs by `vlab`: up, in use, down, and what is left then.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::binary;
use vswitch_tests::qemu::{Console, Turn, images};
use vswitch_tests::require;

const LIMIT: Duration = Duration::from_secs(60);

/// A lab of two guests in a namespace of its own, taken down when dropped.
struct Lab {
    name: String,
    ns: Netns,
    file: PathBuf,
    _folder: TempDir,
}

impl Lab {
    fn new(tag: &str) -> Result<Lab> {
        let (kernel, initrd) = images()?;
        let name = format!("vt{}-{tag}", std::process::id());
        let folder = tempfile::Builder::new().prefix("vt-lab-").tempdir()?;
        let file = folder.path().join("lab.toml");
        let text = format!(
            r#"
name = "{name}"

[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
kernel = "{}"
initrd = "{}"
cmdline = "console=ttyS0 quiet hostname={{name}} ip={{lan.address}} labmac={{lan.mac}}"
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
        std::fs::write(&file, text)?;
        Ok(Lab { name, ns: Netns::new("lab")?, file, _folder: folder })
    }

    fn command(&self, program: &str) -> Result<Command> {
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
    fn try_vlab(&self, command: &str) -> Result<Output> {
        self.command("vlab")?.args([command, "--lab"]).arg(&self.file).output().context("vlab")
    }

    /// The same, which must succeed; returns its standard output.
    fn vlab(&self, command: &str) -> Result<String> {
        let output = self.try_vlab(command)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vlab {command}: {}: {stderr}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run_dir(&self) -> PathBuf {
        Path::new("/run/vlab").join(&self.name)
    }

    /// The shell on a guest's serial console.
    fn console(&self, guest: &str) -> Result<Console> {
        let path = self.run_dir().join(format!("{guest}.serial"));
        let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
        let mut console = Console::new(stream.try_clone()?, stream);
        // The prompt was printed before we came.
        console.send("\n")?;
        console.log_in()?;
        Ok(console)
    }

    /// Pids of the processes that bear the lab's name.
    fn processes(&self) -> Result<BTreeSet<i32>> {
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
    fn traces(&self) -> Result<BTreeSet<String>> {
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

#[test]
fn a_lab_comes_up_talks_and_leaves_nothing() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::new("talk")?;
    let before = lab.traces()?;

    lab.vlab("up")?;
    let status = lab.vlab("status")?;
    for (guest, address) in [("zero", "192.168.1.150"), ("one", "192.168.1.151")] {
        let line = status.lines().find(|line| line.starts_with(guest)).context(status.clone())?;
        ensure!(line.contains(" up ") && line.contains(address), "{status}");
    }
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let output = lab.console(guest)?.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
    }
    let mut fdb = lab.command("vswitch")?;
    let fdb = fdb.args(["fdb", "show", "--name", &format!("{}-lan", lab.name)]).output()?;
    let fdb = String::from_utf8_lossy(&fdb.stdout);
    for guest in ["zero", "one"] {
        ensure!(fdb.lines().any(|line| line.split_whitespace().any(|word| word == guest)), "{fdb}");
    }
    // Up again is no second lab.
    let processes = lab.processes()?;
    let _ = lab.try_vlab("up")?;
    ensure!(lab.processes()? == processes, "a second `up` changed what runs");

    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    lab.vlab("down").context("already down is fine")?;
    Ok(())
}

#[test]
fn a_lab_whose_programs_were_killed_is_taken_down() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::new("killed")?;
    let before = lab.traces()?;
    lab.vlab("up")?;
    for pid in lab.processes()? {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // The switch and one of two guests: what is left must not hinder.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_one = String::from_utf8_lossy(&line).contains("one.qmp");
        if (name.trim() == "vswitch" || is_one)
            && let Some(pid) = Pid::from_raw(pid)
        {
            kill_process(pid, Signal::KILL)?;
        }
    }
    wait_until("the killed to be gone", LIMIT, || lab.processes().is_ok_and(|left| left.len() <= 1))?;
    let status = lab.try_vlab("status")?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let one = status.lines().find(|line| line.starts_with("one")).context(status.clone())?;
    ensure!(!one.contains(" up "), "status trusts its file: {status}");

    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}
