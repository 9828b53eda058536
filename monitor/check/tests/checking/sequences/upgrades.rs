//! Reader-writer locks that change their mode, tries that fail inside of one another, and locks that are initialised again.

use super::*;

const SHARED: [R; 2] = [R::ExAcquireSpinLockShared, R::ExReleaseSpinLockShared];
const EXCLUSIVE: [R; 2] = [R::ExAcquireSpinLockExclusive, R::ExReleaseSpinLockExclusive];
const SHARED_DPC: [R; 2] = [
    R::ExAcquireSpinLockSharedAtDpcLevel,
    R::ExReleaseSpinLockSharedFromDpcLevel,
];
const EXCLUSIVE_FROM_DPC: R = R::ExReleaseSpinLockExclusiveFromDpcLevel;
const CONVERT: R = R::ExTryConvertSharedSpinLockExclusive;
const TRY: R = R::KeTryToAcquireSpinLockAtDpcLevel;
const DPC: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];

fn ex() -> Sequence {
    let set = [
        SHARED.as_slice(),
        &EXCLUSIVE,
        &SHARED_DPC,
        &[EXCLUSIVE_FROM_DPC, R::ExAcquireSpinLockExclusiveAtDpcLevel, CONVERT],
    ];
    Sequence::ready(&set.concat(), true)
}

fn back(s: &mut Sequence, who: Who, routine: R, lock: LockOperand, irql: u8) -> Vec<Found> {
    s.call_back_to(who, routine, lock, Some(1), Some(irql))
}

#[test]
fn conversion_of_a_lock_that_its_caller_has_not_acquired_leaves_the_outcome_open() {
    // Nobody has it; somebody else has; the caller has given it back.
    for held in [None, Some(false), Some(true)] {
        let mut s = ex();
        if let Some(given_back) = held {
            let reader = if given_back { who(0, 2, 1) } else { who(1, 2, 2) };
            s.quiet(reader, SHARED_DPC[0], LOCK, Some(0));
            if given_back {
                s.quiet(reader, SHARED_DPC[1], LOCK, Some(1));
            }
        }
        let word = u64::from(held == Some(false));
        s.quiet(who(0, 2, 1), CONVERT, LOCK, Some(word));
        s.came_back(s.number, who(0, 2, 1), CONVERT, LOCK, 0);
        assert_eq!(s.outcome(), Outcome::Inconclusive, "{held:?}");
    }
}

