//! Locks of the port driver as storport.sys takes and releases them.

use super::*;

#[test]
fn interrupt_lock_that_is_not_taken_makes_nobody_its_owner() {
    // Without an interrupt object storport takes nothing, and the IRQL stays.
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x700), None);
    let next = (0, 2, 1, TARGET + 0x200, stack(1) + 0x40);
    s.quiet(next, R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x780), None);
    s.quiet(who(1, 0, 2), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x900), None);
    s.quiet(
        who(1, 0, 2),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x900, 3),
        None,
    );
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn release_by_another_adapter_is_a_defect() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x700), None);
    let found = s.call(
        who(0, 5, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xbd, 0x700, 3),
        None,
    );
    s.defect(&found, Cause::WrongAdapter);
}

#[test]
fn release_after_an_acquire_that_is_refused_for_certain_is_a_defect() {
    for (irql, kind, context) in [(5, 1, 0x500), (5, 3, 0), (0, 5, 0x500), (2, 4, 0)] {
        let mut s = Sequence::ready(&STORPORT, true);
        let acquire = stor(0xad, kind, context, 0x700);
        s.quiet(who(0, irql, 1), R::StorPortAcquireSpinLockEx, acquire, None);
        let found = s.call(
            who(0, irql, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, kind),
            None,
        );
        s.defect(&found, Cause::ReleaseWithoutAcquire);
    }
}

#[test]
fn refused_acquire_that_came_back_with_the_lock_after_all_is_believed() {
    let mut s = Sequence::ready(&STORPORT, true);
    let acquire = stor(0xad, 1, 0x500, 0x700);
    s.quiet(who(0, 5, 1), R::StorPortAcquireSpinLockEx, acquire, None);
    let call = s.number;
    s.came_back(call, who(0, 5, 1), R::StorPortAcquireSpinLockEx, acquire, 0);
    s.quiet(
        who(0, 5, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 1),
        None,
    );
}

#[test]
fn acquire_that_takes_nothing_is_a_defect_and_its_release_is_not_told_again() {
    for (kind, context) in [(4, 0x500), (5, 0x500), (1, 0), (0, 0)] {
        let mut s = Sequence::ready(&STORPORT, true);
        let acquire = stor(0xad, kind, context, 0x700);
        let found = s.call(who(0, 2, 1), R::StorPortAcquireSpinLock, acquire, None);
        s.defect(&found, Cause::AcquiresNothing);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, kind),
            None,
        );
    }
}

#[test]
fn handle_that_was_changed_while_its_lock_was_held_is_a_defect() {
    for now in [3, 0] {
        let mut s = Sequence::ready(&STORPORT, true);
        let acquire = stor(0xad, 1, 0x500, 0x700);
        s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, acquire, None);
        let release = stor_handle(0xad, 0x700, now);
        let found = s.call(who(0, 2, 1), R::StorPortReleaseSpinLock, release, None);
        s.defect(&found, Cause::ChangedHandle);
        assert!(
            !s.call(who(0, 2, 1), R::StorPortReleaseSpinLock, release, None)
                .is_empty()
        );
    }
}

#[test]
fn all_kinds_of_dpc_lock_are_one_lock() {
    let mut s = Sequence::ready(&STORPORT, true);
    for (kind, release) in [(1, 4), (5, 1)] {
        let acquire = stor(0xad, kind, 0x500, 0x700);
        s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLockEx, acquire, Some(0));
        let handle = LockOperand::StorPortHandle {
            adapter: 0xad,
            handle: 0x700,
            kind: Some(release),
            lock: Some(0x540),
        };
        s.quiet(who(0, 2, 1), R::StorPortReleaseSpinLock, handle, Some(1));
    }
    // Taken as one kind and, while it is held, as another.
    s.quiet(
        who(0, 2, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        Some(0),
    );
    let again = (0, 2, 1, TARGET + 0x300, stack(1) + 0x40);
    let found = s.call(
        again,
        R::StorPortAcquireSpinLockEx,
        stor(0xad, 5, 0x500, 0x780),
        Some(1),
    );
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn copied_handle_is_another_than_the_acquires() {
    let lock = 0xffff_c000_0000_1000;
    let set = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
    let mut s = Sequence::ready(&set, true);
    let acquire = LockOperand::Queued { lock, handle: 0x700 };
    s.quiet(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, acquire, Some(0));
    let copy = |handle| LockOperand::QueuedHandle {
        handle,
        lock: Some(lock),
    };
    let found = s.call(
        who(0, 2, 1),
        R::KeReleaseInStackQueuedSpinLock,
        copy(0x780),
        Some(0x700),
    );
    s.defect(&found, Cause::OtherHandle);
    // What the holder does then is right.
    s.quiet(
        who(0, 2, 1),
        R::KeReleaseInStackQueuedSpinLock,
        copy(0x700),
        Some(0x700),
    );

    for named in [Some(0x540), None] {
        let mut s = Sequence::ready(&STORPORT, true);
        let acquire = stor(0xad, 1, 0x500, 0x700);
        s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, acquire, None);
        let copy = LockOperand::StorPortHandle {
            adapter: 0xad,
            handle: 0xa00,
            kind: Some(1),
            lock: named,
        };
        let found = s.call(who(0, 2, 1), R::StorPortReleaseSpinLock, copy, None);
        s.defect(&found, Cause::OtherHandle);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 1),
            None,
        );
    }
}

