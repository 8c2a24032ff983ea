//! Who runs when: in each round everyone once in order and once in reverse
//! (A B C C B A), so that a machine that slows down hits all alike. Each slot
//! builds its topology anew and removes it. Which cases a slot measures is in
//! [`measure::cases`].

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use vswitch_hot::stats::spread;

use crate::huge::HugePages;
use crate::measure::{self, Effort, Turn};
use crate::progress::Progress;
use crate::record::{Absent, Figure, Report, Sample};
use crate::rig::{Rig, Variant};
use crate::subject::Subject;
use crate::wiring::Wiring;
use crate::{host, interrupt};

/// Huge pages for a generator and the greediest subject, with some to spare.
const HUGE_MEBIBYTES: u64 = 3 * crate::testpmd::MEBIBYTES;

/// Length of each run of traffic; a quick look has half of it.
const RUN: Duration = Duration::from_secs(1);

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
    turn: Turn,
    subject: Subject,
    /// As far as it can be told before.
    length: Duration,
}

/// Measures everything, and gives what there is to `keep` whenever a topology is through.
///
/// A slot that fails ends the run: a figure that is missing is not a figure.
pub(crate) fn run(plan: &Plan, keep: impl Fn(&Report) -> Result<()>) -> Result<Report> {
    ensure!(
        vswitch_tests::skip::Need::Root.is_met(),
        "vbench makes network namespaces: run it as root (sudo ./dev bench)"
    );
    let effort = Effort {
        run: if plan.quick { RUN / 2 } else { RUN },
        quick: plan.quick,
        only: &plan.only,
        turn: None,
        subject: None,
    };
    let is_dpdk =
        |rig: &Rig| *rig == Rig::Queues || plan.subjects.iter().any(|s| s.is_dpdk() && s.belongs_to(*rig));
    let huge = plan.rigs.iter().any(is_dpdk).then(|| HugePages::reserve(HUGE_MEBIBYTES)).transpose();
    let absent = absent(plan, huge.as_ref().err());
    if let Some(Absent { rig, why, .. }) = plan.rigs.iter().find_map(|rig| unmeasurable(plan, *rig, &absent))
    {
        bail!("rig {rig} cannot be measured here: {why}; without it: --rig with the others");
    }
    let slots = slots(plan, &absent, effort);
    let measured: Vec<Subject> =
        plan.subjects.iter().copied().filter(|s| plan.rigs.iter().any(|rig| s.belongs_to(*rig))).collect();
    let mut report = Report {
        header: host::header(&measured, plan.quick, plan.rounds),
        samples: Vec::new(),
        absent,
        generator: BTreeMap::new(),
    };
    let mut progress = Progress::new(slots.iter().map(|slot| slot.length).collect());
    if plan.rigs.iter().any(|rig| matches!(rig, Rig::Netns | Rig::OwnedTaps)) {
        report.generator.extend(median(effort, measure::hosts::generator_alone)?);
    }
    if plan.rigs.iter().any(|rig| matches!(rig, Rig::Direct | Rig::Ports)) {
        report.generator.extend(median(effort, measure::frames::generator_alone)?);
        if let Some(rate) = report.generator.get(measure::frames::SHORT).copied() {
            report.generator.extend(measure::ports::limits(rate, effort));
            report.generator.extend(measure::frames::limits(rate, effort));
        }
    }
    for (at, slot) in slots.iter().enumerate() {
        interrupt::check()?;
        if at > 0 && slots[at - 1].rig != slot.rig {
            keep(&report)?;
        }
        let Slot { rig, turn, subject, .. } = *slot;
        let state = slot.variant.name();
        let round = turn.round;
        let what =
            format!("rig {}, {state}, round {}/{}: {}", rig.number(), round + 1, plan.rounds, subject.name());
        progress.step(&what);
        let figures = one(slot, &plan.run, effort).with_context(|| what.clone())?;
        let Some(figures) = figures else {
            let why = "it offers no such queues".into();
            let absent = Absent { rig: rig.number(), subject, part: Some(state), why };
            if !report.absent.contains(&absent) {
                report.absent.push(absent);
            }
            continue;
        };
        report.samples.extend(figures.into_iter().map(|figure| Sample {
            rig: rig.number(),
            subject,
            round,
            slot: turn.slot,
            figure,
        }));
    }
    keep(&report)?;
    Ok(report)
}

