//! An interface's MTU is its user's: what a port makes of it lasts as long as the
//! port wants it, and what the interface had before comes back then.
//!
//! Deliberately absent: what a killed switch had set, of which nobody knows.

use std::io;

use super::rtnl::{Change, Interface, Rtnl};

/// What a port made of an interface's MTU, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mtu {
    pub before: u32,
    pub set: u32,
}

impl Mtu {
    /// Gives `found` the MTU `wanted`, when the port had made `earlier` of it;
    /// `None` if that is what it had anyway.
    ///
    /// # Errors
    /// The device does not take it.
    pub fn change(
        rtnl: &mut Rtnl,
        found: &Interface,
        wanted: u32,
        earlier: Option<Mtu>,
    ) -> io::Result<Option<Mtu>> {
        if found.mtu != wanted {
            rtnl.change(found.ifindex, &[Change::Mtu(wanted)])?;
        }
        // What somebody else has set meanwhile is what there was before.
        let before = earlier.filter(|earlier| earlier.set == found.mtu).map_or(found.mtu, |it| it.before);
        Ok((before != wanted).then_some(Mtu { before, set: wanted }))
    }

    /// Gives `found` back what it had, unless somebody else has changed it.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn restore(self, rtnl: &mut Rtnl, found: &Interface) -> io::Result<()> {
        if found.mtu != self.set {
            return Ok(());
        }
        rtnl.change(found.ifindex, &[Change::Mtu(self.before)])
    }

    /// The same after a failure, which is what is told.
    pub fn undo(self, rtnl: &mut Rtnl, ifindex: u32) {
        if let Ok(Some(found)) = rtnl.find_index(ifindex) {
            let _ = self.restore(rtnl, &found);
        }
    }
}
