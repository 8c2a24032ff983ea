//! Who runs when: in each round everyone once in order and once in reverse
//! (A B C C B A), so that a machine that slows down hits all alike. Each slot
//! builds its topology anew and removes it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::huge::HugePages;
use crate::measure::{self, Effort};
use crate::progress::Progress;
use crate::record::{Absent, Figure, Report, Sample};
use crate::rig::{Rig, Variant};
use crate::subject::Subject;
use crate::wiring::Wiring;
use crate::{host, interrupt};

/// Huge pages for a generator and the greediest subject, with some to spare.
const HUGE_MEBIBYTES: u64 = 3 * crate::testpmd::MEBIBYTES;

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
    variant: Variant,
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
    let is_dpdk =
        |rig: &Rig| *rig == Rig::Queues || plan.subjects.iter().any(|s| s.is_dpdk() && s.belongs_to(*rig));
    let huge = plan.rigs.iter().any(is_dpdk).then(|| HugePages::reserve(HUGE_MEBIBYTES)).transpose();
    let absent = absent(plan, huge.as_ref().err());
    let mut slots = slots(plan, &absent);
    slots.retain(|slot| is_wanted(slot, effort));
    let measured: Vec<Subject> =
        plan.subjects.iter().copied().filter(|s| plan.rigs.iter().any(|rig| s.belongs_to(*rig))).collect();
    let mut report = Report {
        header: host::header(&measured, plan.quick, plan.rounds),
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
        let state = slot.variant.name();
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

/// Whether anything of `slot` is wanted.
fn is_wanted(slot: &Slot, effort: Effort<'_>) -> bool {
    match slot.variant {
        Variant::Offloads(offloads) => measure::is_wanted(slot.rig, offloads, effort),
        Variant::Queues(queues) => measure::queues::is_wanted(queues, effort),
        Variant::Guests => measure::guests::is_wanted(effort),
        Variant::Core => measure::core::is_wanted(effort),
    }
}

fn absent(plan: &Plan, no_huge_pages: Option<&anyhow::Error>) -> Vec<Absent> {
    let pairs = plan.rigs.iter().flat_map(|rig| plan.subjects.iter().map(move |subject| (*rig, *subject)));
    pairs
        .filter(|(rig, subject)| subject.belongs_to(*rig))
        .filter_map(|(rig, subject)| {
            let takes_huge = rig == Rig::Queues || subject.is_dpdk();
            let why = no_huge_pages.filter(|_| takes_huge).map(|error| format!("{error:#}"));
            let why = why.or_else(|| subject.absence(rig))?;
            Some(Absent { rig: rig.number(), subject, why })
        })
        .collect()
}

fn slots(plan: &Plan, absent: &[Absent]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for rig in &plan.rigs {
        let is_absent = |s: &Subject| absent.iter().any(|a| a.rig == rig.number() && a.subject == *s);
        let present: Vec<Subject> =
            plan.subjects.iter().copied().filter(|s| s.belongs_to(*rig) && !is_absent(s)).collect();
        for variant in rig.variants() {
            for round in 0..plan.rounds {
                // Guests take long to boot: a quick look goes one way only.
                let turns = if plan.quick && *rig == Rig::Guests { 1 } else { 2 };
                let orders = [(0, present.clone()), (1, present.iter().rev().copied().collect())];
                for (slot, order) in orders.into_iter().take(turns) {
                    slots.extend(order.into_iter().map(|subject| Slot {
                        rig: *rig,
                        variant,
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

fn one(slot: &Slot, run: &[String], effort: Effort<'_>) -> Result<Vec<Figure>> {
    match slot.variant {
        Variant::Offloads(offloads) => {
            let wiring = Wiring::new(slot.rig, slot.subject, offloads)?;
            // Ends before the wiring goes.
            let mut running = slot.subject.start(&wiring, run)?;
            wiring.connect(&mut running)?;
            measure::all(&wiring, &mut running, effort)
        }
        Variant::Queues(queues) => measure::queues::all(slot.subject, queues, run, effort),
        Variant::Guests => measure::guests::all(slot.subject, run, effort),
        Variant::Core => measure::core::all(effort),
    }
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
