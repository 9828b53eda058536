//! The second oracle: what the DDI pages say of one call, by who really holds the lock.
//!
//! Written from the pages of the routines (`wdm/nf-wdm-…`, `storport/nf-storport-…`) and the rules of Static Driver Verifier
//! (`devtest/storport-…`). Must know neither the checker's contract table nor its records.

use storlock_check::contract::Routine as R;

use super::locks::Holder;

/// What is wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// Nobody holds the lock that is released.
    NotHeld,
    /// Somebody else does.
    HeldByOther,
    /// It was acquired by a routine that the page does not pair with this release.
    WrongRoutine,
    /// The caller holds the lock that it waits for.
    AlreadyHeld,
    /// The caller has gone below `DISPATCH_LEVEL`, or returned, with the lock.
    PastScope,
    /// The old IRQL is not the one that the acquire returned.
    NewIrql,
    /// The handle is not the one of the acquire.
    OtherHandle,
    /// The device extension is not the one of the acquire.
    OtherAdapter,
    /// What the acquire wrote into the handle is gone.
    HandleChanged,
    /// An acquire that is documented for other kinds of lock, or needs a context.
    TakesNothing,
    /// The page does not allow this IRQL.
    WrongIrql,
    /// The lock was initialised again while it was held.
    Cleared,
    /// It is taken while one is held that comes after it in the hierarchy.
    OutOfOrder,
}

/// One call and the truth about it.
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub routine: R,
    pub irql: u8,
    /// The caller's hold of the lock.
    pub own: Option<&'a Holder>,
    /// Somebody else holds it.
    pub others: bool,
    pub handle: u64,
    pub adapter: u64,
    pub kind: u32,
    pub no_context: bool,
    /// Old IRQL of a release.
    pub given: Option<u8>,
    /// What the acquire wrote into the handle is still there.
    pub handle_intact: bool,
    /// The caller has several locks whose old IRQLs it may give back in another order.
    pub several: bool,
}

/// The first thing that is wrong with a call.
pub fn judge(call: &Call<'_>) -> Option<Broken> {
    if let Some(feeders) = feeders(call.routine) {
        return judge_release(call, feeders);
    }
    let takes_nothing = call.routine == R::StorPortAcquireSpinLock
        && (!(1..=3).contains(&call.kind) || (call.kind == 1 && call.no_context));
    if takes_nothing {
        return Some(Broken::TakesNothing);
    }
    // Nor may a shared acquire be made by a holder of the lock (`wdm/nf-wdm-exacquirespinlockshared`).
    let again = call.own.is_some();
    // It is refused, and does not wait.
    let refused = call.routine == R::StorPortAcquireSpinLockEx && call.kind <= 3 && call.irql > 2;
    if again && !refused && !tries(call.routine) {
        return Some(Broken::AlreadyHeld);
    }
    // The hierarchy of the port driver's locks: at a device's IRQL the interrupt lock is held, which comes last.
    if call.routine == R::StorPortAcquireSpinLock && call.kind == 1 && call.irql > 2 {
        return Some(Broken::WrongIrql);
    }
    (!irql_allowed(call.routine, call.irql)).then_some(Broken::WrongIrql)
}

fn judge_release(call: &Call<'_>, feeders: &[R]) -> Option<Broken> {
    let Some(own) = call.own else {
        return Some(if call.others {
            Broken::HeldByOther
        } else {
            Broken::NotHeld
        });
    };
    if !feeders.contains(&own.routine) {
        return Some(Broken::WrongRoutine);
    }
    if own.handle != 0 && own.handle != call.handle {
        return Some(Broken::OtherHandle);
    }
    if own.adapter != call.adapter {
        return Some(Broken::OtherAdapter);
    }
    if !call.handle_intact {
        return Some(Broken::HandleChanged);
    }
    if !call.several && call.given.is_some_and(|given| given != own.before) {
        return Some(Broken::NewIrql);
    }
    (!irql_allowed(call.routine, call.irql)).then_some(Broken::WrongIrql)
}

