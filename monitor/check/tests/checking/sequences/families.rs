//! Families of routines that meet at one lock, and calls that are right in one family and wrong in another.

use super::*;

/// All routines of the kernel that take a lock by its address or by a handle.
const ALL: [R; 20] = [
    R::KeAcquireSpinLockRaiseToDpc,
    R::KeReleaseSpinLock,
    R::KeAcquireSpinLockAtDpcLevel,
    R::KeReleaseSpinLockFromDpcLevel,
    R::KeTryToAcquireSpinLockAtDpcLevel,
    R::KeAcquireInStackQueuedSpinLock,
    R::KeReleaseInStackQueuedSpinLock,
    R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
    R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
    R::KeAcquireSpinLockForDpc,
    R::KeReleaseSpinLockForDpc,
    R::ExAcquireSpinLockShared,
    R::ExReleaseSpinLockShared,
    R::ExAcquireSpinLockExclusive,
    R::ExReleaseSpinLockExclusive,
    R::ExAcquireSpinLockSharedAtDpcLevel,
    R::ExReleaseSpinLockSharedFromDpcLevel,
    R::ExAcquireSpinLockExclusiveAtDpcLevel,
    R::ExReleaseSpinLockExclusiveFromDpcLevel,
    R::ExTryConvertSharedSpinLockExclusive,
];
const ADDRESS: u64 = 0xffff_c000_0000_1000;
const INTERRUPT: LockOperand = LockOperand::Interrupt(0xffff_9000_0000_3000);

fn all() -> Sequence {
    Sequence::armed(WatchSet {
        closed: true,
        watched: RoutineSet::ALL,
        imported: RoutineSet::of(&ALL),
        ..watch(&ALL)
    })
    .seen_low()
}

impl Sequence {
    fn seen_low(mut self) -> Self {
        self.low(0);
        self.low(1);
        self
    }
}

const fn named(handle: u64, lock: u64) -> LockOperand {
    LockOperand::QueuedHandle {
        handle,
        lock: Some(lock),
    }
}

#[test]
fn spin_lock_and_reader_writer_lock_have_their_own_releases() {
    for (acquire, release, word) in [
        (R::ExAcquireSpinLockExclusive, R::KeReleaseSpinLock, 1 << 31),
        (R::ExAcquireSpinLockShared, R::KeReleaseSpinLock, 1),
        (R::KeAcquireSpinLockRaiseToDpc, R::ExReleaseSpinLockExclusive, 1),
        (R::KeAcquireSpinLockRaiseToDpc, R::ExReleaseSpinLockShared, 1),
        (R::KeAcquireSpinLockForDpc, R::KeReleaseSpinLock, 1),
        (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLockForDpc, 1),
        (
            R::ExAcquireSpinLockExclusive,
            R::ExReleaseSpinLockExclusiveFromDpcLevel,
            1 << 31,
        ),
    ] {
        let mut s = all();
        s.quiet(who(0, 0, 1), acquire, LOCK, Some(0));
        let found = s.call(who(0, 2, 1), release, LOCK, Some(word));
        s.defect(&found, Cause::WrongRoutine);
    }
}

#[test]
fn lock_that_is_held_by_one_family_is_waited_for_in_another_for_ever() {
    let handle = stack(1) - 0x40;
    let queued = LockOperand::Queued { lock: ADDRESS, handle };
    for (first, second, operand) in [
        (
            R::KeAcquireSpinLockAtDpcLevel,
            R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
            queued,
        ),
        (
            R::KeAcquireSpinLockAtDpcLevel,
            R::ExAcquireSpinLockSharedAtDpcLevel,
            LOCK,
        ),
        (
            R::ExAcquireSpinLockSharedAtDpcLevel,
            R::KeAcquireSpinLockAtDpcLevel,
            LOCK,
        ),
    ] {
        let mut s = all();
        s.quiet(who(0, 2, 1), first, LOCK, Some(0));
        let found = s.call((0, 2, 1, TARGET + 0x240, stack(1)), second, operand, Some(1));
        s.defect(&found, Cause::DoubleAcquire);
    }
}

