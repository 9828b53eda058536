//! QueuedSpinLockRelease (storport): no release of an in-stack queued spin lock that was not acquired.

use super::judge_release;
use crate::finding::{Cause, Verdict};
use crate::matching::Facts;
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct QueuedSpinLockRelease;

const META: Meta = Meta {
    number: 2,
    name: "QueuedSpinLockRelease",
    text: "A driver must not release an in-stack queued spin lock with KeReleaseInStackQueuedSpinLock that it has not \
           acquired with KeAcquireInStackQueuedSpinLock before. The release takes the handle of that acquire.",
    source: "devtest/storport-queuedspinlockrelease; wdm/nf-wdm-kereleaseinstackqueuedspinlock",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[
        Cause::ReleaseWithoutAcquire,
        Cause::ReleasedTwice,
        Cause::OtherLock,
        Cause::WrongRoutine,
        Cause::WrongOwner,
        Cause::OtherHandle,
        Cause::ChangedHandle,
    ],
};

impl Rule for QueuedSpinLockRelease {
    fn meta(&self) -> &'static Meta {
        &META
    }

    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        judge_release(RuleId::QueuedSpinLockRelease, facts, findings);
    }
}
