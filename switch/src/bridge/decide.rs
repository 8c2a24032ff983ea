//! The decision on one frame, step by step, and nothing else: what the bridge's
//! settings, its ports and a table make of it, told to a witness.
//!
//! There is one such function for all who ask. [`Bridge::forward`] runs it over
//! the FDB, which learns, with the counters for a witness; [`Bridge::trace`]
//! runs it over a [`Trial`](super::fdb::Trial) that learns nothing. So what is
//! explained is what is done.
//!
//! [`Bridge::forward`]: super::Bridge::forward
//! [`Bridge::trace`]: super::Bridge::trace

use super::fdb::{Key, Learned, Table};
use super::ports::{Flood, Ports};
use super::story::{Learning, LookUp};
use super::witness::{Withheld, Witness};
use super::{DropReason, PortId, PortSet, Settings, Time, Verdict, vlan};
use crate::frame::{ETHER_HEADER_LEN, EtherHeader, Frame, Tag, VlanId};

/// Last octet of the one reserved address that nothing opens: MAC control
/// (PAUSE), which must not leave the link it was sent on.
const RESERVED_PAUSE: u8 = 0x01;

/// A frame's addresses in its VLAN, as the FDB wants them.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub src: Key,
    pub dst: Key,
}

/// The addresses, or why nobody looks them up.
pub(super) type Read = Result<Addresses, DropReason>;

/// The steps that no earlier frame can change. `key` makes the FDB's keys.
#[inline(always)]
pub(super) fn read(
    ports: &Ports,
    key: impl Fn(VlanId, crate::frame::MacAddr) -> Key,
    ingress: PortId,
    frame: &Frame<'_>,
) -> Read {
    if !ports.is_up(ingress) {
        return Err(DropReason::PortDown);
    }
    if let Some(reason) = frame.fault() {
        return Err(reason);
    }
    let EtherHeader { dst, src, tag, .. } = EtherHeader::parse(frame.head())?;
    let vid = vlan::admit(tag)?;
    if !src.is_valid_source() {
        return Err(DropReason::BadSource);
    }
    Ok(Addresses { src: key(vid, src), dst: key(vid, dst) })
}

/// Whether `frame` has the addresses of `before`, of which they are known to be
/// good. Tagged frames are left to be read.
#[inline(always)]
pub(super) fn is_alike(before: &Frame<'_>, frame: &Frame<'_>) -> bool {
    let header = |frame: &Frame<'_>| -> Option<(u64, u64, u16)> {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] =
            *frame.head().first_chunk::<ETHER_HEADER_LEN>()?;
        let first = u64::from_ne_bytes([d0, d1, d2, d3, d4, d5, s0, s1]);
        let last = u64::from_ne_bytes([d5, s0, s1, s2, s3, s4, s5, t0]);
        Some((first, last, u16::from_be_bytes([t0, t1])))
    };
    let (Some(before), Some(this)) = (header(before), header(frame)) else { return false };
    before == this && !Tag::is_tpid(this.2) && frame.fault().is_none()
}

/// A frame from a station that was known, to a station that was known, which
/// went there: nothing was changed that the next like it could find changed.
#[derive(Clone, Copy)]
pub(super) struct Settled {
    egress: PortId,
    vid: VlanId,
}

/// One decision under way. Its steps are inlined into each other, so that it
/// stays in registers: a step that were called would need it in memory, 15
/// instructions a frame.
pub(super) struct Decision<'a, T, W> {
    pub settings: &'a Settings,
    pub ports: &'a Ports,
    pub table: T,
    pub witness: W,
    /// What the same addresses came to, if all is as it was then; afterwards what
    /// these came to.
    pub settled: Option<Settled>,
    pub now: Time,
    pub ingress: PortId,
}

