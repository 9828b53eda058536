//! What ends while a lock is held, or takes the place of what has ended: memory, modules, threads, handles.

use super::*;

const DPC_PAIR: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
const QUEUED: [R; 2] = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
const LOCK_AT: u64 = 0xffff_c000_0000_1000;

const fn queued(lock: u64, handle: u64) -> LockOperand {
    LockOperand::Queued { lock, handle }
}

const fn of_handle(lock: u64, handle: u64) -> LockOperand {
    LockOperand::QueuedHandle {
        handle,
        lock: Some(lock),
    }
}

fn free(s: &mut Sequence) {
    s.event(EventKind::MemoryFreed {
        address: LOCK_AT,
        length: 0x40,
    });
}

#[test]
fn memory_that_goes_with_a_held_lock_leaves_the_outcome_open_and_its_next_lock_is_another() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    free(&mut s);
    s.quiet(who(1, 0, 2), PAIR[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    free(&mut s);
    assert_eq!(s.outcome(), Outcome::Inconclusive, "nobody can release it any more");
    s.quiet(who(1, 0, 2), PAIR[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), PAIR[1], LOCK, Some(1));
}

#[test]
fn memory_of_another_drivers_held_lock_says_nothing_of_the_target() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet((0, 0, 5, OTHER, stack(5)), PAIR[0], LOCK, Some(0));
    free(&mut s);
    s.quiet(who(1, 0, 2), PAIR[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn module_that_goes_with_a_held_lock_is_not_completed_and_its_next_load_is_right() {
    for routines in [PAIR, DPC_PAIR] {
        let inside = LockOperand::Address(TARGET + 0x800);
        let irql = if routines == PAIR { 0 } else { 2 };
        let mut s = Sequence::ready(&routines, true);
        s.quiet(who(0, irql, 1), routines[0], inside, Some(0));
        s.event(EventKind::ModuleUnload {
            base: TARGET,
            size: 0x1000,
        });
        assert_eq!(s.outcome(), Outcome::Inconclusive);
        s.load_target(TARGET);
        s.quiet(who(1, irql, 2), routines[0], inside, Some(0));
        s.quiet(who(1, 2, 2), routines[1], inside, Some(1));
        assert!(s.checker.findings().is_empty());
    }
}

#[test]
fn thread_object_that_is_another_thread_now_holds_nothing() {
    let mut s = Sequence::ready(&PAIR, true);
    // The first one waits for the lock when it is last seen; it was killed in its creation, whatever.
    s.quiet((0, 0, 5, OTHER, stack(5)), PAIR[0], LOCK, Some(1));
    let reborn = |irql| (1, irql, 5, TARGET + 0x150, stack(40));
    s.quiet(reborn(0), PAIR[0], LOCK, Some(0));
    s.quiet(reborn(2), PAIR[1], LOCK, Some(1));
    s.quiet(reborn(0), PAIR[0], SECOND, Some(0));
    s.quiet(reborn(2), PAIR[1], SECOND, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn handle_on_a_stack_serves_one_lock_after_the_other_and_other_threads() {
    let mut s = Sequence::ready(&QUEUED, true);
    let handle = stack(1) - 0x40;
    for lock in [0x9000, 0xa000, 0x9000] {
        s.quiet(who(0, 0, 1), QUEUED[0], queued(lock, handle), Some(0));
        s.quiet(who(0, 2, 1), QUEUED[1], of_handle(lock, handle), Some(1));
    }
    // The stack belongs to another thread now.
    let next = |irql| (1, irql, 7, TARGET + 0x170, stack(1));
    s.quiet(next(0), QUEUED[0], queued(0x9000, handle), Some(0));
    s.quiet(next(2), QUEUED[1], of_handle(0x9000, handle), Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn handle_that_was_given_to_a_second_acquire_while_its_first_lock_is_held_is_told_once_both_are_released() {
    let mut s = Sequence::ready(&QUEUED, true);
    let handle = stack(1) - 0x40;
    s.quiet(who(0, 0, 1), QUEUED[0], queued(0x9000, handle), Some(0));
    s.quiet(who(0, 2, 1), QUEUED[0], queued(0xa000, handle), Some(0));
    s.quiet(who(0, 2, 1), QUEUED[1], of_handle(0xa000, handle), Some(1));
    // The first lock cannot be released by it any more: the routine releases the second again, which nobody holds.
    let found = s.call(who(0, 2, 1), QUEUED[1], of_handle(0xa000, handle), Some(0));
    assert_eq!(found.first().map(|found| found.verdict), Some(Verdict::Semantic));
}

#[test]
fn lock_word_becomes_a_reader_writer_lock_in_memory_whose_change_was_not_seen() {
    let set = [
        PAIR[0],
        PAIR[1],
        R::ExAcquireSpinLockExclusive,
        R::ExReleaseSpinLockExclusive,
    ];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    s.quiet(who(0, 0, 1), R::ExAcquireSpinLockExclusive, LOCK, Some(0));
    s.quiet(who(0, 2, 1), R::ExReleaseSpinLockExclusive, LOCK, Some(1 << 31));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_whose_half_seen_pair_was_the_kernels_is_the_targets_next() {
    let mut s = Sequence::ready(&PAIR, true);
    for round in 0..20 {
        let theirs = (0, 0, 5, OTHER, stack(5));
        s.quiet(theirs, PAIR[0], LOCK, Some(0));
        // Released by the kernel's internal routine; meanwhile the target may wait for it.
        s.quiet(who(1, 0, 2), PAIR[0], LOCK, Some(round % 2));
        s.quiet(who(1, 2, 2), PAIR[1], LOCK, Some(1));
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn locks_held_at_a_reset_are_nobodys_afterwards() {
    let set = [PAIR[0], PAIR[1], DPC_PAIR[0], DPC_PAIR[1]];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), DPC_PAIR[0], SECOND, Some(0));
    s.event(EventKind::Restored);
    s.load_target(TARGET);
    s.event(EventKind::WatchSetChanged(WatchSet {
        closed: true,
        ..watch(&set)
    }));
    s.low(0);
    s.low(1);
    s.quiet(who(0, 2, 1), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), DPC_PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}
