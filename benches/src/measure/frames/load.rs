//! Measured frames from TAPs whose file descriptors we hold to others of them:
//! one generator, which sends all flows by turns, and one sink at every end.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use vswitch::frame::MacAddr;
use vswitch_tests::flow::{Device, Flow, Pace, Received, Sent, Sink, Until, generate_in_turn, two_cpus};

use crate::interrupt;
use crate::measure::approximate;

/// What arrives later than this after the last frame is lost.
const LATE: Duration = Duration::from_millis(300);

/// Payload of each segment of a super-frame at MTU 1500, with timestamps.
const SEGMENT: u16 = 1448;
/// Bytes of a super-frame: 45 such segments, the most below 64 KiB.
pub(crate) const SUPER_LEN: usize = 54 + 45 * 1448;

/// The simple mix that the industry calls IMIX, in the lengths of TAPs: seven
/// frames of 60 bytes, four of 572 and one of 1514, spread over their turns.
const MIX: [usize; 12] = [60, 572, 60, 60, 572, 60, 1514, 60, 572, 60, 572, 60];

/// The first of the stations behind the TAP that is counted as `port`, from 1; there
/// is room for 2^24 of them.
pub(crate) const fn station(port: u16) -> MacAddr {
    let [high, low] = port.to_be_bytes();
    MacAddr::new([2, high, low, 0, 0, 1])
}

/// A flow, the TAP that it enters, and where it should come out.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) from: usize,
    pub(crate) to: Vec<usize>,
    pub(crate) flow: Flow,
}

/// Where generator and sink run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Places {
    /// Wherever the kernel likes.
    Any,
    /// Each on its own CPU, the sink before everything else.
    Apart,
}

/// Flows of which one generator sends a frame each by turns.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) lanes: Vec<Lane>,
}

/// What was sent, and what of it arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) sent: Sent,
    /// Of all flows at all ends.
    pub(crate) total: Received,
    /// Of each flow at each of its ends, by flow.
    pub(crate) lanes: Vec<Vec<Received>>,
    /// How many would have arrived without loss.
    pub(crate) expected: u64,
    /// Whether each flow is one conversation, whose frames may not change places.
    is_ordered: bool,
}

impl Load {
    /// Frames of `len` bytes from the first TAP to the second.
    pub(crate) fn plain(len: usize) -> Load {
        Load::between(0, 1, Flow::new(4, station(2), station(1), len))
    }

    /// The mix.
    pub(crate) fn mix() -> Load {
        let flow = |(at, len): (usize, usize)| {
            let id = u16::try_from(at).unwrap_or(0) + 20;
            Lane { from: 0, to: vec![1], flow: Flow::new(id, station(2), station(1), len) }
        };
        Load { lanes: MIX.into_iter().enumerate().map(flow).collect() }
    }

    /// Super-frames of TCP.
    pub(crate) fn super_frames() -> Load {
        let flow = Flow::new(3, station(2), station(1), SUPER_LEN).with_segments(SEGMENT);
        Load::between(0, 1, flow)
    }

    /// One flow.
    pub(crate) fn between(from: usize, to: usize, flow: Flow) -> Load {
        Load { lanes: vec![Lane { from, to: vec![to], flow }] }
    }

    /// Whether a rate in bytes says more than one in frames.
    pub(crate) fn is_of_super_frames(&self) -> bool {
        self.lanes.iter().any(|lane| lane.flow.len > 2000)
    }

    /// Sends it at `pace` for `length` and counts until nothing comes any more.
    pub(crate) fn send(&self, devices: &[Device], pace: Pace, length: Duration) -> Result<Arrived> {
        self.send_until(devices, pace, Until::Elapsed(length))
    }

    /// The same with generator and sink each on a CPU of its own, where there are two, and
    /// a sink that runs before everything else there: how long frames are under way, and
    /// how many wait, is not to depend on when their reader has its turn.
    pub(crate) fn send_timed(&self, devices: &[Device], pace: Pace, length: Duration) -> Result<Arrived> {
        self.send_from(devices, pace, Until::Elapsed(length), Places::Apart)
    }

