//! Random fault plans: weights say how often each kind of fault is chosen, and the faults are spread over the commands
//! of the run.
//!
//! Talks to nothing: the caller gives the random numbers. Early commands are hit more often than late ones, because the
//! number of bits of a command's number is chosen first.

use rand_chacha::rand_core::RngCore;
use storlock_vmm::storage::ControllerKind;

use super::faults::{Vocabulary, list};
use super::settings::PlanSettings;
use super::vocabulary;

/// Faults of one run without being told.
const LEAST: u32 = 1;
const MOST: u32 = 2;
/// Most faults that a run can have.
const LIMIT: u32 = 32;
/// How many of the first commands of a kind can be hit without being told.
const OCCURRENCES: u64 = 256;
/// Most of them.
const OCCURRENCES_LIMIT: u64 = 1 << 32;

/// A random plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RandomPlan {
    vocabulary: Vocabulary,
    counts: Vec<u64>,
    occurrences: u64,
    least: u32,
    most: u32,
}

impl RandomPlan {
    /// Checks its settings.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn new(plan: &PlanSettings, controller: &ControllerKind) -> Result<Self, String> {
        let counts = list(plan.counts.as_ref(), &[1], "counts")?;
        if counts.contains(&0) {
            return Err("`counts`: a fault that hits 0 commands never happens".to_owned());
        }
        let least = plan.least.unwrap_or_else(|| LEAST.min(plan.most.unwrap_or(LEAST)));
        let most = plan.most.unwrap_or_else(|| MOST.max(least));
        if least > most || most > LIMIT {
            return Err(format!("{least} to {most} faults: `least` and `most` are 0 to {LIMIT}"));
        }
        let occurrences = plan.occurrences.unwrap_or(OCCURRENCES);
        if !(1..=OCCURRENCES_LIMIT).contains(&occurrences) {
            return Err(format!("`occurrences`: 1 to {OCCURRENCES_LIMIT}"));
        }
        Ok(Self {
            vocabulary: Vocabulary::new(plan, controller)?,
            counts,
            occurrences,
            least,
            most,
        })
    }

    /// The faults of one run.
    pub(crate) fn faults(&self, random: &mut impl RngCore) -> Vec<String> {
        let span = u64::from(self.most - self.least) + 1;
        let number = u64::from(self.least) + below(random, span);
        (0..number).map(|_| self.fault(random)).collect()
    }

    fn fault(&self, random: &mut impl RngCore) -> String {
        let what = weighted(random, &self.vocabulary.what, |(_, weight, _)| *weight);
        let (what, _, kinds) = what;
        let (kind, _) = weighted(random, kinds, |(_, weight)| *weight);
        let values = self.vocabulary.values(kind);
        let value = pick(random, &values);
        let count = *pick(random, &self.counts);
        let after = self.occurrence(random);
        vocabulary::fault(kind, what, after, count, value.as_ref())
    }

    /// How many commands are spared.
    fn occurrence(&self, random: &mut impl RngCore) -> u64 {
        let bits = u64::from(u64::BITS - (self.occurrences - 1).leading_zeros());
        let range = 1u64 << below(random, bits + 1);
        below(random, range.min(self.occurrences))
    }
}

/// A number below `end`, which is not 0.
pub(super) fn below(random: &mut impl RngCore, end: u64) -> u64 {
    // The bias is below 2^-31 for all that is chosen here.
    random.next_u64() % end.max(1)
}

/// One of several, all alike. There is at least one.
pub(super) fn pick<'a, T>(random: &mut impl RngCore, list: &'a [T]) -> &'a T {
    let index = below(random, list.len() as u64);
    &list[usize::try_from(index).unwrap_or(0)]
}

/// One of several by weights, of which one is not 0.
fn weighted<'a, T>(random: &mut impl RngCore, list: &'a [T], weight: impl Fn(&T) -> u32) -> &'a T {
    let sum: u64 = list.iter().map(|one| u64::from(weight(one))).sum();
    let mut left = below(random, sum);
    for one in list {
        let weight = u64::from(weight(one));
        if left < weight {
            return one;
        }
        left -= weight;
    }
    &list[0]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::run::spec::PlannedFault;
    use crate::stress::planning::JobFile;

    fn plan(text: &str) -> Result<RandomPlan, String> {
        let job = JobFile::parse(&format!("[[plan]]\nmode = \"random\"\n{text}")).unwrap();
        RandomPlan::new(job.plan[0].get_ref(), ControllerKind::named("nvme").unwrap())
    }

    proptest! {
        #[test]
        fn every_fault_is_one_that_the_command_line_takes_and_within_the_plan(
            seed: u64, least in 0u32..5, more in 0u32..5, occurrences in 1u64..2000
        ) {
            let most = least + more;
            let text = format!(
                "least = {least}\nmost = {most}\noccurrences = {occurrences}\nwhat = [\"read\", \"doorbell\", \"io.0x0d\"]\n\
                 kinds = {{ fail = 3, drop = 1, delay = 2 }}\ncounts = [1, 4]"
            );
            let plan = plan(&text).unwrap();
            let faults = plan.faults(&mut ChaCha8Rng::seed_from_u64(seed));
            prop_assert!((least as usize..=most as usize).contains(&faults.len()));
            for fault in faults {
                let parsed: PlannedFault = fault.parse().unwrap();
                prop_assert!(parsed.after < occurrences, "{}", fault);
                prop_assert!([1, 4].contains(&parsed.count), "{}", fault);
            }
        }
    }

    #[test]
    fn weights_are_shares_and_the_whole_range_is_reached() {
        let plan =
            plan("kinds = { drop = 3, fatal = 1 }\nwhat = [\"read\"]\nleast = 1\nmost = 1\noccurrences = 4").unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut seen = BTreeMap::<String, u32>::new();
        for _ in 0..4000 {
            *seen.entry(plan.faults(&mut random).remove(0)).or_default() += 1;
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
        let drops: u32 = seen
            .iter()
            .filter(|(fault, _)| fault.starts_with("drop"))
            .map(|(_, n)| n)
            .sum();
        assert!((2850..3150).contains(&drops), "{drops}");
    }

    #[test]
    fn numbers_without_sense_are_refused() {
        for text in [
            "least = 3\nmost = 2",
            "most = 33",
            "occurrences = 0",
            "counts = [0]",
            "counts = []",
        ] {
            assert!(plan(text).is_err(), "{text}");
        }
        assert_eq!(
            plan("most = 0").unwrap().faults(&mut ChaCha8Rng::seed_from_u64(1)),
            [""; 0]
        );
    }
}
