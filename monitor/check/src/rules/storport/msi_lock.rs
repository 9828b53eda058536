//! StorPortMSILock: the lock of a message is there only if the driver has asked for one lock a message.

use crate::contract::{PortModel, Routine};
use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::matching::{Fact, Facts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct MsiLock;

const META: Meta = Meta {
    number: 14,
    name: "StorPortMSILock",
    text: "A miniport must not acquire the lock of a message with StorPortAcquireMSISpinLock unless it has set \
           InterruptSynchronizationMode to InterruptSynchronizePerMessage in HwStorFindAdapter.",
    source: "devtest/storport-storportmsilock; storport/nf-storport-storportacquiremsispinlock",
    verdicts: &[Verdict::Semantic],
    causes: &[Cause::WrongInterruptMode],
};

impl Rule for MsiLock {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// Only the mode of the call's own adapter counts, and only if it could be read.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Some(port) = facts.site.port.filter(|port| port.contains(PortModel::MODE_KNOWN)) else {
            return;
        };
        let acquires = matches!(facts.fact, Fact::Acquire(_)) && facts.routine() == Routine::StorPortAcquireMSISpinLock;
        if acquires && facts.site.target && !port.contains(PortModel::PER_MESSAGE) {
            let (rule, cause) = (RuleId::StorPortMSILock, Cause::WrongInterruptMode);
            let draft = findings.broken(rule, facts, cause, Shortfall::empty());
            draft.because(Evidence::NotPerMessage);
        }
    }
}
