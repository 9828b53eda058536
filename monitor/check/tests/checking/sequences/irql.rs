//! IRQLs at which lock routines are called and to which they go back.

use super::*;

#[test]
fn cancel_lock_released_twice_is_a_defect() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&set, true);
    let lock = LockOperand::Cancel;
    s.quiet(who(0, 0, 1), R::IoAcquireCancelSpinLock, lock, None);
    s.quiet(who(0, 2, 1), R::IoReleaseCancelSpinLock, lock, None);
    let found = s.call(who(0, 0, 1), R::IoReleaseCancelSpinLock, lock, None);
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn cancel_routine_may_release_what_the_io_manager_acquired() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&set, true);
    let lock = LockOperand::Cancel;
    s.quiet(who(0, 0, 1), R::IoAcquireCancelSpinLock, lock, None);
    s.quiet(who(0, 2, 1), R::IoReleaseCancelSpinLock, lock, None);
    let cancel_routine = (0, 2, 1, TARGET + 0x700, stack(1) - 0x300);
    s.quiet(cancel_routine, R::IoReleaseCancelSpinLock, lock, None);
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// The I/O manager cancels one IRP after the other: its calls of cancel routines look all alike.
#[test]
fn cancel_routines_that_run_one_after_the_other_are_right() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&set, true);
    let lock = LockOperand::Cancel;
    let release = |s: &mut Sequence, site: u64, irql: u8| {
        let routine = (0, 2, 1, TARGET + site, stack(1) - 0x300);
        s.call_back_to(routine, R::IoReleaseCancelSpinLock, lock, None, Some(irql))
    };
    // The same routine at DISPATCH_LEVEL; another of the same frame size from PASSIVE_LEVEL.
    for (site, irql) in [(0x700, 2), (0x700, 2), (0x700, 0), (0x800, 0)] {
        assert_eq!(release(&mut s, site, irql), []);
    }
    assert_eq!(s.outcome(), Outcome::Completed);
    // What has acquired the lock itself and releases it twice looks otherwise.
    s.quiet(who(0, 2, 1), R::IoAcquireCancelSpinLock, lock, None);
    assert_eq!(release(&mut s, 0x700, 2), []);
    let found = release(&mut s, 0x720, 2);
    s.suspect(&found, Cause::ReleasedTwice);
}

/// The I/O manager's acquire may be seen although its release, or that of the cancel routine, is not.
#[test]
fn cancel_routine_does_not_release_a_lock_of_another() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&set, true);
    let lock = LockOperand::Cancel;
    let manager = (1, 2, 2, OTHER, stack(2));
    s.quiet(manager, R::IoAcquireCancelSpinLock, lock, None);
    let call = s.number;
    s.came_back(call, manager, R::IoAcquireCancelSpinLock, lock, 2);
    s.quiet(who(0, 2, 1), R::IoReleaseCancelSpinLock, lock, None);
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// The frame of the acquire is not left, and no return was caught: the release is proof enough, if nothing was hidden.
#[test]
fn release_in_an_inner_frame_sets_the_wrong_irql() {
    let deeper = (0, 2, 1, TARGET + 0x300, stack(1) - 0x400);
    for (all, outcome) in [(true, Outcome::Defect), (false, Outcome::Inconclusive)] {
        let mut s = Sequence::armed(WatchSet {
            watched: if all { RoutineSet::ALL } else { RoutineSet::of(&PAIR) },
            imported: RoutineSet::of(&PAIR),
            processors: 2,
            before_target: true,
            closed: all,
            ..WatchSet::default()
        });
        s.low(0);
        s.low(1);
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        s.call_back_to(deeper, PAIR[1], LOCK, Some(1), Some(2));
        assert_eq!(s.outcome(), outcome);
    }
}

