//! Adapters, messages and handles of the port driver's locks.

use super::*;

const ACQUIRE: R = R::StorPortAcquireSpinLock;
const ACQUIRE_EX: R = R::StorPortAcquireSpinLockEx;
const RELEASE: R = R::StorPortReleaseSpinLock;
const MSI: [R; 2] = [R::StorPortAcquireMSISpinLock, R::StorPortReleaseMSISpinLock];

const fn message(adapter: u64, message: u32) -> LockOperand {
    LockOperand::Msi { adapter, message }
}

#[test]
fn one_handle_serves_two_adapters_in_turn() {
    let mut s = Sequence::ready(&STORPORT, true);
    for adapter in [0xad, 0xbd, 0xad] {
        s.quiet(who(0, 2, 1), ACQUIRE, stor(adapter, 2, 0, 0x700), None);
        s.quiet(who(0, 2, 1), RELEASE, stor_handle(adapter, 0x700, 2), None);
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn two_adapters_are_locked_at_the_same_time_by_one_caller_and_by_two() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 2, 0, 0x700), None);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xbd, 2, 0, 0x780), None);
    s.quiet(who(1, 2, 2), ACQUIRE, stor(0xcd, 2, 0, 0x900), None);
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xbd, 0x780, 2), None);
    s.quiet(who(1, 2, 2), RELEASE, stor_handle(0xcd, 0x900, 2), None);
    s.low(0);
    s.low(1);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn handles_of_two_adapters_that_are_mixed_up_are_a_defect() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 2, 0, 0x700), None);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xbd, 2, 0, 0x780), None);
    let found = s.call(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x780, 2), None);
    s.defect(&found, Cause::WrongAdapter);
}

#[test]
fn refused_acquire_whose_driver_checks_the_status_is_right() {
    let mut s = Sequence::ready(&STORPORT, true);
    let refused = stor(0xad, 1, 0x500, 0x700);
    s.quiet(who(0, 5, 1), ACQUIRE_EX, refused, None);
    s.came_back(s.number, who(0, 5, 1), ACQUIRE_EX, refused, 0xc100_0009);
    // It takes another lock by the same handle instead.
    s.quiet(who(0, 5, 1), ACQUIRE, stor(0xad, 3, 0, 0x700), None);
    s.quiet(who(0, 5, 1), RELEASE, stor_handle(0xad, 0x700, 3), None);
    s.low(0);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn locks_of_two_dpcs_are_released_in_either_order() {
    for swapped in [false, true] {
        let mut s = Sequence::ready(&STORPORT, true);
        s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 1, 0x500, 0x700), Some(0));
        s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 1, 0x600, 0x780), Some(0));
        let mut handles = [(0x700, 0x540), (0x780, 0x640)];
        if swapped {
            handles.reverse();
        }
        for (handle, lock) in handles {
            let release = LockOperand::StorPortHandle {
                adapter: 0xad,
                handle,
                kind: Some(1),
                lock: Some(lock),
            };
            s.quiet(who(0, 2, 1), RELEASE, release, Some(1));
        }
        s.low(0);
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}

#[test]
fn dpc_lock_taken_twice_by_different_kinds_waits_for_itself() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 1, 0x500, 0x700), Some(0));
    let found = s.call(who(0, 2, 1), ACQUIRE_EX, stor(0xad, 5, 0x500, 0x780), Some(1));
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn lock_of_another_message_than_the_one_acquired_is_a_defect() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), MSI[0], message(0xad, 1), None);
    s.came_back(s.number, who(0, 7, 1), MSI[0], message(0xad, 1), 0);
    let found = s.call_back_to(who(0, 7, 1), MSI[1], message(0xad, 2), None, Some(2));
    s.defect(&found, Cause::OtherLock);
}

#[test]
fn lock_of_another_adapters_message_is_a_defect() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), MSI[0], message(0xad, 1), None);
    s.came_back(s.number, who(0, 7, 1), MSI[0], message(0xad, 1), 0);
    let found = s.call_back_to(who(0, 7, 1), MSI[1], message(0xbd, 1), None, Some(2));
    assert_eq!(found.first().map(|found| found.verdict), Some(Verdict::Semantic));
}

