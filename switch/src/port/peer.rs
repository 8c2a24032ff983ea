//! Who holds the descriptor side of a TAP: the last column of `vswitch show`.
//!
//! The kernel says it in `/proc/PID/fdinfo` (a line `iff: tap0`), and in which
//! namespace that interface is through a copy of the descriptor. Best effort:
//! without the right to look into a process it is not found, and without the
//! right to copy its descriptor a namesake elsewhere may be taken for it.
//!
//! Deliberately absent: any decision. Whether a TAP is held, `leftover` asks the
//! kernel.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::tun;
use super::watch::NamespaceId;

/// `NAME PID` of the process that holds the descriptor of TAP `interface` of
/// the calling thread's namespace.
pub(super) fn holder(interface: &str) -> Option<String> {
    let own = std::process::id();
    let mut guess = None;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == own {
            continue;
        }
        let Some(place) = holds(pid, interface) else { continue };
        match place {
            Place::Here => return Some(named(pid)),
            Place::Unknown => guess = guess.or_else(|| Some(named(pid))),
            Place::Elsewhere => {}
        }
    }
    guess
}

/// `NAME PID` of a process.
pub(super) fn named(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} {pid}", name.trim_end())
}

/// Where the interface behind a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In the calling thread's namespace.
    Here,
    /// In another.
    Elsewhere,
    /// We may not ask.
    Unknown,
}

/// Whether `pid` holds a TAP called `interface`, and where that is.
fn holds(pid: u32, interface: &str) -> Option<Place> {
    let is_tun = |path: &Path| fs::read_link(path).is_ok_and(|to| to.as_os_str() == "/dev/net/tun");
    let named = |number: &str| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        info.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == interface))
    };
    let mut best = None;
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let number = descriptor.file_name();
        let Some(number) = number.to_str() else { continue };
        // Only these have the line; asking all would be a thousand reads.
        if is_tun(&descriptor.path()) && named(number) {
            let place = place(pid, number).unwrap_or(Place::Unknown);
            if place == Place::Here {
                return Some(place);
            }
            best = best.filter(|best| *best == Place::Unknown).or(Some(place));
        }
    }
    best
}

/// Asks through a copy of the descriptor, which is closed again at once.
fn place(pid: u32, number: &str) -> Option<Place> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let copy = rustix::process::pidfd_getfd(process, number.parse().ok()?, flags).ok()?;
    let namespace = tun::namespace(&copy).ok()?;
    let here = NamespaceId::of(namespace.as_fd()).ok()? == NamespaceId::own().ok()?;
    Some(if here { Place::Here } else { Place::Elsewhere })
}
