//! `vhost-user:PATH`: a guest's virtqueues in shared memory, by a unix socket.
//! A frame crosses without a system call, and nothing here needs root.
//!
//! Two threads work on a port. The message thread (`serve`, `session`) talks to
//! the front end (QEMU, say) and prepares rings and memory; the data thread
//! (`port`, `receive`, `transmit`) uses them, and hands them back when asked
//! (`seam`). Then `memory` (what is mapped), `ring` with its two layouts `split` and
//! `packed`, and `chain` (what is read there), `sigbus` (what if it vanishes).
//!
//! Read first: virtio 1.2 §2.7 and §2.8 (virtqueues), §5.1 (network devices), and
//! QEMU's docs/interop/vhost-user.rst.
//!
//! Deliberately absent: live migration, and memory that is not shared for good
//! (no IOMMU).

mod call;
mod chain;
mod copy;
mod device;
mod early;
mod features;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod memory;
#[cfg(test)]
mod oracle_tests;
mod packed;
mod port;
mod prefetch;
mod receive;
mod ring;
mod seam;
mod serve;
mod session;
mod sigbus;
mod socket;
mod split;
mod steer;
mod transmit;

pub(super) use device::VhostDevice;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};

use super::device::{Device, Dropped, Side};
use super::endpoint::MTU;
use super::open::socket_owner;
use super::socket_file::SocketFileError;
use super::{Link, Offloads, OpenError, OpenOptions, Opened, PortSpec};
use call::Bell;
use port::VhostPort;
use serve::{Place, Server, Shared, Status};
use socket::Socket;

/// The most queue pairs of a port.
pub const QUEUES_MAX: u32 = 16;

/// The same, to count with.
const PAIRS_MAX: usize = QUEUES_MAX as usize;

const _: () =
    assert!(cfg!(target_endian = "little"), "virtio 1 is little-endian, and so are its headers here");

/// Listens on (or connects to) the socket that `spec` names.
///
/// # Errors
/// The socket cannot be made, or an option is wrong.
pub(super) fn open(spec: &PortSpec, options: &OpenOptions) -> Result<Opened, OpenError> {
    let path = Path::new(&spec.target);
    let refused = |error| OpenError::Socket { path: spec.target.clone(), error };
    let os = |error: std::io::Error| refused(SocketFileError::Io(error));
    let pairs = spec.options.get("queues").map_or(Some(1), |text| text.parse().ok());
    let pairs = pairs.filter(|pairs| (1..=PAIRS_MAX).contains(pairs));
    let pairs =
        pairs.ok_or_else(|| OpenError::Option(format!("queues: write a number from 1 to {PAIRS_MAX}")))?;
    let is_client = match spec.options.get("mode").map(String::as_str) {
        None | Some("server") => false,
        Some("client") => true,
        Some(other) => return Err(OpenError::Option(format!("mode={other}: write server or client"))),
    };
    let owner = socket_owner(spec, options)?;
    let place = if is_client {
        Place::Client(path.to_owned())
    } else {
        Place::Server(Socket::bind(path, owner).map_err(refused)?)
    };
    let alarm: OwnedFd =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| os(errno.into()))?;
    let alarm = Arc::new(alarm);
    let (messages, data) = seam::seam(Arc::clone(&alarm)).map_err(os)?;
    let shared = Arc::new(Shared {
        status: Mutex::new(Status::default()),
        alarm,
        is_closing: AtomicBool::new(false),
        connection: Mutex::new(None),
    });
    let mtu = options.mtu.unwrap_or(MTU);
    let name = options.name.clone();
    let (seam, bell) = (Arc::new(messages), Bell::new());
    let server = Server { place, seam, pairs, shared: Arc::clone(&shared), name, bell };
    let thread =
        std::thread::Builder::new().name("vhost-user".to_owned()).spawn(|| server.run()).map_err(os)?;
    let link = Link { up: false, mtu, offloads: Offloads::NONE };
    let device = Device {
        name: spec.target.clone(),
        ifindex: 0,
        side: Side::Vhost(VhostDevice::new(shared, thread, mtu)),
        made: None,
        mtu: None,
        isolation: None,
        fast: false,
        dropped: Dropped::default(),
    };
    let note = if is_client { "down (nobody listens there yet)" } else { "down (no guest yet)" };
    Ok(Opened { port: Some(Box::new(VhostPort::new(data, mtu))), device, link, notes: vec![note.to_owned()] })
}
