//! Who holds a lock: proofs, expiry, and releases by those who do not.

use storlock_check::finding::Shortfall;

use super::*;

const DPC_PAIR: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];

#[test]
fn try_that_failed_in_a_dpc_does_not_take_the_threads_release() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeTryToAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    let dpc = (0, 2, 1, TARGET + 0x300, stack(9));
    s.quiet(dpc, R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, Some(1));
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    s.low(0);
    assert!(s.checker.open_acquires().is_empty());
    // Whether the try took the lock was not seen.
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn interrupt_that_releases_the_lock_of_what_it_interrupted_is_to_blame() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let interrupt = (0, 8, 1, TARGET + 0x400, stack(9));
    let found = s.call(interrupt, R::KeReleaseSpinLock, LOCK, Some(1));
    s.defect(&found, Cause::WrongIrql);
    // The victim finds its lock free, and is not to blame.
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(0));
}

#[test]
fn lock_that_was_cleared_while_held_is_told() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), DPC_PAIR[1], LOCK, Some(1));
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), DPC_PAIR[1], LOCK, Some(1));
    let found = s.call(who(1, 2, 2), DPC_PAIR[1], LOCK, Some(0));
    s.suspect(&found, Cause::LockCleared);
}

/// The driver initialises each lock once it holds it, so that no word is ever seen to be set.
#[test]
fn lock_that_was_cleared_is_told_though_no_word_was_seen_to_be_set_yet() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    let found = s.call(who(0, 2, 1), DPC_PAIR[1], LOCK, Some(0));
    s.suspect(&found, Cause::LockCleared);
    assert!(s.finding(&found[0]).shortfall.contains(Shortfall::UNPROVED_WORD));
    // Where the port driver keeps its word is not known so well.
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(
        who(0, 2, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        Some(0),
    );
    let release = stor_handle(0xad, 0x700, 1);
    s.quiet(who(0, 2, 1), R::StorPortReleaseSpinLock, release, Some(0));
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn stray_release_by_a_dpc_is_not_the_interrupted_threads() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    let dpc = (0, 2, 1, TARGET + 0x500, stack(9));
    let found = s.call(dpc, R::KeReleaseSpinLock, LOCK, Some(1));
    s.suspect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn second_acquire_from_the_frame_of_the_first_is_a_double_acquire() {
    // From PASSIVE_LEVEL inline; and by one function that is called twice at DISPATCH_LEVEL.
    for first in [0, 2] {
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, first, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        let found = s.call(who(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
        s.defect(&found, Cause::DoubleAcquire);
    }
}

#[test]
fn inner_routine_reached_by_a_jump_is_no_second_acquire() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeAcquireSpinLockAtDpcLevel,
        R::KeReleaseSpinLock,
    ];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
}

#[test]
fn dpc_over_a_waiting_thread_may_take_the_lock_first() {
    for dpc_stack in [stack(9), stack(1) - 0x400] {
        let mut s = Sequence::ready(&PAIR, true);
        let dpc = (0, 2, 1, TARGET + 0x300, dpc_stack);
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
        s.quiet(dpc, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
        s.quiet(dpc, R::KeReleaseSpinLock, LOCK, Some(1));
        s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    }
}

#[test]
fn thread_that_goes_on_below_dispatch_level_has_not_released_its_lock() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let acquire = s.number;
    // From an outer frame, on another processor.
    let later = (1, 0, 1, TARGET + 0x600, stack(1) + 0x100);
    let found = s.call(later, R::KeAcquireSpinLockRaiseToDpc, SECOND, Some(0));
    s.defect(&found, Cause::MissingRelease);
    let finding = s.finding(&found[0]);
    assert_eq!((finding.call_sequence, finding.stands_at_call()), (acquire, false));
    assert_eq!(finding.call.routine, R::KeAcquireSpinLockRaiseToDpc);
}

#[test]
fn dpc_that_ends_with_its_lock_held_has_not_released_it() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    let found = s.low(0);
    s.defect(&found, Cause::MissingRelease);
}

#[test]
fn miniport_that_ends_with_a_dpc_lock_held_has_not_released_it() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(
        who(0, 2, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        None,
    );
    let found = s.low(0);
    s.defect(&found, Cause::MissingRelease);
}

#[test]
fn hold_that_may_have_ended_unseen_is_no_missing_release() {
    // A routine that could have released it is imported, and not watched.
    let mut s = Sequence::armed(WatchSet {
        imported: RoutineSet::of(&[DPC_PAIR[0], DPC_PAIR[1], R::KeReleaseSpinLock]),
        closed: true,
        ..watch(&DPC_PAIR)
    });
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    assert_eq!(s.low(0), []);
    // It may be reached in other ways: a suspicion.
    let mut s = Sequence::ready(&DPC_PAIR, false);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    let found = s.low(0);
    s.suspect(&found, Cause::MissingRelease);
    // Another module's.
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet((0, 2, 1, OTHER, stack(1)), DPC_PAIR[0], LOCK, Some(0));
    assert_eq!(s.low(0), []);
    // Somebody else has released it: that is another story.
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.call(who(1, 2, 2), DPC_PAIR[1], LOCK, Some(1));
    assert!(s.low(0).is_empty());
}

