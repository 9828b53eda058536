//! StorPortSpinLock4: the same for the port driver's locks.

use super::{Cause, Meta, Verdict};

pub(super) const META: Meta = Meta {
    number: 3,
    name: "StorPortSpinLock4",
    text: "A miniport must not release a lock with StorPortReleaseSpinLock that it has not acquired with \
           StorPortAcquireSpinLock (or StorPortAcquireSpinLockEx) before. The release takes the handle of that acquire.",
    source: "devtest/storport-storportspinlock4; storport/nf-storport-storportreleasespinlock",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[
        Cause::ReleaseWithoutAcquire,
        Cause::ReleasedTwice,
        Cause::OtherLock,
        Cause::WrongRoutine,
        Cause::WrongOwner,
    ],
};
