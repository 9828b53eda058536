//! IrqlKeReleaseSpinLock (storport): a release restores the IRQL from before the acquire.

use crate::contract::{IrqlAfter, Routine, contract};
use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts, Pairing, Restored};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct KeReleaseSpinLock;

const META: Meta = Meta {
    number: 6,
    name: "IrqlKeReleaseSpinLock",
    text: "The NewIrql that a driver passes to KeReleaseSpinLock, or to another release that takes one, must be the IRQL \
           that the acquire returned.",
    source: "devtest/storport-irqlkereleasespinlock; wdm/nf-wdm-kereleasespinlock; the page of each release",
    verdicts: &[Verdict::Semantic],
    causes: &[Cause::WrongNewIrql],
};

impl Rule for KeReleaseSpinLock {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// Two locks that are released in the order in which they were taken swap their old IRQLs, which is not wrong. A driver
    /// that has raised the IRQL to `DISPATCH_LEVEL` by itself may have the release lower it, which does no harm: that is not
    /// told, but makes the outcome Inconclusive.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Release(release) = &facts.fact else { return };
        let (Some(given), Some(record)) = (facts.call.old_irql, release.record) else {
            return;
        };
        let judged = matches!(
            facts.routine(),
            Routine::KeReleaseSpinLock
                | Routine::ExReleaseSpinLockShared
                | Routine::ExReleaseSpinLockExclusive
                | Routine::IoReleaseCancelSpinLock
                | Routine::KeReleaseInterruptSpinLock
                | Routine::StorPortReleaseMSISpinLock
        );
        let own = release.pairing == Pairing::Own && record.fits && (record.certain || record.only) && record.target;
        let raised = matches!(
            contract(record.call.routine).irql.after,
            IrqlAfter::Dispatch | IrqlAfter::AtLeastDispatch
        );
        let before = record.call.context.irql;
        if !judged || !own || !raised || !facts.site.target || release.irql != Restored::Wrong {
            return;
        }
        let upset = Shortfall::DISTURBED | Shortfall::CONTRADICTED;
        if !release.shortfall.intersects(upset) {
            let (rule, cause) = (RuleId::IrqlKeReleaseSpinLock, Cause::WrongNewIrql);
            let draft = findings.broken(rule, facts, cause, Shortfall::empty());
            draft.because(Evidence::NewIrql { given, before });
        }
    }
}
