//! Events that are missing around a change of what is watched, a reset, or a load: what was in flight then.

use super::*;

const DPC: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
const STOR: [R; 2] = [R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock];

/// Another set has its turn. Nothing of the driver's is older than the first one.
fn turn(s: &mut Sequence, routines: &[R]) {
    s.event(EventKind::WatchSetChanged(WatchSet {
        watched: RoutineSet::of(routines),
        imported: RoutineSet::of(&[PAIR.as_slice(), &DPC, &STOR].concat()),
        before_target: false,
        closed: true,
        ..watch(routines)
    }));
}

#[test]
fn lock_that_was_taken_in_the_turn_before_leaves_its_release_open() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    turn(&mut s, &DPC);
    turn(&mut s, &PAIR);
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
    assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn return_of_a_call_of_the_turn_before_accuses_nobody() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(1));
    let call = s.number;
    turn(&mut s, &DPC);
    turn(&mut s, &PAIR);
    // Another thread has come to know the lock meanwhile.
    s.quiet(who(1, 0, 2), PAIR[0], LOCK, Some(1));
    s.came_back(call, who(0, 2, 1), PAIR[0], LOCK, 0);
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
    assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
    let found = s.call_back_to(who(1, 2, 2), PAIR[1], LOCK, Some(1), Some(0));
    assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn second_acquire_after_a_turn_in_which_the_release_was_not_seen_is_right() {
    let mut s = Sequence::ready(&PAIR, true);
    for _ in 0..3 {
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        turn(&mut s, &DPC);
        turn(&mut s, &PAIR);
        s.low(0);
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
    }
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn release_in_a_turn_without_its_acquire_is_no_defect() {
    let mut s = Sequence::ready(&DPC, true);
    turn(&mut s, &[PAIR[1]]);
    s.low(0);
    s.low(1);
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
    assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
    assert_ne!(s.outcome(), Outcome::Completed);
}

#[test]
fn release_of_a_lock_that_nobody_holds_is_a_defect_in_every_turn() {
    let mut s = Sequence::ready(&DPC, true);
    turn(&mut s, &PAIR);
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(0), Some(0));
    s.defect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn handle_of_the_turn_before_is_nobodys_mistake() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), STOR[0], stor(0xad, 2, 0, 0x700), None);
    turn(&mut s, &DPC);
    turn(&mut s, &STORPORT);
    let found = s.call(who(0, 2, 1), STOR[1], stor_handle(0xad, 0x700, 2), None);
    assert!(found.iter().all(|found| found.verdict == Verdict::Suspect), "{found:?}");
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

/// The same set is told again: nothing was missed.
#[test]
fn set_that_is_told_again_changes_nothing() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.event(EventKind::WatchSetChanged(WatchSet {
        closed: true,
        before_target: false,
        ..watch(&PAIR)
    }));
    assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(0), Some(0));
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn return_from_before_a_reset_says_nothing_of_the_machine_after_it() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    let call = s.number;
    s.event(EventKind::Restored);
    s.load_target(TARGET);
    s.event(EventKind::WatchSetChanged(WatchSet {
        closed: true,
        ..watch(&PAIR)
    }));
    s.low(0);
    s.low(1);
    s.came_back(call, who(0, 2, 1), PAIR[0], LOCK, 0);
    s.quiet(who(0, 0, 3), PAIR[0], LOCK, Some(0));
    assert_eq!(s.call_back_to(who(0, 2, 3), PAIR[1], LOCK, Some(1), Some(0)), []);
    assert!(s.checker.findings().is_empty());
}

#[test]
fn processor_that_is_seen_for_the_first_time_hides_no_older_hold() {
    // Armed while the driver ran; one of two processors was seen below DISPATCH_LEVEL.
    let mut s = Sequence::armed(WatchSet {
        before_target: false,
        closed: true,
        ..watch(&STORPORT)
    });
    s.low(0);
    let found = s.call(who(1, 2, 2), STOR[1], stor_handle(0xad, 0x900, 2), None);
    assert_eq!(found, []);
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}
