//! QueuedSpinLockRelease (storport): the same for in-stack queued spin locks.

use super::{Cause, Meta, Verdict};

pub(super) const META: Meta = Meta {
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
    ],
};
