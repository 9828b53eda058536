//! A thread that could not be read: who runs is not known, and nobody is told from anybody else by it.

use super::*;

const QUEUED: [R; 2] = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
const EX: [R; 2] = [R::ExAcquireSpinLockExclusive, R::ExReleaseSpinLockExclusive];
const DPC_PAIR: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];

/// A thread of the driver under test on its stack; `read`: its thread could be read.
const fn reading(processor: u32, irql: u8, read: bool) -> Who {
    let thread = if read { 1 } else { 0 };
    (processor, irql, thread, TARGET + 0x110, stack(1))
}

#[test]
fn handle_is_released_by_its_own_thread_though_that_was_not_read() {
    for (acquired, released) in [(false, true), (true, false), (false, false)] {
        let mut s = Sequence::ready(&STORPORT, true);
        let lock = stor(0xad, 2, 0, 0x700);
        s.quiet(reading(0, 0, acquired), R::StorPortAcquireSpinLock, lock, None);
        let handle = stor_handle(0xad, 0x700, 2);
        s.quiet(reading(1, 2, released), R::StorPortReleaseSpinLock, handle, None);
        assert_ne!(s.outcome(), Outcome::Defect);
        let mut s = Sequence::ready(&QUEUED, true);
        let handle = 0x700;
        let lock = 0x9000;
        let queued = LockOperand::Queued { lock, handle };
        let of_handle = LockOperand::QueuedHandle {
            handle,
            lock: Some(lock),
        };
        s.quiet(reading(0, 0, acquired), QUEUED[0], queued, Some(0));
        s.quiet(reading(0, 2, released), QUEUED[1], of_handle, Some(1));
        assert_ne!(s.outcome(), Outcome::Defect);
    }
}

#[test]
fn lock_is_released_by_its_own_thread_though_that_was_not_read() {
    for (acquired, released) in [(false, true), (true, false), (false, false)] {
        let mut s = Sequence::ready(&EX, true);
        s.quiet(reading(0, 0, acquired), EX[0], LOCK, Some(0));
        let call = s.number;
        s.came_back(call, reading(0, 2, acquired), EX[0], LOCK, 0);
        s.quiet(reading(0, 2, released), EX[1], LOCK, Some(1));
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}

#[test]
fn two_threads_that_were_not_read_are_not_one_that_takes_its_lock_twice() {
    let mut s = Sequence::ready(&EX, true);
    s.quiet(reading(0, 0, false), EX[0], LOCK, Some(0));
    let call = s.number;
    s.came_back(call, reading(0, 2, false), EX[0], LOCK, 0);
    let other = (1, 0, 0, TARGET + 0x120, stack(2));
    s.quiet(other, EX[0], LOCK, Some(1));
    assert_ne!(s.outcome(), Outcome::Defect);
    // The processor that holds it tells them apart.
    let found = s.call((0, 2, 0, TARGET + 0x130, stack(1)), EX[0], LOCK, Some(1));
    s.defect(&found, Cause::DoubleAcquire);
}

/// What else a thread has acquired, and with which old IRQL, is known only of one that was read.
#[test]
fn old_irql_of_a_thread_that_was_not_read_may_be_that_of_another_lock() {
    let set = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock];
    let [outer, inner] = [0xffff_9000_0000_3000, 0xffff_9000_0000_4000].map(LockOperand::Interrupt);
    for (read, given, wrong) in [(false, 0, false), (true, 0, false), (true, 7, true), (false, 16, true)] {
        let mut s = Sequence::ready(&set, true);
        let at = |irql, read| (0, irql, u64::from(read), TARGET + 0x120, stack(1) - 0x200);
        s.quiet(reading(0, 0, true), set[0], outer, None);
        s.quiet(at(5, read), set[0], inner, None);
        let call = s.number;
        s.came_back(call, at(5, read), set[0], inner, 0);
        let found = s.call_back_to(at(5, read), set[1], inner, None, Some(given));
        assert_eq!(!found.is_empty(), wrong, "{read} {given}");
    }
}

/// At `DISPATCH_LEVEL` a lock belongs to its processor.
#[test]
fn thread_that_was_not_read_hides_no_wrong_owner_at_dispatch_level() {
    let mut s = Sequence::ready(&DPC_PAIR, true);
    s.quiet(reading(0, 2, false), DPC_PAIR[0], LOCK, Some(0));
    s.quiet(reading(0, 2, false), DPC_PAIR[0], SECOND, Some(0));
    let other = (1, 2, 0, TARGET + 0x120, stack(2));
    let found = s.call(other, DPC_PAIR[1], LOCK, Some(1));
    s.defect(&found, Cause::WrongOwner);
}

/// The second of these is the first, which was interrupted at its entry.
#[test]
fn acquire_that_was_entered_twice_and_read_once_is_one() {
    let interrupt_lock = LockOperand::Interrupt(0xffff_9000_0000_3000);
    let set = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock];
    for (first, second) in [(true, false), (false, true), (false, false)] {
        let mut s = Sequence::ready(&set, true);
        s.quiet(reading(0, 0, first), set[0], interrupt_lock, None);
        s.quiet(reading(0, 0, second), set[0], interrupt_lock, None);
        let call = s.number;
        s.came_back(call, reading(0, 5, true), set[0], interrupt_lock, 0);
        let release = s.call_back_to(reading(0, 5, true), set[1], interrupt_lock, None, Some(0));
        assert_eq!(release, []);
        let dpc = (0, 2, 1, TARGET + 0x300, stack(9));
        s.quiet(dpc, set[0], interrupt_lock, None);
        assert_ne!(s.outcome(), Outcome::Defect);
    }
}

#[test]
fn conversion_is_that_of_the_processor_that_holds_the_lock() {
    let set = [
        R::ExAcquireSpinLockShared,
        R::ExTryConvertSharedSpinLockExclusive,
        R::ExReleaseSpinLockExclusive,
        R::ExAcquireSpinLockExclusive,
    ];
    let mut s = Sequence::ready(&set, true);
    s.quiet(reading(0, 2, true), set[0], LOCK, Some(0));
    s.quiet(who(1, 0, 2), set[3], LOCK, Some(1));
    s.quiet(reading(0, 2, false), set[1], LOCK, Some(1));
    s.quiet(reading(0, 2, true), set[2], LOCK, Some(1));
    assert_ne!(s.outcome(), Outcome::Defect);
}