#[test]
fn lock_of_a_stor_dpc_that_the_kernels_routine_releases_leaves_the_outcome_open() {
    // Word and handle are those of one lock, which has two names here.
    let mut s = all();
    s.quiet(
        who(0, 2, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        Some(0),
    );
    let word = LockOperand::Address(0x540);
    let found = s.call(who(0, 2, 1), R::KeReleaseSpinLockFromDpcLevel, word, Some(1));
    s.suspect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn lock_of_an_interrupt_that_the_kernels_routine_releases_leaves_the_outcome_open() {
    let mut s = all();
    s.quiet(who(0, 0, 1), R::KeAcquireInterruptSpinLock, INTERRUPT, None);
    let word = LockOperand::Address(0xffff_9000_0000_3040);
    let found = s.call(who(0, 5, 1), R::KeReleaseSpinLockFromDpcLevel, word, Some(1));
    s.suspect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn try_that_got_the_lock_is_released_by_the_routines_of_its_page_only() {
    for (release, right) in [
        (R::KeReleaseSpinLockFromDpcLevel, true),
        (R::KeReleaseSpinLockForDpc, false),
        (R::ExReleaseSpinLockExclusiveFromDpcLevel, false),
    ] {
        let mut s = all();
        s.quiet(who(0, 2, 1), R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, Some(0));
        s.came_back(s.number, who(0, 2, 1), R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, 1);
        let found = s.call(who(0, 2, 1), release, LOCK, Some(1));
        if right {
            assert!(found.is_empty());
            assert_eq!(s.outcome(), Outcome::Completed);
        } else {
            s.defect(&found, Cause::WrongRoutine);
        }
    }
}

#[test]
fn try_that_may_have_failed_is_not_blamed_for_sure_when_another_has_the_lock() {
    let mut s = all();
    s.quiet(who(1, 2, 2), R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
    s.quiet(who(1, 2, 2), R::KeAcquireSpinLockAtDpcLevel, SECOND, Some(0));
    s.quiet(who(0, 2, 1), R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, Some(1));
    let found = s.call(who(0, 2, 1), R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(1));
    s.suspect(&found, Cause::WrongOwner);
}

#[test]
fn port_drivers_acquire_that_came_back_with_an_error_has_nothing_to_release() {
    let mut s = Sequence::ready(&STORPORT, true);
    let acquire = stor(0xad, 2, 0, 0x700);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLockEx, acquire, None);
    s.came_back(
        s.number,
        who(0, 2, 1),
        R::StorPortAcquireSpinLockEx,
        acquire,
        0xc100_0006,
    );
    let found = s.call(
        who(0, 2, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 2),
        None,
    );
    s.defect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn reader_that_releases_twice_takes_the_lock_from_another_reader() {
    let mut s = all();
    s.quiet(who(0, 0, 1), R::ExAcquireSpinLockShared, LOCK, Some(0));
    s.quiet(who(1, 0, 2), R::ExAcquireSpinLockShared, LOCK, Some(1));
    s.quiet(who(0, 2, 1), R::ExReleaseSpinLockShared, LOCK, Some(2));
    let found = s.call(
        (0, 2, 1, TARGET + 0x250, stack(1)),
        R::ExReleaseSpinLockShared,
        LOCK,
        Some(1),
    );
    s.defect(&found, Cause::ReleasedTwice);
}

/// Its page forbids it, though it only waits if a writer does.
#[test]
fn reader_that_takes_the_lock_again_is_a_double_acquire_and_waits_for_nobody() {
    for (first, second, waits) in [
        (
            R::ExAcquireSpinLockSharedAtDpcLevel,
            R::ExAcquireSpinLockSharedAtDpcLevel,
            false,
        ),
        (
            R::ExAcquireSpinLockSharedAtDpcLevel,
            R::ExAcquireSpinLockExclusiveAtDpcLevel,
            true,
        ),
        (
            R::ExAcquireSpinLockExclusiveAtDpcLevel,
            R::ExAcquireSpinLockSharedAtDpcLevel,
            true,
        ),
    ] {
        let mut s = all();
        s.quiet(who(0, 2, 1), first, LOCK, Some(0));
        let found = s.call((0, 2, 1, TARGET + 0x250, stack(1)), second, LOCK, Some(1));
        s.defect(&found, Cause::DoubleAcquire);
        assert_eq!(s.finding(&found[0]).is_deadlock(), waits);
    }
}

#[test]
fn conversion_whose_return_was_not_seen_is_released_in_either_way() {
    for release in [R::ExReleaseSpinLockShared, R::ExReleaseSpinLockExclusive] {
        let mut s = all();
        s.quiet(who(0, 0, 1), R::ExAcquireSpinLockShared, LOCK, Some(0));
        s.quiet(who(0, 2, 1), R::ExTryConvertSharedSpinLockExclusive, LOCK, Some(1));
        s.quiet(who(0, 2, 1), release, LOCK, Some(1));
    }
}

#[test]
fn cancel_lock_taken_twice_waits_for_itself() {
    let mut s = Sequence::ready(&[R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock], true);
    s.quiet(who(0, 0, 1), R::IoAcquireCancelSpinLock, LockOperand::Cancel, None);
    let again = (0, 2, 1, TARGET + 0x250, stack(1));
    let found = s.call(again, R::IoAcquireCancelSpinLock, LockOperand::Cancel, None);
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn cancel_lock_is_given_back_by_the_routine_and_taken_again_by_the_driver() {
    let mut s = Sequence::ready(&[R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock], true);
    let lock = LockOperand::Cancel;
    for _ in 0..3 {
        // The I/O manager enters the cancel routine with the lock.
        let routine = (0, 2, 1, TARGET + 0x700, stack(1) - 0x300);
        assert_eq!(
            s.call_back_to(routine, R::IoReleaseCancelSpinLock, lock, None, Some(0)),
            []
        );
        s.quiet(who(0, 0, 1), R::IoAcquireCancelSpinLock, lock, None);
        assert_eq!(
            s.call_back_to(who(0, 2, 1), R::IoReleaseCancelSpinLock, lock, None, Some(0)),
            []
        );
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_that_is_given_back_to_another_irql_is_a_defect_if_its_acquire_has_come_back() {
    let message = LockOperand::Msi {
        adapter: 0xad,
        message: 1,
    };
    for (acquire, release, lock, level) in [
        (
            R::IoAcquireCancelSpinLock,
            R::IoReleaseCancelSpinLock,
            LockOperand::Cancel,
            2,
        ),
        (
            R::KeAcquireInterruptSpinLock,
            R::KeReleaseInterruptSpinLock,
            INTERRUPT,
            5,
        ),
        (R::StorPortAcquireMSISpinLock, R::StorPortReleaseMSISpinLock, message, 5),
    ] {
        for proved in [false, true] {
            let mut s = Sequence::ready(&[acquire, release, PAIR[0], PAIR[1]], true);
            s.quiet(who(0, 1, 1), acquire, lock, None);
            if proved {
                s.came_back(s.number, who(0, level, 1), acquire, lock, 0);
            }
            let (_, _, _, from, pointer) = who(0, level, 1);
            let frame = if proved { pointer } else { pointer - 0x400 };
            let found = s.call_back_to((0, level, 1, from, frame), release, lock, None, Some(0));
            if proved {
                s.defect(&found, Cause::WrongNewIrql);
            } else {
                assert_eq!(found, []);
                assert_eq!(s.outcome(), Outcome::Inconclusive);
            }
        }
    }
}

#[test]
fn threaded_dpc_at_passive_level_goes_back_to_it() {
    let mut s = all();
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockForDpc, LOCK, Some(0));
    let found = s.call_back_to(who(0, 2, 1), R::KeReleaseSpinLockForDpc, LOCK, Some(1), Some(0));
    assert_eq!(found, []);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn apc_level_before_the_acquire_is_apc_level_after_the_release() {
    for (given, right) in [(1, true), (0, false)] {
        let mut s = all();
        s.quiet(who(0, 1, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        let found = s.call_back_to(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1), Some(given));
        if right {
            assert_eq!(found, []);
        } else {
            s.defect(&found, Cause::WrongNewIrql);
        }
    }
}

#[test]
fn copy_of_a_handle_that_serves_another_lock_since_names_a_lock_that_nobody_holds() {
    let (handle, copy) = (stack(1) - 0x40, stack(1) - 0x80);
    let mut s = all();
    let queued = |lock| LockOperand::Queued { lock, handle };
    s.quiet(
        who(0, 0, 1),
        R::KeAcquireInStackQueuedSpinLock,
        queued(ADDRESS),
        Some(0),
    );
    s.quiet(
        who(0, 2, 1),
        R::KeReleaseInStackQueuedSpinLock,
        named(handle, ADDRESS),
        Some(handle),
    );
    s.quiet(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, queued(0x2000), Some(0));
    // The copy was made while the handle was the first lock's.
    let found = s.call(
        who(0, 2, 1),
        R::KeReleaseInStackQueuedSpinLock,
        named(copy, ADDRESS),
        Some(0),
    );
    s.defect(&found, Cause::OtherLock);
    s.quiet(
        who(0, 2, 1),
        R::KeReleaseInStackQueuedSpinLock,
        named(handle, 0x2000),
        Some(handle),
    );
}

#[test]
fn handle_on_the_stack_serves_both_levels_one_after_the_other() {
    let handle = stack(1) - 0x40;
    let queued = LockOperand::Queued { lock: ADDRESS, handle };
    let mut s = all();
    for _ in 0..3 {
        s.quiet(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, queued, Some(0));
        s.quiet(
            who(0, 2, 1),
            R::KeReleaseInStackQueuedSpinLock,
            named(handle, ADDRESS),
            Some(handle),
        );
        s.quiet(
            who(0, 2, 1),
            R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
            queued,
            Some(0),
        );
        let release = R::KeReleaseInStackQueuedSpinLockFromDpcLevel;
        s.quiet(who(0, 2, 1), release, named(handle, ADDRESS), Some(handle));
        s.low(0);
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// In half duplex `StartIoLock` is the interrupt lock; which it is the calls do not tell.
#[test]
fn start_io_lock_and_interrupt_lock_are_taken_in_either_mode() {
    let (start_io, interrupt) = (stor(0xad, 2, 0, 0x700), stor(0xad, 3, 0, 0x780));
    // Full duplex: one inside of the other.
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 0, 1), R::StorPortAcquireSpinLock, start_io, None);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, interrupt, None);
    s.quiet(
        who(0, 5, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x780, 3),
        None,
    );
    s.quiet(
        who(0, 2, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 2),
        None,
    );
    assert_eq!(s.outcome(), Outcome::Completed);
    // Half duplex: it raises to the device's IRQL, and is released there.
    let mut s = Sequence::ready(&STORPORT, true);
    for _ in 0..3 {
        s.quiet(who(0, 0, 1), R::StorPortAcquireSpinLock, start_io, None);
        let message = LockOperand::Msi {
            adapter: 0xad,
            message: 1,
        };
        s.quiet(who(0, 5, 1), R::StorPortAcquireMSISpinLock, message, None);
        s.quiet(who(0, 5, 1), R::StorPortReleaseMSISpinLock, message, None);
        s.quiet(
            who(0, 5, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 2),
            None,
        );
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}
