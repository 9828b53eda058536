//! Locks, handles, interrupt objects and adapters that take each other's place.

use super::*;

const OBJECT: [R; 2] = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock];
const QUEUED: [R; 2] = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
const STOR: [R; 2] = [R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock];
const DPC: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
const ONE: u64 = 0xffff_9000_0000_3000;
const TWO: u64 = 0xffff_9000_0000_4000;

const fn queued(lock: u64, handle: u64) -> [LockOperand; 2] {
    [
        LockOperand::Queued { lock, handle },
        LockOperand::QueuedHandle {
            handle,
            lock: Some(lock),
        },
    ]
}

const fn dpc_handle(adapter: u64, handle: u64, context: u64) -> LockOperand {
    LockOperand::StorPortHandle {
        adapter,
        handle,
        kind: Some(1),
        lock: Some(context + 0x40),
    }
}

#[test]
fn interrupt_object_that_replaces_another_has_a_lock_of_its_own() {
    let (one, two) = (LockOperand::Interrupt(ONE), LockOperand::Interrupt(TWO));
    let mut s = Sequence::ready(&OBJECT, true);
    for object in [one, two, one] {
        s.quiet(who(0, 2, 1), OBJECT[0], object, None);
        assert_eq!(s.call_back_to(who(0, 7, 1), OBJECT[1], object, None, Some(2)), []);
    }
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
    // The pointer to the object is exchanged in between.
    s.quiet(who(0, 0, 1), OBJECT[0], one, None);
    s.came_back(s.number, who(0, 7, 1), OBJECT[0], one, 0);
    let found = s.call_back_to(who(0, 7, 1), OBJECT[1], two, None, Some(0));
    s.defect(&found, Cause::OtherLock);
}

#[test]
fn interrupt_object_that_is_freed_while_its_lock_is_held_leaves_it_open_and_its_place_is_anothers() {
    let one = LockOperand::Interrupt(ONE);
    let mut s = Sequence::ready(&OBJECT, true);
    s.quiet(who(0, 2, 1), OBJECT[0], one, None);
    s.event(EventKind::MemoryFreed {
        address: ONE & !0xfff,
        length: 0x1000,
    });
    s.quiet(who(1, 2, 2), OBJECT[0], one, None);
    assert_eq!(s.call_back_to(who(1, 7, 2), OBJECT[1], one, None, Some(2)), []);
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn two_interrupt_locks_are_held_at_once_and_given_back_in_either_order() {
    let (one, two) = (LockOperand::Interrupt(ONE), LockOperand::Interrupt(TWO));
    let mut s = Sequence::ready(&OBJECT, true);
    s.quiet(who(0, 0, 1), OBJECT[0], one, None);
    s.quiet(who(0, 5, 1), OBJECT[0], two, None);
    assert_eq!(s.call_back_to(who(0, 7, 1), OBJECT[1], two, None, Some(5)), []);
    assert_eq!(s.call_back_to(who(0, 5, 1), OBJECT[1], one, None, Some(0)), []);
    s.quiet(who(0, 0, 1), OBJECT[0], one, None);
    s.quiet(who(0, 5, 1), OBJECT[0], two, None);
    assert_eq!(s.call_back_to(who(0, 7, 1), OBJECT[1], one, None, Some(5)), []);
    assert_eq!(s.call_back_to(who(0, 5, 1), OBJECT[1], two, None, Some(0)), []);
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn handle_in_a_loop_serves_many_locks_of_one_caller_after_the_other() {
    let mut s = Sequence::ready(&QUEUED, true);
    let handle = stack(1) - 0x40;
    for round in 0..50 {
        let [acquire, release] = queued(0x9000 + round % 3 * 0x100, handle);
        s.quiet(who(0, 0, 1), QUEUED[0], acquire, Some(0));
        s.quiet(who(0, 2, 1), QUEUED[1], release, Some(handle));
    }
    assert_eq!(s.outcome(), Outcome::Completed);
    // One turn of the loop leaves by `continue` before the release.
    let [acquire, _] = queued(0x9000, handle);
    s.quiet(who(0, 0, 1), QUEUED[0], acquire, Some(0));
    let [next, _] = queued(0x9100, handle);
    let found = s.call(who(0, 2, 1), QUEUED[0], next, Some(0));
    s.low(0);
    assert!(found.is_empty() || s.outcome() == Outcome::Defect);
    assert_ne!(s.outcome(), Outcome::Completed);
}

#[test]
fn handle_in_a_loop_whose_release_is_made_twice_in_one_turn_is_a_defect() {
    let mut s = Sequence::ready(&STORPORT, true);
    let acquire = stor(0xad, 1, 0x500, 0x700);
    for _ in 0..10 {
        s.quiet(who(0, 2, 1), STOR[0], acquire, Some(0));
        s.quiet(who(0, 2, 1), STOR[1], dpc_handle(0xad, 0x700, 0x500), Some(1));
    }
    s.quiet(who(1, 2, 2), STOR[0], stor(0xad, 1, 0x500, 0x900), Some(0));
    let found = s.call(who(0, 2, 1), STOR[1], dpc_handle(0xad, 0x700, 0x500), Some(1));
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn handles_that_two_processors_exchange_are_to_blame() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), STOR[0], stor(0xad, 1, 0x500, 0x700), Some(0));
    s.quiet(who(1, 2, 2), STOR[0], stor(0xad, 1, 0x600, 0x900), Some(0));
    let found = s.call(who(0, 2, 1), STOR[1], dpc_handle(0xad, 0x900, 0x600), Some(1));
    s.defect(&found, Cause::WrongOwner);
}