#[test]
fn queued_release_of_an_ordinary_hold_is_the_wrong_routine_and_the_reverse() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeAcquireInStackQueuedSpinLock,
        R::KeReleaseInStackQueuedSpinLock,
    ];
    let lock = 0xffff_c000_0000_1000;
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let handle = LockOperand::QueuedHandle {
        handle: 0x700,
        lock: Some(lock),
    };
    let found = s.call(who(0, 2, 1), R::KeReleaseInStackQueuedSpinLock, handle, Some(1));
    s.defect(&found, Cause::WrongRoutine);

    let mut s = Sequence::ready(&set, true);
    let acquire = LockOperand::Queued { lock, handle: 0x700 };
    s.quiet(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, acquire, Some(0));
    let found = s.call(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(0x700));
    s.defect(&found, Cause::WrongRoutine);
}

#[test]
fn plain_acquire_after_one_that_failed_is_no_second_acquire() {
    // A port driver without StorPortAcquireSpinLockEx refuses it; the miniport falls back, with the same handle.
    for (caught, irql) in [(true, 2), (false, 2), (true, 0), (false, 0)] {
        let mut s = Sequence::ready(&STORPORT, true);
        let acquire = stor(0xad, 1, 0x500, 0x700);
        s.quiet(who(0, irql, 1), R::StorPortAcquireSpinLockEx, acquire, None);
        if caught {
            let call = s.number;
            let back = who(0, irql, 1);
            s.came_back(call, back, R::StorPortAcquireSpinLockEx, acquire, 0xc100_0002);
        }
        s.quiet(who(0, irql, 1), R::StorPortAcquireSpinLock, acquire, None);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 1),
            None,
        );
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}

/// A processor releases its DPC lock twice; another one takes it in between, and is seen to no more than enter its acquire.
#[test]
fn second_release_of_what_another_has_taken_since_is_wrong_for_certain() {
    let word = |held| Some(u64::from(held));
    let handle = |at| LockOperand::StorPortHandle {
        adapter: 0xad,
        handle: at,
        kind: Some(1),
        lock: Some(0x540),
    };
    // It waits already when the lock is released for the first time, or finds it free.
    for waits in [false, true] {
        let mut s = Sequence::ready(&STORPORT, true);
        let other = |s: &mut Sequence, held| {
            let dpc = (1, 2, 2, TARGET + 0x400, stack(8));
            s.quiet(dpc, R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x900), word(held));
        };
        s.quiet(
            who(0, 0, 1),
            R::StorPortAcquireSpinLock,
            stor(0xad, 1, 0x500, 0x700),
            word(false),
        );
        if waits {
            other(&mut s, true);
        }
        s.quiet(who(0, 2, 1), R::StorPortReleaseSpinLock, handle(0x700), word(true));
        if !waits {
            other(&mut s, false);
        }
        let found = s.call(who(0, 0, 1), R::StorPortReleaseSpinLock, handle(0x700), word(true));
        s.defect(&found, Cause::ReleasedTwice);
        // The one that has it is not to blame.
        let dpc = (1, 2, 2, TARGET + 0x420, stack(8));
        s.quiet(dpc, R::StorPortReleaseSpinLock, handle(0x900), word(true));
    }
}

/// A routine by which the caller may have acquired it is not watched.
#[test]
fn release_of_what_another_has_taken_since_is_suspect_if_an_acquire_is_not_watched() {
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = Sequence::ready(&set, false);
    s.quiet(who(1, 2, 2), set[0], LOCK, Some(0));
    let found = s.call(who(0, 2, 1), set[1], LOCK, Some(1));
    s.suspect(&found, Cause::ReleaseWithoutAcquire);
}
