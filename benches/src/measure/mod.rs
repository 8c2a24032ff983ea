//! One figure each: what a subject does with one kind of work.
//!
//! Read first: [`cases`], which names them all.

mod captured;
mod idle;
mod strace;

pub(crate) mod cases;
pub(crate) mod core;
pub(crate) mod frames;
pub(crate) mod guests;
pub(crate) mod hosts;
pub(crate) mod ports;
pub(crate) mod queues;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::cases::{Often, RESIDENT};
use crate::host::busy;
use crate::record::{Figure, Unit};
use crate::rig::{Rig, Variant};
use crate::subject::{Running, Subject};
use crate::wiring::Wiring;

/// How long each run takes and which are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort<'a> {
    /// Length of each run of traffic.
    pub(crate) run: Duration,
    /// Only what matters most, if nobody says what.
    pub(crate) quick: bool,
    /// Text that a case's name must hold.
    pub(crate) only: &'a [String],
    /// Which turn of which round it is; `None`: any.
    pub(crate) turn: Option<Turn>,
    /// Whose it is; `None`: anybody's.
    pub(crate) subject: Option<Subject>,
}

/// A turn of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    pub(crate) rig: Rig,
    pub(crate) round: u32,
    /// 0 on the way out, 1 on the way back.
    pub(crate) slot: u8,
}

impl Turn {
    /// Whether a case that is measured so often is measured now: on the way out in
    /// the first round, on the way back in the next.
    fn is_for(self, often: Often) -> bool {
        let is_in_turn = |rounds: u32| u32::from(self.slot) == rounds % 2;
        match often {
            Often::EveryTurn => true,
            Often::OnceARound => is_in_turn(self.round),
            Often::EverySecondRound => self.round.is_multiple_of(2) && is_in_turn(self.round / 2),
        }
    }
}

impl Effort<'_> {
    /// Whether `case` is wanted.
    pub(crate) fn wants(&self, case: &str) -> bool {
        let is_named = match self.only {
            [] => !self.quick || cases::is_headline(case),
            only => only.iter().any(|only| case.contains(only)),
        };
        is_named
            && self.subject.is_none_or(|subject| cases::is_of(case, subject))
            && self.turn.is_none_or(|turn| turn.is_for(cases::often(turn.rig, case)))
    }

    /// Whether one of `cases` is wanted.
    pub(crate) fn wants_one<T: AsRef<str>>(&self, cases: impl IntoIterator<Item = T>) -> bool {
        cases.into_iter().any(|case| self.wants(case.as_ref()))
    }

    /// What a turn that has `cases` of `variant` takes; `None`: none of them is
    /// wanted.
    pub(crate) fn length(&self, rig: Rig, variant: Variant, subject: Subject) -> Option<Duration> {
        let is_wanted = |case: &String| self.wants(case) && cases::is_of(case, subject);
        let wanted: Vec<String> = cases::of(rig, variant).into_iter().filter(is_wanted).collect();
        let figures: Duration = wanted.iter().map(|case| cases::length(rig, case, self.run)).sum();
        (!wanted.is_empty()).then(|| figures + cases::set_up(rig, variant, subject, self.run))
    }
}

/// Every figure of what stands and runs.
pub(crate) fn all(
    subject: Subject,
    wiring: &Wiring,
    running: &mut Running,
    effort: Effort<'_>,
) -> Result<Vec<Figure>> {
    let idle = idle::measure(running, effort)?;
    let meter = Meter { idle_share: idle.idle_share };
    let mut figures = match wiring.hosts() {
        Some(hosts) => hosts::measure(wiring, hosts, &meter, effort)?,
        None if wiring.rig == Rig::Ports => ports::measure(wiring, running, &meter, effort)?,
        None => frames::measure(
            wiring,
            (subject, &*running),
            wiring.fds().context("neither hosts nor descriptors")?,
            &meter,
            effort,
        )?,
    };
    // Not again with every variant.
    let is_usual = wiring.offloads && wiring.rig != Rig::Ports;
    if is_usual {
        figures.extend(idle.figures);
    }
    // Memory last: what traffic made it touch counts.
    if is_usual && !running.pids.is_empty() && effort.wants(RESIDENT) {
        let bytes = running.resident_bytes()?;
        figures.push(Figure::new(RESIDENT, Unit::Mebibytes, approximate(bytes) / f64::from(1 << 20)));
    }
    running.check()?;
    Ok(figures)
}

/// CPU time of the whole machine during a piece of work.
#[derive(Debug)]
pub(crate) struct Meter {
    /// CPUs in use when nothing is sent.
    idle_share: f64,
}

impl Meter {
    /// Runs `work`, and returns with its result the CPU time it cost, in ns,
    /// beyond what the machine uses idle.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (busy_before, before) = (busy()?, vswitch_tests::clock::now_nanos());
        let result = work()?;
        let elapsed = approximate(vswitch_tests::clock::now_nanos() - before);
        let used = (busy()?.saturating_sub(busy_before)).as_secs_f64() * 1e9;
        Ok((result, (used - self.idle_share * elapsed).max(0.0)))
    }
}

/// `value` to 53 bits.
#[expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]
pub(crate) fn approximate(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_cases_have_a_turn_in_either_direction_by_turns() {
        let turns = |often| {
            let all = (0..5).flat_map(|round| [0, 1].map(|slot| Turn { rig: Rig::Direct, round, slot }));
            all.filter(|turn| turn.is_for(often)).map(|turn| (turn.round, turn.slot)).collect::<Vec<_>>()
        };
        assert_eq!(turns(Often::EveryTurn).len(), 10);
        assert_eq!(turns(Often::OnceARound), [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]);
        assert_eq!(turns(Often::EverySecondRound), [(0, 0), (2, 1), (4, 0)]);
    }

    #[test]
    fn a_quick_look_has_headlines_unless_somebody_says_what() {
        let only = ["B saturated".to_owned()];
        let quick =
            |only| Effort { run: Duration::from_secs(1), quick: true, only, turn: None, subject: None };
        assert!(quick(&[]).wants("60 B saturated") && !quick(&[]).wants("1020 B saturated"));
        assert!(quick(&only).wants("1020 B saturated") && !quick(&only).wants("round trip"));
    }
}
