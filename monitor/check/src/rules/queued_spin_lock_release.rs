//! QueuedSpinLockRelease (storport): the same for in-stack queued spin locks.

use super::Rule;

pub(super) const RULE: Rule = Rule {
    name: "QueuedSpinLockRelease",
    text: "A driver must not release an in-stack queued spin lock with KeReleaseInStackQueuedSpinLock that it has not \
           acquired with KeAcquireInStackQueuedSpinLock before. The release takes the handle of that acquire.",
    source: "devtest/storport-queuedspinlockrelease; wdm/nf-wdm-kereleaseinstackqueuedspinlock",
};
