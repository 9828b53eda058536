//! StorPortSpinLock4: no release of a port driver's lock that was not acquired.

use crate::finding::{Cause, Verdict};
use crate::matching::Facts;
use crate::rules::pairing::judge_release;
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct SpinLock4;

const META: Meta = Meta {
    number: 3,
    name: "StorPortSpinLock4",
    text: "A miniport must not release a lock with StorPortReleaseSpinLock that it has not acquired with \
           StorPortAcquireSpinLock (or StorPortAcquireSpinLockEx) before. The release takes the handle of that acquire, \
           unchanged, and the same device extension.",
    source: "devtest/storport-storportspinlock4; storport/nf-storport-storportreleasespinlock",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[
        Cause::ReleaseWithoutAcquire,
        Cause::ReleasedTwice,
        Cause::OtherLock,
        Cause::WrongRoutine,
        Cause::WrongOwner,
        Cause::OtherHandle,
        Cause::WrongAdapter,
        Cause::ChangedHandle,
    ],
};

impl Rule for SpinLock4 {
    fn meta(&self) -> &'static Meta {
        &META
    }

    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        judge_release(RuleId::StorPortSpinLock4, facts, findings);
    }
}
