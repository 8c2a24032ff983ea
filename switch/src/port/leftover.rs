//! What a killed run left behind: found by its marks, and removed by the next
//! start of the same switch of the same user.
//!
//! Deliberately absent: the leftovers of other switches, which may be running,
//! and anything found by its name.

use std::io;

use super::alias::Alias;
use super::isolate;
use super::peer;
use super::rtnl::Rtnl;
use super::tun;

/// How often an interface that is renamed meanwhile is looked at again.
const RENAMES_MAX: u32 = 10;

/// Removes a TAP of `switch` unless its descriptor is held; false if it is.
///
/// That it is held is learnt by trying to hold it: its carrier says less, since
/// `ip link set NAME carrier off` takes that from under a guest. While we have
/// it, no guest can take what is about to go.
///
/// # Errors
/// Whatever the kernel says.
pub(super) fn remove_tap(ifindex: u32, switch: &Alias<'_>) -> io::Result<bool> {
    let mut rtnl = Rtnl::open()?;
    for _ in 0..RENAMES_MAX {
        let found = rtnl.find_index(ifindex)?.filter(|found| switch.same_switch(&found.alias));
        // Gone, moved or marked by its user, who then owns it, or the number is
        // another interface's now.
        let Some(found) = found else { return Ok(true) };
        let held = match tun::attach(&found.name, tun::PLAIN) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
            // Out of descriptors, say: then the carrier must do.
            Err(_) if found.carrier => return Ok(false),
            Err(_) => return rtnl.delete(ifindex).map(|()| true),
        };
        // A name may have changed hands before we attached to it.
        let now = rtnl.find_index(ifindex)?;
        if now.is_some_and(|now| tun::name(&held).is_ok_and(|name| name == now.name)) {
            return rtnl.delete(ifindex).map(|()| true);
        }
    }
    Err(io::Error::other("it is renamed faster than it can be followed"))
}

/// Removes TAPs and filters that a killed run of `owner`'s switch called
/// `name` left in this namespace, except TAPs named in `keep`, which the next
/// `open` adopts; says what it did.
///
/// # Errors
/// If the kernel does not list its interfaces.
pub fn remove_leftovers(owner: u32, name: &str, keep: &[&str]) -> io::Result<Vec<String>> {
    let switch = Alias { owner, switch: name, rest: "" };
    let interfaces = Rtnl::open()?.list()?;
    let mut said = Vec::new();
    // Without the right to, there are none of ours.
    for ifindex in isolate::remove_leftovers(&switch).unwrap_or_default() {
        if let Some(found) = interfaces.iter().find(|found| found.ifindex == ifindex) {
            said.push(format!("{}: filters removed, an earlier run left them", found.name));
        }
    }
    for found in &interfaces {
        let name = &found.name;
        if switch.same_switch(&found.alias) && !keep.contains(&name.as_str()) {
            said.push(match remove_tap(found.ifindex, &switch) {
                Ok(true) => format!("{name}: removed, an earlier run left it"),
                Ok(false) => {
                    let holder = peer::holder(name).unwrap_or_else(|| "a guest".to_owned());
                    format!("{name}: left by an earlier run, and {holder} holds it")
                }
                Err(error) => format!("{name}: left by an earlier run, and not removed: {error}"),
            });
        }
    }
    Ok(said)
}
