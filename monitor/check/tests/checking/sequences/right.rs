//! What right drivers do, and what was always rightly told.

use super::*;

#[test]
fn nested_interrupted_migrating_and_raised_pairs_are_right() {
    let mut s = Sequence::ready(&PAIR, true);
    let release = |s: &mut Sequence, who, lock| {
        assert_eq!(s.call_back_to(who, PAIR[1], lock, Some(1), Some(0)), []);
    };
    // Released in the order of the acquires.
    for _ in 0..3 {
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        s.quiet(who(0, 2, 1), PAIR[0], SECOND, Some(0));
        release(&mut s, who(0, 2, 1), LOCK);
        release(&mut s, who(0, 2, 1), SECOND);
    }
    // An APC between entry and raise takes and releases the lock.
    let apc = |irql| (0, irql, 1, TARGET, stack(1) - 0x300);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(apc(1), PAIR[0], LOCK, Some(0));
    assert_eq!(s.call_back_to(apc(2), PAIR[1], LOCK, Some(1), Some(1)), []);
    release(&mut s, who(0, 2, 1), LOCK);
    // The thread moves between entry and raise.
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    release(&mut s, who(1, 2, 1), LOCK);
    // A lock on the stack that is never released, and then another thread's.
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(1, 0, 2), PAIR[0], LOCK, Some(0));
    release(&mut s, who(1, 2, 2), LOCK);
    // The IRQL was raised by hand.
    s.quiet(who(0, 2, 1), PAIR[0], SECOND, Some(0));
    release(&mut s, who(0, 2, 1), SECOND);
    assert_eq!(s.checker.findings().len(), 0);
}

#[test]
fn adapters_messages_and_dpcs_have_locks_of_their_own() {
    let mut s = Sequence::ready(&STORPORT, true);
    for (processor, adapter, handle) in [(0, 0xad, 0x700), (1, 0xbd, 0x900)] {
        let caller = who(processor, 2, 1 + u64::from(processor));
        s.quiet(
            caller,
            R::StorPortAcquireSpinLock,
            stor(adapter, 1, 0x500, handle),
            None,
        );
        s.quiet(
            caller,
            R::StorPortAcquireSpinLock,
            stor(adapter, 1, 0x580, handle + 0x40),
            None,
        );
    }
    for (processor, adapter, handle) in [(0, 0xad, 0x700), (1, 0xbd, 0x900)] {
        for handle in [handle + 0x40, handle] {
            let caller = who(processor, 2, 1 + u64::from(processor));
            s.quiet(
                caller,
                R::StorPortReleaseSpinLock,
                stor_handle(adapter, handle, 1),
                None,
            );
        }
    }
    let message = |message| LockOperand::Msi { adapter: 0xad, message };
    for number in 0..3 {
        s.quiet(who(0, 2, 1), R::StorPortAcquireMSISpinLock, message(number), None);
        s.quiet(who(1, 2, 2), R::StorPortAcquireMSISpinLock, message(number + 10), None);
    }
    for number in (0..3).rev() {
        s.quiet(who(0, 5, 1), R::StorPortReleaseMSISpinLock, message(number), None);
        s.quiet(who(1, 5, 2), R::StorPortReleaseMSISpinLock, message(number + 10), None);
    }
    assert_eq!(s.checker.findings().len(), 0);
}

#[test]
fn shared_holders_and_an_upgrade_are_right() {
    let convert = R::ExTryConvertSharedSpinLockExclusive;
    let set = [
        R::ExAcquireSpinLockShared,
        R::ExReleaseSpinLockShared,
        convert,
        R::ExReleaseSpinLockExclusive,
    ];
    let mut s = Sequence::ready(&set, true);
    s.quiet(who(0, 0, 1), R::ExAcquireSpinLockShared, LOCK, Some(0));
    s.quiet(who(1, 0, 2), R::ExAcquireSpinLockShared, LOCK, Some(1));
    s.quiet(who(1, 2, 2), convert, LOCK, Some(2));
    s.came_back(s.number, who(1, 2, 2), convert, LOCK, 0);
    s.quiet(who(1, 2, 2), R::ExReleaseSpinLockShared, LOCK, Some(2));
    s.quiet(who(0, 2, 1), convert, LOCK, Some(1));
    s.came_back(s.number, who(0, 2, 1), convert, LOCK, 1);
    s.quiet(who(0, 2, 1), R::ExReleaseSpinLockExclusive, LOCK, Some(1 << 31));
    assert_eq!(s.checker.findings().len(), 0);
}

#[test]
fn release_after_too_many_waiters_to_remember_is_unknown() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    for thread in 100..300 {
        s.quiet((1, 0, thread, TARGET, stack(thread)), PAIR[0], LOCK, Some(1));
    }
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    assert_eq!(s.checker.statistics().unknown_releases, 1);
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn exports_that_share_their_code_are_taken_for_the_one_that_fits() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeReleaseSpinLockForDpc,
        R::KeAcquireSpinLockForDpc,
    ];
    for ambiguous in [false, true] {
        let shared = RoutineSet::of(&[R::KeReleaseSpinLock, R::KeReleaseSpinLockForDpc]);
        let mut s = Sequence::armed(WatchSet {
            ambiguous: if ambiguous { shared } else { RoutineSet::EMPTY },
            closed: true,
            ..watch(&set)
        });
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockForDpc, LOCK, Some(0));
        let found = s.call(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
        assert_eq!(found.is_empty(), ambiguous);
    }
}

#[test]
fn dpc_between_entry_and_raise_may_take_the_lock_by_the_same_routine() {
    for dpc_stack in [stack(9), stack(1) - 0x200] {
        let dpc = (0, 2, 1, TARGET + 0x300, dpc_stack);
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
        s.quiet(dpc, PAIR[0], LOCK, Some(0));
        assert!(s.call_back_to(dpc, PAIR[1], LOCK, Some(1), Some(2)).is_empty());
        assert!(s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0)).is_empty());
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}
