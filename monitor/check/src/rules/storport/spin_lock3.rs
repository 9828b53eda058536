//! StorPortSpinLock3: the hierarchy of the port driver's locks, and those that it holds around a callback. The interrupt
//! lock comes last: code that holds it, as every callback at a device's IRQL does, may not take the lock of a DPC.

use crate::contract::Routine;
use crate::event::{DISPATCH_LEVEL, LockOperand};
use crate::finding::{Cause, Evidence, Shortfall, Verdict};
use crate::identity::DPC_LOCK;
use crate::matching::{Fact, Facts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct SpinLock3;

const META: Meta = Meta {
    number: 13,
    name: "StorPortSpinLock3",
    text: "A miniport must take the port driver's locks in the order of their hierarchy, DpcLock before InterruptLock: above \
           DISPATCH_LEVEL, in HwStorInterrupt and wherever else the interrupt lock is held, it must not acquire a DpcLock. \
           Nor may a callback acquire the lock that the port driver holds around it: StartIoLock in HwStorStartIo, \
           InterruptLock or the lock of the message in an interrupt routine.",
    source: "devtest/storport-storportspinlock3; storport/nf-storport-storportacquirespinlock",
    verdicts: &[Verdict::Semantic, Verdict::Suspect],
    causes: &[Cause::WrongIrql, Cause::HeldByPortDriver],
};

impl Rule for SpinLock3 {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// The IRQL alone tells: nothing that may take such a lock runs above `DISPATCH_LEVEL`. The StartIoLock is another matter:
    /// in the half duplex model it is the interrupt lock. An acquire by StorPortAcquireSpinLockEx is refused there, and takes
    /// nothing.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Acquire(acquire) = &facts.fact else { return };
        if let Some((callback, certain)) = acquire.held_by_port {
            let mut shortfall = Shortfall::empty();
            shortfall.set(Shortfall::PORT_MODEL, !certain);
            let draft = findings.broken(RuleId::StorPortSpinLock3, facts, Cause::HeldByPortDriver, shortfall);
            draft.because(Evidence::Callback(callback));
        }
        let LockOperand::StorPort { kind, .. } = facts.call.operand else {
            return;
        };
        let at = facts.call.context.irql;
        if facts.routine() != Routine::StorPortAcquireSpinLock
            || kind != DPC_LOCK
            || acquire.takes_nothing
            || at <= DISPATCH_LEVEL
            || !facts.site.target
        {
            return;
        }
        let draft = findings.broken(RuleId::StorPortSpinLock3, facts, Cause::WrongIrql, Shortfall::empty());
        draft.because(Evidence::Irql {
            at,
            min: 0,
            max: DISPATCH_LEVEL,
        });
    }
}
