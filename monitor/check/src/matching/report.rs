//! What is found and counted.

use serde::{Deserialize, Serialize};

use super::facts::{Fact, Facts};
use super::open_questions::{OpenQuestion, OpenQuestions};
use super::record::Record;
use crate::checker::Checker;
use crate::contract::Routine;
use crate::event::CallerAttributed;
use crate::finding::{Cause, PriorCall, Step};
use crate::ledger::Found;
use crate::rules;

const ROUTINES: usize = Routine::ALL.len();

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Events taken.
    pub events: u64,
    /// Calls by routine, in the order of [`Routine::ALL`].
    pub calls: [u64; ROUTINES],
    /// Those of them that return into the driver under test.
    pub(crate) target_calls: [u64; ROUTINES],
    /// Releases that belong to an acquire.
    pub matched: u64,
    /// Calls that another lock routine made to do its work.
    pub nested: u64,
    /// Releases of which nothing could be said: the lock may have been held before the watch began.
    pub unknown_releases: u64,
    /// Events that make no sense, e.g. a processor that is none.
    pub ignored: u64,
    /// Modules seen.
    pub modules: u64,
    /// Faults injected.
    pub faults: u64,
    /// Locks that were forgotten for want of room; only history was lost.
    pub idle_locks_evicted: u64,
    /// Locks that were forgotten with an open acquire.
    pub acquired_locks_evicted: u64,
    /// Handles that were forgotten.
    pub handles_evicted: u64,
    /// Open acquires that were forgotten: too many of one lock.
    pub records_evicted: u64,
    /// Events of a lock's history that were replaced by younger ones.
    pub history_evicted: u64,
    /// Distinct findings that were only counted.
    pub findings_not_kept: u64,
    /// Verdicts about the driver under test, repetitions included.
    pub target_violations: u64,
    /// What is not known of it.
    pub(crate) open: OpenQuestions,
}

impl Statistics {
    /// Lock calls of all routines.
    #[must_use]
    pub fn lock_calls(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// What is not known of the driver under test: each kind that has occurred, and how often.
    pub fn open_questions(&self) -> impl Iterator<Item = (OpenQuestion, u64)> + '_ {
        self.open.asked()
    }

    /// How often something of that kind is not known of the driver under test.
    #[must_use]
    pub const fn open(&self, question: OpenQuestion) -> u64 {
        self.open.count(question)
    }

    /// Lock calls that return into the driver under test.
    #[must_use]
    pub(crate) fn target_lock_calls(&self) -> u64 {
        self.target_calls.iter().sum()
    }
}

/// How a run ended, in the terms of Static Driver Verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// No violation, and the evidence was never short.
    Completed,
    /// The driver under test broke a rule.
    Defect,
    /// The driver under test never called a watched lock routine.
    NotApplicable,
    /// No violation, but something could not be judged.
    Inconclusive,
}

impl Checker {
    /// The outcome so far. `complete`: the events are all there were, from arming to the end of the run.
    #[must_use]
    pub fn outcome(&self, complete: bool) -> Outcome {
        let statistics = &self.core.statistics;
        if statistics.target_violations > 0 {
            Outcome::Defect
        } else if !complete || statistics.open_questions().next().is_some() {
            Outcome::Inconclusive
        } else if statistics.target_lock_calls() == 0 {
            Outcome::NotApplicable
        } else {
            Outcome::Completed
        }
    }

    /// Something is not known of the driver under test.
    pub(crate) const fn ask(&mut self, question: OpenQuestion, times: u64) {
        self.core.statistics.open.add(question, times);
    }

    /// Adds to a lock's history.
    pub(crate) fn note(&mut self, place: u32, call: PriorCall, step: Step) {
        if let Some(lock) = self.locks.at_mut(place) {
            let evicted = lock.history.push(&call, step, lock.target);
            self.core.statistics.history_evicted += u64::from(evicted);
        }
    }

    /// Has the rules judge an event, and keeps what they find; adds that to `found`. `record`: the acquire that a release
    /// was matched with.
    pub(crate) fn judge(&mut self, facts: &Facts<'_>, place: u32, record: Option<&Record>, found: &mut Vec<Found>) {
        let mut drafts = rules::Findings::default();
        rules::observe(facts, &mut drafts);
        if drafts.is_empty() {
            return;
        }
        for mut draft in drafts.into_list() {
            let paired = matches!(facts.fact, Fact::Release(_));
            if paired && matches!(draft.cause, Cause::ReleaseWithoutAcquire | Cause::WrongOwner) {
                if let Some(lock) = self.locks.at(place) {
                    self.name(&mut draft, lock, record);
                }
            }
            let finding = draft.finding(facts);
            let caller = finding.call.context.return_address;
            if !self.core.rules.applies(finding.rule, self.core.modules.name(caller)) {
                // The call has been judged, but nobody wants to know.
                found.push(Found {
                    verdict: finding.verdict,
                    index: None,
                    first: false,
                    concerns_target: false,
                });
                continue;
            }
            let known_lock =
                !matches!(finding.lock, crate::identity::LockIdentity::Handle(_)) || finding.handle_before().is_none();
            // The past of a lock that the call may not be about would only mislead.
            let lock = self.locks.at(place).filter(|_| known_lock);
            found.push(self.ledger.report(finding, &self.core.modules, |finding| {
                if let Some(lock) = lock {
                    finding.history = lock.history.newest_first().collect();
                    finding.history.reverse();
                    finding.history_evicted = lock.history.evicted();
                }
            }));
        }
        self.tally();
    }

    /// More is known of who made the last call.
    pub(crate) fn caller_attributed(&mut self, told: &CallerAttributed) -> Vec<Found> {
        let (found, mut claimed) = self.ledger.attribute(told, &self.core.modules);
        let unclaimed = self
            .core
            .unclaimed
            .take_if(|(call, _)| told.target && *call == told.call);
        if let Some((_, lock)) = unclaimed {
            self.ask(OpenQuestion::UnknownReleases, 1);
            claimed.push(lock);
        }
        for lock in claimed {
            if let Some(lock) = self.locks.get_mut(&lock) {
                lock.target = true;
            }
        }
        self.tally();
        found
    }

    fn tally(&mut self) {
        let (tally, statistics) = (self.ledger.tally(), &mut self.core.statistics);
        statistics.target_violations = tally.semantic;
        statistics.open.set(OpenQuestion::SuspectCalls, tally.suspect);
        statistics.findings_not_kept = self.ledger.not_kept;
    }
}
