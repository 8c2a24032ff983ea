//! The interfaces of a capture: one for each port that is, or comes, wanted, with its
//! sums.
//!
//! Numbers are those of the descriptions in the file, in order. A description waits
//! for room as a frame does, so that ports that come and go while the reader takes
//! nothing cost no memory; it comes before anything that names its number.
//!
//! Deliberately absent: frames.

use super::{Kinds, Label, Session};
use crate::bridge::{PortCounters, PortId, Time};
use crate::capture::pcapng::{self, Totals};
use crate::capture::state::Sums;

/// Interfaces of a capture at most, those of ports that went included.
pub(super) const INTERFACES_MAX: usize = 4096;

/// How much of the filter's text is shown with an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Text {
    Whole,
    None,
}

/// One interface of a capture: a port, as long as it is there.
#[derive(Debug)]
pub(super) struct Interface {
    pub name: String,
    /// Kind and target; taken once it is in the file.
    description: String,
    pub sums: [Sums; 4],
    /// The port's counters when the capture, or the port, began.
    base: PortCounters,
    /// Records missed since the last one.
    pub missed: u64,
}

impl Session {
    /// Adds the interface of a port that is wanted, and gives its number.
    pub(super) fn add_interface(
        &mut self,
        id: PortId,
        base: PortCounters,
        label: Option<&Label>,
    ) -> Option<u32> {
        let (name, description) = match label {
            Some(label) => (label.name.clone(), label.description.clone()),
            None => (format!("port{}", id.get()), String::new()),
        };
        // What was said may have been of another port of that number.
        (self.comment.of, self.copy_comment) = (None, None);
        self.names.insert(id, name.clone());
        if self.spec.ports.as_ref().is_some_and(|names| !names.contains(&name)) {
            return None;
        }
        let number = u32::try_from(self.interfaces.len()).ok()?;
        if self.interfaces.len() == INTERFACES_MAX {
            // It is missing from here on, and a replay does not know of it.
            self.changes_missed += 1;
            return None;
        }
        self.interfaces.push(Interface { name, description, sums: [Sums::default(); 4], base, missed: 0 });
        self.by_port[id.index()] = Some(number);
        self.describe_interfaces();
        Some(number)
    }

    /// Describes the interfaces that are not yet, in order, as far as there is room;
    /// whether all are.
    pub(super) fn describe_interfaces(&mut self) -> bool {
        while self.described < self.interfaces.len() {
            if self.sink.is_full() {
                return false;
            }
            self.describe_next(Text::Whole);
        }
        true
    }

    /// Describes them all, room or not: at the end, when their sums are written. The
    /// filter's text, which may be long, is left out where there is none.
    pub(super) fn describe_all_interfaces(&mut self) {
        if !self.describe_interfaces() {
            while self.described < self.interfaces.len() {
                self.describe_next(Text::None);
            }
        }
    }

    fn describe_next(&mut self, text: Text) {
        let Session { interfaces, described, spec, sink, .. } = self;
        let Some(Interface { name, description, .. }) = interfaces.get_mut(*described) else { return };
        let description = std::mem::take(description);
        let filter = if text == Text::Whole { spec.filter_text.as_str() } else { "" };
        sink.append(|out| pcapng::interface(out, name, &description, filter, spec.snaplen));
        *described += 1;
    }

    /// Writes the sums of each interface until now.
    pub(super) fn write_sums(&mut self, now: Time) {
        let (start, end) = (self.epoch_ns + self.start_ns, self.epoch_ns + now.as_nanos());
        for (number, interface) in (0u32..).zip(&self.interfaces) {
            let totals = interface.totals();
            self.sink.append(|out| pcapng::statistics(out, number, start, end, &totals));
        }
    }
}

impl Interface {
    /// The port's counters are now these, and it will not be heard of again.
    pub fn close(&mut self, kinds: &Kinds, now: &PortCounters) {
        let base = &self.base;
        let counted = [
            now.forwarded - base.forwarded,
            now.dropped() - base.dropped(),
            now.tx - base.tx,
            now.refused() - base.refused(),
        ];
        // Those that the kernel still forwarded while its fast path was closed.
        let fast = [now.rx_fast - base.rx_fast, 0, now.tx_fast - base.tx_fast, 0];
        for kind in (0..4).filter(|kind| kinds[*kind]) {
            self.sums[kind].counted += counted[kind];
            self.sums[kind].lost += fast[kind];
        }
        self.base = now.clone();
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for Sums { lost, passed, slow, written, .. } in self.sums {
            totals.received += lost + passed + slow + written;
            totals.dropped += lost;
            totals.accepted += slow + written;
            totals.os_dropped += slow;
            totals.delivered += written;
        }
        totals
    }
}
