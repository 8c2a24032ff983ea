//! Who runs when: in each round everyone once in order and once in reverse
//! (A B C C B A), so that a machine that slows down hits all alike. Each slot
//! builds its topology anew and removes it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::measure::{self, Effort};
use crate::progress::Progress;
use crate::record::{Absent, Report, Sample};
use crate::subject::Subject;
use crate::wiring::{Rig, Wiring};
use crate::{host, interrupt};

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rigs: Vec<Rig>,
    pub(crate) rounds: u32,
    /// The first is the one that the others are compared with.
    pub(crate) subjects: Vec<Subject>,
    /// Further words for `vswitch run`.
    pub(crate) run: Vec<String>,
    pub(crate) only: Vec<String>,
}

/// One subject's turn.
#[derive(Clone, Copy, Debug)]
struct Slot {
    rig: Rig,
    offloads: bool,
    round: u32,
    slot: u8,
    subject: Subject,
}

/// Measures everything.
///
/// A slot that fails ends the run: a figure that is missing is not a figure.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    ensure!(
        vswitch_tests::skip::Need::Root.is_met(),
        "vbench makes network namespaces: run it as root (sudo ./dev bench)"
    );
    let run = if plan.quick { Duration::from_secs(1) } else { Duration::from_secs(2) };
    let effort = Effort { run, thorough: !plan.quick, only: &plan.only };
    let absent = absent(plan);
    let slots = slots(plan, &absent);
    let mut report = Report {
        header: host::header(&plan.subjects, plan.quick, plan.rounds),
        samples: Vec::new(),
        absent,
        generator: BTreeMap::new(),
    };
    if plan.rigs.contains(&Rig::Direct) {
        for offloads in [false, true] {
            report.generator.extend(measure::frames::generator_alone(offloads, effort)?);
        }
    }
    let mut progress = Progress::new(slots.len());
    for slot in &slots {
        interrupt::check()?;
        let Slot { rig, round, subject, .. } = *slot;
        let state = if slot.offloads { "offloads on" } else { "offloads off" };
        let what =
            format!("rig {}, {state}, round {}/{}: {}", rig.number(), round + 1, plan.rounds, subject.name());
        progress.step(&what);
        let figures = one(slot, &plan.run, effort).with_context(|| what.clone())?;
        report.samples.extend(figures.into_iter().map(|figure| Sample {
            rig: rig.number(),
            subject,
            round,
            slot: slot.slot,
            figure,
        }));
    }
    Ok(report)
}

fn absent(plan: &Plan) -> Vec<Absent> {
    let pairs = plan.rigs.iter().flat_map(|rig| plan.subjects.iter().map(move |subject| (*rig, *subject)));
    pairs
        .filter_map(|(rig, subject)| {
            subject.absence(rig).map(|why| Absent { rig: rig.number(), subject, why })
        })
        .collect()
}

fn slots(plan: &Plan, absent: &[Absent]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for rig in &plan.rigs {
        let is_absent = |s: &Subject| absent.iter().any(|a| a.rig == rig.number() && a.subject == *s);
        let present: Vec<Subject> = plan.subjects.iter().copied().filter(|s| !is_absent(s)).collect();
        for offloads in [true, false] {
            for round in 0..plan.rounds {
                for (slot, order) in [(0, present.clone()), (1, present.iter().rev().copied().collect())] {
                    slots.extend(order.into_iter().map(|subject| Slot {
                        rig: *rig,
                        offloads,
                        round,
                        slot,
                        subject,
                    }));
                }
            }
        }
    }
    slots
}

fn one(slot: &Slot, run: &[String], effort: Effort<'_>) -> Result<Vec<crate::record::Figure>> {
    let wiring = Wiring::new(slot.rig, slot.subject, slot.offloads)?;
    // Ends before the wiring goes.
    let mut running = slot.subject.start(&wiring, run)?;
    wiring.connect(&mut running)?;
    measure::all(&wiring, &mut running, effort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_runs_there_and_back() {
        let subjects = vec![Subject::Vswitch, Subject::Bridge, Subject::Vde];
        let plan =
            Plan { quick: true, rigs: vec![Rig::Netns], rounds: 1, subjects, run: vec![], only: vec![] };
        let vde_left_out = vec![Absent { rig: 1, subject: Subject::Vde, why: "no".into() }];
        let order: Vec<Subject> = slots(&plan, &vde_left_out).iter().map(|s| s.subject).take(4).collect();
        assert_eq!(order, [Subject::Vswitch, Subject::Bridge, Subject::Bridge, Subject::Vswitch]);
    }
}
