//! The rules: what each demands, where that is documented, and the judging of facts.
//!
//! A rule judges facts that the matching of calls has put together about one event; it keeps no state. One file a rule;
//! `docs/contributing.md` says how to add one. Must not know how the facts were found.

mod double_acquire;
mod judging;
mod queued_spin_lock_release;
mod spin_lock_release;
mod storport_spin_lock4;

use serde::{Deserialize, Serialize};

use crate::contract::LockClass;
pub use crate::finding::{
    Cause, Evidence, Finding, HandleBefore, HandleNow, HistoryEntry, Place, PriorCall, Shortfall, Signature, Step,
    Verdict, Violation,
};
pub(crate) use judging::*;

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

/// The rules by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleId {
    /// No release of an ordinary spin lock without its acquire.
    SpinLockRelease,
    /// The same for in-stack queued spin locks.
    QueuedSpinLockRelease,
    /// The same for the port driver's locks.
    StorPortSpinLock4,
    /// No acquire of a lock that the caller holds already.
    DoubleAcquire,
}

impl RuleId {
    /// All rules, by number.
    pub const ALL: [Self; 4] = [
        Self::SpinLockRelease,
        Self::QueuedSpinLockRelease,
        Self::StorPortSpinLock4,
        Self::DoubleAcquire,
    ];

    /// What is documented of the rule.
    #[must_use]
    pub const fn meta(self) -> &'static Meta {
        match self {
            Self::SpinLockRelease => &spin_lock_release::META,
            Self::QueuedSpinLockRelease => &queued_spin_lock_release::META,
            Self::StorPortSpinLock4 => &storport_spin_lock4::META,
            Self::DoubleAcquire => &double_acquire::META,
        }
    }

    /// The rule's number, for good.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.meta().number
    }

    /// The rule that governs a release of this class of lock.
    #[must_use]
    pub const fn of_release(class: LockClass) -> Self {
        match class {
            LockClass::QueuedSpinLock => Self::QueuedSpinLockRelease,
            LockClass::StorPortSpinLock | LockClass::StorPortMsiSpinLock => Self::StorPortSpinLock4,
            LockClass::SpinLock | LockClass::ExSpinLock | LockClass::InterruptSpinLock | LockClass::CancelSpinLock => {
                Self::SpinLockRelease
            }
        }
    }
}
