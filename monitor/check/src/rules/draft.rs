//! Builds findings while the rules judge one event.

use super::RuleId;
use crate::event::LockCall;
use crate::finding::{Cause, Evidence, Finding, Place, PriorCall, Shortfall, Signature, Verdict};
use crate::identity::LockIdentity;
use crate::matching::{Fact, Facts};

/// What the rules find in one event.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Draft>);

impl Findings {
    /// A broken rule: semantic, unless something is missing for a sure verdict.
    pub(crate) fn broken(&mut self, rule: RuleId, facts: &Facts<'_>, cause: Cause, shortfall: Shortfall) -> &mut Draft {
        let verdict = if shortfall.is_empty() {
            Verdict::Semantic
        } else {
            Verdict::Suspect
        };
        self.add(rule, facts, cause, verdict, shortfall)
    }

    /// A finding of a verdict.
    pub(crate) fn add(
        &mut self,
        rule: RuleId,
        facts: &Facts<'_>,
        cause: Cause,
        verdict: Verdict,
        shortfall: Shortfall,
    ) -> &mut Draft {
        let (acquire, holder) = match &facts.fact {
            Fact::Acquire(acquire) => (acquire.own.map(|own| *own.call), None),
            Fact::Release(release) => (release.record.map(|record| *record.call), release.holder.copied()),
            Fact::Convert | Fact::HoldEnded(_) | Fact::StillHeld(..) => (None, None),
        };
        let place = self.0.len();
        self.0.push(Draft {
            rule,
            verdict,
            cause,
            judged: cause,
            shortfall,
            lock: *facts.lock,
            call: *facts.call,
            acquire,
            holder,
            evidence: Vec::new(),
        });
        &mut self.0[place]
    }

    /// Whether one of them is certain.
    pub(crate) fn any_semantic(&self) -> bool {
        self.0.iter().any(|draft| draft.verdict == Verdict::Semantic)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_list(self) -> Vec<Draft> {
        self.0
    }
}

/// A finding that is being made.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) rule: RuleId,
    pub(crate) verdict: Verdict,
    pub(crate) cause: Cause,
    /// The cause as it was judged, before it was named more closely.
    pub(crate) judged: Cause,
    pub(crate) shortfall: Shortfall,
    pub(crate) lock: LockIdentity,
    pub(crate) call: LockCall,
    pub(crate) acquire: Option<PriorCall>,
    pub(crate) holder: Option<PriorCall>,
    /// What it rests on besides the word, the acquire and the holder.
    pub(crate) evidence: Vec<Evidence>,
}

impl Draft {
    /// Adds evidence.
    pub(crate) fn because(&mut self, evidence: Evidence) {
        self.evidence.push(evidence);
    }

    /// The finding, complete but for its history.
    pub(crate) fn finding(self, facts: &Facts<'_>) -> Finding {
        let signature = Signature {
            rule: self.rule,
            cause: self.judged.family(),
            routine: facts.routine(),
            site: Place::default(),
            frames: Default::default(),
        };
        // Where and how the routine was called does not depend on who holds the lock.
        let by_call = matches!(
            self.cause,
            Cause::WrongIrql | Cause::WrongNewIrql | Cause::LockOrderInversion | Cause::LockOnStack
        );
        let word = self.call.word.filter(|_| !by_call);
        let mut evidence: Vec<Evidence> = word.map(Evidence::Word).into_iter().collect();
        match (self.acquire, &facts.fact) {
            (Some(acquire), _) => evidence.push(Evidence::Acquire(acquire)),
            (None, Fact::Release(_)) => evidence.push(Evidence::NoAcquire),
            _ => {}
        }
        evidence.extend(self.holder.map(Evidence::Holder));
        evidence.extend(self.evidence);
        Finding {
            rule: self.rule,
            verdict: self.verdict,
            cause: self.cause,
            shortfall: self.shortfall,
            concerns_target: facts.concerns_target,
            signature,
            count: 1,
            lock: self.lock,
            sequence: facts.site.sequence,
            call: self.call,
            call_sequence: facts.call_sequence,
            evidence,
            history: Vec::new(),
            history_evicted: 0,
        }
    }
}
