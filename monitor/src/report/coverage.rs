//! Which places of the driver under test called lock routines: plain data of a report.

use serde::{Deserialize, Serialize};

use super::finding::LockRoutine;
use super::model::Location;
use crate::windows::arguments::NotKnown;

/// The lock call sites of the driver under test, and what was seen of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Coverage {
    /// How many there are of each kind.
    pub(crate) totals: CoverageTotals,
    /// By routine and place.
    pub(crate) sites: Vec<CoveredSite>,
    /// Exports of which the driver may have calls that were not found in its code, and why.
    pub(crate) open: Vec<OpenExport>,
}

/// How many sites there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoverageTotals {
    /// All that are listed.
    pub(crate) sites: u64,
    /// Reached.
    pub(crate) reached: u64,
    /// Reached, but never before the first injected fault.
    pub(crate) only_after_fault: u64,
    /// Not reached as far as can be told, because the routine was not watched all the time.
    pub(crate) not_watched: u64,
    /// Not reached as far as can be told, because a jump leaves no return address of its own.
    pub(crate) not_told: u64,
    /// Calls in the driver's code that may be lock calls: the code does not tell. They are no sites until one is reached.
    pub(crate) perhaps: u64,
    /// Places that called lock routines and were too many to be listed.
    pub(crate) not_kept: u64,
}

/// A place that calls a lock routine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoveredSite {
    /// The routine.
    pub(crate) routine: LockRoutine,
    /// Where the call returns to; of a jump, where its function begins.
    pub(crate) place: Location,
    /// It is a jump, as the last thing that its function does.
    pub(crate) tail: bool,
    /// By what it is known.
    pub(crate) found: SiteFound,
    /// What is known of it.
    pub(crate) state: SiteState,
    /// How often it was reached.
    pub(crate) calls: u64,
    /// How often of that a fault had been injected before.
    pub(crate) after_fault: u64,
    /// The ways by which it was reached, as far as they were looked at: the first calls, then fewer and fewer.
    pub(crate) paths: Vec<CallPath>,
}

/// By what a site is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SiteFound {
    /// The driver's code has the call.
    Code,
    /// It was reached, and is not among the calls that were found in the code.
    Run,
}

/// What is known of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SiteState {
    /// It was reached.
    Reached,
    /// It was not reached.
    NotReached,
    /// It was not reached while its routine was watched, which was not all the time, or never.
    NotWatched,
    /// It was not reached as far as can be told: it is a jump, which leaves no return address of the driver, or one that is
    /// another jump's as well.
    NotTold,
}

/// A way by which a site was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallPath {
    /// The driver's callback that was running; `None`: not known, or none.
    pub(crate) callback: Option<String>,
    /// Whether a fault had been injected before.
    pub(crate) after_fault: bool,
    /// Number of the first event on this way.
    pub(crate) event: u64,
}

/// An export whose calls are not all known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenExport {
    /// Its name.
    pub(crate) export: String,
    /// Why; `None`: the driver's code was not looked at for it.
    pub(crate) reason: Option<NotKnown>,
}

impl CoverageTotals {
    /// Counts what is in a list.
    pub(crate) fn of(sites: &[CoveredSite]) -> Self {
        let in_state = |state| sites.iter().filter(|site| site.state == state).count() as u64;
        let only_after = |site: &&CoveredSite| site.calls > 0 && site.calls == site.after_fault;
        Self {
            sites: sites.len() as u64,
            reached: in_state(SiteState::Reached),
            only_after_fault: sites.iter().filter(only_after).count() as u64,
            not_watched: in_state(SiteState::NotWatched),
            not_told: in_state(SiteState::NotTold),
            ..Self::default()
        }
    }
}

impl CoveredSite {
    /// The callbacks from which it was reached, each once.
    pub(crate) fn callbacks(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.paths.iter().filter_map(|path| path.callback.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
