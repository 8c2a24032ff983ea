//! Who holds the descriptor side of a TAP: the last column of `vswitch show`.
//!
//! The kernel says it in `/proc/PID/fdinfo` (a line `iff: tap0`), and in which
//! namespace that interface is through a copy of the descriptor. Best effort:
//! without the right to look into a process it is not found, and without the
//! right to copy its descriptor a namesake elsewhere may be taken for it.
//!
//! Deliberately absent: any decision. Whether a TAP is held, `leftover` asks the
//! kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::tun;
use super::watch::NamespaceId;

/// Who holds the descriptors of TAPs of the calling thread's namespace.
#[derive(Debug, Default)]
pub struct Holders(BTreeMap<String, Holder>);

/// A process that holds one.
#[derive(Debug)]
struct Holder {
    /// `NAME PID`.
    process: String,
    place: Place,
}

impl Holders {
    /// Looks for those of `interfaces`: one walk through all processes, however
    /// many there are.
    pub fn find<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> Holders {
        let wanted: BTreeSet<&str> = interfaces.into_iter().collect();
        let mut found = Holders::default();
        if wanted.is_empty() {
            return found;
        }
        let own = std::process::id();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(pid) = pid.filter(|pid| *pid != own) else { continue };
            found.look_into(pid, &wanted);
            if found.0.len() == wanted.len() && found.0.values().all(|holder| holder.place == Place::Here) {
                break;
            }
        }
        found
    }

    /// `NAME PID` of the process that holds `interface`.
    pub fn of(&self, interface: &str) -> Option<&str> {
        self.0.get(interface).map(|holder| holder.process.as_str())
    }

    /// Notes which of `wanted` process `pid` holds.
    fn look_into(&mut self, pid: u32, wanted: &BTreeSet<&str>) {
        let is_tun = |path: &Path| fs::read_link(path).is_ok_and(|to| to.as_os_str() == "/dev/net/tun");
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let number = descriptor.file_name();
            // Only these have the line; asking all would be a thousand reads.
            let Some(number) = number.to_str().filter(|_| is_tun(&descriptor.path())) else { continue };
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            let name = info.lines().find_map(|line| line.strip_prefix("iff:")).map_or("", str::trim);
            if !wanted.contains(name) {
                continue;
            }
            let place = place(pid, number).unwrap_or(Place::Unknown);
            let is_better = match place {
                Place::Here => self.0.get(name).is_none_or(|known| known.place != Place::Here),
                // A guess.
                Place::Unknown => !self.0.contains_key(name),
                Place::Elsewhere => false,
            };
            if is_better {
                self.0.insert(name.to_owned(), Holder { process: named(pid), place });
            }
        }
    }
}

/// `NAME PID` of the process that holds the descriptor of TAP `interface` of
/// the calling thread's namespace.
pub(super) fn holder(interface: &str) -> Option<String> {
    Holders::find([interface]).of(interface).map(str::to_owned)
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
