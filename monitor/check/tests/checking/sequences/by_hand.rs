//! An IRQL that is raised and lowered by hand, threads that move with a lock, and what comes in between.

use storlock_check::finding::Evidence;

use super::*;

const DPC: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
const QUEUED: [R; 2] = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
const OBJECT: [R; 2] = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock];
const STOR: [R; 2] = [R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock];
const DPC_LOCK: LockOperand = stor(0xad, 1, 0x500, 0x700);
const INTERRUPT_OBJECT: LockOperand = LockOperand::Interrupt(0xffff_9000_0000_3000);

const fn dpc_handle() -> LockOperand {
    LockOperand::StorPortHandle {
        adapter: 0xad,
        handle: 0x700,
        kind: Some(1),
        lock: Some(0x540),
    }
}

const fn queued(handle: u64) -> [LockOperand; 2] {
    let lock = 0x9000;
    [
        LockOperand::Queued { lock, handle },
        LockOperand::QueuedHandle {
            handle,
            lock: Some(lock),
        },
    ]
}

fn missing(s: &Sequence, found: &[Found]) {
    let told = found.iter().any(|found| {
        let finding = s.finding(found);
        (finding.verdict, finding.cause) == (Verdict::Semantic, Cause::MissingRelease)
    });
    let all: Vec<_> = found.iter().map(|found| s.finding(found).cause).collect();
    assert!(told, "{all:?}");
    assert_eq!(s.outcome(), Outcome::Defect);
}

/// Of locks whose releases may be made at any IRQL: the driver has lowered it itself meanwhile.
#[test]
fn lock_that_is_released_below_dispatch_level_was_held_there() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 0, 1), STOR[0], DPC_LOCK, Some(0));
    let found = s.call(who(0, 0, 1), STOR[1], dpc_handle(), Some(1));
    missing(&s, &found);
    // The release is one all the same.
    assert!(s.checker.open_acquires().is_empty());

    let mut s = Sequence::ready(&OBJECT, true);
    s.quiet(who(0, 0, 1), OBJECT[0], INTERRUPT_OBJECT, None);
    let found = s.call_back_to(who(0, 0, 1), OBJECT[1], INTERRUPT_OBJECT, None, Some(0));
    missing(&s, &found);

    // From DISPATCH_LEVEL, by the processor.
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), STOR[0], DPC_LOCK, Some(0));
    let found = s.call(who(0, 1, 1), STOR[1], dpc_handle(), Some(1));
    missing(&s, &found);
}

#[test]
fn interrupt_lock_that_is_released_below_dispatch_level_may_be_none() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 0, 1), STOR[0], stor(0xad, 3, 0, 0x700), None);
    s.quiet(who(0, 0, 1), STOR[1], stor_handle(0xad, 0x700, 3), None);
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// A thread cannot move at `DISPATCH_LEVEL`.
#[test]
fn thread_that_has_moved_with_its_lock_has_held_it_below_dispatch_level() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), PAIR[0], LOCK, 0);
    let found = s.call_back_to(who(1, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
    missing(&s, &found);
    let moved = s
        .finding(&found[0])
        .evidence
        .iter()
        .any(|told| matches!(told, Evidence::Moved { .. }));
    assert!(moved, "{:?}", s.finding(&found[0]));

    let [acquire, release] = queued(stack(1) - 0x40);
    let mut s = Sequence::ready(&QUEUED, true);
    s.quiet(who(0, 0, 1), QUEUED[0], acquire, Some(0));
    s.came_back(s.number, who(0, 2, 1), QUEUED[0], acquire, 0);
    let found = s.call(who(1, 2, 1), QUEUED[1], release, Some(1));
    missing(&s, &found);
}

#[test]
fn thread_that_moved_before_it_had_the_lock_is_right() {
    // It was not seen to come back; it came back elsewhere; it could not be read.
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    assert_eq!(s.call_back_to(who(1, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.came_back(s.number, who(1, 2, 1), PAIR[0], LOCK, 0);
    assert_eq!(s.call_back_to(who(1, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
    assert_eq!(s.outcome(), Outcome::Completed);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), PAIR[0], LOCK, 0);
    let unread = (1, 2, 0, TARGET + 0x110, stack(1));
    let found = s.call_back_to(unread, PAIR[1], LOCK, Some(1), Some(0));
    let semantic = found.iter().any(|found| found.verdict == Verdict::Semantic);
    assert!(!semantic, "{found:?}");
}

#[test]
fn irql_that_is_lowered_and_raised_again_under_a_lock_is_seen_by_a_call_in_between() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    let found = s.call(who(0, 0, 1), PAIR[0], SECOND, Some(0));
    missing(&s, &found);
    // What follows is not blamed on others.
    assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], SECOND, Some(1), Some(0)), []);
}

#[test]
fn irql_that_is_raised_and_lowered_to_dispatch_level_under_a_lock_is_right() {
    let mut s = Sequence::ready(&[PAIR, DPC].concat(), true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 9, 1), DPC[0], SECOND, Some(0));
    s.quiet(who(0, 9, 1), DPC[1], SECOND, Some(1));
    assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
    // Taken above, given back at DISPATCH_LEVEL.
    s.quiet(who(0, 9, 1), DPC[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), DPC[1], LOCK, Some(1));
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_that_is_released_above_dispatch_level_is_released_at_the_wrong_irql_only() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    let found = s.call_back_to(who(0, 5, 1), PAIR[1], LOCK, Some(1), Some(0));
    s.defect(&found, Cause::WrongIrql);
    assert_eq!(found.len(), 1);
    assert!(s.checker.open_acquires().is_empty());
}

