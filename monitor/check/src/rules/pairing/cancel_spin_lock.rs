//! CancelSpinLock (storport): no release of the cancel spin lock without its acquire.

use super::judge_release;
use crate::event::DISPATCH_LEVEL;
use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts, Pairing};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct CancelSpinLock;

const META: Meta = Meta {
    number: 9,
    name: "CancelSpinLock",
    text: "A driver must not release the cancel spin lock with IoReleaseCancelSpinLock that it does not hold: it has \
           acquired it with IoAcquireCancelSpinLock, or its cancel routine was entered with it, and has not released it \
           since.",
    source: "devtest/storport-cancelspinlock; wdm/nf-wdm-ioreleasecancelspinlock",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[Cause::ReleaseWithoutAcquire, Cause::ReleasedTwice, Cause::WrongOwner],
};

impl Rule for CancelSpinLock {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// A cancel routine is entered with the lock held by the I/O manager, whose acquire need not be seen. So a release
    /// without a record is wrong only where the caller cannot hold it: below `DISPATCH_LEVEL`. From the very frame of
    /// the caller's last release it looks like a second one; but not if it is the same call again, since the I/O manager
    /// cancels one IRP after the other, nor if the last one has left `DISPATCH_LEVEL`: the I/O manager has raised the
    /// IRQL again.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Release(release) = &facts.fact else { return };
        if RuleId::of_release(facts.row.class) != RuleId::CancelSpinLock {
            return;
        }
        if release.pairing != Pairing::Unmatched {
            return judge_release(RuleId::CancelSpinLock, facts, findings);
        }
        if release.half_seen || release.holder.is_some() && release.known {
            return judge_release(RuleId::CancelSpinLock, facts, findings);
        }
        let context = &facts.call.context;
        let again = release.released_before.filter(|before| {
            before.context.thread == context.thread
                && before.context.stack_pointer == context.stack_pointer
                && before.context.return_address != context.return_address
                && !release.lowered_before
        });
        let cause = Cause::ReleaseWithoutAcquire;
        if context.irql < DISPATCH_LEVEL {
            findings.broken(RuleId::CancelSpinLock, facts, cause, Shortfall::empty());
        } else if let Some(before) = again {
            let draft = findings.broken(RuleId::CancelSpinLock, facts, cause, Shortfall::UNSEEN_HOLDER);
            draft.because(Evidence::ReleasedBefore {
                release: *before,
                certain: false,
            });
        }
    }
}
