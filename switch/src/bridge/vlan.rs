//! Which VLAN a frame travels in (IEEE 802.1Q clause 8.6.1, ingress).
//!
//! The switch is VLAN-unaware: tags of any TPID pass through untouched, and one
//! FDB serves them all. Everything behind this step is keyed by the VLAN that
//! it returns, so that an aware switch differs here and at the egress only.

use super::DropReason;
use crate::frame::{Tag, VlanId};

/// The VLAN of a frame with the outermost `tag`.
///
/// # Errors
/// None yet: a VLAN-unaware switch admits every frame.
#[inline]
pub(super) fn admit(_tag: Option<Tag>) -> Result<VlanId, DropReason> {
    Ok(VlanId::UNAWARE)
}
