//! Classes of locks with ways of their own: reader-writer locks, tries, locks of interrupts, threaded DPCs.

use super::*;

const EX: [R; 5] = [
    R::ExAcquireSpinLockShared,
    R::ExReleaseSpinLockShared,
    R::ExAcquireSpinLockExclusive,
    R::ExReleaseSpinLockExclusive,
    R::ExTryConvertSharedSpinLockExclusive,
];
const EX_DPC: [R; 4] = [
    R::ExAcquireSpinLockSharedAtDpcLevel,
    R::ExReleaseSpinLockSharedFromDpcLevel,
    R::ExAcquireSpinLockExclusiveAtDpcLevel,
    R::ExReleaseSpinLockExclusiveFromDpcLevel,
];
const TRY: [R; 4] = [
    R::KeTryToAcquireSpinLockAtDpcLevel,
    R::KeReleaseSpinLockFromDpcLevel,
    R::KeAcquireSpinLockAtDpcLevel,
    R::KeReleaseSpinLock,
];
const INTERRUPT: [R; 2] = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock];
const INTERRUPT_OBJECT: LockOperand = LockOperand::Interrupt(0xffff_9000_0000_3000);

#[test]
fn readers_in_turn_and_a_writer_between_them_are_right() {
    let mut s = Sequence::ready(&EX, true);
    s.quiet(who(0, 0, 1), EX[0], LOCK, Some(0));
    s.quiet(who(1, 0, 2), EX[0], LOCK, Some(1));
    s.quiet(who(0, 2, 1), EX[1], LOCK, Some(2));
    s.quiet(who(0, 0, 1), EX[2], LOCK, Some(1));
    s.quiet(who(1, 2, 2), EX[1], LOCK, Some(0x8000_0001));
    s.quiet(who(0, 2, 1), EX[3], LOCK, Some(1 << 31));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn reader_that_releases_as_a_writer_is_a_wrong_routine_and_the_reverse() {
    for (acquire, release, word) in [(EX[0], EX[3], 1), (EX[2], EX[1], 1 << 31)] {
        let mut s = Sequence::ready(&EX, true);
        s.quiet(who(0, 0, 1), acquire, LOCK, Some(0));
        let found = s.call(who(0, 2, 1), release, LOCK, Some(word));
        s.defect(&found, Cause::WrongRoutine);
    }
}

#[test]
fn converted_hold_released_as_shared_is_a_wrong_routine_and_one_that_was_not_is_right() {
    for converted in [false, true] {
        let mut s = Sequence::ready(&EX, true);
        s.quiet(who(0, 0, 1), EX[0], LOCK, Some(0));
        s.quiet(who(0, 2, 1), EX[4], LOCK, Some(1));
        s.came_back(s.number, who(0, 2, 1), EX[4], LOCK, u32::from(converted));
        let found = s.call(who(0, 2, 1), EX[1], LOCK, Some(1));
        if converted {
            s.defect(&found, Cause::WrongRoutine);
        } else {
            assert!(found.is_empty());
            assert_eq!(s.outcome(), Outcome::Completed);
        }
    }
}

#[test]
fn writer_that_holds_it_as_a_reader_waits_for_itself() {
    let mut s = Sequence::ready(&EX_DPC, true);
    s.quiet(who(0, 2, 1), EX_DPC[0], LOCK, Some(0));
    let found = s.call((0, 2, 1, TARGET + 0x250, stack(1)), EX_DPC[2], LOCK, Some(1));
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn readers_of_one_processor_in_a_thread_and_its_interrupt_are_right() {
    let mut s = Sequence::ready(&EX_DPC, true);
    s.quiet(who(0, 2, 1), EX_DPC[0], LOCK, Some(0));
    let interrupt = (0, 5, 1, TARGET + 0x700, stack(1) - 0x400);
    s.quiet(interrupt, EX_DPC[0], LOCK, Some(1));
    s.quiet(interrupt, EX_DPC[1], LOCK, Some(2));
    s.quiet(who(0, 2, 1), EX_DPC[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn try_that_failed_leaves_nothing_to_release() {
    for release in [TRY[1], TRY[3]] {
        let mut s = Sequence::ready(&TRY, true);
        s.quiet(who(1, 2, 2), TRY[2], LOCK, Some(0));
        s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(1));
        s.came_back(s.number, who(0, 2, 1), TRY[0], LOCK, 0);
        let next = s.call(who(1, 2, 2), TRY[2], SECOND, Some(0));
        assert!(next.is_empty(), "shows that the other has the lock");
        let found = s.call(who(0, 2, 1), release, LOCK, Some(1));
        s.defect(&found, Cause::WrongOwner);
    }
}

#[test]
fn tries_in_a_loop_whose_returns_are_seen_are_right() {
    let mut s = Sequence::ready(&TRY, true);
    s.quiet(who(1, 2, 2), TRY[2], LOCK, Some(0));
    for _ in 0..100 {
        s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(1));
        s.came_back(s.number, who(0, 2, 1), TRY[0], LOCK, 0x1234_5600);
    }
    s.quiet(who(1, 2, 2), TRY[1], LOCK, Some(1));
    s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), TRY[0], LOCK, 1);
    s.quiet(who(0, 2, 1), TRY[1], LOCK, Some(1));
    s.low(0);
    s.low(1);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn tries_in_a_loop_whose_returns_are_not_seen_break_nothing() {
    let mut s = Sequence::ready(&TRY, true);
    for _ in 0..100 {
        s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(1));
    }
    s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), TRY[1], LOCK, Some(1));
    s.low(0);
    assert!(s.checker.findings().is_empty());
    assert_ne!(s.outcome(), Outcome::Defect);
}

