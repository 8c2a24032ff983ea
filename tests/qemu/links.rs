//! Labs of an ordinary user, without any privilege, and of root, whose QEMU is
//! nobody, one for each kind of link that needs no privilege: ping, TCP both ways, a guest that reboots, and a switch that
//! is killed under traffic and started again.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vswitch_tests::clock::{Deadline, wait_for, wait_until};
use vswitch_tests::netns::run;
use vswitch_tests::qemu::{Console, Turn, images};
use vswitch_tests::require;
use vswitch_tests::start;
use vswitch_tests::user::{NOBODY, Ordinary};

const LIMIT: Duration = Duration::from_secs(60);
const FIRST: &str = "192.168.1.150";
const SECOND: &str = "192.168.1.151";

/// How long guests may be without each other when their switch is started
/// again: QEMU looks for it twice a second.
const BLACKOUT: Duration = Duration::from_secs(1);

/// How long a switch is halted before it is killed: twenty times what 100 Mbit/s
/// take to fill a socket.
const FILLING: Duration = Duration::from_millis(300);

/// A lab of two guests; taken down when dropped.
struct Lab {
    user: Ordinary,
    name: String,
    file: PathBuf,
}

impl Lab {
    fn new(user: Ordinary, link: &str, models: [&str; 2], queues: u32) -> Result<Lab> {
        // Two users' labs may be up at a time; 20 letters are the most.
        let whose = if user.uid() == 0 { "rt" } else { "vt" };
        let name = format!("{whose}{}-{link}", std::process::id());
        // The sources may lie where this user may not look.
        let (kernel, initrd) = images()?;
        for (from, to) in [(kernel, "vmlinuz"), (initrd, "initrd")] {
            run(Command::new("cp").arg(from).arg(user.home().join(to)))?;
            user.give(&user.home().join(to))?;
        }
        let text = format!(
            r#"
name = "{name}"

[networks.lan]
subnet = "192.168.1.0/24"
link = "{link}"

[defaults]
kernel = "vmlinuz"
initrd = "initrd"
cmdline = "console=ttyS0 quiet no_timer_check hostname={{name}} ip={{lan.address}} labmac={{lan.mac}} role=iperf-server"
memory = "256M"
accel = "tcg"
cpus = {queues}
ready = "console:guest: ready"

[guests.zero]
nics = [{{ network = "lan", address = "{FIRST}", model = "{}", queues = {queues} }}]

[guests.one]
nics = [{{ network = "lan", address = "{SECOND}", model = "{}", queues = {queues} }}]
"#,
            models[0], models[1]
        );
        let file = user.write("lab.toml", &text)?;
        Ok(Lab { user, name, file })
    }

