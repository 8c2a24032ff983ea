//! Whether a sender is faster than we are, told from what waits in front of a port
//! while it is never found empty.
//!
//! What waits because we were not run for a moment gets less again by itself. What has
//! grown through several bursts on end goes on growing until frames are lost.
//!
//! Deliberately absent: clocks, and what is done about it (`fast`).

/// What waits is looked at once in so many bursts: a system call for some 256 frames.
const BURSTS_PER_LOOK: u32 = 4;

/// So many looks in a row have to find more than the one before. Full meshes of 4 ports
/// at full speed then lost 0 to 13 % of a second's frames until the kernel took the rest;
/// waiting for the first lost frame, 0 to 57 %.
const GROWTHS: u32 = 2;

/// What waits takes at least so many bytes of memory: some 2,600 short frames, or 30
/// super-frames. With half of it a mesh lost 0 to 5 %, but three of twenty starts of eight
/// TCP streams without offloads lost 1,000 to 1,800 frames, where now none of eight did.
const WAITING_MIN: u32 = 2 << 20;

/// What waits in front of a port.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Bursts since it was last found empty.
    bursts: u32,
    /// What the last look found, in bytes.
    waiting: u32,
    /// Looks in a row that found more.
    growths: u32,
}

impl Backlog {
    /// Takes note of a burst, which found the end of what waits or did not; `waiting`
    /// says how many bytes wait behind it. True when the sender has turned out to be
    /// faster than we are, as long as it gets on.
    pub fn is_overrun(&mut self, was_empty: bool, waiting: impl FnOnce() -> u32) -> bool {
        if was_empty {
            *self = Backlog::default();
            return false;
        }
        self.bursts = self.bursts.wrapping_add(1);
        if self.bursts % BURSTS_PER_LOOK != 1 {
            return false;
        }
        let waiting = waiting();
        let has_grown = self.bursts != 1 && waiting > self.waiting;
        self.growths = if has_grown { self.growths.saturating_add(1) } else { 0 };
        self.waiting = waiting;
        self.growths >= GROWTHS && waiting >= WAITING_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bursts, counted from 1, at which `waiting(burst)` was found an overrun.
    fn overruns(bursts: u32, waiting: impl Fn(u32) -> Option<u32>) -> Vec<u32> {
        let mut backlog = Backlog::default();
        let mut is_overrun = |burst: &u32| {
            let left = waiting(*burst);
            backlog.is_overrun(left.is_none(), || left.unwrap_or(0))
        };
        (1..=bursts).filter(|burst| is_overrun(burst)).collect()
    }

    const MIB: u32 = 1 << 20;

    #[test]
    fn what_grows_on_end_is_an_overrun() {
        assert_eq!(overruns(20, |burst| Some(MIB * burst)), [9, 13, 17]);
        // Full: it cannot grow any more.
        assert_eq!(overruns(50, |burst| Some((MIB * burst).min(16 * MIB))), [9, 13, 17]);
        // Looked at in bursts 1, 5, 9, ... 21, the first with so much.
        assert_eq!(overruns(24, |burst| Some(MIB / 10 * burst)), [21]);
    }

    #[test]
    fn little_that_waits_is_none() {
        assert!(overruns(100, |burst| Some((burst * 40_000).min(2 * MIB - 1))).is_empty());
    }

    #[test]
    fn what_waits_or_gets_less_is_none() {
        let calm: [fn(u32) -> Option<u32>; 3] =
            [|_| Some(9 * MIB), |burst| Some(9 * MIB - 1_000 * burst), |_| None];
        for (case, waiting) in calm.into_iter().enumerate() {
            assert!(overruns(100, waiting).is_empty(), "{case}");
        }
    }

    #[test]
    fn one_delay_of_ours_is_none() {
        // Nothing read for a moment, in front of each burst there is.
        for delay in 1..30 {
            let waiting = |burst| {
                let left = 4 * MIB - 50_000 * burst;
                Some(if burst >= delay { left + 2 * MIB } else { left })
            };
            assert!(overruns(30, waiting).is_empty(), "{delay}");
        }
    }

    #[test]
    fn an_empty_queue_begins_anew() {
        let often_empty = |burst: u32| (!burst.is_multiple_of(8)).then_some(MIB * burst);
        assert!(overruns(100, often_empty).is_empty());
    }
}
