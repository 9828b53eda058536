//! Lock call sites of the driver under test, and which of them the runs of a night have reached.
//!
//! Talks to nothing: the caller gives reports, or what is known of all runs. A site is named by its routine and its
//! offset in the driver, which hold for one build of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::report::{CoveredSite, Report, SiteState};

/// Sites that a report names as not reached.
const NAMED: usize = 200;

/// Names a site: the routine, and the offset in the driver.
pub(crate) type SiteKey = (String, u64);

/// What a run, or all runs of a night, have shown of the sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SiteCoverage {
    /// The sites.
    pub(crate) sites: BTreeMap<SiteKey, SiteRow>,
    /// The ways by which they were reached, each with the first run that took it.
    pub(crate) reached: BTreeMap<Path, FirstRun>,
}

/// What is known of a site, reached or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SiteRow {
    /// The function, where symbols tell it.
    pub(crate) name: String,
    /// A run could tell whether it was reached.
    pub(crate) told: bool,
}

/// A way to a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path {
    /// The site.
    pub(crate) site: SiteKey,
    /// The driver's callback that was running; empty: not known.
    pub(crate) callback: String,
    /// A fault had been injected before.
    pub(crate) after_fault: bool,
}

/// The first run of a night: whether it only repeats a case, iteration, attempt.
pub(crate) type FirstRun = (bool, u64, u32);

impl SiteCoverage {
    /// What the report of one run says, which is taken for the first one.
    #[must_use]
    pub(crate) fn of(report: &Report) -> Self {
        let mut own = Self::default();
        for site in report.coverage.iter().flat_map(|coverage| &coverage.sites) {
            let Some(offset) = site.place.offset else { continue };
            let key = (site.routine.to_string(), offset);
            own.sites.insert(key.clone(), SiteRow::of(site));
            for (callback, after_fault) in ways(site) {
                let site = key.clone();
                let path = Path {
                    site,
                    callback,
                    after_fault,
                };
                own.reached.insert(path, (false, 0, 0));
            }
        }
        own
    }

    /// The same as what that run has shown.
    #[must_use]
    pub(crate) fn of_run(mut self, iteration: u64, attempt: u32) -> Self {
        for run in self.reached.values_mut() {
            *run = (attempt > 0, iteration, attempt);
        }
        self
    }

    /// Adds what another run has shown: in whatever order runs are added, the result is the same.
    pub(crate) fn add(&mut self, other: Self) {
        for (key, row) in other.sites {
            self.sites
                .entry(key)
                .and_modify(|known| known.join(&row))
                .or_insert(row);
        }
        for (path, run) in other.reached {
            let first = self.reached.entry(path).or_insert(run);
            *first = run.min(*first);
        }
    }

    /// The first run that has reached each site.
    fn firsts(&self) -> BTreeMap<&SiteKey, FirstRun> {
        let mut firsts: BTreeMap<&SiteKey, FirstRun> = BTreeMap::new();
        for (path, run) in &self.reached {
            let first = firsts.entry(&path.site).or_insert(*run);
            *first = (*first).min(*run);
        }
        firsts
    }

    /// The sites that were reached.
    #[must_use]
    pub(crate) fn reached_sites(&self) -> BTreeSet<SiteKey> {
        self.reached.keys().map(|path| path.site.clone()).collect()
    }

    /// What a report says. `earlier`: sites that earlier nights have reached; `None` if there were none with this driver.
    #[must_use]
    pub(crate) fn told(&self, earlier: Option<&BTreeSet<SiteKey>>) -> CoverageReport {
        let firsts = self.firsts();
        let without = |key: &SiteKey| self.reached.keys().any(|path| path.site == *key && !path.after_fault);
        let mut growth: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, iteration, _) in firsts.values() {
            *growth.entry(*iteration).or_default() += 1;
        }
        let mut sum = 0;
        let growth = growth.into_iter().map(|(iteration, new)| {
            sum += new;
            GrowthPoint {
                iteration,
                reached: sum,
            }
        });
        let unreached = self.sites.iter().filter(|(key, _)| !firsts.contains_key(*key));
        let (told, untold): (Vec<_>, Vec<_>) = unreached.partition(|(_, row)| row.told);
        CoverageReport {
            sites: self.sites.len() as u64,
            reached: firsts.len() as u64,
            only_after_fault: firsts.keys().filter(|key| !without(key)).count() as u64,
            new: earlier.map(|earlier| firsts.keys().filter(|key| !earlier.contains(**key)).count() as u64),
            not_told: untold.len() as u64,
            growth: growth.collect(),
            not_reached: told.into_iter().take(NAMED).map(|(key, row)| place(key, row)).collect(),
        }
    }
}

impl SiteRow {
    fn of(site: &CoveredSite) -> Self {
        let symbol = site.place.symbol.as_ref();
        Self {
            name: symbol.map_or_else(String::new, |(name, _)| name.clone()),
            told: matches!(site.state, SiteState::Reached | SiteState::NotReached),
        }
    }

    fn join(&mut self, other: &Self) {
        self.told |= other.told;
        // Runs with symbols know more; of two names the first in the alphabet stays, whoever said it.
        if self.name.is_empty() || !other.name.is_empty() && other.name < self.name {
            self.name.clone_from(&other.name);
        }
    }
}