    /// Runs `vlab COMMAND`, which must succeed; returns stdout and stderr.
    fn vlab(&self, command: &str) -> Result<(String, String)> {
        // With the most generous mask there is, what is closed is so by vlab.
        let mut vlab = self.user.command("sh");
        vlab.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(self.user.program("vlab")?);
        vlab.env("VSWITCH", self.user.program("vswitch")?);
        let output = start::output(vlab.args([command, "--lab"]).arg(&self.file)).context("vlab")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "vlab {command}: {}: {stderr}", output.status);
        Ok((stdout, stderr))
    }

    fn run_dir(&self) -> PathBuf {
        self.runtime().join("vlab").join(&self.name)
    }

    fn control(&self) -> PathBuf {
        self.runtime().join("vswitch").join(format!("{}-lan.sock", self.name))
    }

    fn runtime(&self) -> PathBuf {
        // Root's labs are where the machine has such things, whatever XDG_* say.
        if self.user.uid() == 0 { "/run".into() } else { self.user.home().join("run") }
    }

    /// What `vswitch show` says of the lab's switch.
    fn show(&self) -> Result<Value> {
        let mut show = self.user.command(self.user.program("vswitch")?);
        let output = start::output(show.args(["show", "--json", "--control"]).arg(self.control()))?;
        serde_json::from_slice(&output.stdout).context("vswitch show")
    }

    /// The shell on a guest's serial console.
    fn console(&self, guest: &str) -> Result<Console> {
        let path = self.run_dir().join(format!("{guest}.serial"));
        let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
        let mut console = Console::new(stream.try_clone()?, stream);
        console.send("\n")?;
        console.log_in()?;
        Ok(console)
    }

    /// Processes that bear the lab's name, with their uids.
    fn processes(&self) -> Result<Vec<(i32, String, String)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&self.name) {
                let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                found.push((pid, line, status));
            }
        }
        Ok(found)
    }

    /// Frames that each port had sent, as a switch's `show` says.
    fn sent(show: &Value) -> Result<Vec<u64>> {
        let ports = show["ports"].as_array().context("no ports")?;
        ports.iter().map(|port| port["tx"].as_u64().context("no count")).collect()
    }

    /// Kills the switch and has `vlab up` start it again; returns how long it had
    /// been up when each guest had got a frame, if both did within `limit`.
    fn restart_switch(&self, limit: Duration) -> Result<Option<Duration>> {
        let pid = self.show()?["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("a pid")?;
        let pid = Pid::from_raw(pid).context("a pid")?;
        // What the guests send meanwhile fills their sockets: QEMU then has frames
        // that wait for one that is no more. Were it not full by then, less would be
        // shown, and nothing fail.
        kill_process(pid, Signal::STOP)?;
        std::thread::sleep(FILLING);
        kill_process(pid, Signal::KILL)?;
        std::thread::scope(|scope| {
            let up = scope.spawn(|| self.vlab("up").context("a switch is started again").map(drop));
            // Its counters begin at 0.
            let mut back = None;
            let waited = wait_until("frames to both guests", limit, || {
                let Ok(show) = self.show() else { return false };
                let both =
                    Self::sent(&show).is_ok_and(|sent| sent.len() == 2 && sent.iter().all(|&it| it > 0));
                back = show["uptime_ms"].as_u64().map(Duration::from_millis);
                both
            });
            up.join().map_err(|_| anyhow!("the thread panicked"))??;
            Ok(waited.ok().and(back))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.vlab("down");
    }
}

/// Two seconds of TCP from the guest at `console` to `peer`, or back; Mbit/s.
fn tcp(console: &mut Console, peer: &str, options: &str) -> Result<f64> {
    let line = format!("iperf3 -J -t 2 --connect-timeout 5000 -c {peer} {options}");
    let text = console.run(&line, LIMIT)?;
    let json: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let bits = json["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.map(|bits| bits / 1e6).with_context(|| format!("no sum in {text}"))
}

fn ping(console: &mut Console, peer: &str) -> Result<()> {
    let output = console.run(&format!("ping -c 3 {peer}"), LIMIT)?;
    ensure!(output.contains(" 0% packet loss"), "{output}");
    Ok(())
}

/// Everything that a link must carry and survive.
fn lives(user: Ordinary, link: &str, chosen: &str, models: [&str; 2], queues: u32) -> Result<()> {
    let _turn = Turn::take();
    let lab = Lab::new(user, link, models, queues)?;
    let (stdout, stderr) = lab.vlab("up")?;
    let row = stdout.lines().find(|line| line.starts_with("lan")).context(stdout.clone())?;
    ensure!(row.split_whitespace().nth(1) == Some(chosen), "{stdout}");
    let said = stderr.lines().any(|line| line.starts_with(&format!("lan: link {chosen}, no TAPs: ")));
    ensure!(said == (link == "auto"), "auto, and only that, says what it chose: {stderr}");

    for (_, line, status) in lab.processes()? {
        let uids = status.lines().find(|line| line.starts_with("Uid:")).context("Uid:")?;
        // Root's QEMU opens its files, and is nobody then.
        let own = match lab.user.uid() {
            0 if line.contains("qemu-system") => NOBODY.to_string(),
            uid => uid.to_string(),
        };
        ensure!(uids.split_whitespace().skip(1).all(|uid| uid == own), "{line} runs as {uids}");
        // A second look for what has ended meanwhile is not worth it.
        let rights = status.lines().find(|line| line.starts_with("CapPrm:")).context("CapPrm:")?;
        ensure!(own == "0" || rights.ends_with("0000000000000000"), "{line} has {rights}");
    }
    if lab.user.uid() == 0 {
        is_closed_to_others(&lab.run_dir())?;
    }
    let (mut zero, mut one) = (lab.console("zero")?, lab.console("one")?);
    ping(&mut zero, SECOND)?;
    ping(&mut one, FIRST)?;
    for options in ["", "-R"] {
        let mbits = tcp(&mut zero, SECOND, options)?;
        eprintln!("{link} {models:?} {options}: {mbits:.0} Mbit/s");
        ensure!(mbits > 20.0, "{options}: {mbits:.1} Mbit/s");
    }
    reboot(&mut one, &mut zero)?;
    blackout(&lab, &mut zero)?;
    ping(&mut one, FIRST)?;

    lab.vlab("down")?;
    let left = lab.processes()?;
    ensure!(left.is_empty() && !lab.run_dir().exists(), "{left:?}");
    Ok(())
}

/// Whoever passes through `dir` finds nothing there that is root's to use.
fn is_closed_to_others(dir: &Path) -> Result<()> {
    let mut sockets = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        // To connect to a socket is to write to it.
        let (what, forbidden) = match meta.file_type().is_socket() {
            true => ("connect to", 0o022),
            false => ("use", 0o066),
        };
        sockets += u32::from(meta.file_type().is_socket() && meta.uid() == 0);
        ensure!(meta.mode() & forbidden == 0, "others may {what} {:?}: {:o}", entry.path(), meta.mode());
    }
    ensure!(sockets >= 4, "QEMU's own sockets are there: {sockets}");
    Ok(())
}

/// Restarts the guest at `console` from inside; it has its network again.
fn reboot(console: &mut Console, other: &mut Console) -> Result<()> {
    console.send("reboot -f\n")?;
    console.wait("guest: ready ", LIMIT + LIMIT)?;
    console.send("\n")?;
    console.log_in()?;
    ping(console, FIRST)?;
    ping(other, SECOND)
}

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Kills the switch under traffic and starts it again, until its guests were
/// together again within [`BLACKOUT`] of its being ready: at the latest in the
/// third attempt, since the machine does other things, too.
fn blackout(lab: &Lab, zero: &mut Console) -> Result<()> {
    // Ten packets a second, and a number for each that comes back. The file is
    // there before the job that writes it has begun.
    zero.send(&format!(
        ": >/tmp/answers; ping -i 0.1 {SECOND} >>/tmp/answers & iperf3 -u -b 100M -t 300 -c {SECOND} >/dev/null 2>&1 &\n"
    ))?;
    let answers = "grep -c 'bytes from' /tmp/answers || true";
    let count = |zero: &mut Console| -> Result<u32> {
        let said = zero.run(answers, LIMIT)?;
        said.trim().parse().with_context(|| format!("{answers}: {said:?}"))
    };
    let deadline = Deadline::after(LIMIT);
    while count(zero)? < 5 {
        ensure!(!deadline.passed(), "no answers before");
    }
    let mut times = Vec::new();
    for _ in 0..3 {
        let Some(back) = lab.restart_switch(ATTEMPT)? else {
            eprintln!("no frames to both guests in {ATTEMPT:?}: {:#}", lab.show()?);
            times.push(ATTEMPT);
            continue;
        };
        eprintln!("frames reached both guests {} ms after the switch was ready", back.as_millis());
        let before = count(zero)?;
        wait_for("answers again", LIMIT, || count(zero).ok().filter(|now| *now > before))?;
        times.push(back);
        if back < BLACKOUT {
            zero.run("kill %1 %2; wait; true", LIMIT)?;
            return Ok(());
        }
    }
    bail!("guests were alone for {times:?} after their switch was ready")
}

#[test]
fn an_ordinary_users_guests_meet_by_streams() -> Result<()> {
    require!("qemu-system-x86_64");
    lives(Ordinary::new()?, "stream", "stream", ["virtio", "e1000"], 1)
}

#[test]
fn an_ordinary_users_guests_meet_by_datagrams() -> Result<()> {
    require!("qemu-system-x86_64");
    lives(Ordinary::new()?, "dgram", "dgram", ["virtio", "virtio"], 1)
}

#[test]
fn an_ordinary_users_guests_meet_by_what_auto_chooses() -> Result<()> {
    require!("qemu-system-x86_64");
    lives(Ordinary::new()?, "auto", "stream", ["e1000", "e1000"], 1)
}

#[test]
fn an_ordinary_users_guests_meet_by_shared_memory() -> Result<()> {
    require!("qemu-system-x86_64", (port "vhost-user"));
    lives(Ordinary::new()?, "vhost-user", "vhost-user", ["virtio", "virtio"], 2)
}

#[test]
fn roots_guests_as_nobody_come_back_by_streams() -> Result<()> {
    require!(root, "qemu-system-x86_64");
    lives(Ordinary::root()?, "stream", "stream", ["virtio", "virtio"], 1)
}

#[test]
fn roots_guests_as_nobody_come_back_by_datagrams() -> Result<()> {
    require!(root, "qemu-system-x86_64");
    lives(Ordinary::root()?, "dgram", "dgram", ["virtio", "virtio"], 1)
}

#[test]
fn roots_guests_as_nobody_come_back_by_shared_memory() -> Result<()> {
    require!(root, "qemu-system-x86_64", (port "vhost-user"));
    lives(Ordinary::root()?, "vhost-user", "vhost-user", ["virtio", "virtio"], 1)
}

/// The paths of a lab that is too deep for a socket are refused before anything
/// is made.
#[test]
fn a_home_too_deep_for_sockets_is_refused() -> Result<()> {
    require!("qemu-system-x86_64");
    let lab = Lab::new(Ordinary::new()?, "stream", ["virtio", "virtio"], 1)?;
    let mut vlab = lab.user.command(lab.user.program("vlab")?);
    let deep = Path::new("run").join("x".repeat(90));
    lab.user.make_dir(&deep.display().to_string())?;
    vlab.env("VSWITCH", lab.user.program("vswitch")?).env("XDG_RUNTIME_DIR", lab.user.home().join(deep));
    let output = start::output(vlab.args(["up", "--lab"]).arg(&lab.file))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && stderr.contains("at most 107 fit"), "{stderr}");
    ensure!(lab.processes()?.is_empty());
    Ok(())
}
