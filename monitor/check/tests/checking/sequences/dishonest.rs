//! The shortest sequences of right drivers that simulated machines have led to and that were once taken for wrong ones.

use super::*;

const INTERRUPT: LockOperand = LockOperand::Interrupt(0xffff_9000_0000_3000);
const ADDRESS: u64 = 0xffff_c000_0000_1000;

#[test]
fn release_without_a_word_may_follow_an_acquire_that_was_looked_up() {
    for closed in [false, true] {
        let mut s = Sequence::ready(&[R::KeReleaseInterruptSpinLock], closed);
        let found = s.call_back_to(who(0, 5, 1), R::KeReleaseInterruptSpinLock, INTERRUPT, None, Some(0));
        if closed {
            s.defect(&found, Cause::ReleaseWithoutAcquire);
        } else {
            s.suspect(&found, Cause::ReleaseWithoutAcquire);
        }
    }
}

#[test]
fn low_irql_does_not_end_an_interrupt_lock_that_took_nothing() {
    let acquire = stor(0xad, 3, 0, 0x700);
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 0, 1), R::StorPortAcquireSpinLock, acquire, None);
    let call = s.number;
    s.came_back(call, who(0, 0, 1), R::StorPortAcquireSpinLock, acquire, 0);
    s.quiet(
        who(0, 0, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 3),
        None,
    );
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn interrupt_lock_that_takes_nothing_excludes_nobody() {
    let (one, other) = (stor(0xad, 3, 0, 0x700), stor(0xad, 3, 0, 0x900));
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, one, None);
    let first = s.number;
    s.quiet(who(1, 2, 2), R::StorPortAcquireSpinLock, other, None);
    let second = s.number;
    s.came_back(first, who(0, 2, 1), R::StorPortAcquireSpinLock, one, 0);
    s.came_back(second, who(1, 2, 2), R::StorPortAcquireSpinLock, other, 0);
    s.quiet(
        who(1, 2, 2),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x900, 3),
        None,
    );
    s.quiet(
        who(0, 2, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 3),
        None,
    );
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// A queue handle of the driver under test that the kernel uses for a lock of its own afterwards, while the driver's lock is
/// held elsewhere.
#[test]
fn handle_that_another_module_has_filled_in_again_is_that_modules() {
    let at_dpc_level = R::KeAcquireInStackQueuedSpinLockAtDpcLevel;
    let set = [
        R::KeAcquireInStackQueuedSpinLock,
        R::KeReleaseInStackQueuedSpinLock,
        at_dpc_level,
    ];
    let mut s = Sequence::ready(&set, true);
    let handle = stack(1) - 0x80;
    let queued = |handle| LockOperand::Queued { lock: ADDRESS, handle };
    let filled = |lock| LockOperand::QueuedHandle { handle, lock };
    s.quiet(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, queued(handle), Some(0));
    s.quiet(
        who(0, 2, 1),
        R::KeReleaseInStackQueuedSpinLock,
        filled(Some(ADDRESS)),
        Some(1),
    );
    s.quiet(who(1, 2, 2), at_dpc_level, queued(0x900), Some(0));
    let call = s.number;
    s.came_back(call, who(1, 2, 2), at_dpc_level, queued(0x900), 0);
    let they = (0, 2, 1, OTHER, stack(1) - 0x100);
    s.quiet(they, R::KeReleaseInStackQueuedSpinLock, filled(Some(0x9000)), Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

/// The stack slot of an acquire's handle argument is not always readable; the handle of its release is.
#[test]
fn release_belongs_to_an_acquire_whose_handle_was_not_read() {
    for irql in [0, 2] {
        let mut s = Sequence::ready(&STORPORT, true);
        let first = stor(0xad, 1, 0x500, 0x700);
        s.quiet(who(0, irql, 1), R::StorPortAcquireSpinLock, first, None);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 1),
            None,
        );
        let blind = stor(0xad, 2, 0, 0);
        s.quiet(who(0, irql, 1), R::StorPortAcquireSpinLock, blind, None);
        let call = s.number;
        s.came_back(call, who(0, 2, 1), R::StorPortAcquireSpinLock, blind, 0);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 2),
            None,
        );
        // Neither a second acquire nor a missing release.
        let after = (0, irql, 1, TARGET + 0x300, stack(1) + 0x40);
        s.quiet(after, R::StorPortAcquireSpinLock, stor(0xad, 2, 0, 0x780), None);
        // Which acquire the release belongs to is a guess.
        assert_eq!(s.outcome(), Outcome::Inconclusive);
    }
}