/// The ways to a site that a run has seen: a site that was reached has one at least.
fn ways(site: &CoveredSite) -> BTreeSet<(String, bool)> {
    let mut ways: BTreeSet<(String, bool)> = site
        .paths
        .iter()
        .map(|path| (path.callback.clone().unwrap_or_default(), path.after_fault))
        .collect();
    if ways.is_empty() && site.calls > 0 {
        ways.insert((String::new(), site.calls == site.after_fault));
    }
    ways
}

fn place((routine, offset): &SiteKey, row: &SiteRow) -> SitePlace {
    SitePlace {
        routine: routine.clone(),
        offset: *offset,
        name: row.name.clone(),
    }
}

/// The lock call sites of a night, in a job's report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoverageReport {
    /// Sites that are known.
    pub(crate) sites: u64,
    /// Sites that were reached.
    pub(crate) reached: u64,
    /// Sites that no run has reached before its first injected fault.
    pub(crate) only_after_fault: u64,
    /// Sites that no earlier night with the same driver has reached; nothing if there was none.
    pub(crate) new: Option<u64>,
    /// Sites of which no run can tell whether it reached them, and that none has.
    pub(crate) not_told: u64,
    /// How many sites had been reached by which iteration: where the number grows.
    pub(crate) growth: Vec<GrowthPoint>,
    /// Sites that no run has reached; at most 200.
    pub(crate) not_reached: Vec<SitePlace>,
}

/// How far the coverage was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrowthPoint {
    /// An iteration.
    pub(crate) iteration: u64,
    /// Sites that it or one before it has reached.
    pub(crate) reached: u64,
}

/// A lock call site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SitePlace {
    /// The routine.
    pub(crate) routine: String,
    /// Where the call returns to, as an offset in the driver; of a jump, where its function begins.
    pub(crate) offset: u64,
    /// The function, where symbols tell it.
    pub(crate) name: String,
}

impl CoverageReport {
    /// One sentence for people.
    #[must_use]
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = format!("{} of {} lock call sites reached", self.reached, self.sites);
        if self.only_after_fault > 0 {
            let _ = write!(sentence, ", {} only after an injected fault", self.only_after_fault);
        }
        if let Some(new) = self.new {
            let _ = write!(sentence, ", {new} for the first time");
        }
        if self.not_told > 0 {
            let _ = write!(sentence, ", {} of which it cannot be told", self.not_told);
        }
        sentence
    }
}

impl std::fmt::Display for SitePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at +{:#x}", self.routine, self.offset)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.name)
    }
}

#[cfg(test)]
pub(in crate::stress) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A site as its offset, whether it can be told that it is reached, and whether it was, after a fault or before.
    type Shown = (u64, bool, Option<bool>);

    /// A run that has shown these sites.
    pub(in crate::stress) fn run(iteration: u64, attempt: u32, sites: &[Shown]) -> SiteCoverage {
        let mut own = SiteCoverage::default();
        for &(offset, told, reached) in sites {
            let key = ("nt!KeReleaseSpinLock".to_owned(), offset);
            let name = format!("f{offset}");
            own.sites.insert(key.clone(), SiteRow { name, told });
            if let Some(after_fault) = reached {
                let callback = String::new();
                let path = Path {
                    site: key,
                    callback,
                    after_fault,
                };
                own.reached.insert(path, (false, 0, 0));
            }
        }
        own.of_run(iteration, attempt)
    }

    #[test]
    fn a_night_is_the_union_of_its_runs() {
        let mut night = run(0, 0, &[(1, true, Some(false)), (2, true, None), (3, false, None)]);
        night.add(run(
            4,
            0,
            &[(1, true, Some(true)), (2, true, Some(true)), (4, true, None)],
        ));
        night.add(run(2, 1, &[(2, true, Some(true))]));
        let told = night.told(None);
        assert_eq!((told.sites, told.reached, told.only_after_fault), (4, 2, 1));
        assert_eq!((told.not_told, told.new), (1, None));
        let names: Vec<&str> = told.not_reached.iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["f4"]);
        // The repetition of a case is later than any iteration.
        let growth: Vec<(u64, u64)> = told
            .growth
            .iter()
            .map(|point| (point.iteration, point.reached))
            .collect();
        assert_eq!(growth, [(0, 1), (4, 2)]);
        let earlier = run(0, 0, &[(1, true, Some(false))]).reached_sites();
        assert_eq!(night.told(Some(&earlier)).new, Some(1));
    }

    proptest! {
        #[test]
        fn the_order_of_runs_does_not_matter(
            runs in prop::collection::vec(
                (0u64..9, 0u32..3, prop::collection::vec((0u64..6, any::<bool>(), any::<Option<bool>>()), 0..6)), 0..8),
            again in 0usize..8,
        ) {
            let one = |order: &mut dyn Iterator<Item = &(u64, u32, Vec<Shown>)>| {
                let mut all = SiteCoverage::default();
                order.for_each(|(iteration, attempt, sites)| all.add(run(*iteration, *attempt, sites)));
                all
            };
            let forward = one(&mut runs.iter());
            prop_assert_eq!(&forward, &one(&mut runs.iter().rev()));
            prop_assert_eq!(&forward, &one(&mut runs.iter().chain(runs.get(again))));
        }
    }
}