impl<T: Table, W: Witness> Decision<'_, T, W> {
    /// The steps that earlier frames may have changed; ends with the verdict.
    #[inline(always)]
    pub fn decide(&mut self, read: &Read) -> Verdict {
        let verdict = match (read, self.settled) {
            (Ok(addresses), Some(settled)) => self.repeat(*addresses, settled),
            (Ok(addresses), None) => self.judge(*addresses),
            (Err(reason), _) => Verdict::Drop(*reason),
        };
        self.witness.decided(&verdict);
        verdict
    }

    /// What `judge` would do, where nothing is left to find out.
    #[inline(always)]
    fn repeat(&mut self, Addresses { src, .. }: Addresses, Settled { egress, vid }: Settled) -> Verdict {
        self.witness.admitted(vid);
        self.witness.learned(src, Learning::Told(Learned::Known));
        self.witness.looked_up(LookUp::Known(egress));
        self.witness.chose(egress);
        Verdict::Forward { to: PortSet::one(egress), copies: 1, vid }
    }

    #[inline(always)]
    fn judge(&mut self, Addresses { src, dst }: Addresses) -> Verdict {
        let settings = self.ports.settings(self.ingress);
        let is_open = settings.transparent || self.settings.transparent;
        let vid = dst.vid();
        self.witness.admitted(vid);
        if settings.locked {
            let source = self.table.look_up(src, self.now.as_millis());
            if source != Some(self.ingress) {
                self.witness.unbound(source);
                self.tell_spoofed(src);
                return Verdict::Drop(DropReason::Locked);
            }
        }
        let known = self.learn(src);
        let (found, kind) = if dst.mac().is_group() {
            if let Some(last) = dst.mac().reserved()
                && (!is_open || last == RESERVED_PAUSE)
            {
                self.witness.looked_up(LookUp::Reserved(last));
                return Verdict::Drop(DropReason::Reserved);
            }
            if dst.mac().is_broadcast() {
                (LookUp::Broadcast, Flood::Broadcast)
            } else {
                (LookUp::Multicast, Flood::Multicast)
            }
        } else if dst.is(src) {
            self.witness.looked_up(LookUp::Source);
            return Verdict::Drop(DropReason::Filtered);
        } else {
            match self.table.look_up(dst, self.now.as_millis()) {
                Some(egress) => {
                    self.witness.looked_up(LookUp::Known(egress));
                    return self.unicast(egress, vid, known);
                }
                None => (LookUp::Unknown, Flood::Unicast),
            }
        };
        self.witness.looked_up(found);
        self.flood(kind, vid)
    }

    /// Whether it was known, and nothing but its age has changed.
    #[inline(always)]
    fn learn(&mut self, src: Key) -> bool {
        let settings = self.ports.settings(self.ingress);
        if !settings.learning || self.table.is_hub() {
            let why = if settings.learning { Learning::Hub } else { Learning::Off };
            self.witness.learned(src, why);
            self.tell_spoofed(src);
            return false;
        }
        let limit = settings.max_macs.unwrap_or(u32::MAX);
        let learned = self.table.learn(src, self.ingress, limit, self.now.as_millis());
        // By itself, so that nothing more is asked of the frames that are the rule.
        if learned == Learned::Known {
            self.witness.learned(src, Learning::Told(Learned::Known));
            return true;
        }
        self.witness.learned(src, Learning::Told(learned));
        self.witness.displaced(|| self.table.victim());
        if let Learned::Foreign(bound) = learned {
            self.witness.spoofed(bound);
        }
        false
    }

    /// Tells of a source that the operator bound to another port.
    #[inline(always)]
    fn tell_spoofed(&mut self, src: Key) {
        if let Some(bound) = self.table.fixed_on(src).filter(|port| *port != self.ingress) {
            self.witness.spoofed(bound);
        }
    }

    #[inline(always)]
    fn unicast(&mut self, egress: PortId, vid: VlanId, known: bool) -> Verdict {
        if egress == self.ingress {
            return Verdict::Drop(DropReason::Filtered);
        }
        if !self.ports.may_pass(self.ingress, egress) {
            let why = if self.ports.is_up(egress) { Withheld::Isolated } else { Withheld::Down };
            self.witness.withheld(why, || PortSet::one(egress));
            return Verdict::Drop(DropReason::NoEgress);
        }
        self.witness.chose(egress);
        self.settled = known.then_some(Settled { egress, vid });
        Verdict::Forward { to: PortSet::one(egress), copies: 1, vid }
    }

    #[inline(always)]
    fn flood(&mut self, kind: Flood, vid: VlanId) -> Verdict {
        let (ports, ingress) = (self.ports, self.ingress);
        let to = ports.flood(kind, ingress);
        for &why in Withheld::ALL {
            self.witness.withheld(why, || ports.withheld(why, kind, ingress));
        }
        let mut copies = 0;
        for egress in to.iter() {
            self.witness.chose(egress);
            copies += 1;
        }
        if copies == 0 {
            return Verdict::Drop(DropReason::NoEgress);
        }
        Verdict::Forward { to, copies, vid }
    }
}
