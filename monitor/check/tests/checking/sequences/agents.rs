//! Who runs: tail calls and wrappers, stacks that are switched, interrupts, processors of large machines.

use super::*;

const DPC_PAIR: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
const BOTH: [R; 4] = [PAIR[0], PAIR[1], DPC_PAIR[0], DPC_PAIR[1]];

#[test]
fn release_as_the_last_thing_of_a_function_returns_to_its_caller() {
    let mut s = Sequence::ready(&BOTH, true);
    // Inner: acquires in a frame of its own, releases by a jump; then its caller does the same, back into the system.
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet((0, 2, 1, TARGET + 0x240, stack(1) + 0x38), PAIR[1], LOCK, Some(1));
    s.quiet((0, 0, 1, TARGET + 0x260, stack(1)), PAIR[0], LOCK, Some(0));
    s.quiet((0, 2, 1, OTHER, stack(1) + 0x78), PAIR[1], LOCK, Some(1));
    s.quiet((0, 0, 1, TARGET + 0x260, stack(1)), PAIR[0], LOCK, Some(0));
    s.quiet((0, 2, 1, TARGET + 0x270, stack(1)), DPC_PAIR[0], SECOND, Some(0));
    s.quiet((0, 2, 1, TARGET + 0x280, stack(1)), DPC_PAIR[1], SECOND, Some(1));
    s.quiet((0, 2, 1, OTHER, stack(1) + 0x78), PAIR[1], LOCK, Some(1));
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn acquire_and_release_by_jumps_from_thin_functions_are_one_pair() {
    let mut s = Sequence::ready(&BOTH, true);
    for _ in 0..3 {
        // Both return to the same place in the same frame, in turn.
        s.quiet((0, 2, 1, TARGET + 0x240, stack(1)), DPC_PAIR[0], LOCK, Some(0));
        s.quiet((0, 2, 1, TARGET + 0x240, stack(1)), DPC_PAIR[1], LOCK, Some(1));
    }
    let found = s.call((0, 2, 1, TARGET + 0x240, stack(1)), DPC_PAIR[1], LOCK, Some(0));
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn helper_library_takes_the_lock_and_the_driver_releases_it() {
    let mut s = Sequence::ready(&PAIR, true);
    let helper = |irql| (0, irql, 1, OTHER + 0x80, stack(1) - 0x60);
    s.quiet(helper(0), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(helper(2), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_taken_on_one_stack_and_released_on_another_of_the_thread_is_no_defect() {
    // A function that runs on an expanded stack.
    let expanded = (0, 2, 1, TARGET + 0x900, stack(70));
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.call(expanded, PAIR[1], LOCK, Some(1));
    assert_ne!(s.outcome(), Outcome::Defect);
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet((0, 0, 1, TARGET + 0x900, stack(70)), PAIR[0], LOCK, Some(0));
    s.call(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    assert_ne!(s.outcome(), Outcome::Defect);
    s.low(0);
    s.low(1);
    let next = (0, 0, 1, TARGET + 0x910, stack(1) + 0x10);
    s.call(next, PAIR[0], LOCK, Some(0));
    s.call((0, 2, 1, TARGET + 0x920, stack(1) + 0x10), PAIR[1], LOCK, Some(1));
    assert_ne!(s.outcome(), Outcome::Defect);
}

#[test]
fn pair_at_dispatch_level_may_switch_the_stack() {
    let expanded = |at| (0, 2, 1, TARGET + at, stack(70));
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(expanded(0x900), DPC_PAIR[0], SECOND, Some(0));
    s.quiet(expanded(0x910), DPC_PAIR[1], SECOND, Some(1));
    s.quiet(expanded(0x920), DPC_PAIR[1], LOCK, Some(1));
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn processors_of_a_large_machine_hold_locks_of_their_own() {
    let mut s = Sequence::armed(WatchSet {
        processors: 256,
        closed: true,
        ..watch(&BOTH)
    });
    for processor in 0..256 {
        s.low(processor);
    }
    for processor in [63, 64, 65, 127, 128, 255] {
        let (thread, lock) = (
            u64::from(processor),
            LockOperand::Address(0x10_0000 + u64::from(processor) * 64),
        );
        s.quiet(who(processor, 2, thread), DPC_PAIR[0], lock, Some(0));
    }
    for processor in [63, 64, 65, 127, 128, 255] {
        let (thread, lock) = (
            u64::from(processor),
            LockOperand::Address(0x10_0000 + u64::from(processor) * 64),
        );
        s.quiet(who(processor, 2, thread), DPC_PAIR[1], lock, Some(1));
    }
    assert_eq!(s.outcome(), Outcome::Completed);
    s.quiet(who(64, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(64, 2, 1), DPC_PAIR[0], SECOND, Some(0));
    let found = s.call(who(128, 2, 2), DPC_PAIR[1], LOCK, Some(1));
    s.defect(&found, Cause::WrongOwner);
}

#[test]
fn calls_of_a_processor_that_cannot_be_are_no_reason_to_be_content() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    s.quiet(who(256, 2, 2), PAIR[1], LOCK, Some(0));
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn interrupt_over_a_holder_takes_other_locks_and_gives_them_back() {
    let mut s = Sequence::ready(&BOTH, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    for (irql, deep) in [(5, 0x200), (9, 0x500)] {
        s.quiet(
            (0, irql, 1, TARGET + 0x700, stack(1) - deep),
            DPC_PAIR[0],
            SECOND,
            Some(0),
        );
        s.quiet(
            (0, irql, 1, TARGET + 0x710, stack(1) - deep),
            DPC_PAIR[1],
            SECOND,
            Some(1),
        );
    }
    s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn interrupt_that_waits_for_the_lock_of_the_dpc_it_interrupted_waits_for_ever() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    // The DPC runs on.
    s.quiet(who(0, 2, 1), DPC_PAIR[0], SECOND, Some(0));
    s.quiet(who(0, 2, 1), DPC_PAIR[1], SECOND, Some(1));
    let found = s.call((0, 9, 1, TARGET + 0x700, stack(1) - 0x400), DPC_PAIR[0], LOCK, Some(1));
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn dpcs_of_one_processor_follow_each_other_on_one_stack() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    // Each interrupts another thread; the stack of DPCs is the processor's.
    for thread in 1..6 {
        let dpc = |at| (0, 2, thread, TARGET + at, stack(90) - 0x20 * thread);
        s.quiet(dpc(0x300), DPC_PAIR[0], LOCK, Some(0));
        s.quiet(dpc(0x310), DPC_PAIR[1], LOCK, Some(1));
    }
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_that_one_dpc_leaves_held_for_the_next_is_released_by_the_processor() {
    // Unusual, and right by every page: the processor has it all the time, at DISPATCH_LEVEL.
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet((0, 2, 1, TARGET + 0x300, stack(90)), DPC_PAIR[0], LOCK, Some(0));
    s.quiet((0, 2, 2, TARGET + 0x400, stack(90) + 0x40), DPC_PAIR[1], LOCK, Some(1));
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn thread_that_moves_before_its_irql_is_raised_is_the_same_thread() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    // Preempted at the first instruction; meanwhile others run there, and it goes on elsewhere.
    s.quiet(who(0, 0, 2), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 2), PAIR[1], LOCK, Some(1));
    s.quiet(who(0, 0, 2), PAIR[0], SECOND, Some(0));
    s.quiet(who(0, 2, 2), PAIR[1], SECOND, Some(1));
    s.quiet(who(1, 2, 1), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn events_in_no_common_order_make_no_certain_wrong_owner() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), DPC_PAIR[0], SECOND, Some(0));
    s.number += 1;
    let response = s.checker.apply(&Event {
        sequence: s.number,
        order: Order::PerProcessor,
        kind: EventKind::LockCall(LockCall {
            routine: DPC_PAIR[1],
            context: context(who(1, 2, 2)),
            operand: LOCK,
            old_irql: None,
            word: Some(1),
        }),
    });
    assert!(response.findings().all(|found| found.verdict == Verdict::Suspect));
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn raise_of_the_drivers_own_around_a_pair_is_right() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 2, 1), PAIR[0], LOCK, Some(0));
    s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(2));
    s.low(0);
    s.quiet(who(0, 1, 1), PAIR[0], LOCK, Some(0));
    s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(1));
    assert!(s.checker.findings().is_empty());
    assert_eq!(s.outcome(), Outcome::Completed);
    s.quiet(who(0, 1, 1), PAIR[0], LOCK, Some(0));
    let found = s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
    s.defect(&found, Cause::WrongNewIrql);
}

/// The driver's own code below the acquire's frame, which no interrupt can have come between: it has come back.
#[test]
fn helper_of_the_driver_that_takes_the_lock_again_waits_for_itself() {
    let set = [R::KeAcquireSpinLockRaiseToDpc, R::KeAcquireSpinLockAtDpcLevel, PAIR[1]];
    let inner = |at, deep| {
        let mut s = Sequence::ready(&set, true);
        s.quiet(who(0, 0, 1), set[0], LOCK, Some(0));
        let found = s.call((0, 2, 1, at, stack(1) - deep), set[1], LOCK, Some(1));
        (s, found)
    };
    let (s, found) = inner(TARGET + 0x300, 0x40);
    s.defect(&found, Cause::DoubleAcquire);
    // The work of the routine itself.
    let (s, found) = inner(OTHER, 0x40);
    assert_eq!((found, s.checker.open_acquires().len()), (vec![], 1));
    // Far below, a DPC that waits for the lock, or has it before the thread.
    let (s, found) = inner(TARGET + 0x300, 0x400);
    assert_eq!((found, s.checker.open_acquires().len()), (vec![], 2));
}

#[test]
fn interrupt_that_releases_by_the_handle_of_what_it_interrupted_is_to_blame() {
    let queued = [
        R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
        R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
    ];
    let of_dpc = [R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock];
    let (lock, handle) = (0x9000, 0x700);
    let of_handle = LockOperand::QueuedHandle {
        handle,
        lock: Some(lock),
    };
    for (set, acquire, release, word) in [
        (queued, LockOperand::Queued { lock, handle }, of_handle, Some(1)),
        (of_dpc, stor(0xad, 1, 0x500, 0x700), stor_handle(0xad, 0x700, 1), None),
    ] {
        let mut s = Sequence::ready(&set, true);
        s.quiet(who(0, 2, 1), set[0], acquire, word.map(|_| 0));
        let found = s.call((0, 8, 1, TARGET + 0x400, stack(9)), set[1], release, word);
        s.defect(&found, Cause::WrongOwner);
        // The victim is not to blame.
        s.quiet(who(0, 2, 1), set[1], release, word.map(|_| 0));
        // Whether it is an interrupt on the same stack, or a function of the holder's that has raised the IRQL.
        let mut s = Sequence::ready(&set, true);
        s.quiet(who(0, 2, 1), set[0], acquire, word.map(|_| 0));
        let found = s.call((0, 8, 1, TARGET + 0x400, stack(1) - 0x800), set[1], release, word);
        s.suspect(&found, Cause::WrongOwner);
    }
}

#[test]
fn holder_that_has_raised_the_irql_releases_by_its_handle() {
    let start_io = (stor(0xad, 2, 0, 0x700), stor_handle(0xad, 0x700, 2));
    let dpc = (stor(0xad, 1, 0x500, 0x700), stor_handle(0xad, 0x700, 1));
    // Of the IRQL of a device's lock nothing is known but that it is higher.
    for ((acquire, release), stack_pointer) in [
        (start_io, stack(1)),
        (start_io, stack(1) - 0x800),
        (start_io, stack(9)),
        (dpc, stack(1)),
        (dpc, stack(1) + 0x40),
        (dpc, stack(1) - 0x40),
    ] {
        let mut s = Sequence::ready(&STORPORT, true);
        s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, acquire, None);
        let raised = (0, 8, 1, TARGET + 0x400, stack_pointer);
        s.quiet(raised, R::StorPortReleaseSpinLock, release, None);
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}
