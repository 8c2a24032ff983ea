//! Who holds the descriptor side of a TAP: the last column of `vswitch show`.
//!
//! The kernel says it in `/proc/PID/fdinfo` (a line `iff: tap0`). Best effort:
//! without the right to look into a process it is not found.
//!
//! Deliberately absent: any decision. A TAP's carrier says whether it is held.

use std::fs;

/// `NAME PID` of a process that holds the descriptor of a TAP called
/// `interface`: one in our network namespace, or else anywhere, as a guest in a
/// container is.
pub(super) fn holder(interface: &str) -> Option<String> {
    let own = std::process::id();
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let here = namespace("thread-self");
    let mut elsewhere = None;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != own && holds(pid, interface) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let found = format!("{} {pid}", name.trim_end());
            if namespace(&pid.to_string()) == here {
                return Some(found);
            }
            elsewhere = elsewhere.or(Some(found));
        }
    }
    elsewhere
}

fn holds(pid: u32, interface: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        // Only these have the line; asking all would be a thousand reads.
        fs::read_link(descriptor.path()).is_ok_and(|to| to.as_os_str() == "/dev/net/tun")
            && fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", descriptor.file_name().to_string_lossy()))
                .is_ok_and(|info| {
                    info.lines()
                        .any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == interface))
                })
    })
}