#[test]
fn message_lock_that_was_refused_has_nothing_to_release() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), MSI[0], message(0xad, 1), None);
    s.came_back(s.number, who(0, 2, 1), MSI[0], message(0xad, 1), 0xc100_0001);
    let found = s.call_back_to(who(0, 2, 1), MSI[1], message(0xad, 1), None, Some(2));
    s.defect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn message_lock_of_one_processor_is_not_another_processors_to_release() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), MSI[0], message(0xad, 1), None);
    s.came_back(s.number, who(0, 7, 1), MSI[0], message(0xad, 1), 0);
    let found = s.call_back_to(who(1, 7, 2), MSI[1], message(0xad, 1), None, Some(2));
    s.defect(&found, Cause::WrongOwner);
}

#[test]
fn kinds_that_nobody_has_documented_are_not_judged() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 6, 0, 0x700), None);
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x700, 6), None);
    s.low(0);
    assert_ne!(s.outcome(), Outcome::Defect);
}

#[test]
fn start_io_lock_that_its_thread_carries_below_dispatch_level_is_not_released() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.told(0xad, PortModel::MODE_KNOWN);
    s.quiet(who(0, 0, 1), ACQUIRE, stor(0xad, 2, 0, stack(1) - 0x40), None);
    let later = (0, 0, 1, TARGET + 0x600, stack(1) + 0x100);
    let found = s.call(later, ACQUIRE, stor(0xad, 1, 0x500, stack(1) - 0x80), None);
    s.defect(&found, Cause::MissingRelease);
}

#[test]
fn handle_of_a_lock_that_was_released_already_is_a_second_release_whoever_has_the_lock_now() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 2, 0, 0x700), None);
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
    s.quiet(who(1, 2, 2), ACQUIRE, stor(0xad, 2, 0, 0x900), None);
    let found = s.call(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
    assert_eq!(found.first().map(|found| found.verdict), Some(Verdict::Semantic));
    s.quiet(who(1, 2, 2), RELEASE, stor_handle(0xad, 0x900, 2), None);
}

#[test]
fn adapter_that_comes_back_at_the_same_place_begins_with_no_locks_held() {
    let mut s = Sequence::ready(&STORPORT, true);
    let adapter = 0xffff_c100_0000_0000;
    s.quiet(who(0, 2, 1), ACQUIRE, stor(adapter, 2, 0, 0x700), None);
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(adapter, 0x700, 2), None);
    s.event(EventKind::MemoryFreed {
        address: adapter,
        length: 0x1000,
    });
    s.quiet(who(1, 2, 2), ACQUIRE, stor(adapter, 2, 0, 0x900), None);
    s.quiet(who(1, 2, 2), RELEASE, stor_handle(adapter, 0x900, 2), None);
    let found = s.call(who(1, 2, 2), RELEASE, stor_handle(adapter, 0x700, 2), None);
    assert!(!found.is_empty(), "the old handle is nobody's");
}

/// A device is removed, its driver stays, and its memory becomes that of another driver's adapter, unseen.
#[test]
fn adapter_that_another_driver_works_with_is_that_drivers() {
    let port = 0x6_0000;
    let load = |s: &mut Sequence, base, name: &str| {
        s.event(EventKind::ModuleLoad(Module {
            base,
            size: 0x1000,
            target: false,
            name: name.into(),
        }));
    };
    let used = |held: bool| {
        let mut s = Sequence::ready(&STORPORT, true);
        load(&mut s, OTHER, "Other.sys");
        load(&mut s, port, "storport.sys");
        s.quiet(who(0, 2, 1), ACQUIRE, stor(0xad, 1, 0x500, 0x900), None);
        if !held {
            s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x900, 1), None);
        }
        s
    };
    let (they, by_a_jump) = ((1, 2, 5, OTHER + 0x20, stack(5)), (1, 2, 5, port + 0x20, stack(5)));
    let stray = stor_handle(0xad, 0x700, 0);
    let mut s = used(false);
    for who in [they, by_a_jump] {
        let found = s.call(who, RELEASE, stray, None);
        assert!(!s.gravest(&found).2);
    }
    assert_eq!(s.outcome(), Outcome::Completed);
    // A function of the target's that ends in such a jump.
    let mut s = used(false);
    let found = s.call(by_a_jump, RELEASE, stray, None);
    s.defect(&found, Cause::ReleaseWithoutAcquire);
    // A helper, while a lock of the adapter is held: the adapter stays the target's.
    let mut s = used(true);
    s.quiet(they, ACQUIRE, stor(0xad, 1, 0x600, 0x980), None);
    s.quiet(they, RELEASE, stor_handle(0xad, 0x980, 1), None);
    let found = s.call(by_a_jump, RELEASE, stray, None);
    s.defect(&found, Cause::ReleaseWithoutAcquire);
}
