//! A million frames: random topologies, frames, changes and leaps of time, the
//! naive model beside two bridges.

use vswitch::bridge::Verdict;
use vswitch_tests::scenario::{Outcome, Random, Rig, Step, compare, random_steps, report};

const FRAMES: usize = 1_000_000;
const STEPS: usize = 2_000;

#[test]
fn the_bridge_does_what_the_model_does() {
    let (mut frames, mut seed) = (0, 0);
    while frames < FRAMES {
        seed += 1;
        let mut random = Random::new(seed);
        let secret = [random.next_u64(), random.next_u64()];
        let steps = random_steps(&mut random, STEPS);
        if compare(&steps, secret).is_err() {
            panic!("{}", report(seed, &steps, secret));
        }
        frames += steps.iter().filter(|step| matches!(step, Step::Send(_))).count();
    }
}

#[test]
fn invariant_8_same_seed_same_verdicts() {
    let run = |seed, secret| -> Vec<Verdict> {
        let mut rig = Rig::new(secret);
        let steps = random_steps(&mut Random::new(seed), STEPS);
        let outcomes = steps.iter().map(|step| rig.step(step).expect("as the model"));
        outcomes
            .filter_map(|outcome| if let Outcome::Judged(verdict) = outcome { Some(verdict) } else { None })
            .collect()
    };
    let verdicts = run(7, [1, 2]);
    assert!(verdicts.len() > 1000);
    assert_eq!(verdicts, run(7, [1, 2]));
    assert_eq!(verdicts, run(7, [0x1234_5678, 0x9abc_def0_1234]), "the secret decides nothing");
    assert_ne!(verdicts, run(8, [1, 2]));
}
