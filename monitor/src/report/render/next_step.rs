//! What to do next about a finding, for every renderer whose output people read: where in the driver to look, and the
//! usual cause.

use storlock_check::contract::{CONTRACTS, Mode, Role, Routine, contract};

use crate::report::{Cause, Evidence, Finding, LockIdentity, LockOperand, PriorCall};

/// What to do next in the driver under test; nothing if the finding does not concern it.
pub(crate) fn next_step(v: &Finding) -> Option<String> {
    if !v.concerns_target {
        return None;
    }
    let caller = &v.caller;
    let acquire = v.evidence.iter().find_map(|evidence| match evidence {
        Evidence::Acquire(call) => Some(call),
        _ => None,
    });
    Some(match v.cause {
        Cause::ReleaseWithoutAcquire => format!(
            "look for the path to {caller} on which this lock is not acquired: an acquire that stands under another condition than \
             the release, or whose failure is not checked, or an error path that releases what it has not taken"
        ),
        Cause::ReleasedTwice => twice(v),
        Cause::WrongRoutine => wrong_routine(acquire),
        Cause::WrongOwner => format!(
            "look for the path to {caller} on which the driver does not take the lock itself: a spin lock is released by whoever \
             acquired it, on the same processor, and cannot be handed over to another thread or DPC"
        ),
        Cause::DoubleAcquire => double_acquire(v, acquire),
        Cause::ChangedHandle => changed_handle(v),
        Cause::AcquiresNothing => acquires_nothing(v),
        Cause::MissingRelease => format!(
            "look at every way out of the code behind {caller}: an early return, a goto or an error path without the release, or an \
             IRQL that is lowered by hand in its place"
        ),
        Cause::LockCleared => cleared(v),
        Cause::WrongIrql => wrong_irql(v),
        other => same_for_all(other)?.to_owned(),
    })
}

/// What does not depend on the finding.
fn same_for_all(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::OtherLock => {
            "compare what the acquire and the release are given: the lock, the message number or the handle is not \
             the same variable, or it was changed in between; the lock that was acquired stays held"
        }
        Cause::OtherHandle => {
            "release by the very handle that the acquire was given; keep it in place (or pass a pointer to it), \
             and do not copy the structure it is in while the lock is held"
        }
        Cause::WrongAdapter => {
            "give the release the device extension that the acquire was given: keep the two together where a \
             driver has several adapters"
        }
        Cause::WrongNewIrql => {
            "give the release the IRQL that this acquire returned: keep each lock's in a local variable of its \
             own, since one that is shared, as in the device extension, is overwritten by the next acquire"
        }
        Cause::LockOrderInversion => {
            "choose one order for these locks and take them in it everywhere, or release the first before \
             the second is taken; where something else keeps the two orders apart, nothing is wrong"
        }
        Cause::LockOnStack => {
            "keep the lock in the device extension or in nonpaged pool, initialise it there once, and pass a \
             pointer: a copy of a lock protects nothing"
        }
        Cause::HeldByPortDriver => {
            "do not acquire the lock here: the port driver has taken it before it called, and releases it afterwards. Code that \
             other callbacks share with this one needs a way not to take it"
        }
        Cause::WrongInterruptMode => {
            "set InterruptSynchronizationMode to InterruptSynchronizePerMessage in HwStorFindAdapter, or take the InterruptLock \
             here, which is the lock of all messages in every mode"
        }
        Cause::UnnamedRoutine
        | Cause::ReleaseWithoutAcquire
        | Cause::ReleasedTwice
        | Cause::WrongRoutine
        | Cause::WrongOwner
        | Cause::DoubleAcquire
        | Cause::ChangedHandle
        | Cause::AcquiresNothing
        | Cause::MissingRelease
        | Cause::LockCleared
        | Cause::WrongIrql => return None,
    })
}

