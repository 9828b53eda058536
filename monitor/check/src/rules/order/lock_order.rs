//! Lock order: locks that are held together are taken in the same order everywhere.

use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct LockOrder;

const META: Meta = Meta {
    number: 11,
    name: "LockOrder",
    text: "Locks that are held at the same time must be taken in the same order everywhere: two processors that take them \
           in contradicting orders wait for each other for ever.",
    source: "devtest/deadlock-detection (lock hierarchy violation); storport/nf-storport-storportacquirespinlock (lock hierarchy)",
    verdicts: &[Verdict::Suspect],
    causes: &[Cause::LockOrderInversion],
};

impl Rule for LockOrder {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// Both orders were seen, but not at the same time: something else may keep them apart.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Acquire(acquire) = &facts.fact else { return };
        if acquire.circle.is_empty() {
            return;
        }
        let (rule, cause) = (RuleId::LockOrder, Cause::LockOrderInversion);
        let draft = findings.add(rule, facts, cause, Verdict::Suspect, Shortfall::NOT_TOGETHER);
        draft
            .evidence
            .extend(acquire.circle.iter().copied().map(Evidence::Order));
    }
}
