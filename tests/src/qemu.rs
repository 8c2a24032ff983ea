//! Guests started by hand, as the tutorial does, with the small test guest that
//! `./dev guest` builds; their console is driven line by line.
//!
//! Deliberately absent: QMP, disks and everything else that `vlab` does for its
//! users. What a guest prints is what counts here.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::clock::{Deadline, wait_for};
use crate::netns::Netns;
use crate::process::end_child;

/// Time that a guest has to boot: it takes 5 s under TCG on an idle machine.
const BOOT: Duration = Duration::from_secs(120);

/// Time that a command in a guest has, unless the caller gives it another.
const COMMAND: Duration = Duration::from_secs(60);

/// The option of a `-chardev socket` with which it connects again: in milliseconds since
/// QEMU 9.2, in seconds before.
pub fn reconnect() -> &'static str {
    static ANSWER: OnceLock<&str> = OnceLock::new();
    ANSWER.get_or_init(|| {
        let said = Command::new("qemu-system-x86_64").arg("--version").output();
        let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        let mut numbers = text.split_once("version ").map_or("", |(_, rest)| rest).split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (9, 2) => "reconnect-ms=200",
            _ => "reconnect=1",
        }
    })
}

/// An installation ISO, which `./dev test --long` builds: in VSWITCH_ISO, else
/// under the workspace's `target/iso`.
///
/// # Errors
/// It is not built; the message says how to.
pub fn installation_iso() -> Result<PathBuf> {
    let dir = std::env::var_os("VSWITCH_ISO")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/iso"), PathBuf::from);
    let iso = dir.join("install.iso");
    ensure!(iso.is_file(), "the installation ISO is not built: ./dev setup long");
    Ok(std::fs::canonicalize(iso)?)
}

/// An image of a Debian system, which `./dev test --long` builds: in
/// VSWITCH_DEBIAN, else under the workspace's `target/debian`.
///
/// # Errors
/// It is not built; the message says how to.
pub fn debian() -> Result<PathBuf> {
    let dir = std::env::var_os("VSWITCH_DEBIAN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/debian"), PathBuf::from);
    let base = dir.join("base.qcow2");
    ensure!(base.is_file(), "the Debian guest is not built: ./dev setup long");
    Ok(std::fs::canonicalize(base)?)
}

/// The test guest's kernel and initramfs: in VSWITCH_GUEST, else under the
/// workspace's `target/guest`.
///
/// # Errors
/// They are not built; the message says how to.
pub fn images() -> Result<(PathBuf, PathBuf)> {
    let dir = std::env::var_os("VSWITCH_GUEST")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/guest"), PathBuf::from);
    let (kernel, initrd) = (dir.join("vmlinuz"), dir.join("initrd"));
    ensure!(kernel.is_file() && initrd.is_file(), "the test guest is not built: ./dev guest");
    Ok((kernel.canonicalize()?, initrd.canonicalize()?))
}

/// The right to run guests: at most two tests of a process have it at a time,
/// so that emulated guests do not starve each other into time-outs.
#[derive(Debug)]
pub struct Turn(());

static RUNNING: Mutex<u32> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    /// Waits until fewer than two tests run guests.
    pub fn take() -> Turn {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running =
            ENDED.wait_while(running, |running| *running >= 2).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A guest to start.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The TAP that its QEMU opens by name.
    pub tap: &'a str,
    /// QEMU's network device: `e1000`, `virtio-net-pci`, …
    pub model: &'a str,
    /// Its MAC address, as in `-device MODEL,mac=`.
    pub mac: &'a str,
    /// Its IPv4 address on the switch, as `192.168.1.150/24`.
    pub address: &'a str,
    /// Further words for the kernel command line, read by the guest's init.
    pub append: &'a str,
}

/// A running QEMU; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    console: Console,
}

impl Guest {
    /// Starts QEMU in `ns` with the tutorial's network options: a user-mode NIC
    /// and one on a TAP. Returns at once; see [`wait_ready`](Self::wait_ready).
    ///
    /// # Errors
    /// No guest image, or QEMU is missing.
    pub fn start(ns: &Netns, boot: &Boot<'_>) -> Result<Guest> {
        let netdev = format!("tap,id=t0,ifname={},script=no,downscript=no", boot.tap);
        Guest::start_with(ns, boot, &["-netdev", &netdev])
    }