#[test]
fn acquire_that_was_entered_twice_by_one_interrupted_call_is_one() {
    let mut s = Sequence::ready(&PAIR, true);
    for _ in 0..2 {
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    }
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// A loop, or a work item that is queued again, whose only lock call is one that it forgets to end.
#[test]
fn acquire_that_is_made_again_by_its_holder_at_passive_level_has_left_the_lock_behind() {
    let acquire = |s: &mut Sequence, site: u64, word| {
        let who = (0, 0, 1, TARGET + site, stack(1));
        s.call(who, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(word))
    };
    for second in [0x100, 0x200] {
        let mut s = Sequence::ready(&PAIR, true);
        assert_eq!(acquire(&mut s, 0x100, 0), []);
        let first = s.number;
        let found = acquire(&mut s, second, 1);
        s.defect(&found, Cause::MissingRelease);
        assert_eq!(s.finding(&found[0]).call_sequence, first);
    }
    // It has been given back in a way that nobody sees.
    let mut s = Sequence::ready(&PAIR, true);
    acquire(&mut s, 0x100, 0);
    assert_eq!(acquire(&mut s, 0x200, 0), []);
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Inconclusive);
    // By its own release.
    let mut s = Sequence::ready(&PAIR, true);
    for site in [0x100, 0x200] {
        acquire(&mut s, site, 0);
        s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// The second of these is the first, which was interrupted: somebody else has the lock, or has just given it back.
#[test]
fn acquire_that_was_entered_twice_while_others_took_the_lock_is_one() {
    for released in [false, true] {
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        s.quiet(who(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        if released {
            s.quiet(who(1, 2, 2), R::KeReleaseSpinLock, LOCK, Some(1));
        }
        // The word is that of before the release's last instruction.
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
        s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
        s.low(0);
        if released {
            assert_eq!(s.outcome(), Outcome::Completed);
        }
    }
    // By a routine that is not watched, or before the watch began.
    for watch in [
        WatchSet {
            imported: RoutineSet::of(&[R::KeAcquireSpinLockAtDpcLevel]),
            closed: true,
            ..watch(&PAIR)
        },
        WatchSet {
            closed: false,
            ..watch(&PAIR)
        },
        WatchSet {
            closed: true,
            before_target: false,
            ..watch(&PAIR)
        },
    ] {
        let mut s = Sequence::armed(watch);
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    }
}

/// A hold that has not proved to be one, cleared by somebody else: the release may be the holder's.
#[test]
fn holder_whose_lock_was_cleared_is_not_to_blame() {
    let deeper = (0, 2, 1, TARGET + 0x300, stack(1) - 0x400);
    let learnt = |s: &mut Sequence| {
        s.quiet(who(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    };
    let mut s = Sequence::ready(&PAIR, true);
    learnt(&mut s);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let found = s.call(deeper, R::KeReleaseSpinLock, LOCK, Some(0));
    s.suspect(&found, Cause::LockCleared);
    // The same, but another has taken the free lock, and proved it.
    let mut s = Sequence::ready(&PAIR, true);
    learnt(&mut s);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(1, 2, 2), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(1, 2, 2), R::KeAcquireSpinLockRaiseToDpc, SECOND, Some(0));
    let found = s.call(deeper, R::KeReleaseSpinLock, LOCK, Some(1));
    s.suspect(&found, Cause::WrongOwner);
}

/// The same of a hold that was proved: by the acquire of another it is known to be over.
#[test]
fn holder_whose_lock_another_found_free_is_not_to_blame() {
    for word in [0, 1] {
        let mut s = Sequence::ready(&DPC_PAIR, true);
        s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
        s.quiet(who(0, 2, 1), DPC_PAIR[0], SECOND, Some(0));
        s.quiet(who(0, 2, 1), DPC_PAIR[1], SECOND, Some(1));
        s.quiet(who(1, 2, 2), DPC_PAIR[0], LOCK, Some(0));
        s.quiet(who(1, 2, 2), DPC_PAIR[0], SECOND, Some(0));
        let found = s.call(who(0, 2, 1), DPC_PAIR[1], LOCK, Some(word));
        assert_eq!(s.gravest(&found).0, Verdict::Suspect);
        // Once. What it releases after that is its own doing.
        let found = s.call(who(0, 2, 1), DPC_PAIR[1], LOCK, Some(0));
        s.defect(&found, Cause::ReleaseWithoutAcquire);
    }
}

#[test]
fn acquire_that_can_fail_and_has_not_is_missed_at_the_end_of_its_scope() {
    let mut s = Sequence::ready(&STORPORT, true);
    let lock = stor(0xad, 5, 0x500, 0x700);
    for (status, found) in [(0xc100_0006, false), (0, true)] {
        s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLockEx, lock, Some(0));
        let call = s.number;
        s.came_back(call, who(0, 2, 1), R::StorPortAcquireSpinLockEx, lock, status);
        let told = s.low(0);
        assert_eq!(!told.is_empty(), found);
        if found {
            s.defect(&told, Cause::MissingRelease);
        }
    }
}
