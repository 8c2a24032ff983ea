//! Network namespaces as hosts: made under a name of their own, joined by veth
//! pairs, and removed with everything in them when dropped, also on a panic.
//!
//! A namespace is named `vt-PID-N-TAG`. The first one that a process makes also
//! removes what killed processes left behind under such names.
//!
//! Deliberately absent: netlink. `ip` and `ethtool` are what users type, and
//! the tests should see what users see.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::clock::wait_until;
pub use crate::link::Device;
use crate::start;
use crate::sys;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// A network namespace of our own.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// A namespace with loopback up and IPv6 off, so that nothing speaks
    /// unasked.
    ///
    /// # Errors
    /// No right to, or `ip` is missing.
    pub fn new(tag: &str) -> Result<Netns> {
        let ns = Netns::with_ipv6(tag)?;
        ns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        Ok(ns)
    }

    /// A namespace as the kernel makes it, with loopback up.
    ///
    /// # Errors
    /// No right to, or `ip` is missing.
    pub fn with_ipv6(tag: &str) -> Result<Netns> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let name = format!("vt-{}-{}-{tag}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let file = File::open(Path::new(NAMES).join(&name)).inspect_err(|_| remove(&name))?;
        let ns = Netns { name, file };
        ns.run("ip link set lo up")?;
        Ok(ns)
    }

    /// The name for `ip -n NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that setns(2) takes.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `work` on a thread of its own inside this namespace. Sockets and
    /// devices opened there stay in the namespace wherever they are used later.
    ///
    /// # Panics
    /// `work` panicked, or setns(2) is not allowed.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::enter_net(self.file.as_fd()).expect("making the namespace needed more rights than this");
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run inside this namespace. Whatever still runs there
    /// when the namespace is dropped is killed.
    ///
    /// # Panics
    /// No file descriptor is left.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = self.file.try_clone().expect("a process with a free descriptor");
        // SAFETY: between fork and exec only setns(2) is called, on a
        // descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || sys::enter_net(file.as_fd()));
        }
        command
    }

    /// Runs `line`, split at spaces, inside and returns its standard output.
    ///
    /// # Errors
    /// It could not start or did not exit with 0; the message has its stderr.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command")?;
        run(self.command(program).args(words)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Has one `ip` do all of `lines`, as many as there are; none of them begins
    /// with `ip`.
    ///
    /// # Errors
    /// As `ip` says of the first line that fails.
    pub fn batch(&self, lines: impl IntoIterator<Item = String>) -> Result<()> {
        let mut text = tempfile::NamedTempFile::new()?;
        for line in lines {
            writeln!(text, "{line}")?;
        }
        run(self.command("ip").arg("-batch").arg(text.path()))
            .map(drop)
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Writes `value` into /proc/sys/`key` as this namespace sees it.
    ///
    /// # Errors
    /// The kernel has no such key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| File::options().write(true).open(&path)?.write_all(value.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Gives `device` an address such as `10.9.0.1/24` and sets it up.
    ///
    /// # Errors
    /// As `ip` says.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        self.run(&format!("ip address add {address} dev {device}"))?;
        self.up(device)
    }

    /// Sets `device` up.
    ///
    /// # Errors
    /// As `ip` says.
    pub fn up(&self, device: &str) -> Result<()> {
        self.run(&format!("ip link set {device} up")).map(drop)
    }

    /// Switches all segmentation and checksum offloads of `device`.
    ///
    /// # Errors
    /// As `ethtool` says.
    pub fn offloads(&self, device: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        self.run(&format!("ethtool -K {device} tx {state} tso {state} gso {state} gro {state}")).map(drop)
    }

    /// What `ip` knows about `device`.
    ///
    /// # Errors
    /// It does not exist here.
    pub fn device(&self, device: &str) -> Result<Device> {
        let text = self.run(&format!("ip -j -s -d link show dev {device}"))?;
        let list: Vec<Value> = serde_json::from_str(&text).context("ip -j")?;
        // `ip -j` mixes in empty objects.
        let found = list.into_iter().find(|v| v["ifname"] == device);
        found.map(Device::new).with_context(|| format!("ip showed no {device}"))
    }

    /// Whether `device` exists here.
    pub fn has(&self, device: &str) -> bool {
        self.device(device).is_ok()
    }

    /// Waits until `device` exists here, is up and has a carrier.
    ///
    /// # Errors
    /// It took more than five seconds.
    pub fn wait_running(&self, device: &str) -> Result<()> {
        wait_until(&format!("{device} to run in {}", self.name), Duration::from_secs(5), || {
            self.device(device).is_ok_and(|d| d.is_running())
        })
    }

    /// Moves `device` from here into `to`.
    ///
    /// # Errors
    /// As `ip` says.
    pub fn move_to(&self, device: &str, to: &Netns) -> Result<()> {
        self.run(&format!("ip link set {device} netns {}", to.name)).map(drop)
    }

    /// Pings `address` from here; returns how many of `count` answers came.
    ///
    /// # Errors
    /// `ping` could not run or printed no summary.
    pub fn ping(&self, address: &str, count: u32) -> Result<u32> {
        // Its exit code only says whether all came.
        let mut command = self.command("ping");
        command.args(["-n", "-q", "-i", "0.02", "-W", "1", "-c", &count.to_string(), address]);
        let output = start::output(&mut command).context("ping")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answers = text.split(',').find_map(|part| part.trim().strip_suffix(" received"));
        answers.and_then(|n| n.parse().ok()).with_context(|| {
            format!("ping {address}: {text}{}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Joins two namespaces by a veth pair; both ends are left down.
///
/// # Errors
/// As `ip` says.
pub fn veth(a: &Netns, name_a: &str, b: &Netns, name_b: &str) -> Result<()> {
    a.run(&format!("ip link add {name_a} type veth peer name {name_b} netns {}", b.name)).map(drop)
}

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
/// It could not start or did not exit with 0; the message has its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = start::output(command.stdin(Stdio::null())).with_context(|| shown.clone())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ends what runs in namespace `name` and removes it, and with it every device
/// that was made there.
fn remove(name: &str) {
    for pid in run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default().split_whitespace() {
        if let Ok(pid) = pid.parse::<i32>()
            && pid.cast_unsigned() != std::process::id()
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    if let Err(error) = try_remove(name) {
        // Drop cannot fail, and a panic here would hide the first one.
        let _ = writeln!(std::io::stderr(), "namespace {name} stays behind: {error:#}");
    }
}

fn try_remove(name: &str) -> Result<()> {
    if !Path::new(NAMES).join(name).exists() {
        return Ok(());
    }
    match run(Command::new("ip").args(["netns", "del", name])) {
        // Another process may have swept it meanwhile.
        Err(error) if Path::new(NAMES).join(name).exists() => bail!(error),
        Err(_) | Ok(_) => Ok(()),
    }
}

/// Removes namespaces of test processes that are gone.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(NAMES) else { return };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let pid = name.strip_prefix("vt-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_namespaces_ping_each_other_and_leave_nothing() {
        crate::require!(root, "ping", "ethtool");
        let names = {
            let (a, b) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
            veth(&a, "e0", &b, "e0").unwrap();
            a.address("e0", "10.9.0.1/24").unwrap();
            b.address("e0", "10.9.0.2/24").unwrap();
            b.offloads("e0", false).unwrap();
            a.wait_running("e0").unwrap();
            assert_eq!(a.ping("10.9.0.2", 3).unwrap(), 3);
            assert_eq!(a.ping("10.9.0.3", 1).unwrap(), 0);
            assert_eq!(a.device("e0").unwrap().mtu(), 1500);
            assert!(!b.has("e1"));
            let mut left = a.command("sleep").arg("1000").spawn().unwrap();
            let names = [a.path(), b.path()];
            drop((a, b));
            assert!(!left.wait().unwrap().success(), "ended with its namespace");
            names
        };
        assert!(names.iter().all(|path| !path.exists()));
    }

    #[test]
    fn a_panic_inside_comes_out_and_cleans_up() {
        crate::require!(root);
        let ns = Netns::new("p").unwrap();
        let path = ns.path();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let ns = ns;
            ns.enter(|| panic!("inside"));
        }));
        assert!(result.is_err() && !path.exists());
    }
}