    /// The same on a vhost-user port at `socket`; `boot.tap` only names it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_vhost_user(ns: &Netns, boot: &Boot<'_>, socket: &Path) -> Result<Guest> {
        let chardev = format!("socket,id=c0,path={},{}", socket.display(), reconnect());
        let memory =
            ["-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram"];
        let netdev = ["-chardev", &chardev, "-netdev", "vhost-user,id=t0,chardev=c0"];
        Guest::start_with(ns, boot, &[&memory[..], &netdev[..]].concat())
    }

    /// The same on a network card that the words `netdev` describe; its
    /// `-netdev` is called `t0`, and `boot.tap` only names the guest.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(ns: &Netns, boot: &Boot<'_>, netdev: &[&str]) -> Result<Guest> {
        let (kernel, initrd) = images()?;
        let Boot { tap, model, mac, address, append } = boot;
        let mut command = ns.command("qemu-system-x86_64");
        command.args(["-m", "256M", "-accel", "tcg", "-cpu", "max"]);
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
        command.args(["-nic", "user"]);
        command.args(netdev);
        command.args(["-device", &format!("{model},netdev=t0,mac={mac}")]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        // Found late on a busy host, its timer would be the guest's end.
        let quiet = "console=ttyS0 quiet no_timer_check";
        command.args(["-append", &format!("{quiet} ip={address} hostname={tap} {append}")]);
        Guest::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Guest> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("qemu-system-x86_64")?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).context("pipes were asked for")?;
        let console = Console::new(stdout, stdin);
        if let Some(stderr) = child.stderr.take() {
            // QEMU's complaints belong where the guest's would have been.
            console.also_read(stderr);
        }
        Ok(Guest { child, console })
    }

    /// Waits until the guest has its address, and its shell answers.
    ///
    /// # Errors
    /// It did not in two minutes; the message has what it printed.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.console.wait("guest: ready ", BOOT)?;
        self.console.log_in()
    }

    /// Its console.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// Runs `line` in the guest's shell and returns what it printed.
    ///
    /// # Errors
    /// It failed or took over a minute; the message has what it printed.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.console.run(line, COMMAND)
    }

    /// Pings `address` three times.
    ///
    /// # Errors
    /// An answer is missing; the message has the output of `ping`.
    pub fn ping(&mut self, address: &str) -> Result<()> {
        let output = self.run(&format!("ping -c 3 {address}"))?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
        Ok(())
    }

    /// Powers the guest off and waits for QEMU to end.
    ///
    /// # Errors
    /// It still ran after 30 s.
    pub fn power_off(mut self) -> Result<()> {
        self.console.send("poweroff -f\n")?;
        wait_for("QEMU to end", Duration::from_secs(30), || self.child.try_wait().ok().flatten())
            .with_context(|| self.console.text())?;
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end_child(&mut self.child);
    }
}

/// Starts all of `boots` at once, and waits until each is ready.
///
/// # Errors
/// As [`Guest::start`] and [`Guest::wait_ready`].
pub fn start_all(ns: &Netns, boots: &[Boot<'_>]) -> Result<Vec<Guest>> {
    let mut guests = boots.iter().map(|boot| Guest::start(ns, boot)).collect::<Result<Vec<_>>>()?;
    for (guest, boot) in guests.iter_mut().zip(boots) {
        guest.wait_ready().with_context(|| format!("the guest on {}", boot.tap))?;
    }
    Ok(guests)
}

/// A serial console with a shell at its other end.
pub struct Console {
    input: Box<dyn Write + Send>,
    output: Arc<(Mutex<Output>, Condvar)>,
    /// Bytes of the output that were waited for already.
    seen: usize,
    commands: u32,
}

#[derive(Default)]
struct Output {
    text: String,
    closed: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("text", &self.text()).finish_non_exhaustive()
    }
}