#[test]
fn conversion_by_another_driver_says_nothing_of_the_target() {
    let mut s = ex();
    s.quiet(who(0, 2, 1), SHARED_DPC[0], SECOND, Some(0));
    s.quiet(who(0, 2, 1), SHARED_DPC[1], SECOND, Some(1));
    s.quiet((0, 2, 7, OTHER, stack(7)), CONVERT, LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// A DPC that has its shared hold by a routine that is not watched converts it, over a thread that waits at the entry of its own
/// acquire.
#[test]
fn conversion_by_a_dpc_is_not_that_of_the_acquire_it_came_in_at() {
    for dpc_stack in [stack(9), stack(1) - 0x800] {
        let set = [SHARED.as_slice(), &[CONVERT, EXCLUSIVE_FROM_DPC]].concat();
        let mut s = Sequence::ready(&set, false);
        let dpc = (0, 2, 1, TARGET + 0x300, dpc_stack);
        s.quiet(who(0, 0, 1), SHARED[0], LOCK, Some(0));
        s.quiet(dpc, CONVERT, LOCK, Some(1));
        s.came_back(s.number, dpc, CONVERT, LOCK, 1);
        let found = s.call(dpc, EXCLUSIVE_FROM_DPC, LOCK, Some(1));
        assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
        assert_eq!(s.outcome(), Outcome::Inconclusive);
        let found = back(&mut s, who(0, 2, 1), SHARED[1], LOCK, 0);
        assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
        assert_eq!(s.outcome(), Outcome::Inconclusive);
    }
}

#[test]
fn holder_that_converts_in_a_helper_or_from_passive_level_is_right() {
    for (irql, deeper) in [(0, 0), (0, 0x40), (2, 0), (2, 0x200)] {
        let mut s = ex();
        let helper = (0, 2, 1, TARGET + 0x300, stack(1) - deeper);
        s.quiet(who(0, irql, 1), SHARED[0], LOCK, Some(0));
        s.quiet(helper, CONVERT, LOCK, Some(1));
        s.came_back(s.number, helper, CONVERT, LOCK, 1);
        assert_eq!(back(&mut s, who(0, 2, 1), EXCLUSIVE[1], LOCK, irql), []);
        s.low(0);
        assert_eq!(s.outcome(), Outcome::Completed, "{irql} {deeper:#x}");
    }
}

#[test]
fn reader_that_cannot_convert_gives_the_lock_back_and_takes_it_as_a_writer() {
    let mut s = ex();
    for _ in 0..3 {
        s.quiet(who(1, 2, 2), SHARED_DPC[0], LOCK, Some(0));
        s.quiet(who(0, 0, 1), SHARED[0], LOCK, Some(1));
        s.came_back(s.number, who(0, 2, 1), SHARED[0], LOCK, 0);
        s.quiet(who(0, 2, 1), CONVERT, LOCK, Some(2));
        s.came_back(s.number, who(0, 2, 1), CONVERT, LOCK, 0);
        assert_eq!(back(&mut s, who(0, 2, 1), SHARED[1], LOCK, 0), []);
        s.quiet(who(0, 0, 1), EXCLUSIVE[0], LOCK, Some(1));
        let call = s.number;
        s.quiet(who(1, 2, 2), SHARED_DPC[1], LOCK, Some(1));
        s.came_back(call, who(0, 2, 1), EXCLUSIVE[0], LOCK, 0);
        assert_eq!(back(&mut s, who(0, 2, 1), EXCLUSIVE[1], LOCK, 0), []);
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn writer_that_takes_its_lock_as_a_reader_and_reader_that_takes_it_as_a_writer_wait_for_themselves() {
    for (first, second) in [(EXCLUSIVE[0], SHARED[0]), (SHARED[0], EXCLUSIVE[0])] {
        let mut s = ex();
        s.quiet(who(0, 0, 1), first, LOCK, Some(0));
        let found = s.call(who(0, 2, 1), second, LOCK, Some(1));
        s.defect(&found, Cause::DoubleAcquire);
        assert!(s.finding(&found[0]).is_deadlock());
    }
    // The same after a conversion.
    let mut s = ex();
    s.quiet(who(0, 2, 1), SHARED_DPC[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), CONVERT, LOCK, Some(1));
    s.came_back(s.number, who(0, 2, 1), CONVERT, LOCK, 1);
    let found = s.call(who(0, 2, 1), SHARED_DPC[0], LOCK, Some(1));
    s.defect(&found, Cause::DoubleAcquire);
    assert!(s.finding(&found[0]).is_deadlock());
}

#[test]
fn converted_lock_that_its_holder_leaves_behind_is_a_missing_release_or_open() {
    let mut s = ex();
    s.quiet(who(0, 0, 1), SHARED[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), SHARED[0], LOCK, 0);
    s.quiet(who(0, 2, 1), CONVERT, LOCK, Some(1));
    s.came_back(s.number, who(0, 2, 1), CONVERT, LOCK, 1);
    s.low(0);
    assert!(matches!(s.outcome(), Outcome::Defect | Outcome::Inconclusive));
}

#[test]
fn try_inside_of_a_lock_that_fails_and_one_that_does_not_are_right() {
    let mut s = Sequence::ready(&[DPC.as_slice(), &[TRY]].concat(), true);
    let third = LockOperand::Address(0x3000);
    for _ in 0..5 {
        s.quiet(who(1, 2, 2), DPC[0], third, Some(0));
        s.quiet(who(0, 2, 1), DPC[0], LOCK, Some(0));
        s.quiet(who(0, 2, 1), TRY, SECOND, Some(0));
        s.came_back(s.number, who(0, 2, 1), TRY, SECOND, 1);
        // The innermost fails, and so does another one for it in a helper.
        for deeper in [0, 0x60, 0x400] {
            let helper = (0, 2, 1, TARGET + 0x400, stack(1) - deeper);
            s.quiet(helper, TRY, third, Some(1));
            s.came_back(s.number, helper, TRY, third, 0);
        }
        s.quiet(who(1, 2, 2), DPC[1], third, Some(1));
        s.quiet(who(0, 2, 1), DPC[1], SECOND, Some(1));
        s.quiet(who(0, 2, 1), DPC[1], LOCK, Some(1));
        s.low(0);
        s.low(1);
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn try_that_failed_is_not_made_right_by_a_later_one_that_did_not() {
    let mut s = Sequence::ready(&[DPC.as_slice(), &[TRY]].concat(), true);
    s.quiet(who(0, 2, 1), TRY, LOCK, Some(1));
    s.came_back(s.number, who(0, 2, 1), TRY, LOCK, 0);
    s.quiet(who(0, 2, 1), TRY, LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), TRY, LOCK, 1);
    s.quiet(who(0, 2, 1), DPC[1], LOCK, Some(1));
    let found = s.call(who(0, 2, 1), DPC[1], LOCK, Some(0));
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn lock_that_is_initialised_again_while_nobody_holds_it_is_as_good_as_new() {
    let mut s = Sequence::ready(&[PAIR, DPC].concat(), true);
    for (thread, word) in [(1, 0), (2, 0), (3, 0)] {
        s.quiet(who(0, 0, thread), PAIR[0], LOCK, Some(word));
        assert_eq!(back(&mut s, who(0, 2, thread), PAIR[1], LOCK, 0), []);
        s.quiet(who(1, 2, thread), DPC[0], LOCK, Some(0));
        s.quiet(who(1, 2, thread), DPC[1], LOCK, Some(1));
    }
    // It was held by nobody but waited for: the thread at its entry has it then.
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), DPC[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), DPC[1], LOCK, Some(1));
    assert_eq!(back(&mut s, who(0, 2, 1), PAIR[1], LOCK, 0), []);
    s.low(0);
    s.low(1);
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// Whoever initialises it is not seen. The first holder releases what the second one has.
#[test]
fn lock_that_is_initialised_while_it_is_held_and_waited_for_is_never_completed() {
    let mut s = Sequence::ready(&DPC, true);
    s.quiet(who(0, 2, 1), DPC[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), DPC[0], LOCK, Some(1));
    // Initialised: the second one has it.
    s.quiet(who(0, 2, 1), DPC[1], LOCK, Some(1));
    let found = s.call(who(1, 2, 2), DPC[1], LOCK, Some(0));
    assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}
