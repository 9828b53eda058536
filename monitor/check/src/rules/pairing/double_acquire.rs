//! Double acquire: the part of SpinLock, QueuedSpinLock and StorPortSpinLock that forbids taking a lock that is held
//! already.

use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts, Gap};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct DoubleAcquire;

const META: Meta = Meta {
    number: 4,
    name: "DoubleAcquire",
    text: "A spin lock must not be acquired by its holder: the second acquire waits for itself for ever.",
    source: "devtest/storport-spinlock; devtest/storport-queuedspinlock; devtest/storport-storportspinlock; \
             wdm/nf-wdm-keacquirespinlockraisetodpc",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[Cause::DoubleAcquire],
};

impl Rule for DoubleAcquire {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// An attempt that may be waiting proves nothing, and a hold that may have ended by a routine that the driver imports
    /// and that is not watched is not even a suspicion: a correct driver would raise it all the time.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Acquire(acquire) = &facts.fact else { return };
        let Some(own) = acquire.own else { return };
        if acquire.word_held == Some(false) || !facts.concerns_target {
            return;
        }
        let mut shortfall = acquire.shortfall;
        if acquire.gap == Gap::Imported || shortfall.intersects(Shortfall::DISTURBED | Shortfall::UNORDERED) {
            return;
        }
        if acquire.gap == Gap::Open {
            shortfall |= Shortfall::UNWATCHED;
        }
        let draft = findings.broken(RuleId::DoubleAcquire, facts, Cause::DoubleAcquire, shortfall);
        draft.because(Evidence::CameBack {
            event: own.since,
            proof: own.proof,
        });
        let other_name = |(held, overlap)| Evidence::Overlap { held, overlap };
        draft.evidence.extend(acquire.overlap.map(other_name));
    }
}
