//! What is found and counted.

use serde::{Deserialize, Serialize};

use super::facts::{Fact, Facts};
use super::record::Record;
use super::state::Lost;
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
    /// Those of them that concern the driver under test.
    pub target_unknown_releases: u64,
    /// Sequence numbers that did not increase.
    pub out_of_order: u64,
    /// Events that make no sense, e.g. a processor that is none.
    pub ignored: u64,
    /// Lock calls of the driver under test among them.
    #[serde(default)]
    pub target_ignored: u64,
    /// Modules seen.
    pub modules: u64,
    /// Faults injected.
    pub faults: u64,
    /// Locks whose memory was freed while an acquire was open.
    pub(crate) freed_while_acquired: u64,
    /// Acquires that were over without a release being seen.
    pub(crate) holds_lost: u64,
    /// Those of the driver under test of which nothing was found: they may have failed, or were released unseen, or not at
    /// all; or nothing will be seen of them any more, since the memory of the lock is gone or there was no room for them.
    #[serde(default)]
    pub target_holds_lost: u64,
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
    /// StorPort acquires whose handle argument could not be read.
    pub(crate) unreadable_handles: u64,
    /// Calls that concern the driver under test and whose handle could not be read: an acquire's argument, or what is in
    /// that of a release. Which of them belong together is a guess.
    #[serde(default)]
    pub target_unreadable_handles: u64,
    /// Releases by the driver under test that go back to another IRQL than that before the acquire, and of which that is not
    /// told: whether the driver had raised it itself is not seen, or whether that acquire is their own.
    #[serde(default)]
    pub target_raises_undone: u64,
    /// Lock words that were clear although the lock was certainly held.
    pub(crate) words_contradicted: u64,
    /// Those of locks of the driver under test.
    #[serde(default)]
    pub target_words_contradicted: u64,
    /// Distinct findings that were only counted.
    pub findings_not_kept: u64,
    /// Verdicts about the driver under test, repetitions included.
    pub target_violations: u64,
    /// Suspicions about it, repetitions included.
    pub target_suspects: u64,
}

impl Statistics {
    /// Lock calls of all routines.
    #[must_use]
    pub fn lock_calls(&self) -> u64 {
        self.calls.iter().sum()
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
        } else if statistics.target_suspects > 0
            || statistics.target_unknown_releases > 0
            || statistics.target_unreadable_handles > 0
            || statistics.target_ignored > 0
            || statistics.target_holds_lost > 0
            || statistics.target_words_contradicted > 0
            || statistics.target_raises_undone > 0
            || !complete
        {
            Outcome::Inconclusive
        } else if statistics.target_lock_calls() == 0 {
            Outcome::NotApplicable
        } else {
            Outcome::Completed
        }
    }

    /// Counts acquires that are over, and nobody knows how.
    pub(crate) fn lose(&mut self, lost: Lost) {
        self.core.statistics.holds_lost += lost.all;
        self.core.statistics.target_holds_lost += lost.target;
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
            self.core.statistics.target_unknown_releases += 1;
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
        statistics.target_suspects = tally.suspect;
        statistics.findings_not_kept = self.ledger.not_kept;
    }
}