#[test]
fn adapter_that_is_removed_while_its_lock_is_held_leaves_it_open_and_the_next_one_there_is_right() {
    let adapter = 0xffff_c100_0000_0000;
    let mut s = Sequence::ready(&STORPORT, true);
    for round in 0..3 {
        s.quiet(who(0, 2, 1), STOR[0], stor(adapter, 2, 0, 0x700), None);
        if round == 1 {
            s.quiet(who(0, 2, 1), STOR[1], stor_handle(adapter, 0x700, 2), None);
        }
        s.event(EventKind::MemoryFreed {
            address: adapter,
            length: 0x2000,
        });
    }
    s.quiet(who(1, 2, 2), STOR[0], stor(adapter, 2, 0, 0x900), None);
    s.quiet(who(1, 2, 2), STOR[1], stor_handle(adapter, 0x900, 2), None);
    assert!(s.checker.findings().is_empty());
    assert_eq!(s.outcome(), Outcome::Inconclusive);
    // A handle of the first one names no lock of this one.
    let found = s.call(who(0, 2, 1), STOR[1], stor_handle(adapter, 0x700, 2), None);
    assert!(!found.is_empty());
}

#[test]
fn dpc_object_that_moves_to_the_other_adapter_is_released_with_its_own() {
    let mut s = Sequence::ready(&STORPORT, true);
    for adapter in [0xad, 0xbd, 0xad] {
        s.quiet(who(0, 2, 1), STOR[0], stor(adapter, 1, 0x500, 0x700), Some(0));
        s.quiet(who(0, 2, 1), STOR[1], dpc_handle(adapter, 0x700, 0x500), Some(1));
    }
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn stack_that_serves_another_thread_has_another_lock_where_the_first_had_one() {
    let mut s = Sequence::ready(&DPC, true);
    let lock = LockOperand::Address(stack(1) + 0x80);
    for thread in 1..4 {
        let who = (0, 2, thread, TARGET + 0x110, stack(1));
        let found = s.call(who, DPC[0], lock, Some(0));
        assert!(found.iter().all(|found| s.finding(found).cause == Cause::LockOnStack));
        s.quiet(who, DPC[1], lock, Some(1));
        s.low(0);
    }
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn processors_that_exchange_their_locks_are_both_to_blame() {
    let mut s = Sequence::ready(&DPC, true);
    s.quiet(who(0, 2, 1), DPC[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), DPC[0], SECOND, Some(0));
    let found = s.call(who(0, 2, 1), DPC[1], SECOND, Some(1));
    assert_eq!(s.gravest(&found).0, Verdict::Semantic);
    let found = s.call(who(1, 2, 2), DPC[1], LOCK, Some(1));
    assert_eq!(s.gravest(&found).0, Verdict::Semantic);
}

#[test]
fn acquire_that_took_nothing_leaves_its_handle_to_the_next() {
    let mut s = Sequence::ready(&STORPORT, true);
    let found = s.call(who(0, 2, 1), STOR[0], stor(0xad, 5, 0x500, 0x700), None);
    s.defect(&found, Cause::AcquiresNothing);
    s.quiet(who(0, 2, 1), STOR[0], stor(0xad, 1, 0x500, 0x700), Some(0));
    s.quiet(who(0, 2, 1), STOR[1], dpc_handle(0xad, 0x700, 0x500), Some(1));
    let found = s.call(who(0, 2, 1), STOR[1], dpc_handle(0xad, 0x700, 0x500), Some(0));
    assert_eq!(s.gravest(&found).0, Verdict::Semantic);
}
