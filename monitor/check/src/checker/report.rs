//! What is found and counted.

use serde::{Deserialize, Serialize};

use super::{Checker, Site};
use crate::contract::Routine;
use crate::event::{CallerAttributed, LockCall};
use crate::finding::{Cause, Evidence, Finding, HandleBefore, Place, PriorCall, Shortfall, Signature, Step, Verdict};
use crate::identity::LockIdentity;
use crate::ledger::Found;
use crate::rules::RuleId;

const ROUTINES: usize = Routine::ALL.len();

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Events taken.
    pub events: u64,
    /// Calls by routine, in the order of [`Routine::ALL`].
    pub calls: [u64; ROUTINES],
    /// Those of them that return into the driver under test.
    pub target_calls: [u64; ROUTINES],
    /// Releases that belong to an acquire.
    pub matched: u64,
    /// Calls that another lock routine made to do its work.
    pub nested: u64,
    /// Releases of which nothing could be said: the lock may have been held before the watch began.
    pub unknown_releases: u64,
    /// Sequence numbers that did not increase.
    pub out_of_order: u64,
    /// Events that make no sense, e.g. a processor that is none.
    pub ignored: u64,
    /// Modules seen.
    pub modules: u64,
    /// Faults injected.
    pub faults: u64,
    /// Locks whose memory was freed while an acquire was open.
    pub freed_while_acquired: u64,
    /// Acquires that were over without a release being seen.
    pub holds_lost: u64,
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
    pub unreadable_handles: u64,
    /// Lock words that were clear although the lock was certainly held.
    pub words_contradicted: u64,
    /// Distinct violations that were only counted.
    pub violations_not_kept: u64,
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
    pub fn target_lock_calls(&self) -> u64 {
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
        } else if statistics.target_suspects > 0 || !complete {
            Outcome::Inconclusive
        } else if statistics.target_lock_calls() == 0 {
            Outcome::NotApplicable
        } else {
            Outcome::Completed
        }
    }

    /// Adds to a lock's history.
    pub(super) fn note(&mut self, place: u32, call: PriorCall, step: Step) {
        if let Some(lock) = self.locks.at_mut(place) {
            self.core.statistics.history_evicted += u64::from(lock.history.push(call, step));
        }
    }

    /// A finding without its witnesses.
    pub(super) fn draft(
        &self,
        site: Site,
        call: &LockCall,
        lock: LockIdentity,
        rule: RuleId,
        (verdict, cause, shortfall): (Verdict, Cause, Shortfall),
    ) -> Draft {
        Draft {
            rule,
            verdict,
            cause,
            shortfall,
            concerns_target: site.target || self.locks.get(&lock).is_some_and(|lock| lock.target),
            lock,
            sequence: site.sequence,
            call: *call,
            call_sequence: site.sequence,
            named: cause,
            acquire: None,
            holder: None,
            also_acquired: None,
            released_before: None,
            handle_before: None,
            told: Vec::new(),
        }
    }

    /// Keeps a finding, or counts it if it is known.
    pub(super) fn report(&mut self, draft: Draft, place: u32) -> Found {
        let finding = draft.finding();
        let lock = self.locks.at(place).filter(|_| known_lock(&finding));
        let found = self.ledger.report(finding, &self.core.modules, |finding| {
            // The past of a lock that the call may not be about would only mislead.
            if let Some(lock) = lock {
                finding.history = lock.history.newest_first().copied().collect();
                finding.history.reverse();
                finding.history_evicted = lock.history.evicted();
            }
        });
        self.tally();
        found
    }

    /// More is known of who made the last call.
    pub(super) fn caller_attributed(&mut self, told: &CallerAttributed) -> Vec<Found> {
        let (found, claimed) = self.ledger.attribute(told, &self.core.modules);
        for (lock, _) in claimed {
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
        statistics.violations_not_kept = self.ledger.not_kept;
    }
}

/// A finding that is being made.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) rule: RuleId,
    pub(super) verdict: Verdict,
    pub(super) cause: Cause,
    pub(super) shortfall: Shortfall,
    pub(super) concerns_target: bool,
    pub(super) lock: LockIdentity,
    pub(super) sequence: u64,
    pub(super) call: LockCall,
    pub(super) call_sequence: u64,
    /// The cause as it was judged, before it was named more closely.
    pub(super) named: Cause,
    pub(super) acquire: Option<PriorCall>,
    pub(super) holder: Option<PriorCall>,
    pub(super) also_acquired: Option<(LockIdentity, u64)>,
    pub(super) released_before: Option<(PriorCall, bool)>,
    pub(super) handle_before: Option<HandleBefore>,
    /// What a rule says besides.
    pub(super) told: Vec<Evidence>,
}

impl Draft {
    fn finding(self) -> Finding {
        let signature = Signature {
            rule: self.rule,
            cause: self.named.family(),
            routine: self.call.routine,
            site: Place::default(),
            frames: Default::default(),
        };
        let mut evidence: Vec<Evidence> = self.call.word.map(Evidence::Word).into_iter().collect();
        evidence.push(self.acquire.map_or(Evidence::NoAcquire, Evidence::Acquire));
        evidence.extend(self.holder.map(Evidence::Holder));
        evidence.extend(self.handle_before.map(Evidence::Handle));
        evidence.extend(
            self.released_before
                .map(|(release, certain)| Evidence::ReleasedBefore { release, certain }),
        );
        evidence.extend(
            self.also_acquired
                .map(|(lock, acquire)| Evidence::AlsoAcquired { lock, acquire }),
        );
        evidence.extend(self.told);
        Finding {
            rule: self.rule,
            verdict: self.verdict,
            cause: self.cause,
            shortfall: self.shortfall,
            concerns_target: self.concerns_target,
            signature,
            count: 1,
            lock: self.lock,
            sequence: self.sequence,
            call: self.call,
            call_sequence: self.call_sequence,
            evidence,
            history: Vec::new(),
            history_evicted: 0,
        }
    }
}

/// Whether a finding says which lock it is about.
fn known_lock(finding: &Finding) -> bool {
    !matches!(finding.lock, LockIdentity::Handle(_)) || finding.handle_before().is_none()
}
