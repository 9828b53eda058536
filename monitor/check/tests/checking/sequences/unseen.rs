//! Locks that are also touched in ways that are not seen: by routines of helper drivers, looked-up routines, inlined code.

use super::*;

const RAISE_AT: [R; 3] = [
    R::KeAcquireSpinLockAtDpcLevel,
    R::KeAcquireSpinLockRaiseToDpc,
    R::KeReleaseSpinLock,
];

#[test]
fn second_acquire_after_what_may_be_an_unseen_release_is_suspect() {
    for closed in [false, true] {
        let mut s = Sequence::ready(&RAISE_AT, closed);
        s.quiet(who(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
        // A helper driver may have released it; then another processor has it now, and this DPC waits for that.
        let found = s.call(who(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(1));
        if closed {
            s.defect(&found, Cause::DoubleAcquire);
        } else {
            s.suspect(&found, Cause::DoubleAcquire);
        }
    }
}

#[test]
fn thread_that_got_the_lock_after_an_unseen_release_is_its_owner() {
    let mut s = Sequence::ready(&RAISE_AT, false);
    s.quiet(who(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
    s.quiet(who(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, SECOND, Some(0));
    s.quiet(who(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    s.quiet(who(1, 2, 2), R::KeReleaseSpinLock, LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn release_of_an_unseen_acquire_over_a_waiting_thread_is_no_wrong_routine() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    let mut s = Sequence::ready(&set, false);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let dpc = (0, 2, 1, TARGET + 0x300, stack(9));
    let found = s.call(dpc, R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(1));
    s.suspect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn holder_of_a_lock_that_somebody_cleared_is_not_blamed() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let found = s.call(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(0));
    s.suspect(&found, Cause::LockCleared);
}

#[test]
fn word_that_was_contradicted_is_distrusted_for_its_own_lock_only() {
    let set = [
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLockFromDpcLevel,
        R::KeReleaseSpinLock,
        R::KeAcquireSpinLockRaiseToDpc,
    ];
    for poison in [false, true] {
        let mut s = Sequence::ready(&set, true);
        if poison {
            // Another driver zeroes its own lock while it holds it.
            let (theirs, next) = (LockOperand::Address(0x7777_0000), LockOperand::Address(0x7778_0000));
            let they = (0, 2, 5, OTHER, stack(5));
            s.quiet(they, R::KeAcquireSpinLockAtDpcLevel, theirs, Some(0));
            s.quiet(they, R::KeAcquireSpinLockAtDpcLevel, next, Some(0));
            s.quiet(they, R::KeReleaseSpinLockFromDpcLevel, theirs, Some(0));
        }
        let found = s.call(who(1, 2, 2), R::KeReleaseSpinLock, LOCK, Some(1));
        s.suspect(&found, Cause::ReleaseWithoutAcquire);
    }
}

/// The routine that is called in between to acquire it is not watched. A release that lowers the IRQL does that last, and so
/// does not end by a jump to one that leaves it alone.
#[test]
fn release_from_the_same_place_is_no_part_of_the_one_before_that_lowers_the_irql() {
    let set = [
        R::KeAcquireInStackQueuedSpinLock,
        R::KeReleaseInStackQueuedSpinLock,
        R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
        R::KeAcquireInterruptSpinLock,
        R::KeReleaseInterruptSpinLock,
    ];
    for interrupted in [false, true] {
        let mut s = Sequence::ready(&set, false);
        let (lock, handle) = (0x9000, 0x700);
        let of_handle = LockOperand::QueuedHandle {
            handle,
            lock: Some(lock),
        };
        s.quiet(who(0, 2, 1), set[0], LockOperand::Queued { lock, handle }, Some(0));
        s.quiet(who(0, 2, 1), set[1], of_handle, Some(1));
        if interrupted {
            let object = LockOperand::Interrupt(0xffff_9000_0000_3000);
            let interrupt = (0, 5, 1, TARGET + 0x400, stack(1) - 0x400);
            s.quiet(interrupt, set[3], object, None);
            assert_eq!(s.call_back_to(interrupt, set[4], object, None, Some(5)), []);
        }
        let found = s.call(who(0, 2, 1), set[2], of_handle, Some(1));
        s.suspect(&found, Cause::ReleasedTwice);
    }
}

#[test]
fn routine_that_does_its_work_by_another_has_not_come_back_at_that_ones_entry() {
    let set = [
        R::KeAcquireInterruptSpinLock,
        R::KeReleaseInterruptSpinLock,
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    let mut s = Sequence::ready(&set, true);
    let interrupt = LockOperand::Interrupt(0xffff_9000_0000_3000);
    let inside = LockOperand::Address(0xffff_9000_0000_3040);
    s.quiet(who(0, 2, 1), R::KeAcquireInterruptSpinLock, interrupt, None);
    let inner = |processor: u32, thread| (processor, 5, thread, OTHER, stack(thread) - 0x30);
    s.quiet(inner(0, 1), R::KeAcquireSpinLockAtDpcLevel, inside, Some(0));
    s.quiet(who(1, 5, 2), R::KeAcquireInterruptSpinLock, interrupt, None);
    s.quiet(inner(1, 2), R::KeAcquireSpinLockAtDpcLevel, inside, Some(1));
    s.quiet(who(0, 5, 1), R::KeReleaseInterruptSpinLock, interrupt, None);
    assert_eq!(s.outcome(), Outcome::Completed);
}