fn twice(v: &Finding) -> String {
    let past = |event: u64| v.history.iter().find(|entry| entry.call.event == event);
    let before = v.evidence.iter().find_map(|evidence| match evidence {
        Evidence::ReleasedBefore { release, .. } => Some(&release.caller),
        Evidence::Handle(before) => past(before.released?).map(|entry| &entry.call.caller),
        _ => None,
    });
    let released = before.map_or("the lock was released before".to_owned(), |place| {
        format!("{place} has released the lock already")
    });
    format!(
        "{released}: look for the path that goes on from there to {}, such as an error path that falls into the common exit",
        v.caller
    )
}

fn wrong_routine(acquire: Option<&PriorCall>) -> String {
    let releases = acquire.map(|acquire| {
        let fitting = CONTRACTS
            .iter()
            .filter(|row| row.role == Role::Release && row.fed_by.contains(acquire.routine.0));
        let names: Vec<_> = fitting.map(|row| row.routine.name()).collect();
        format!("{}: it was acquired by {}", names.join(" or "), acquire.routine)
    });
    let releases = releases.unwrap_or_else(|| "the routine that its acquire belongs to".to_owned());
    format!("release the lock by {releases}. Another routine sets the wrong IRQL, or breaks the queue of the lock")
}

fn double_acquire(v: &Finding, acquire: Option<&PriorCall>) -> String {
    let from = acquire
        .map(|acquire| format!(", acquired from {},", acquire.caller))
        .unwrap_or_default();
    let shared = |routine: Routine| contract(routine).mode == Mode::Shared;
    let reader = shared(v.routine.0) && acquire.is_some_and(|acquire| shared(acquire.routine.0));
    let when = if reader {
        ", as soon as another one waits for the lock to write"
    } else {
        ""
    };
    format!(
        "release the lock{from} before this call; or if a function is called with the lock held, do not take it in there again: \
         as it is, the processor waits for itself{when}"
    )
}

fn changed_handle(v: &Finding) -> String {
    let handle = match v.operand {
        LockOperand::StorPortHandle { handle, .. } | LockOperand::QueuedHandle { handle, .. } => {
            format!("the handle at {handle:#x}")
        }
        _ => "the handle".to_owned(),
    };
    format!(
        "look for what wrote to {handle} since the acquire: a second acquire with it, or an initialisation of the structure it is \
         in. A debugger's watchpoint (storlock run --gdb, docs/gdb.md) stops at the write"
    )
}

fn acquires_nothing(v: &Finding) -> String {
    match v.operand {
        LockOperand::StorPort { kind: 4 | 5, .. } => {
            "take this kind of lock by StorPortAcquireSpinLockEx, which knows it; what follows here runs without a lock"
                .to_owned()
        }
        LockOperand::StorPort { kind: 1, .. } => {
            "give the acquire the STOR_DPC whose lock it is to take; what follows here runs without a lock".to_owned()
        }
        _ => {
            "give the acquire a STOR_SPINLOCK that the routine knows; what follows here runs without a lock".to_owned()
        }
    }
}

fn cleared(v: &Finding) -> String {
    let word = match v.lock {
        LockIdentity::Address(lock) => format!("the lock word at {lock:#x}"),
        _ => "the lock word".to_owned(),
    };
    format!(
        "look for what wrote to {word} between the acquire and this release: KeInitializeSpinLock, RtlZeroMemory or an \
         assignment over the structure around it, or a release without an acquire by code that was not watched. A debugger's \
         watchpoint on the word (storlock run --gdb, docs/gdb.md) stops at the write"
    )
}

fn wrong_irql(v: &Finding) -> String {
    let low = v
        .evidence
        .iter()
        .any(|evidence| matches!(evidence, Evidence::Irql { at, min, .. } if at < min));
    if low && contract(v.routine.0).role == Role::Release {
        "look for what has lowered the IRQL since the acquire, such as KeLowerIrql or the release of a lock that was taken before: \
         from there on the thread could be preempted while it had the lock"
            .to_owned()
    } else if low {
        "use the routine that raises the IRQL itself, or raise it to DISPATCH_LEVEL before: below that the thread can be preempted \
         while it has the lock, and what then runs in its place and wants the lock waits for ever"
            .to_owned()
    } else {
        "do this work in a DPC: a lock that others hold at DISPATCH_LEVEL must not be taken or released above it, where its holder \
         may be what was interrupted"
            .to_owned()
    }
}
