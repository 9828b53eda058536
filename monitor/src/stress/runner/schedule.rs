//! Decides which iteration comes next.
//!
//! Talks to nothing: the caller says which iterations are done and which faults were tried.

use std::collections::HashSet;

use crate::stress::planning::{Choice, Chosen, Job, Shard};

/// The most iterations without work that are skipped at a time; more would keep signals waiting.
const STRIDE: u64 = 1_000_000;

/// The iterations of a share of a night, by their numbers.
#[derive(Debug)]
pub(super) struct Schedule<'a> {
    job: &'a Job,
    night: u64,
    shard: Shard,
    next: u64,
    /// Iterations that count already.
    done: HashSet<u64>,
    /// What systematic plans have tried, in this night and earlier ones.
    tried: HashSet<String>,
}

impl<'a> Schedule<'a> {
    /// From the beginning.
    pub(super) fn new(job: &'a Job, night: u64, shard: Shard, done: HashSet<u64>, tried: HashSet<String>) -> Self {
        Self {
            job,
            night,
            shard,
            next: 0,
            done,
            tried,
        }
    }
}

impl Iterator for Schedule<'_> {
    type Item = (u64, Chosen);

    /// None: there is nothing left, or nothing for a very long time.
    fn next(&mut self) -> Option<(u64, Chosen)> {
        let end = self.job.end().unwrap_or(u64::MAX).min(self.next.saturating_add(STRIDE));
        while self.next < end {
            let iteration = self.next;
            self.next += 1;
            if !self.shard.has(iteration) || self.done.contains(&iteration) {
                continue;
            }
            if let Choice::Run(chosen) = self.job.choice(self.night, iteration)
                && chosen
                    .point
                    .as_ref()
                    .is_none_or(|point| self.tried.insert(point.clone()))
            {
                return Some((iteration, chosen));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::stress::planning::JobFile;

    fn job(iterations: u64) -> Job {
        let text = format!(
            "iterations = {iterations}\nplan = [{{ mode = \"random\" }}, {{ mode = \"systematic\", occurrences = 1, \
             what = [\"read\"], kinds = [\"drop\", \"fatal\", \"stray\"] }}]\n[guest]\ndriver = \"a.sys\""
        );
        Job::new(&JobFile::parse(&text).unwrap(), &text, Path::new("/"), "x").unwrap()
    }

    fn all(job: &Job, shard: Shard, done: &[u64], tried: &[String]) -> Vec<(u64, Chosen)> {
        Schedule::new(
            job,
            1,
            shard,
            done.iter().copied().collect(),
            tried.iter().cloned().collect(),
        )
        .collect()
    }

    proptest! {
        #[test]
        fn whatever_was_done_before_a_kill_the_rest_follows(count in 1u64..60, total in 1u32..4, done in proptest::collection::hash_set(0u64..60, 0..40)) {
            let job = job(count);
            for index in 1..=total {
                let shard = Shard::new(index, total).unwrap();
                let whole = all(&job, shard, &[], &[]);
                let points = whole.iter().filter(|(iteration, _)| done.contains(iteration));
                let tried: Vec<String> = points.filter_map(|(_, chosen)| chosen.point.clone()).collect();
                let rest = all(&job, shard, &done.iter().copied().collect::<Vec<_>>(), &tried);
                let expected: Vec<_> = whole.into_iter().filter(|(iteration, _)| !done.contains(iteration)).collect();
                prop_assert_eq!(rest, expected);
            }
        }
    }

    #[test]
    fn what_was_tried_in_an_earlier_night_is_passed_over() {
        let job = job(20);
        let point = |(_, chosen): &(u64, Chosen)| chosen.point.clone();
        let points: Vec<String> = all(&job, Shard::WHOLE, &[], &[]).iter().filter_map(point).collect();
        assert_eq!(points.len(), 3);
        let later: Vec<String> = all(&job, Shard::WHOLE, &[], &points[..2])
            .iter()
            .filter_map(point)
            .collect();
        assert_eq!(later, points[2..]);
    }

    #[test]
    fn a_job_that_has_nothing_left_ends() {
        let text = "plan = [{ mode = \"systematic\" }]\n[guest]\ndriver = \"a.sys\"";
        let job = Job::new(&JobFile::parse(text).unwrap(), text, Path::new("/"), "x").unwrap();
        assert_eq!(all(&job, Shard::WHOLE, &[], &[]).len(), 192);
    }
}
