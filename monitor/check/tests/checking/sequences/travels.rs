//! Threads that move, interrupts within interrupts, many processors, and drivers that are loaded again.

use super::*;

const INTERRUPT: [R; 2] = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock];
const ONE: LockOperand = LockOperand::Interrupt(0xffff_9000_0000_3000);
const OTHER_ONE: LockOperand = LockOperand::Interrupt(0xffff_9000_0000_4000);
const DPC: [R; 2] = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];

fn many(routines: &[R]) -> Sequence {
    let mut s = Sequence::armed(WatchSet {
        processors: 256,
        closed: true,
        ..watch(routines)
    });
    for processor in 0..256 {
        s.low(processor);
    }
    s
}

#[test]
fn owner_of_a_lock_is_told_apart_on_the_last_processors_too() {
    let mut s = many(&DPC);
    s.quiet(who(70, 2, 1), DPC[0], LOCK, Some(0));
    s.quiet(who(70, 2, 1), DPC[0], SECOND, Some(0));
    let found = s.call(who(255, 2, 2), DPC[1], LOCK, Some(1));
    s.defect(&found, Cause::WrongOwner);
}

#[test]
fn every_processor_has_its_messages_lock() {
    let mut s = many(&STORPORT);
    let message = |number: u32| LockOperand::Msi {
        adapter: 0xad,
        message: number,
    };
    for _ in 0..3 {
        for number in 0..256 {
            s.quiet(
                who(number, 2, number.into()),
                R::StorPortAcquireMSISpinLock,
                message(number),
                None,
            );
        }
        for number in (0..256).rev() {
            s.quiet(
                who(number, 5, number.into()),
                R::StorPortReleaseMSISpinLock,
                message(number),
                None,
            );
        }
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn processor_that_a_thread_has_left_says_nothing_of_its_lock() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    // It was moved before it raised its IRQL, and came back with the lock there.
    s.came_back(s.number, who(1, 2, 1), PAIR[0], LOCK, 0);
    assert_eq!(s.low(0), []);
    s.quiet(who(1, 2, 1), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
    // The one that it was moved to does.
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.came_back(s.number, who(1, 2, 1), PAIR[0], LOCK, 0);
    let found = s.low(1);
    s.defect(&found, Cause::MissingRelease);
}

#[test]
fn threads_that_are_preempted_before_the_raise_take_the_lock_one_after_the_other() {
    let mut s = Sequence::ready(&PAIR, true);
    // Each is preempted at the entry by the next one, which has the lock first.
    for thread in 1..=5 {
        s.quiet(who(0, 0, thread), PAIR[0], LOCK, Some(0));
    }
    for thread in (1..=5).rev() {
        s.quiet(who((thread % 2) as u32, 2, thread), PAIR[1], LOCK, Some(1));
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn dpc_takes_the_lock_where_a_thread_was_before_it_moved() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    let dpc = (0, 2, 7, TARGET + 0x300, stack(9));
    s.quiet(dpc, PAIR[0], LOCK, Some(0));
    // The thread goes on on the other processor, and waits there.
    s.quiet(dpc, PAIR[1], LOCK, Some(1));
    s.quiet(who(1, 2, 1), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn interrupts_within_interrupts_give_back_their_locks() {
    let mut s = Sequence::ready(&[PAIR[0], PAIR[1], INTERRUPT[0], INTERRUPT[1]], true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    let outer = (0, 5, 1, TARGET + 0x400, stack(20));
    let inner = (0, 9, 1, TARGET + 0x500, stack(20) - 0x800);
    for _ in 0..3 {
        s.quiet(outer, INTERRUPT[0], ONE, None);
        s.quiet(inner, INTERRUPT[0], OTHER_ONE, None);
        assert_eq!(s.call_back_to(inner, INTERRUPT[1], OTHER_ONE, None, Some(9)), []);
        assert_eq!(s.call_back_to(outer, INTERRUPT[1], ONE, None, Some(5)), []);
    }
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn interrupt_that_leaves_its_lock_behind_is_seen_when_its_processor_is_low() {
    let mut s = Sequence::ready(&[PAIR[0], PAIR[1], INTERRUPT[0], INTERRUPT[1]], true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet((0, 5, 1, TARGET + 0x400, stack(20)), INTERRUPT[0], ONE, None);
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    let found = s.low(0);
    s.defect(&found, Cause::MissingRelease);
}

#[test]
fn interrupt_that_releases_the_lock_of_the_one_it_interrupted_is_not_completed() {
    let mut s = Sequence::ready(&INTERRUPT, true);
    s.quiet((0, 5, 1, TARGET + 0x400, stack(20)), INTERRUPT[0], ONE, None);
    let inner = (0, 9, 1, TARGET + 0x500, stack(20) - 0x800);
    s.call_back_to(inner, INTERRUPT[1], ONE, None, Some(9));
    s.call_back_to((0, 5, 1, TARGET + 0x410, stack(20)), INTERRUPT[1], ONE, None, Some(5));
    assert_eq!(s.outcome(), Outcome::Defect);
}

#[test]
fn place_of_the_driver_before_it_was_loaded_elsewhere_is_another_modules() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    s.event(EventKind::ModuleUnload {
        base: TARGET,
        size: 0x1000,
    });
    s.event(EventKind::ModuleLoad(Module {
        base: TARGET,
        size: 0x1000,
        target: false,
        name: "other.sys".into(),
    }));
    s.load_target(0x9_0000);
    // The other driver's mistake.
    let found = s.call(who(0, 2, 1), PAIR[1], SECOND, Some(0));
    assert!(!s.gravest(&found).2);
    // The driver under test, where it is now, is right and then wrong.
    let now = |irql, site: u64| (0, irql, 1, 0x9_0000 + site, stack(1));
    s.quiet(now(0, 0x100), PAIR[0], LOCK, Some(0));
    s.quiet(now(2, 0x110), PAIR[1], LOCK, Some(1));
    assert_eq!(s.outcome(), Outcome::Completed);
    let found = s.call(now(2, 0x120), PAIR[1], LOCK, Some(0));
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn lock_in_the_extension_outlives_the_image_of_its_driver() {
    let mut s = Sequence::ready(&PAIR, true);
    for base in [TARGET, 0x9_0000, 0xa_0000, TARGET] {
        s.load_target(base);
        let at = |irql, site: u64| (0, irql, 1, base + site, stack(1));
        s.quiet(at(0, 0x100), PAIR[0], LOCK, Some(0));
        s.quiet(at(2, 0x110), PAIR[1], LOCK, Some(1));
        s.event(EventKind::ModuleUnload { base, size: 0x1000 });
    }
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn lock_held_past_its_scope_and_released_late_is_told_once_for_certain() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    // The driver lowers its IRQL by hand and takes another lock.
    let found = s.call((0, 0, 1, TARGET + 0x300, stack(1)), PAIR[0], SECOND, Some(0));
    s.defect(&found, Cause::MissingRelease);
    s.quiet((0, 2, 1, TARGET + 0x310, stack(1)), PAIR[1], SECOND, Some(1));
    let late = s.call((0, 2, 1, TARGET + 0x320, stack(1)), PAIR[1], LOCK, Some(1));
    assert!(late.iter().all(|found| found.verdict == Verdict::Suspect));
}

#[test]
fn run_that_ends_in_a_release_is_right() {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), PAIR[1], LOCK, Some(1));
    // In the routine, before and after it has lowered the IRQL.
    for irql in [2, 0] {
        let (processor, _, thread, address, pointer) = who(0, irql, 1);
        let stopped = context((processor, irql, thread, address, pointer - 0x20));
        assert_eq!(s.event(EventKind::ProcessorStopped(stopped)), []);
    }
    s.checker.run_ended();
    assert_eq!(s.outcome(), Outcome::Completed);
}
