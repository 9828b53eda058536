//! StorPortSpinLock4: the same for the port driver's locks.

use super::Rule;

pub(super) const RULE: Rule = Rule {
    name: "StorPortSpinLock4",
    text: "A miniport must not release a lock with StorPortReleaseSpinLock that it has not acquired with \
           StorPortAcquireSpinLock (or StorPortAcquireSpinLockEx) before. The release takes the handle of that acquire.",
    source: "devtest/storport-storportspinlock4; storport/nf-storport-storportreleasespinlock",
};
