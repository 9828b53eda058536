//! Missing release: the part of SpinLock, QueuedSpinLock and StorPortSpinLock that demands the release of a lock before
//! its scope is left.

use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts, Shown};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct MissingRelease;

const META: Meta = Meta {
    number: 5,
    name: "MissingRelease",
    text: "A driver must release every spin lock that it has acquired, and must not go below DISPATCH_LEVEL before it \
           has: neither by lowering the IRQL itself nor by leaving the routine in which it acquired the lock.",
    source: "devtest/storport-spinlock; devtest/storport-queuedspinlock; devtest/storport-storportspinlock; \
             wdm/nf-wdm-keacquirespinlockraisetodpc",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[Cause::MissingRelease],
};

impl Rule for MissingRelease {
    fn meta(&self) -> &'static Meta {
        &META
    }

    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let (ended, goes_on) = match &facts.fact {
            Fact::HoldEnded(ended) => (ended, None),
            Fact::StillHeld(hold, milliseconds) => (hold, Some(*milliseconds)),
            _ => return,
        };
        let mut shortfall = Shortfall::empty();
        shortfall.set(Shortfall::GOES_ON, goes_on.is_some());
        shortfall.set(Shortfall::UNWATCHED, !ended.certain);
        let draft = findings.broken(RuleId::MissingRelease, facts, Cause::MissingRelease, shortfall);
        let came_back = |(event, proof)| Evidence::CameBack { event, proof };
        draft.evidence.extend(ended.proof.map(came_back));
        let (event, processor, irql) = (facts.site.sequence, ended.processor, ended.irql);
        draft.because(match goes_on {
            Some(milliseconds) => Evidence::StillHeld {
                event,
                processor,
                irql,
                milliseconds,
            },
            None => match ended.shown {
                Shown::SeenLow => Evidence::SeenLow { event, processor, irql },
                Shown::Moved => Evidence::Moved { event, processor },
                Shown::CallbackOver => Evidence::DriverLeft { event, processor },
                Shown::ThreadGone => Evidence::ThreadLeft { event },
            },
        });
    }
}
