//! SpinLockRelease (storport): no release of a spin lock that was not acquired.

use super::{Cause, Meta, Verdict};
use crate::contract::Routine;

pub(super) const META: Meta = Meta {
    number: 1,
    name: "SpinLockRelease",
    text: "A driver must not release a spin lock with KeReleaseSpinLock that it has not acquired with KeAcquireSpinLock \
           or KeAcquireSpinLockRaiseToDpc before. Every release belongs to one acquire of the same lock, by the routine \
           that the DDI page pairs it with.",
    source: "devtest/storport-spinlockrelease; wdm/nf-wdm-kereleasespinlock",
    verdicts: &[Verdict::Semantic, Verdict::Literal, Verdict::Suspect],
    causes: &[
        Cause::ReleaseWithoutAcquire,
        Cause::ReleasedTwice,
        Cause::OtherLock,
        Cause::WrongRoutine,
        Cause::WrongOwner,
        Cause::UnnamedRoutine,
    ],
};

/// Whether a legal pair is not among those that the rule itself lists: its page knows only `KeAcquireSpinLock` and
/// `KeAcquireSpinLockRaiseToDpc`, the page of `KeTryToAcquireSpinLockAtDpcLevel` allows `KeReleaseSpinLock`.
pub(super) const fn unnamed(release: Routine, acquire: Routine) -> bool {
    matches!(
        (release, acquire),
        (Routine::KeReleaseSpinLock, Routine::KeTryToAcquireSpinLockAtDpcLevel)
    )
}
