//! The rules: what each demands, where that is documented, and the code that judges facts.
//!
//! A rule judges the facts that the matching has put together about one event; it keeps no state. There is one file for
//! each rule; `docs/contributing.md` says how to add one. It must not know how the facts were found.

mod draft;
mod irql;
mod memory;
mod order;
mod pairing;
mod settings;
mod storport;

use serde::{Deserialize, Serialize};

use crate::contract::{LockClass, Role, Routine, contract};
pub use crate::finding::{
    Cause, Evidence, Finding, HandleBefore, HandleNow, HistoryEntry, Place, PriorCall, Proof, Shortfall, Signature,
    Step, Verdict,
};
use crate::matching::Facts;
pub(crate) use draft::{Draft, Findings};
pub use settings::{RuleSetting, RuleSettings};

/// What is documented of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Its number, for good: it is written into crash dumps and signatures.
    pub number: u16,
    /// Its name, as the WDK spells it where the WDK has it.
    pub name: &'static str,
    /// What it demands.
    pub text: &'static str,
    /// The documentation pages it comes from.
    pub source: &'static str,
    /// The verdicts that it can come to.
    pub verdicts: &'static [Verdict],
    /// The causes that it can name.
    pub causes: &'static [Cause],
}

/// A rule.
pub(crate) trait Rule: Sync {
    /// What is documented of it.
    fn meta(&self) -> &'static Meta;

    /// Judges what is known of one event.
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings);
}

macro_rules! registry {
    ($($(#[$doc:meta])* $id:ident => $rule:path;)*) => {
        /// The rules by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum RuleId { $($(#[$doc])* $id),* }

        impl RuleId {
            /// All rules. If an event breaks several that weigh the same, the first of them is reported first.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            const fn rule(self) -> &'static dyn Rule {
                match self { $(Self::$id => &$rule),* }
            }
        }

        /// Has every rule judge an event.
        pub(crate) fn observe(facts: &Facts<'_>, findings: &mut Findings) {
            $($rule.observe(facts, findings);)*
        }
    };
}

registry! {
    /// No release of an ordinary spin lock without its acquire.
    SpinLockRelease => pairing::SpinLockRelease;
    /// The same for in-stack queued spin locks.
    QueuedSpinLockRelease => pairing::QueuedSpinLockRelease;
    /// The same for the port driver's locks.
    StorPortSpinLock4 => storport::SpinLock4;
    /// No release of the cancel spin lock without its acquire.
    CancelSpinLock => pairing::CancelSpinLock;
    /// No acquire of a lock that the caller holds already.
    DoubleAcquire => pairing::DoubleAcquire;
    /// No lock that is held when its holder goes on below `DISPATCH_LEVEL`.
    MissingRelease => pairing::MissingRelease;
    /// No lock that is cleared while it is held.
    LockCleared => pairing::LockCleared;
    /// No acquire of a StorPort lock that takes nothing.
    StorPortSpinLock => storport::SpinLock;
    /// The order of the port driver's locks.
    StorPortSpinLock3 => storport::SpinLock3;
    /// No lock of a message without one lock a message.
    StorPortMSILock => storport::MsiLock;
    /// A release goes back to the IRQL of before the acquire.
    IrqlKeReleaseSpinLock => irql::KeReleaseSpinLock;
    /// No call of a lock routine outside of its IRQL range.
    LockRoutineIrql => irql::LockRoutine;
    /// Locks are taken in one order.
    LockOrder => order::LockOrder;
    /// A lock lies in memory that stays.
    LockStorage => memory::LockStorage;
}

impl RuleId {
    /// What is documented of the rule.
    #[must_use]
    pub fn meta(self) -> &'static Meta {
        self.rule().meta()
    }

    /// The rule's number, for good.
    #[must_use]
    pub fn number(self) -> u16 {
        self.meta().number
    }

    /// What the rule demands of a call of this routine, and the page that says so: a rule on releases names one, and holds
    /// for all releases of its class of locks.
    #[must_use]
    pub fn text_for(self, routine: Routine) -> (String, &'static str) {
        let (meta, row) = (self.meta(), contract(routine));
        let own = row.role == Role::Release && Self::of_release(row.class) == self;
        if !own || meta.text.contains(&format!("{routine} ")) {
            return (meta.text.to_owned(), meta.source);
        }
        let acquires: Vec<&str> = row.fed_by.iter().map(Routine::name).collect();
        let text = format!(
            "A driver must not release a lock with {routine} that it has not acquired with {} before.",
            acquires.join(" or ")
        );
        (text, row.source)
    }

    /// The rule that governs a release of this class of lock.
    #[must_use]
    pub(crate) const fn of_release(class: LockClass) -> Self {
        match class {
            LockClass::QueuedSpinLock => Self::QueuedSpinLockRelease,
            LockClass::StorPortSpinLock | LockClass::StorPortMsiSpinLock => Self::StorPortSpinLock4,
            LockClass::CancelSpinLock => Self::CancelSpinLock,
            LockClass::SpinLock | LockClass::ExSpinLock | LockClass::InterruptSpinLock => Self::SpinLockRelease,
        }
    }
}
