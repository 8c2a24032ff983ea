//! iperf3 between two namespaces.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::clock::{Deadline, wait_for, wait_until};
use crate::netns::Netns;
use crate::process::end_child;
use crate::start;

/// iperf3's own port, 5201, as /proc/net/tcp writes it.
const PORT_HEX: &str = ":1451 ";

/// A running `iperf3 -s`, ended when dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts it in `ns` and waits until it listens.
    ///
    /// # Errors
    /// It could not start, or did not listen within ten seconds.
    pub fn start(ns: &Netns) -> Result<Server> {
        let mut command = ns.command("iperf3");
        command.arg("-s").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server(start::spawn(&mut command).context("iperf3 -s")?);
        wait_until("iperf3 to listen", Duration::from_secs(10), || is_listening(ns))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end_child(&mut self.0);
    }
}

/// Whether something listens on iperf3's port in `ns`.
pub fn is_listening(ns: &Netns) -> bool {
    ns.enter(|| {
        ["tcp", "tcp6"].iter().any(|family| {
            let table =
                std::fs::read_to_string(format!("/proc/thread-self/net/{family}")).unwrap_or_default();
            // State 0A is LISTEN.
            table.lines().any(|line| line.contains(PORT_HEX) && line.contains(" 0A "))
        })
    })
}

/// Whether `error` only says that the server was not listening: it closes its
/// socket after each test and opens another. Who had just connected to the old one is reset.
pub fn is_between_tests(error: &str) -> bool {
    ["Connection refused", "the server is busy", "unable to receive control message: Connection reset"]
        .iter()
        .any(|sign| error.contains(sign))
}

/// Sends `bytes` (as `64M`) over TCP from `from` to a server at `address`;
/// returns bits a second at the receiver.
///
/// # Errors
/// It took longer than `limit`, or iperf3 failed: that is how a broken
/// checksum or a lost super-frame shows.
pub fn transfer(from: &Netns, address: &str, bytes: &str, limit: Duration) -> Result<f64> {
    let deadline = Deadline::after(limit);
    loop {
        let report = attempt(from, address, bytes, deadline.left())?;
        let error = report["error"].as_str().unwrap_or_default();
        if is_between_tests(error) && !deadline.passed() {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
        return rate.with_context(|| format!("iperf3 to {address} reported no rate: {report}"));
    }
}

fn attempt(from: &Netns, address: &str, bytes: &str, limit: Duration) -> Result<Value> {
    let out = tempfile::NamedTempFile::new()?;
    let mut command = from.command("iperf3");
    command.args(["-c", address, "-n", bytes, "-J", "--connect-timeout", "5000"]);
    command.stdin(Stdio::null()).stdout(out.reopen()?).stderr(Stdio::null());
    let mut child = start::spawn(&mut command).context("iperf3 -c")?;
    let ended = wait_for(&format!("{bytes} to reach {address}"), limit, || child.try_wait().ok().flatten());
    if ended.is_err() {
        end_child(&mut child);
    }
    let text = std::fs::read_to_string(out.path())?;
    ended.with_context(|| text.clone())?;
    // It may exit with 1 or 0 on an error; its report says which.
    serde_json::from_str(&text).with_context(|| format!("iperf3 -J to {address}: {text}"))
}