#[test]
fn acquire_after_a_try_that_got_the_lock_waits_for_itself() {
    let mut s = Sequence::ready(&TRY, true);
    s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), TRY[0], LOCK, 1);
    let found = s.call(who(0, 2, 1), TRY[2], LOCK, Some(1));
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn try_for_a_lock_that_its_caller_holds_fails_and_is_no_deadlock() {
    let mut s = Sequence::ready(&TRY, true);
    s.quiet(who(0, 2, 1), TRY[2], LOCK, Some(0));
    s.quiet(who(0, 2, 1), TRY[0], LOCK, Some(1));
    s.came_back(s.number, who(0, 2, 1), TRY[0], LOCK, 0);
    s.quiet(who(0, 2, 1), TRY[1], LOCK, Some(1));
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn acquire_at_dispatch_level_released_by_the_routine_that_lowers_is_a_wrong_routine() {
    let mut s = Sequence::ready(&TRY, true);
    s.quiet(who(0, 2, 1), TRY[2], LOCK, Some(0));
    let found = s.call_back_to(who(0, 2, 1), TRY[3], LOCK, Some(1), Some(2));
    s.defect(&found, Cause::WrongRoutine);
}

#[test]
fn interrupt_lock_taken_in_a_thread_and_in_another_interrupt_is_right() {
    let mut s = Sequence::ready(&INTERRUPT, true);
    s.quiet(who(0, 0, 1), INTERRUPT[0], INTERRUPT_OBJECT, None);
    s.call_back_to(who(0, 7, 1), INTERRUPT[1], INTERRUPT_OBJECT, None, Some(0));
    let second = LockOperand::Interrupt(0xffff_9000_0000_5000);
    s.quiet(who(0, 2, 1), INTERRUPT[0], INTERRUPT_OBJECT, None);
    // A device of a higher level interrupts.
    let deeper = |irql| (0, irql, 1, TARGET + 0x720, stack(1) - 0x300);
    s.quiet(deeper(9), INTERRUPT[0], second, None);
    s.call_back_to(deeper(11), INTERRUPT[1], second, None, Some(9));
    s.call_back_to(who(0, 7, 1), INTERRUPT[1], INTERRUPT_OBJECT, None, Some(2));
    s.low(0);
    assert!(s.checker.findings().is_empty(), "{:#?}", s.checker.findings());
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn interrupt_lock_released_twice_is_a_defect() {
    let mut s = Sequence::ready(&INTERRUPT, true);
    s.quiet(who(0, 0, 1), INTERRUPT[0], INTERRUPT_OBJECT, None);
    s.call_back_to(who(0, 7, 1), INTERRUPT[1], INTERRUPT_OBJECT, None, Some(0));
    let found = s.call_back_to(
        (0, 7, 1, TARGET + 0x400, stack(1)),
        INTERRUPT[1],
        INTERRUPT_OBJECT,
        None,
        Some(0),
    );
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn pair_of_a_threaded_dpc_is_right_with_the_routines_inside_it_and_wrong_with_another_release() {
    let set = [
        R::KeAcquireSpinLockForDpc,
        R::KeReleaseSpinLockForDpc,
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLock,
    ];
    let mut s = Sequence::ready(&set, true);
    for irql in [0, 2] {
        s.quiet(who(0, irql, 1), set[0], LOCK, Some(0));
        let inside = (0, 2, 1, OTHER, stack(1) - 0x30);
        s.quiet(inside, set[2], LOCK, Some(0));
        s.call_back_to(who(0, 2, 1), set[1], LOCK, Some(1), Some(irql));
    }
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
    s.quiet(who(0, 0, 1), set[0], LOCK, Some(0));
    let found = s.call_back_to(who(0, 2, 1), set[3], LOCK, Some(1), Some(0));
    s.defect(&found, Cause::WrongRoutine);
}

#[test]
fn queued_handle_of_one_level_released_for_the_other_is_a_wrong_routine() {
    let set = [
        R::KeAcquireInStackQueuedSpinLock,
        R::KeReleaseInStackQueuedSpinLock,
        R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
        R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
    ];
    for (acquire, release, irql) in [(0, 3, 0), (2, 1, 2)] {
        let mut s = Sequence::ready(&set, true);
        let (lock, handle) = (0x9000, stack(1) - 0x40);
        s.quiet(
            who(0, irql, 1),
            set[acquire],
            LockOperand::Queued { lock, handle },
            Some(0),
        );
        let lock = Some(lock);
        let found = s.call(
            who(0, 2, 1),
            set[release],
            LockOperand::QueuedHandle { lock, handle },
            Some(1),
        );
        s.defect(&found, Cause::WrongRoutine);
    }
}

#[test]
fn queued_locks_released_in_the_order_of_their_acquires_are_right() {
    let set = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
    let mut s = Sequence::ready(&set, true);
    let [first, second] = [(0x9000, stack(1) - 0x40), (0xa000, stack(1) - 0x80)];
    for ((lock, handle), irql) in [(first, 0), (second, 2)] {
        s.quiet(who(0, irql, 1), set[0], LockOperand::Queued { lock, handle }, Some(0));
    }
    for (lock, handle) in [first, second] {
        let lock = Some(lock);
        s.quiet(
            who(0, 2, 1),
            set[1],
            LockOperand::QueuedHandle { lock, handle },
            Some(1),
        );
    }
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}
