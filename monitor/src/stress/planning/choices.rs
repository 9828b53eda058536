//! The choices of one iteration: a pure function of the job, the number of the night and the number of the iteration.
//!
//! Talks to nothing. Iteration numbers run over all shards; each night counts from 0 again.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

use super::faults::Faults;
use super::job::{Job, Seeds};
use super::random;

/// What is to be done at a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A run.
    Run(Chosen),
    /// Nothing: the plan whose turn it is has tried all that it has.
    Nothing,
}

/// All choices of a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Chosen {
    /// Name of the plan.
    pub plan: String,
    /// Seed of the guest.
    pub seed: u64,
    /// Its vCPUs.
    pub cpus: u32,
    /// Its faults, as `--fault` takes them.
    pub faults: Vec<String>,
    /// If the plan is systematic: what is tried, to be tried once.
    pub point: Option<String>,
}

/// Seeds of guests are short, because people copy them.
const SEED_MASK: u64 = 0xffff_ffff;

impl Job {
    /// The choices of an iteration.
    #[must_use]
    pub(crate) fn choice(&self, night: u64, iteration: u64) -> Choice {
        let repeat = u64::from(self.repeat);
        let (case, again) = (iteration / repeat, iteration % repeat);
        let turns = self.schedule.len() as u64;
        let (round, turn) = (case / turns, usize::try_from(case % turns).unwrap_or(0));
        let plan = &self.plans[self.schedule[turn]];
        let mut random = self.random(night, case, round);
        let seed = match self.seeds {
            Seeds::Base(_) => random::below(&mut random, SEED_MASK + 1),
            Seeds::Range { first, count } => first + round % count,
        };
        let cpus = *random::pick(&mut random, &self.cpus);
        let (faults, point) = match &plan.faults {
            Faults::Fixed(list) => (list.clone(), None),
            Faults::Random(plan) => (plan.faults(&mut random), None),
            Faults::Systematic(points) => {
                let before = self.turns_before(turn);
                let number = round.saturating_mul(u64::from(self.turns_a_round(turn))) + before;
                let point = usize::try_from(number).ok().and_then(|number| points.get(number));
                match point {
                    // A point is tried once, however often other cases are repeated.
                    Some(point) if again == 0 => (vec![point.clone()], Some(point.clone())),
                    _ => return Choice::Nothing,
                }
            }
        };
        Choice::Run(Chosen {
            plan: plan.name.clone(),
            seed,
            cpus,
            faults,
            point,
        })
    }

    /// The number from which on there is nothing to be done in any night; `None`: it goes on.
    #[must_use]
    pub(crate) fn end(&self) -> Option<u64> {
        let ends: Option<Vec<u64>> = (0..self.plans.len()).map(|plan| self.end_of(plan)).collect();
        let exhausted = ends.and_then(|ends| ends.into_iter().max());
        [exhausted, self.iterations].into_iter().flatten().min()
    }

    fn end_of(&self, plan: usize) -> Option<u64> {
        let Faults::Systematic(points) = &self.plans[plan].faults else {
            return None;
        };
        let turns: Vec<usize> = (0..self.schedule.len())
            .filter(|&turn| self.schedule[turn] == plan)
            .collect();
        let last = points.len().saturating_sub(1);
        let round = (last / turns.len()) as u64;
        let case = round * self.schedule.len() as u64 + turns[last % turns.len()] as u64;
        Some((case + 1).saturating_mul(u64::from(self.repeat)))
    }

    fn turns_before(&self, turn: usize) -> u64 {
        let plan = self.schedule[turn];
        self.schedule[..turn].iter().filter(|&&other| other == plan).count() as u64
    }

    fn turns_a_round(&self, turn: usize) -> u32 {
        let plan = self.schedule[turn];
        self.schedule.iter().map(|&other| u32::from(other == plan)).sum()
    }

    /// Random numbers of a case. A range of seeds has the same every night and at every time round.
    fn random(&self, night: u64, case: u64, round: u64) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(b"storlock stress 1\n");
        let numbers = match self.seeds {
            Seeds::Base(base) => [0, base, night, case],
            Seeds::Range { first, count } => [1, first + round % count, 0, case % self.schedule.len() as u64],
        };
        for number in numbers {
            hash.update(number.to_le_bytes());
        }
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::stress::planning::JobFile;
    use crate::stress::planning::shard::{Shard, Way};

    fn job(text: &str) -> Job {
        let text = format!("cpus = [1, 2, 4]\n{text}\n[guest]\ndriver = \"a.sys\"\n");
        Job::new(&JobFile::parse(&text).unwrap(), &text, Path::new("/"), "x").unwrap()
    }

