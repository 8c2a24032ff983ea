//! A failing run, made as short as it can be.

use super::{Step, compare};

/// Leaves steps out, in ever smaller groups, as long as `fails` holds.
pub fn shrink(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut group = steps.len().div_ceil(2);
    loop {
        let before = steps.len();
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..steps.len().min(from + group));
            if fails(&fewer) {
                steps = fewer;
            } else {
                from += group;
            }
        }
        if group > 1 {
            group = group.div_ceil(2);
        } else if steps.len() == before {
            return steps;
        }
    }
}

/// What to print for a run that fails: the seed, the shortest script that still
/// fails, and how it does. Put the script in a file of `tests/sim/scenarios`.
pub fn report(seed: u64, steps: &[Step], secret: [u64; 2]) -> String {
    let steps = shrink(steps.to_vec(), |steps| compare(steps, secret).is_err());
    let (last, error) = compare(&steps, secret).err().unwrap_or((0, "it does not fail again".to_owned()));
    let script: String = steps.iter().map(|step| format!("{step}\n")).collect();
    format!("seed {seed}: after {} steps {error}\n\n{script}", last + 1)
}

#[cfg(test)]
mod tests {
    use super::super::{Random, random_steps};
    use super::*;

    #[test]
    fn what_matters_is_left() {
        let steps = random_steps(&mut Random::new(5), 2000);
        let sweeps = |steps: &[Step]| steps.iter().filter(|step| **step == Step::Sweep).count();
        assert!(sweeps(&steps) > 3);
        let shrunk = shrink(steps, |steps| sweeps(steps) >= 3);
        assert_eq!(shrunk, [Step::Sweep, Step::Sweep, Step::Sweep]);
    }
}
