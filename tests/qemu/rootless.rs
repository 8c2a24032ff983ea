//! The tutorial's lab of an ordinary user, who has no privilege whatever: an empty
//! disk, an installation, and two clones that share their memory with a switch.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::netns::run;
use vswitch_tests::qemu::{Console, Turn, installation_iso};
use vswitch_tests::require;
use vswitch_tests::start;
use vswitch_tests::user::Ordinary;

use crate::install::{DIALOGUE, lab_file};
use crate::internet::Internet;

const LIMIT: Duration = Duration::from_secs(120);

/// A user's home with a lab in it, taken down when dropped.
struct Home {
    user: Ordinary,
    name: String,
}

impl Home {
    fn new() -> Result<Home> {
        Ok(Home { user: Ordinary::new()?, name: format!("vt{}-rootless", std::process::id()) })
    }

    /// Runs `vlab` with `words` in the home; it must succeed.
    fn vlab(&self, words: &[&str]) -> Result<String> {
        let mut vlab = self.user.command(self.user.program("vlab")?);
        vlab.env("VSWITCH", self.user.program("vswitch")?);
        let output = start::output(vlab.args(words)).context("vlab")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vlab {words:?}: {}: {stderr}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn lab(&self, boot: &str) -> Result<()> {
        let text = lab_file(boot).replace("[networks.lan]", "[networks.lan]\nlink = \"vhost-user\"");
        self.user.write("lab.toml", &format!("name = \"{}\"\n{text}", self.name)).map(drop)
    }

    fn run_dir(&self) -> PathBuf {
        self.user.home().join("run/vlab").join(&self.name)
    }

    fn console(&self, guest: &str) -> Result<Console> {
        let stream = UnixStream::connect(self.run_dir().join(format!("{guest}.serial")))?;
        let mut console = Console::new(stream.try_clone()?, stream);
        console.send("\n")?;
        console.log_in()?;
        Ok(console)
    }

    /// Status of each process that bears the lab's name, with its command line.
    fn processes(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&self.name) {
                let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                found.push((line, status));
            }
        }
        Ok(found)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Already down is as good.
        let _ = self.vlab(&["down", "--grace", "0s"]);
    }
}

#[test]
#[ignore = "installs a system under TCG and boots it twice: --long"]
fn an_ordinary_user_installs_and_runs_the_tutorials_lab() -> Result<()> {
    require!("qemu-system-x86_64", "debugfs", (port "vhost-user"));
    let _turn = Turn::take();
    let home = Home::new()?;
    // The sources may lie where this user may not look.
    let iso = home.user.home().join("install.iso");
    run(Command::new("cp").arg(installation_iso()?).arg(&iso))?;
    home.user.give(&iso)?;
    home.user.write("dialogue", DIALOGUE)?;

    home.lab("[guests.zero]\ndisk = \"0.img\"\nconfigure = \"none\"\n")?;
    home.vlab(&["disk", "create", "0.img", "--size", "8G"])?;
    let install = ["install", "zero", "--iso", "install.iso", "--dialogue", "dialogue"];
    home.vlab(&[&install[..], &["--timeout", "15m", "--done", "installation: done"]].concat())?;
    let base = std::fs::read(home.user.home().join("0.img"))?;

    home.lab(
        r#"base = "0.img"
configure = "offline"
renderer = "ifupdown"
[guests.zero]
nics = [{ network = "lan", address = "192.168.1.150" }]
[guests.one]
nics = [{ network = "lan", address = "192.168.1.151" }]
"#,
    )?;
    let said = home.vlab(&["up"])?;
    ensure!(said.lines().any(|line| line.starts_with("lan ") && line.contains("vhost-user")), "{said}");
    let own = home.user.uid().to_string();
    let processes = home.processes()?;
    ensure!(processes.len() == 3, "a switch and two guests: {processes:?}");
    for (line, status) in processes {
        let field = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        ensure!(field("Uid:").split_whitespace().skip(1).all(|uid| uid == own), "{line}: {status}");
        ensure!(own == "0" || field("CapPrm:").ends_with("0000000000000000"), "{line}: {status}");
    }

    let internet = Internet::here()?;
    let mut ids = Vec::new();
    for (guest, peer, other) in [("zero", "192.168.1.151", "one"), ("one", "192.168.1.150", "zero")] {
        let mut console = home.console(guest)?;
        ensure!(console.run("hostname", LIMIT)?.trim() == guest);
        ids.push(console.run("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub", LIMIT)?);
        let ping = console.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        ensure!(console.run(&format!("ping -c 1 {other}"), LIMIT)?.contains(peer), "by its name");
        internet.fetched(&console.run(&internet.fetch(), LIMIT)?)?;
    }
    ensure!(ids[0] != ids[1] && ids.iter().all(|id| id.contains("ssh-ed25519")), "{ids:?}");

    home.vlab(&["down", "--disks"])?;
    let left = home.processes()?;
    ensure!(left.is_empty() && !home.run_dir().exists(), "{left:?}");
    let sockets = std::fs::read_dir(home.user.home().join("run/vswitch"))?.count();
    ensure!(sockets == 0, "{sockets} files of the switch are left");
    let data = home.user.home().join("data/vlab").join(&home.name);
    ensure!(!data.exists(), "its clones and keys are left");
    ensure!(std::fs::read(home.user.home().join("0.img"))? == base, "the base was written to");
    Ok(())
}
