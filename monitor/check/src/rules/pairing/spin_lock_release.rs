//! SpinLockRelease (storport): no release of a spin lock that was not acquired.

use super::judge_release;
use crate::contract::Routine;
use crate::finding::{Cause, Shortfall, Verdict};
use crate::matching::{Fact, Facts, Pairing};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct SpinLockRelease;

const META: Meta = Meta {
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

impl Rule for SpinLockRelease {
    fn meta(&self) -> &'static Meta {
        &META
    }

    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        judge_release(RuleId::SpinLockRelease, facts, findings);
        let Fact::Release(release) = &facts.fact else { return };
        let Some(record) = release.record.filter(|record| record.fits) else {
            return;
        };
        if release.pairing == Pairing::Own && unnamed(facts.routine(), record.call.routine) {
            let cause = Cause::UnnamedRoutine;
            findings.add(
                RuleId::SpinLockRelease,
                facts,
                cause,
                Verdict::Literal,
                Shortfall::empty(),
            );
        }
    }
}

/// Whether a legal pair is not among those that the rule itself lists: its page knows only `KeAcquireSpinLock` and
/// `KeAcquireSpinLockRaiseToDpc`, the page of `KeTryToAcquireSpinLockAtDpcLevel` allows `KeReleaseSpinLock`.
const fn unnamed(release: Routine, acquire: Routine) -> bool {
    matches!(
        (release, acquire),
        (Routine::KeReleaseSpinLock, Routine::KeTryToAcquireSpinLockAtDpcLevel)
    )
}
