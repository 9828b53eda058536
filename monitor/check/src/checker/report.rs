//! What is found and counted.

use serde::{Deserialize, Serialize};

use super::{Checker, Found, Site};
use crate::contract::Routine;
use crate::event::LockCall;
use crate::identity::LockIdentity;
use crate::rules::{Cause, PriorCall, RuleId, Shortfall, Step, Verdict, Violation};

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

    fn count_for_target(&mut self, verdict: Verdict, times: u64) {
        match verdict {
            Verdict::Semantic => self.target_violations += times,
            Verdict::Suspect => self.target_suspects += times,
            Verdict::Literal => {}
        }
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

    /// A violation without its witnesses and fingerprint.
    pub(super) fn violation(
        &self,
        site: Site,
        call: &LockCall,
        lock: LockIdentity,
        rule: RuleId,
        (verdict, cause, shortfall): (Verdict, Cause, Shortfall),
    ) -> Violation {
        Violation {
            rule,
            verdict,
            cause,
            shortfall,
            concerns_target: site.target || self.locks.get(&lock).is_some_and(|lock| lock.target),
            fingerprint: 0,
            count: 1,
            lock,
            sequence: site.sequence,
            call: *call,
            acquire: None,
            holder: None,
            also_acquired: None,
            released_before: None,
            handle_before: None,
            history: Vec::new(),
            history_evicted: 0,
        }
    }

    /// Says that a violation is the driver under test's although its call returns elsewhere: a call in tail position
    /// leaves no trace of its caller in an event, but whoever sees the stopped processor may know.
    pub fn claim(&mut self, index: usize) {
        let Some(violation) = self.core.violations.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut violation.concerns_target, true) {
            return;
        }
        let (verdict, count, identity) = (violation.verdict, violation.count, violation.lock);
        self.core.statistics.count_for_target(verdict, count);
        if let Some(lock) = self.locks.get_mut(&identity) {
            lock.target = true;
        }
    }

    /// Keeps a violation, or counts it if it is known.
    pub(super) fn report(&mut self, mut violation: Violation, place: u32) -> Found {
        let core = &mut self.core;
        let verdict = violation.verdict;
        let known = core.fingerprints.get(&violation.fingerprint).copied();
        let mut concerns_target = violation.concerns_target;
        if let Some(known) = known.and_then(|index| core.violations.get_mut(index)) {
            // Once the driver under test is known to have to do with it, it had from the start.
            known.concerns_target |= concerns_target;
            concerns_target = known.concerns_target;
        }
        if concerns_target {
            core.statistics.count_for_target(verdict, 1);
        }
        if let Some(index) = known {
            if let Some(known) = core.violations.get_mut(index) {
                known.count += 1;
            }
            return Found {
                verdict,
                index: Some(index),
                first: false,
                concerns_target,
            };
        }
        if core.violations.len() >= core.limits.violations {
            core.statistics.violations_not_kept += 1;
            return Found {
                verdict,
                index: None,
                first: false,
                concerns_target,
            };
        }
        // The past of a lock that the call may not be about would only mislead.
        if let Some(lock) = self.locks.at(place).filter(|_| known_lock(&violation)) {
            violation.history = lock.history.newest_first().copied().collect();
            violation.history.reverse();
            violation.history_evicted = lock.history.evicted();
        }
        let index = core.violations.len();
        core.fingerprints.insert(violation.fingerprint, index);
        core.violations.push(violation);
        Found {
            verdict,
            index: Some(index),
            first: true,
            concerns_target,
        }
    }
}

/// Whether a violation says which lock it is about.
const fn known_lock(violation: &Violation) -> bool {
    !matches!(
        (violation.lock, violation.handle_before),
        (LockIdentity::Handle(_), Some(_))
    )
}

/// FNV-1a over what makes a cause: the same in every run on the same addresses. Taken before the cause is named more
/// closely: how a release without its acquire looks depends on what the caller happened to do before.
pub(super) fn fingerprint(violation: &Violation) -> u64 {
    let words = [
        violation.rule as u64,
        violation.verdict as u64,
        violation.cause as u64,
        violation.call.routine as u64,
        violation.call.context.return_address,
        violation.acquire.map_or(u64::MAX, |acquire| acquire.routine as u64),
    ];
    words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
