//! Addresses that mean something else than before: freed memory, unloaded modules, a guest that was reset.

use super::*;

#[test]
fn lock_in_memory_that_another_driver_has_now_is_that_drivers() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    let found = s.call((1, 2, 7, OTHER, stack(7)), R::KeReleaseSpinLock, LOCK, Some(0));
    assert_eq!(
        s.gravest(&found),
        (Verdict::Semantic, Cause::ReleaseWithoutAcquire, false)
    );
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_of_another_driver_that_is_first_seen_taken_is_that_drivers() {
    let (they, others) = ((1, 2, 7, OTHER, stack(7)), (0, 0, 8, OTHER, stack(8)));
    for acquires in [false, true] {
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
        if acquires {
            s.quiet(others, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
        }
        s.quiet(they, R::KeReleaseSpinLock, LOCK, Some(1));
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}

#[test]
fn pair_of_the_kernel_by_its_own_routines_is_no_wrong_routine() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    for once_targets in [false, true] {
        let mut s = Sequence::ready(&set, true);
        if once_targets {
            s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
            s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
        }
        s.quiet(
            (0, 0, 5, OTHER, stack(5)),
            R::KeAcquireSpinLockRaiseToDpc,
            LOCK,
            Some(0),
        );
        let release = (0, 2, 5, OTHER + 0x10, stack(5));
        s.quiet(release, R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(1));
        let expected = if once_targets {
            Outcome::Completed
        } else {
            Outcome::NotApplicable
        };
        assert_eq!(s.outcome(), expected);
    }
}

#[test]
fn place_of_the_driver_before_a_reset_is_another_modules_after_it() {
    let mut s = Sequence::ready(&PAIR, true);
    s.event(EventKind::Restored);
    s.event(EventKind::ModuleLoad(Module {
        base: TARGET,
        size: 0x1000,
        target: false,
        name: "other.sys".into(),
    }));
    s.load_target(0x9_0000);
    s.event(EventKind::WatchSetChanged(watch(&PAIR)));
    let found = s.call(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(0));
    assert_eq!(
        s.gravest(&found),
        (Verdict::Semantic, Cause::ReleaseWithoutAcquire, false)
    );
    assert_ne!(s.outcome(), Outcome::Defect);
}

#[test]
fn locks_without_a_word_are_judged_after_a_reset_as_before() {
    for reset in [false, true] {
        let mut s = Sequence::watching(&STORPORT, true);
        if reset {
            s.event(EventKind::Restored);
            s.load_target(TARGET);
            s.event(EventKind::WatchSetChanged(watch(&STORPORT)));
        }
        s.quiet(
            who(0, 2, 1),
            R::StorPortAcquireSpinLock,
            stor(0xad, 1, 0x500, 0x700),
            None,
        );
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 1),
            None,
        );
        let found = s.call(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 1),
            None,
        );
        s.defect(&found, Cause::ReleasedTwice);
    }
}

#[test]
fn module_that_goes_takes_only_its_own_locks_along() {
    let mut s = Sequence::ready(&STORPORT, true);
    let theirs = stor(OTHER + 0x800, 1, 0x500, 0x700);
    s.quiet((0, 2, 5, OTHER, stack(5)), R::StorPortAcquireSpinLock, theirs, None);
    s.event(EventKind::ModuleUnload {
        base: OTHER,
        size: 0x1000,
    });
    for _ in 0..2 {
        let ours = stor(0xad, 1, 0x500, 0x900);
        s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, ours, None);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x900, 1),
            None,
        );
        let found = s.call(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x900, 1),
            None,
        );
        s.defect(&found, Cause::ReleasedTwice);
        s.low(0);
        s.low(1);
    }
}

#[test]
fn handle_of_a_half_seen_pair_is_not_taken_for_one_that_was_never_filled_in() {
    let set = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
    let mut s = Sequence::ready(&set, true);
    let handle = stack(1) - 0x80;
    let theirs = LockOperand::Queued {
        lock: 0xffff_f800_0000_1000,
        handle,
    };
    let they = (0, 0, 1, OTHER, stack(1) - 0x200);
    s.quiet(they, R::KeAcquireInStackQueuedSpinLock, theirs, Some(0));
    s.low(0);
    let zeroed = LockOperand::QueuedHandle { handle, lock: Some(0) };
    let release = (0, 2, 1, TARGET + 0x20, stack(1) - 0x100);
    let found = s.call(release, R::KeReleaseInStackQueuedSpinLock, zeroed, None);
    s.defect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn adapter_of_an_unloaded_driver_is_not_the_targets_for_ever() {
    let mut s = Sequence::ready(&STORPORT, true);
    let ours = stor(0xad, 1, 0x500, 0x900);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, ours, None);
    s.quiet(
        who(0, 2, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x900, 1),
        None,
    );
    s.event(EventKind::ModuleUnload {
        base: TARGET,
        size: 0x1000,
    });
    let they = (0, 2, 5, OTHER, stack(5));
    let found = s.call(they, R::StorPortReleaseSpinLock, stor_handle(0xad, 0x700, 0), None);
    assert!(!s.gravest(&found).2);
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// A thread of the driver's waits for a lock when it is last seen; later the memory is another driver's.
#[test]
fn acquire_that_was_never_seen_to_come_back_makes_no_lock_of_another_driver_the_targets() {
    let they = |irql| (1, irql, 7, OTHER, stack(7));
    for (waiting, closed) in [(0, false), (1, false), (0, true)] {
        let mut s = Sequence::ready(&PAIR, closed);
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(waiting));
        s.quiet(they(0), PAIR[0], LOCK, Some(0));
        s.quiet(they(2), PAIR[1], LOCK, Some(1));
        let found = s.call(they(2), PAIR[1], LOCK, Some(0));
        let expected = (Verdict::Semantic, Cause::ReleasedTwice, false);
        assert_eq!(s.gravest(&found), expected);
        assert_ne!(s.outcome(), Outcome::Defect);
    }
    // What the driver itself does with it then is its own.
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(they(0), PAIR[0], LOCK, Some(0));
    s.quiet(they(2), PAIR[1], LOCK, Some(1));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    let found = s.call(who(0, 2, 1), PAIR[1], LOCK, Some(0));
    s.defect(&found, Cause::ReleasedTwice);
}

/// Armed too late for the driver's first load, in time for its next.
#[test]
fn load_that_is_watched_from_its_beginning_is_judged_as_a_first_one() {
    let late = WatchSet {
        closed: true,
        before_target: false,
        ..watch(&STORPORT)
    };
    let in_time = WatchSet {
        before_target: true,
        ..late
    };
    for (again, certain) in [(late, false), (in_time, true)] {
        let mut s = Sequence::armed(late);
        s.low(0);
        s.low(1);
        s.event(EventKind::ModuleUnload {
            base: TARGET,
            size: 0x1000,
        });
        s.load_target(TARGET);
        s.event(EventKind::WatchSetChanged(again));
        let found = s.call(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x900, 2),
            None,
        );
        if certain {
            s.defect(&found, Cause::ReleaseWithoutAcquire);
        } else {
            s.suspect(&found, Cause::ReleaseWithoutAcquire);
        }
    }
}
