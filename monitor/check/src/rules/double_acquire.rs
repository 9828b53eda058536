//! Double acquire: the part of SpinLock, QueuedSpinLock and StorPortSpinLock that forbids to take a held lock again.

use super::{Cause, Judgement, Meta, Shortfall, Verdict};

pub(super) const META: Meta = Meta {
    number: 4,
    name: "DoubleAcquire",
    text: "A spin lock must not be acquired by its holder: the second acquire waits for itself for ever.",
    source: "devtest/storport-spinlock; devtest/storport-queuedspinlock; devtest/storport-storportspinlock; \
             wdm/nf-wdm-keacquirespinlockraisetodpc",
    verdicts: &[Verdict::Semantic],
    causes: &[Cause::DoubleAcquire],
};

/// What is known when an acquire is entered by somebody who has an open acquire of the same lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcquireFacts {
    /// The earlier acquire has certainly come back with the lock, and nothing says that the hold is over.
    pub held: bool,
    /// Whether the lock word says that somebody holds the lock; `None` if it cannot be seen.
    pub word_held: Option<bool>,
    /// What is missing for a sure verdict.
    pub shortfall: Shortfall,
}

/// An attempt that may be waiting proves nothing, and a hold that may have ended unseen is not even a suspicion:
/// a correct driver would raise it all the time.
pub(crate) fn judge(facts: AcquireFacts) -> Judgement {
    if facts.held && facts.word_held != Some(false) && facts.shortfall.is_empty() {
        Judgement::broken(Cause::DoubleAcquire, Shortfall::empty())
    } else {
        Judgement::Fine
    }
}