#[test]
fn acquire_above_dispatch_level_and_its_release_to_another_irql_are_defects() {
    let mut s = Sequence::ready(&PAIR, true);
    let found = s.call(who(0, 9, 1), PAIR[0], LOCK, Some(0));
    s.defect(&found, Cause::WrongIrql);
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(1));
    s.defect(&found, Cause::WrongNewIrql);
}

#[test]
fn release_that_stays_at_dispatch_level_sets_the_wrong_irql() {
    for (before, given, wrong) in [(0, 2, true), (0, 1, true), (1, 0, true), (0, 0, false), (1, 1, false)] {
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, before, 1), PAIR[0], LOCK, Some(0));
        let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(given));
        assert_eq!(!found.is_empty(), wrong, "{before} {given}");
        if wrong {
            s.defect(&found, Cause::WrongNewIrql);
        }
    }
}

#[test]
fn old_irqls_may_be_swapped_between_locks_and_an_own_raise_be_undone() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[0], SECOND, Some(0));
    assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(2)), []);
    assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], SECOND, Some(1), Some(0)), []);
    s.quiet(who(0, 2, 1), PAIR[0], LOCK, Some(0));
    assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
}

#[test]
fn every_routine_of_the_kernel_has_its_range() {
    for (routine, operand, wrong) in [
        (R::KeAcquireSpinLockAtDpcLevel, LOCK, 0),
        (R::KeReleaseSpinLockFromDpcLevel, LOCK, 1),
        (R::KeReleaseSpinLock, LOCK, 5),
        (R::ExAcquireSpinLockShared, LOCK, 3),
        (R::ExAcquireSpinLockExclusiveAtDpcLevel, LOCK, 0),
        (R::ExTryConvertSharedSpinLockExclusive, LOCK, 0),
        (R::IoAcquireCancelSpinLock, LockOperand::Cancel, 4),
    ] {
        for (irql, expected) in [(wrong, true), (2, false)] {
            let mut s = Sequence::ready(RoutineSet::ALL.iter().collect::<Vec<_>>().as_slice(), true);
            let found = s.call(who(0, irql, 1), routine, operand, Some(1));
            let told = found.iter().any(|found| s.finding(found).cause == Cause::WrongIrql);
            assert_eq!(told, expected, "{routine} at {irql}");
        }
        // What the kernel does is its own business.
        let mut s = Sequence::ready(RoutineSet::ALL.iter().collect::<Vec<_>>().as_slice(), true);
        let found = s.call((0, wrong, 1, OTHER, stack(1)), routine, operand, Some(1));
        assert!(found.iter().all(|found| s.finding(found).cause != Cause::WrongIrql));
    }
}

#[test]
fn release_of_what_is_not_held_is_told_once_whatever_its_irql() {
    let mut s = Sequence::ready(&PAIR, true);
    let found = s.call(who(0, 0, 1), PAIR[1], LOCK, Some(0));
    s.defect(&found, Cause::ReleaseWithoutAcquire);
    assert_eq!(found.len(), 1);
}

#[test]
fn internal_routine_at_passive_level_with_interrupts_off_is_nobodys_mistake() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    for _ in 0..3 {
        let kernel = (0, 0, 1, OTHER, stack(1) - 0x40);
        s.quiet(kernel, R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
        s.quiet(kernel, R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(1));
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    }
}

#[test]
fn release_that_shares_its_code_is_not_judged_by_the_other_routines_irql() {
    let set = [
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLock,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    let mut s = Sequence::armed(WatchSet {
        closed: true,
        ambiguous: RoutineSet::of(&set[1..]),
        ..watch(&set)
    });
    s.low(0);
    s.quiet(who(0, 5, 1), set[0], LOCK, Some(0));
    s.quiet(who(0, 5, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn old_irql_that_is_none_is_no_other_locks() {
    // 0x12 has the low bits of the other lock's.
    for given in [0x12, 0x10, 16, 255] {
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        s.quiet(who(0, 2, 1), PAIR[0], SECOND, Some(0));
        let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(given));
        s.defect(&found, Cause::WrongNewIrql);
    }
}