/// Why there is nothing to say of `rig`: vswitch cannot take part in it, or nobody can.
fn unmeasurable<'a>(plan: &Plan, rig: Rig, absent: &'a [Absent]) -> Option<&'a Absent> {
    let why = |subject: Subject| {
        absent.iter().find(|a| a.rig == rig.number() && a.subject == subject && a.part.is_none())
    };
    let subjects = || plan.subjects.iter().copied().filter(|subject| subject.belongs_to(rig));
    if subjects().all(|subject| why(subject).is_some()) {
        return subjects().find_map(why);
    }
    subjects().find(|subject| *subject == Subject::Vswitch).and_then(why)
}

/// What the generator makes of each case.
type Rates = Vec<(String, f64)>;

/// Each rate of what `measure` measures: of one run for a look, else the median of three.
fn median(effort: Effort<'_>, measure: fn(Effort<'_>) -> Result<Rates>) -> Result<Rates> {
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..if effort.quick { 1 } else { 3 } {
        for (case, rate) in measure(effort)? {
            rates.entry(case).or_default().push(rate);
        }
    }
    Ok(rates.into_iter().filter_map(|(case, rates)| Some((case, spread(rates)?.median))).collect())
}

fn absent(plan: &Plan, no_huge_pages: Option<&anyhow::Error>) -> Vec<Absent> {
    let pairs = plan.rigs.iter().flat_map(|rig| plan.subjects.iter().map(move |subject| (*rig, *subject)));
    pairs
        .filter(|(rig, subject)| subject.belongs_to(*rig))
        .filter_map(|(rig, subject)| {
            let takes_huge = rig == Rig::Queues || subject.is_dpdk();
            let why = no_huge_pages.filter(|_| takes_huge).map(|error| format!("{error:#}"));
            let why = why.or_else(|| subject.absence(rig))?;
            Some(Absent { rig: rig.number(), subject, part: None, why })
        })
        .chain(absent_in_part(plan))
        .collect()
}

fn absent_in_part(plan: &Plan) -> impl Iterator<Item = Absent> {
    let variants = plan.rigs.iter().flat_map(|rig| rig.variants().into_iter().map(move |v| (*rig, v)));
    variants.flat_map(|(rig, variant)| {
        plan.subjects.iter().filter(move |subject| subject.belongs_to(rig)).filter_map(move |subject| {
            let why = subject.absence_in(variant)?;
            Some(Absent { rig: rig.number(), subject: *subject, part: Some(variant.name()), why })
        })
    })
}

/// Every turn that has something to measure, in order.
fn slots(plan: &Plan, absent: &[Absent], effort: Effort<'_>) -> Vec<Slot> {
    let mut slots = Vec::new();
    for rig in plan.rigs.iter().copied() {
        for variant in rig.variants() {
            let is_absent = |subject: Subject| {
                absent.iter().any(|a| {
                    let is_here = a.part.as_ref().is_none_or(|part| *part == variant.name());
                    a.rig == rig.number() && a.subject == subject && is_here
                })
            };
            let present: Vec<Subject> =
                plan.subjects.iter().copied().filter(|s| s.belongs_to(rig) && !is_absent(*s)).collect();
            for (round, slot) in (0..plan.rounds).flat_map(|round| [0, 1].map(|slot| (round, slot))) {
                let turn = Turn { rig, round, slot };
                let effort = Effort { turn: Some(turn), ..effort };
                let mut order = present.clone();
                if effort.quick && effort.only.is_empty() {
                    order.retain(|subject| subject.is_headline(rig));
                }
                if slot == 1 {
                    order.reverse();
                }
                slots.extend(order.into_iter().filter_map(|subject| {
                    let length = effort.length(rig, variant, subject)?;
                    Some(Slot { rig, variant, turn, subject, length })
                }));
            }
        }
    }
    slots
}