impl Console {
    /// A console read from `output` until it closes.
    pub fn new(output: impl Read + Send + 'static, input: impl Write + Send + 'static) -> Console {
        let console = Console { input: Box::new(input), output: Arc::default(), seen: 0, commands: 0 };
        console.read(output, true);
        console
    }

    /// Reads `output` into the same text; its end closes nothing.
    pub fn also_read(&self, output: impl Read + Send + 'static) {
        self.read(output, false);
    }

    fn read(&self, mut from: impl Read + Send + 'static, closes: bool) {
        let shared = Arc::clone(&self.output);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut bytes) {
                let mut output = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                output.text.extend(String::from_utf8_lossy(&bytes[..len]).chars().filter(|&c| c != '\r'));
                shared.1.notify_all();
            }
            if closes {
                shared.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
                shared.1.notify_all();
            }
        });
    }

    /// Everything printed so far.
    pub fn text(&self) -> String {
        self.output.0.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    /// Types `text`.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).context("writing to a console")?;
        self.input.flush().context("writing to a console")
    }

    /// Waits for `marker` behind what was waited for before; returns what was
    /// printed up to and with it.
    ///
    /// # Errors
    /// It did not come within `limit`, or the console closed before; the
    /// message has the rest of the output.
    pub fn wait(&mut self, marker: &str, limit: Duration) -> Result<String> {
        let deadline = Deadline::after(limit);
        let mut output = self.output.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &output.text[self.seen..];
            if let Some(at) = new.find(marker) {
                let found = new[..at + marker.len()].to_owned();
                self.seen += found.len();
                return Ok(found);
            }
            if output.closed {
                bail!("the console closed before `{marker}`:\n{}", new.trim_end());
            }
            if deadline.passed() {
                bail!("waited {limit:?} for `{marker}`:\n{}", new.trim_end());
            }
            output =
                self.output.1.wait_timeout(output, deadline.left()).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the shell's prompt, and silences it: no prompts, no echo.
    ///
    /// # Errors
    /// No answer in a minute.
    pub fn log_in(&mut self) -> Result<()> {
        self.wait("guest# ", COMMAND)?;
        self.send("stty -echo; PS1='' PS2=''; echo be''gin\n")?;
        // Split in what is typed, so only the shell's output has it whole.
        self.wait("begin\n", COMMAND).map(drop)
    }

    /// Runs `line` in the shell and returns what it printed.
    ///
    /// # Errors
    /// It did not exit with 0 within `limit`; the message has what it printed.
    pub fn run(&mut self, line: &str, limit: Duration) -> Result<String> {
        self.commands += 1;
        let mark = format!("=={}==", self.commands);
        self.send(&format!("{{ {line}\n}} 2>&1; echo \"{mark}\"$?\n"))?;
        let output = self.wait(&mark, limit).with_context(|| format!("in the guest: {line}"))?;
        let status = self.wait("\n", COMMAND)?;
        let output = output.trim_end_matches(&mark).to_owned();
        ensure!(status.trim() == "0", "in the guest: {line}: exit status {}: {output}", status.trim());
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> (Child, Console) {
        let mut child = Command::new("sh")
            .arg("-i")
            .env("PS1", "guest# ")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let console = Console::new(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        console.also_read(child.stderr.take().unwrap());
        (child, console)
    }

    #[test]
    fn a_console_runs_commands_and_tells_failure() {
        let (mut child, mut console) = shell();
        console.log_in().unwrap();
        assert_eq!(console.run("echo one; echo two", COMMAND).unwrap().lines().last(), Some("two"));
        let error = console.run("echo why; false", COMMAND).unwrap_err().to_string();
        assert!(error.contains("exit status 1") && error.contains("why"), "{error}");
        let error = console.run("echo stuck; sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(format!("{error:#}").contains("stuck"), "{error:#}");
        end_child(&mut child);
        let _ = child.wait();
    }

    #[test]
    fn a_closed_console_ends_the_wait() {
        let (mut child, mut console) = shell();
        console.send("echo last words; exit\n").unwrap();
        let error = console.wait("never", COMMAND).unwrap_err().to_string();
        assert!(error.contains("closed"), "{error}");
        child.wait().unwrap();
    }
}