/// An APC comes in between the entry of an acquire and the raise of the IRQL, on the same stack of the same thread.
#[test]
fn apc_over_a_waiting_thread_takes_the_lock_first() {
    for word in [0, 1] {
        let mut s = Sequence::ready(&PAIR, true);
        let apc = |irql| (0, irql, 1, TARGET + 0x400, stack(1) - 0x500);
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(word));
        s.quiet(apc(1), PAIR[0], LOCK, Some(word));
        s.came_back(s.number, apc(2), PAIR[0], LOCK, 1);
        assert_eq!(s.call_back_to(apc(2), PAIR[1], LOCK, Some(1), Some(1)), []);
        assert_eq!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0)), []);
        s.low(0);
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}

/// The same with an APC that keeps its lock.
#[test]
fn apc_that_keeps_its_lock_is_to_blame_and_not_the_thread() {
    let mut s = Sequence::ready(&PAIR, true);
    let apc = |irql, up| (0, irql, 1, TARGET + 0x400, stack(1) - 0x500 + up);
    s.quiet(apc(1, 0), PAIR[0], LOCK, Some(0));
    let acquire = s.number;
    let found = s.call(apc(1, 0x40), PAIR[0], SECOND, Some(0));
    missing(&s, &found);
    assert_eq!(s.finding(&found[0]).call_sequence, acquire);
}

#[test]
fn cancel_lock_goes_back_to_the_irql_of_its_own_processor() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&set, true);
    let cancel = LockOperand::Cancel;
    // The IRQL is kept in a variable that another processor overwrites.
    s.quiet(who(0, 0, 1), set[0], cancel, None);
    s.came_back(s.number, who(0, 2, 1), set[0], cancel, 0);
    s.quiet(who(1, 2, 2), set[0], cancel, None);
    let found = s.call_back_to(who(0, 2, 1), set[1], cancel, None, Some(2));
    s.defect(&found, Cause::WrongNewIrql);
}

#[test]
fn cancel_lock_whose_acquire_was_not_seen_to_come_back_leaves_a_wrong_irql_open() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), set[0], LockOperand::Cancel, None);
    let helper = (0, 2, 1, TARGET + 0x400, stack(1) - 0x200);
    assert_eq!(s.call_back_to(helper, set[1], LockOperand::Cancel, None, Some(2)), []);
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

/// Its thread ends: it lowers the IRQL and is never seen again.
#[test]
fn lock_of_a_thread_that_has_ended_is_not_forgotten() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    for thread in 2..200 {
        s.quiet(who(0, 0, thread), PAIR[0], SECOND, Some(0));
        assert_eq!(s.call_back_to(who(0, 2, thread), PAIR[1], SECOND, Some(1), Some(0)), []);
    }
    s.checker.run_ended();
    assert_eq!(s.outcome(), Outcome::Inconclusive);
    // It was seen to have the lock: then its processor tells.
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), PAIR[0], LOCK, 0);
    let found = s.call(who(0, 0, 2), PAIR[0], SECOND, Some(0));
    missing(&s, &found);
}

/// A thread object, and its stack, serve another thread, which takes the lock of the one that has ended.
#[test]
fn thread_that_has_the_place_of_one_that_ended_does_not_release_for_it() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.came_back(s.number, who(0, 2, 1), PAIR[0], LOCK, 0);
    let found = s.call((1, 0, 1, TARGET + 0x700, stack(1) + 0x200), PAIR[0], SECOND, Some(0));
    // It runs on another processor, and the first one has not been seen to go on: the thread was lowered there.
    missing(&s, &found);
}