/// The figures of a turn; `None`: the subject turned out not to have this variant.
fn one(slot: &Slot, run: &[String], effort: Effort<'_>) -> Result<Option<Vec<Figure>>> {
    let Slot { rig, subject, .. } = *slot;
    let effort = Effort { turn: Some(slot.turn), subject: Some(subject), ..effort };
    let wiring = match slot.variant {
        Variant::Offloads(offloads) if rig == Rig::Direct => Wiring::taps(rig, 2, offloads)?,
        Variant::Offloads(offloads) => Wiring::hosts_for(rig, subject, offloads)?,
        Variant::Ports(count) => Wiring::taps(rig, count, false)?,
        Variant::Queues(queues) => return measure::queues::all(subject, queues, run, effort),
        Variant::Guests(card) => return measure::guests::all(subject, card, run, effort).map(Some),
        Variant::Core => return measure::core::all(effort).map(Some),
    };
    // Ends before the wiring goes.
    let mut running = subject.start(&wiring, run)?;
    wiring.connect(&mut running)?;
    measure::all(subject, &wiring, &mut running, effort).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::RIGS;

    const SUBJECTS: [Subject; 3] = [Subject::Vswitch, Subject::Bridge, Subject::Vde];

    fn plan(rigs: &[Rig], rounds: u32, subjects: &[Subject]) -> Plan {
        let (rigs, subjects) = (rigs.to_vec(), subjects.to_vec());
        Plan { quick: false, rigs, rounds, subjects, run: vec![], only: vec![] }
    }

    fn effort(quick: bool) -> Effort<'static> {
        Effort { run: if quick { RUN / 2 } else { RUN }, quick, only: &[], turn: None, subject: None }
    }

    fn minutes(slots: &[Slot]) -> f64 {
        slots.iter().map(|slot| slot.length).sum::<Duration>().as_secs_f64() / 60.0
    }

    #[test]
    fn everyone_runs_there_and_back() {
        let plan = plan(&[Rig::Netns], 1, &SUBJECTS);
        let why = || "no".to_owned();
        let vde_left_out = vec![Absent { rig: 1, subject: Subject::Vde, part: None, why: why() }];
        let order = |absent: &[Absent]| -> Vec<Subject> {
            slots(&plan, absent, effort(true)).iter().map(|s| s.subject).collect()
        };
        assert_eq!(
            order(&vde_left_out),
            [Subject::Vswitch, Subject::Bridge, Subject::Bridge, Subject::Vswitch]
        );
        let part = Some("offloads on".into());
        let left_out_in_part = Absent { rig: 1, subject: Subject::Vswitch, part, why: why() };
        let absent = [&vde_left_out[..], &[left_out_in_part]].concat();
        assert_eq!(order(&absent), [Subject::Bridge, Subject::Bridge]);
    }

    #[test]
    fn what_is_measured_once_a_round_changes_its_direction() {
        let plan = plan(&[Rig::Core], 3, &SUBJECTS);
        let turns: Vec<_> =
            slots(&plan, &[], effort(false)).iter().map(|s| (s.turn.round, s.turn.slot)).collect();
        assert_eq!(turns, [(0, 0), (1, 1), (2, 0)]);
    }

    #[test]
    fn a_quick_look_takes_five_minutes_and_all_of_it_less_than_an_hour_and_a_half() {
        let parts: Vec<Absent> = {
            let mut absent: Vec<Absent> = absent_in_part(&plan(&RIGS, 1, &Subject::ALL)).collect();
            // Which of them never have a place, wherever they are installed.
            for (rig, subject) in
                [(1, Subject::Vde), (2, Subject::Engine), (3, Subject::Vde), (7, Subject::Vde)]
            {
                absent.push(Absent { rig, subject, part: None, why: String::new() });
            }
            absent
        };
        let all = |rounds, quick| -> Vec<f64> {
            let of = |rig: Rig| slots(&plan(&[rig], rounds, &Subject::ALL), &parts, effort(quick));
            RIGS.into_iter().map(|rig| minutes(&of(rig))).collect()
        };
        for (quick, rounds, range) in [(true, 1, 2.0..4.7), (false, 5, 60.0..90.0)] {
            let by_rig = all(rounds, quick);
            assert!(range.contains(&by_rig.iter().sum::<f64>()), "quick {quick}: {by_rig:.1?} minutes");
        }
    }
}