/// The acquires that the page of a release names.
const fn feeders(routine: R) -> Option<&'static [R]> {
    Some(match routine {
        R::KeReleaseSpinLock => &[R::KeAcquireSpinLockRaiseToDpc, R::KeTryToAcquireSpinLockAtDpcLevel],
        R::KeReleaseSpinLockFromDpcLevel => &[R::KeAcquireSpinLockAtDpcLevel, R::KeTryToAcquireSpinLockAtDpcLevel],
        R::KeReleaseSpinLockForDpc => &[R::KeAcquireSpinLockForDpc],
        R::KeReleaseInStackQueuedSpinLock => &[R::KeAcquireInStackQueuedSpinLock],
        R::KeReleaseInStackQueuedSpinLockFromDpcLevel => &[R::KeAcquireInStackQueuedSpinLockAtDpcLevel],
        R::KeReleaseInStackQueuedSpinLockForDpc => &[R::KeAcquireInStackQueuedSpinLockForDpc],
        R::KeReleaseInterruptSpinLock => &[R::KeAcquireInterruptSpinLock],
        R::ExReleaseSpinLockShared => &[R::ExAcquireSpinLockShared],
        R::ExReleaseSpinLockExclusive => &[R::ExAcquireSpinLockExclusive, R::ExTryConvertSharedSpinLockExclusive],
        R::ExReleaseSpinLockSharedFromDpcLevel => &[R::ExAcquireSpinLockSharedAtDpcLevel],
        R::ExReleaseSpinLockExclusiveFromDpcLevel => &[
            R::ExAcquireSpinLockExclusiveAtDpcLevel,
            R::ExTryConvertSharedSpinLockExclusive,
        ],
        R::IoReleaseCancelSpinLock => &[R::IoAcquireCancelSpinLock],
        R::StorPortReleaseSpinLock => &[R::StorPortAcquireSpinLock, R::StorPortAcquireSpinLockEx],
        R::StorPortReleaseMSISpinLock => &[R::StorPortAcquireMSISpinLock],
        _ => return None,
    })
}

const fn tries(routine: R) -> bool {
    matches!(
        routine,
        R::KeTryToAcquireSpinLockAtDpcLevel | R::ExTryConvertSharedSpinLockExclusive
    )
}

/// Whether a routine takes the lock together with others.
pub const fn shared(routine: R) -> bool {
    matches!(
        routine,
        R::ExAcquireSpinLockShared | R::ExAcquireSpinLockSharedAtDpcLevel
    )
}

/// Whether the page of a routine allows an IRQL. Those of the port driver allow any, by the kind of lock; of a refusal they
/// give a status.
const fn irql_allowed(routine: R, irql: u8) -> bool {
    match routine {
        R::KeAcquireSpinLockRaiseToDpc
        | R::KeAcquireInStackQueuedSpinLock
        | R::KeAcquireSpinLockForDpc
        | R::KeAcquireInStackQueuedSpinLockForDpc
        | R::ExAcquireSpinLockShared
        | R::ExAcquireSpinLockExclusive
        | R::IoAcquireCancelSpinLock => irql <= 2,
        R::KeAcquireSpinLockAtDpcLevel
        | R::KeTryToAcquireSpinLockAtDpcLevel
        | R::KeAcquireInStackQueuedSpinLockAtDpcLevel
        | R::ExAcquireSpinLockSharedAtDpcLevel
        | R::ExAcquireSpinLockExclusiveAtDpcLevel
        | R::ExTryConvertSharedSpinLockExclusive
        | R::KeReleaseSpinLockFromDpcLevel
        | R::KeReleaseInStackQueuedSpinLockFromDpcLevel
        | R::ExReleaseSpinLockSharedFromDpcLevel
        | R::ExReleaseSpinLockExclusiveFromDpcLevel => irql >= 2,
        R::KeReleaseSpinLock
        | R::KeReleaseInStackQueuedSpinLock
        | R::ExReleaseSpinLockShared
        | R::ExReleaseSpinLockExclusive
        | R::IoReleaseCancelSpinLock => irql == 2,
        _ => true,
    }
}
