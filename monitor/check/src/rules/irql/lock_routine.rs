//! The IRQL at which a lock routine may be called: parts of IrqlDispatch and of the routines' own pages.

use crate::contract::{LockClass, Routine, SystemModule};
use crate::event::DISPATCH_LEVEL;
use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct LockRoutine;

const META: Meta = Meta {
    number: 7,
    name: "LockRoutineIrql",
    text: "A lock routine of the kernel must be called at an IRQL that its page allows: one that raises the IRQL at \
           DISPATCH_LEVEL or below, one that goes back to an old IRQL at DISPATCH_LEVEL, the others at DISPATCH_LEVEL or \
           above.",
    source: "devtest/storport-irqldispatch; devtest/storport-irqlkereleasespinlock; the page of each routine",
    verdicts: &[Verdict::Semantic],
    causes: &[Cause::WrongIrql],
};

impl Rule for LockRoutine {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// A call that is wrong for certain by another rule is not told again: a lock that is not held is released at any IRQL.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let range = facts.row.irql;
        let at = facts.call.context.irql;
        if (range.min..=range.max).contains(&at)
            || !facts.site.target
            || matches!(facts.fact, Fact::HoldEnded(_) | Fact::StillHeld(..))
        {
            return;
        }
        // Below DISPATCH_LEVEL with interrupts off nothing can come in between either: not allowed, but not harmful.
        let masked = at < DISPATCH_LEVEL && !facts.call.context.interrupts;
        let ambiguous = matches!(&facts.fact, Fact::Release(release) if release.ambiguous);
        if documented(facts) && !masked && !ambiguous && !findings.any_semantic() {
            let draft = findings.broken(RuleId::LockRoutineIrql, facts, Cause::WrongIrql, Shortfall::empty());
            draft.because(Evidence::Irql {
                at,
                min: range.min,
                max: range.max,
            });
        }
    }
}

/// Whether the page of the routine names the range: those of the port driver's routines go by the lock, and the routines
/// for threaded DPCs by the kind of DPC.
const fn documented(facts: &Facts<'_>) -> bool {
    let by_dpc = matches!(
        facts.row.routine,
        Routine::KeAcquireSpinLockForDpc
            | Routine::KeReleaseSpinLockForDpc
            | Routine::KeAcquireInStackQueuedSpinLockForDpc
            | Routine::KeReleaseInStackQueuedSpinLockForDpc
    );
    matches!(facts.row.module, SystemModule::Ntoskrnl)
        && !matches!(facts.row.class, LockClass::InterruptSpinLock)
        && !by_dpc
}
