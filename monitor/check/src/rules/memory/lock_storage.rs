//! Lock storage: a spin lock lies in resident memory, which everyone who takes the lock shares.

use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct LockStorage;

const META: Meta = Meta {
    number: 12,
    name: "LockStorage",
    text: "A spin lock must lie in resident memory, such as a device extension or nonpaged pool, that all who take it \
           share: not on a kernel stack.",
    source: "wdm/nf-wdm-keinitializespinlock",
    verdicts: &[Verdict::Suspect],
    causes: &[Cause::LockOnStack],
};

impl Rule for LockStorage {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// A lock on a stack may be shared with others for as long as its function waits for them, so that it is no more than
    /// suspect.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Acquire(acquire) = &facts.fact else { return };
        if acquire.on_stack && facts.site.target {
            let (rule, cause) = (RuleId::LockStorage, Cause::LockOnStack);
            let draft = findings.add(rule, facts, cause, Verdict::Suspect, Shortfall::MAYBE_SHARED);
            draft.because(Evidence::StackPointer(facts.call.context.stack_pointer));
        }
    }
}
