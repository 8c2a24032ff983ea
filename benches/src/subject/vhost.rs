//! Switches with two vhost-user sockets, each on one core.
//!
//! Ours and Open vSwitch get a core of their own as far as frames go: ours is
//! pinned there whole, Open vSwitch by the mask of its polling thread.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::{Switch, binary};

use super::{Running, Subject, ovs};
use crate::testpmd::Testpmd;

/// The core that forwards.
pub(crate) const CORE: usize = 0;
/// The core of the generator.
pub(crate) const GENERATOR_CORE: usize = 1;

/// Frames of 1518 bytes without FCS are four more than an MTU of 1500 lets by.
const MTU: u32 = 1504;

/// VIRTIO_F_RING_PACKED (virtio 1.2 §6).
const RING_PACKED: u64 = 1 << 34;

/// Starts `subject` in `ns` with two sockets, pinned to [`CORE`]; `run` are
/// further words for our own.
pub(crate) fn start(subject: Subject, ns: &Netns, run: &[String]) -> Result<(Running, [PathBuf; 2])> {
    let (running, sockets) = match subject {
        Subject::Vswitch => ours(ns, Some(CORE), run)?,
        Subject::OvsDpdk => ovs::start_dpdk(ns, CORE)?,
        Subject::DpdkVhost => forwarder()?,
        Subject::Engine
        | Subject::Tap
        | Subject::Stream
        | Subject::Dgram
        | Subject::Bridge
        | Subject::Ovs
        | Subject::Vde
        | Subject::Qemu => {
            bail!("{} has no vhost-user ports", subject.name())
        }
    };
    for socket in &sockets {
        wait_until(&socket.display().to_string(), Duration::from_secs(10), || socket.exists())?;
    }
    Ok((running, sockets))
}

/// Ours, pinned to `core` if one is given.
pub(super) fn ours(ns: &Netns, core: Option<usize>, run: &[String]) -> Result<(Running, [PathBuf; 2])> {
    let directory = tempfile::Builder::new().prefix("vbench-vhost-").tempdir()?;
    let sockets = ["0.sock", "1.sock"].map(|name| directory.path().join(name));
    let ports: Vec<String> =
        sockets.iter().map(|path| format!("--port=vhost-user:{},mtu={MTU}", path.display())).collect();
    let mut args: Vec<&str> = ports.iter().chain(run).map(String::as_str).collect();
    // On one core of several it has to be said (docs/vhost-user.md).
    if core.is_some() && !run.iter().any(|word| word.starts_with("--busy-poll")) {
        args.push("--busy-poll=50us");
    }
    let program = binary("vswitch")?;
    let mut command = ns.command(if core.is_some() { "taskset".as_ref() } else { program.as_os_str() });
    if let Some(core) = core {
        command.args(["-c", &core.to_string()]).arg(&program);
    }
    let switch = Switch::spawn(command, program, &args)?;
    Ok((Running { _directory: Some(directory), ..Running::ours(switch) }, sockets))
}

/// testpmd, which only carries frames from one socket to the other: no
/// addresses, no table.
fn forwarder() -> Result<(Running, [PathBuf; 2])> {
    let directory = tempfile::Builder::new().prefix("vbench-vhost-").tempdir()?;
    let sockets = ["0.sock", "1.sock"].map(|name| directory.path().join(name));
    let devices: Vec<String> = sockets
        .iter()
        .enumerate()
        .map(|(number, path)| format!("net_vhost{number},iface={},queues=1", path.display()))
        .collect();
    let mut testpmd = Testpmd::start(GENERATOR_CORE, CORE, &devices, &["--forward-mode=io"])?;
    testpmd.order("start")?;
    let running = Running {
        pids: vec![testpmd.pid()],
        _forwarder: Some(testpmd),
        _directory: Some(directory),
        ..Running::default()
    };
    Ok((running, sockets))
}

/// Why this machine has no place for them; `None`: it has.
pub(super) fn absence() -> Option<String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores < 2).then(|| "a switch and a generator need a core each".into())
}

/// Whether the back end behind `socket` offers packed rings: what a front end
/// asks first (VHOST_USER_GET_FEATURES of QEMU's docs/interop/vhost-user.rst).
///
/// # Errors
/// It does not answer as a back end does.
pub(crate) fn offers_packed(socket: &Path) -> Result<bool> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Request 1, version 1, no payload; the answer has the same and eight bytes.
    let request = [1u32, 1, 0].map(u32::to_le_bytes).concat();
    stream.write_all(&request)?;
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).context("VHOST_USER_GET_FEATURES")?;
    let features = u64::from_le_bytes(answer[12..].try_into().context("eight bytes")?);
    Ok(features & RING_PACKED != 0)
}