    const MIXED: &str = "plan = [
        { name = \"none\", faults = [], weight = 1 },
        { name = \"random\", mode = \"random\", weight = 5 },
        { name = \"each\", mode = \"systematic\", occurrences = 2, weight = 3 },
    ]";

    fn jobs() -> impl Strategy<Value = Job> {
        let seeds = prop_oneof![
            any::<u32>().prop_map(|base| format!("seeds = {{ base = {base} }}")),
            (0u32..1000, 1u32..50).prop_map(|(first, count)| format!("seeds = {{ first = {first}, count = {count} }}")),
        ];
        (seeds, 1u32..4, 1u32..9, 1u32..9).prop_map(|(seeds, repeat, random, each)| {
            job(&format!(
                "{seeds}\nrepeat = {repeat}\nplan = [{{ mode = \"random\", weight = {random} }}, \
                 {{ mode = \"systematic\", occurrences = 1, weight = {each} }}]"
            ))
        })
    }

    proptest! {
        #[test]
        fn the_same_numbers_are_the_same_choices_in_whatever_order_they_are_asked(
            job in jobs(), night in 0u64..100, mut order in proptest::collection::vec(0u64..500, 1..60)
        ) {
            let first: Vec<_> = order.iter().map(|&iteration| job.choice(night, iteration)).collect();
            let again = job.clone();
            let mut asked: BTreeMap<u64, Choice> = BTreeMap::new();
            order.reverse();
            for &iteration in &order {
                asked.insert(iteration, again.choice(night, iteration));
            }
            order.reverse();
            for (iteration, choice) in order.iter().zip(&first) {
                prop_assert_eq!(&asked[iteration], choice);
            }
        }

        #[test]
        fn shards_together_do_what_one_machine_does(job in jobs(), total in 1u32..9, hash: bool, night: u64) {
            let way = if hash { Way::Hash } else { Way::Slice };
            let all: Vec<_> = (0..200).map(|iteration| (iteration, job.choice(night, iteration))).collect();
            let mut united = Vec::new();
            for index in 1..=total {
                let shard = Shard { way, index, total };
                let share = (0..200).filter(|&iteration| shard.has(iteration));
                united.extend(share.map(|iteration| (iteration, job.choice(night, iteration))));
            }
            united.sort_by_key(|(iteration, _)| *iteration);
            prop_assert_eq!(united, all);
        }

        #[test]
        fn a_systematic_plan_tries_every_point_once_until_its_end(repeat in 1u32..4, weight in 1u32..5, others in 0u32..4) {
            let other = if others == 0 { String::new() } else { format!("{{ faults = [], weight = {others} }},") };
            let job = job(&format!(
                "repeat = {repeat}\nplan = [{other} {{ mode = \"systematic\", occurrences = 2, weight = {weight} }}]"
            ));
            let alone = others == 0;
            prop_assert_eq!(job.end().is_some(), alone);
            let end = job.end().unwrap_or(5000);
            let point = |iteration| match job.choice(0, iteration) {
                Choice::Run(chosen) => chosen.point,
                Choice::Nothing => None,
            };
            let tried: Vec<String> = (0..end).filter_map(point).collect();
            prop_assert_eq!(tried.len(), 2 * 4 * 12);
            prop_assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), tried.len());
            prop_assert!((end..end + 100).all(|iteration| point(iteration).is_none()));
            prop_assert!(!alone || point(end - 1).is_some() || repeat > 1);
        }
    }

    #[test]
    fn plans_have_their_shares() {
        let job = job(MIXED);
        let mut counts = HashMap::<String, u32>::new();
        for iteration in 0..90 {
            if let Choice::Run(chosen) = job.choice(3, iteration) {
                *counts.entry(chosen.plan).or_default() += 1;
            }
        }
        let share = |plan: &str| counts[plan];
        assert_eq!((share("none"), share("random"), share("each")), (10, 50, 30));
    }

    #[test]
    fn nights_differ_by_a_base_and_not_by_a_range() {
        let all = |job: &Job, night| {
            (0..40)
                .map(|iteration| job.choice(night, iteration))
                .collect::<Vec<_>>()
        };
        let base = job("plan = [{ mode = \"random\" }]");
        assert_ne!(all(&base, 0), all(&base, 1));
        let range = job("seeds = { first = 5, count = 8 }\nplan = [{ mode = \"random\" }]");
        assert_eq!(all(&range, 0), all(&range, 1));
        // The range begins anew, with the same cases.
        assert_eq!(all(&range, 0)[..8], all(&range, 0)[8..16]);
        let seeds: Vec<_> = all(&range, 0)[..8].iter().map(|choice| run(choice).seed).collect();
        assert_eq!(seeds, (5..13).collect::<Vec<_>>());
    }

    fn run(choice: &Choice) -> &Chosen {
        match choice {
            Choice::Run(chosen) => chosen,
            Choice::Nothing => panic!("nothing"),
        }
    }

    #[test]
    fn a_repeated_case_is_the_same_and_others_are_not() {
        let job = job("repeat = 3\nplan = [{ mode = \"random\" }]");
        let cases: Vec<_> = (0..300)
            .map(|iteration| run(&job.choice(0, iteration)).clone())
            .collect();
        assert!(cases.chunks(3).all(|same| same[0] == same[1] && same[1] == same[2]));
        assert_eq!(cases.iter().collect::<HashSet<_>>().len(), 100);
        assert_eq!(
            cases.iter().map(|case| case.cpus).collect::<BTreeSet<_>>(),
            [1, 2, 4].into()
        );
    }

    #[test]
    fn the_end_is_the_earlier_of_two() {
        assert_eq!(job("iterations = 7").end(), Some(7));
        assert_eq!(job("duration = \"1h\"").end(), None);
        let each =
            "plan = [{ mode = \"systematic\", occurrences = 1, what = [\"read\"], kinds = [\"drop\", \"fatal\"] }]";
        assert_eq!(job(each).end(), Some(2));
        assert_eq!(job(&format!("iterations = 1\n{each}")).end(), Some(1));
    }
}
