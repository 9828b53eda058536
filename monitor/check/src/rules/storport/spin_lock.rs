//! StorPortSpinLock: an acquire that takes no lock leaves the code after it unprotected, and the release that belongs
//! to it releases a lock that is not held.

use crate::event::LockOperand;
use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct SpinLock;

const META: Meta = Meta {
    number: 10,
    name: "StorPortSpinLock",
    text: "StorPortAcquireSpinLock must be called with DpcLock and the DPC whose lock it is, or with StartIoLock or \
           InterruptLock: with anything else it takes no lock and does not say so.",
    source: "devtest/storport-storportspinlock; storport/nf-storport-storportacquirespinlock",
    verdicts: &[Verdict::Semantic],
    causes: &[Cause::AcquiresNothing],
};

impl Rule for SpinLock {
    fn meta(&self) -> &'static Meta {
        &META
    }

    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Acquire(acquire) = &facts.fact else { return };
        if let (true, LockOperand::StorPort { kind, context, .. }) = (acquire.takes_nothing, facts.call.operand) {
            let cause = Cause::AcquiresNothing;
            let draft = findings.broken(RuleId::StorPortSpinLock, facts, cause, Shortfall::empty());
            draft.because(Evidence::Operand { kind, context });
        }
    }
}