    /// As [`send`](Self::send), with any limit.
    pub(crate) fn send_until(&self, devices: &[Device], pace: Pace, until: Until<'_>) -> Result<Arrived> {
        self.send_from(devices, pace, until, Places::Any)
    }

    fn send_from(&self, devices: &[Device], pace: Pace, until: Until<'_>, places: Places) -> Result<Arrived> {
        let mut ends: Vec<usize> = self.lanes.iter().flat_map(|lane| lane.to.iter().copied()).collect();
        ends.sort_unstable();
        ends.dedup();
        let here = |end: usize| self.lanes.iter().enumerate().filter(move |(_, lane)| lane.to.contains(&end));
        let sinks = ends
            .iter()
            .map(|end| (devices[*end].clone(), here(*end).map(|(_, lane)| lane.flow.clone()).collect()))
            .collect();
        let (sink, cpu) = match places {
            Places::Any => (Sink::start_many(sinks, None)?, None),
            Places::Apart => {
                let [cpu, other] = two_cpus()?;
                (Sink::start_first(sinks, other)?, cpu)
            }
        };
        let lanes: Vec<(&Device, &Flow)> =
            self.lanes.iter().map(|lane| (&devices[lane.from], &lane.flow)).collect();
        // Only this thread is to be bound to a CPU.
        let sent =
            std::thread::scope(|scope| scope.spawn(|| generate_in_turn(&lanes, pace, until, cpu)).join())
                .map_err(|_| anyhow!("the generator panicked"))??;
        let expected = self.expected(sent.frames);
        let received = sink.finish(expected, LATE)?;
        interrupt::check()?;
        // The sink's order is by ends; ours by flows.
        let order = ends.iter().flat_map(|end| here(*end).map(|(at, _)| at));
        let mut by_lane = vec![Vec::new(); self.lanes.len()];
        let mut total: Option<Received> = None;
        for (lane, received) in order.zip(received) {
            match &mut total {
                Some(total) => total.add(&received),
                None => total = Some(received.clone()),
            }
            by_lane[lane].push(received);
        }
        let total = total.context("a load has a flow")?;
        let is_ordered = self.lanes.iter().all(|lane| lane.flow.is_one_conversation());
        Ok(Arrived { sent, total, lanes: by_lane, expected, is_ordered })
    }

    /// Arrivals of `sent` frames without loss.
    fn expected(&self, sent: u64) -> u64 {
        let lanes = self.lanes.len() as u64;
        let of =
            |(at, lane): (u64, &Lane)| (sent / lanes + u64::from(at < sent % lanes)) * lane.to.len() as u64;
        (0..).zip(&self.lanes).map(of).sum()
    }
}

impl Arrived {
    /// Arrivals that did not come.
    pub(crate) fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.total.frames)
    }

    /// Their share.
    pub(crate) fn lost_share(&self) -> f64 {
        approximate(self.lost()) / approximate(self.expected.max(1))
    }

    /// Requires that something came, once, in the order of its conversation and
    /// unharmed.
    pub(crate) fn check(&self, case: &str) -> Result<()> {
        let total = &self.total;
        ensure!(total.frames > 0, "{case}: nothing arrived");
        let misplaced = if self.is_ordered { total.reordered } else { 0 };
        let faults = total.corrupted + total.duplicated + misplaced;
        ensure!(faults == 0, "{case}: {total}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_seven_to_four_to_one() {
        let count = |len| MIX.iter().filter(|of| **of == len).count();
        assert_eq!([60, 572, 1514].map(count), [7, 4, 1]);
        assert_eq!(Load::mix().lanes.len(), 12);
    }

    #[test]
    fn arrivals_are_expected_at_every_end() {
        let lane =
            |to: &[usize]| Lane { from: 0, to: to.to_vec(), flow: Flow::new(1, station(2), station(1), 60) };
        let load = Load { lanes: vec![lane(&[1]), lane(&[1, 2, 3])] };
        // Five frames: the first flow sends three, the second two.
        assert_eq!(load.expected(5), 3 + 2 * 3);
        assert_eq!(Load::plain(60).expected(7), 7);
    }
}