#[test]
fn refused_acquire_says_nothing_of_one_whose_handle_was_not_read() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(
        who(0, 5, 1),
        R::StorPortAcquireSpinLockEx,
        stor(0xad, 3, 0, 0x700),
        None,
    );
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0), None);
    s.quiet(
        who(0, 5, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 3),
        None,
    );
}

/// The hold was shared, by an acquire that was looked up, and has become an exclusive one.
#[test]
fn release_of_a_lock_whose_word_was_not_read_is_no_defect() {
    let set = [
        R::ExTryConvertSharedSpinLockExclusive,
        R::ExAcquireSpinLockExclusiveAtDpcLevel,
        R::ExReleaseSpinLockExclusiveFromDpcLevel,
    ];
    let mut s = Sequence::ready(&set, false);
    s.quiet(who(0, 2, 1), R::ExTryConvertSharedSpinLockExclusive, LOCK, Some(1));
    let found = s.call(who(0, 2, 1), R::ExReleaseSpinLockExclusiveFromDpcLevel, LOCK, None);
    s.suspect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn old_irqls_of_locks_that_a_helper_took_may_be_given_back_in_the_other_order() {
    let mut s = Sequence::ready(&PAIR, false);
    let helper = (0, 2, 1, OTHER, stack(1) - 0x80);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(helper, R::KeAcquireSpinLockRaiseToDpc, SECOND, Some(0));
    let found = s.call_back_to(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1), Some(2));
    assert!(found.is_empty(), "{found:?}");
    let found = s.call_back_to(who(0, 2, 1), R::KeReleaseSpinLock, SECOND, Some(1), Some(0));
    assert!(found.is_empty(), "{found:?}");
}

/// `KeReleaseSpinLock` may do its work by `KeReleaseSpinLockFromDpcLevel`, but from its own code.
#[test]
fn release_from_the_drivers_own_code_is_not_part_of_the_release_before() {
    let set = [
        R::KeAcquireSpinLockRaiseToDpc,
        R::KeReleaseSpinLock,
        R::KeReleaseSpinLockFromDpcLevel,
    ];
    for (site, expected) in [(OTHER, Outcome::Completed), (TARGET + 0x300, Outcome::Inconclusive)] {
        let mut s = Sequence::ready(&set, false);
        s.quiet(who(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
        s.call(
            (0, 2, 1, site, stack(1) - 0x40),
            R::KeReleaseSpinLockFromDpcLevel,
            LOCK,
            Some(1),
        );
        assert_eq!(s.outcome(), expected);
    }
}

/// An interrupt of the acquire takes another lock by a handle that is not read, and releases it by one whose memory had
/// been that of the first lock's before.
#[test]
fn handle_that_was_not_read_is_no_other_handle_of_what_was_interrupted() {
    let mut s = Sequence::ready(&STORPORT, true);
    let interrupt = (0, 5, 1, TARGET + 0x300, stack(1) - 0x800);
    let dpc_lock = |kind, handle| stor(0xad, kind, 0x500, handle);
    let dpc = (0, 2, 1, TARGET + 0x300, stack(1) - 0x800);
    s.quiet(dpc, R::StorPortAcquireSpinLockEx, dpc_lock(5, 0x700), None);
    s.quiet(dpc, R::StorPortReleaseSpinLock, stor_handle(0xad, 0x700, 5), None);
    s.quiet(who(0, 0, 1), R::StorPortAcquireSpinLockEx, dpc_lock(4, 0x780), None);
    s.quiet(interrupt, R::StorPortAcquireSpinLock, stor(0xad, 2, 0, 0), None);
    let unread = LockOperand::StorPortHandle {
        adapter: 0xad,
        handle: 0x700,
        kind: None,
        lock: None,
    };
    let found = s.call(interrupt, R::StorPortReleaseSpinLock, unread, None);
    s.suspect(&found, Cause::OtherHandle);
}
