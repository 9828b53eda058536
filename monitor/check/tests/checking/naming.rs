//! What a wrong release is called: only as much as the evidence allows.

use storlock_check::checker::Found;
use storlock_check::contract::Routine as R;
use storlock_check::event::{Context, EventKind, LockCall, LockOperand};
use storlock_check::identity::LockIdentity;
use storlock_check::rules::{Cause, Finding, HandleNow, RuleId, Verdict};

use crate::scenes::{ELSEWHERE, LOCK, OTHER, RAISED, STOR, STOR_HANDLE, Scene, THREAD, Who, also_acquired, context};

const MESSAGE: LockOperand = LockOperand::Msi {
    adapter: 0xad,
    message: 3,
};

const fn interrupt_lock(handle: u64) -> LockOperand {
    LockOperand::StorPort {
        adapter: 0xad,
        kind: 3,
        context: 0,
        handle,
    }
}

const fn handle_of(handle: u64, kind: Option<u32>) -> LockOperand {
    LockOperand::StorPortHandle {
        adapter: 0xad,
        handle,
        kind,
        lock: None,
    }
}

/// A call from `bytes` further out on the stack than other calls of the scene; negative: deeper.
fn call_at(
    scene: &mut Scene,
    bytes: i64,
    who: Who,
    routine: R,
    operand: LockOperand,
    word: Option<u64>,
) -> Option<Found> {
    let context = context(who, scene.sequence * 16);
    let context = Context {
        stack_pointer: context.stack_pointer.wrapping_add_signed(bytes),
        ..context
    };
    scene.event(EventKind::LockCall(LockCall {
        routine,
        context,
        operand,
        old_irql: None,
        word,
    }))
}

#[track_caller]
fn named(scene: &Scene, found: Option<Found>, rule: RuleId, cause: Cause) -> Finding {
    scene.expect(found, Verdict::Semantic, rule, cause);
    scene.checker.findings()[found.unwrap().index.unwrap()].clone()
}

#[test]
fn handle_that_no_longer_looks_like_its_acquire_was_not_acquired() {
    for (kind, now) in [
        (Some(0), HandleNow::Empty),
        (Some(3), HandleNow::Other),
        (None, HandleNow::Unread),
    ] {
        let mut scene = Scene::new();
        scene.call(THREAD, R::StorPortAcquireSpinLock, STOR, None);
        scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
        let released = scene.sequence;
        let found = scene.call(RAISED, R::StorPortReleaseSpinLock, handle_of(0x700, kind), None);
        let violation = named(&scene, found, RuleId::StorPortSpinLock4, Cause::ReleaseWithoutAcquire);
        let before = violation.handle_before().unwrap();
        assert_eq!((before.now, before.released), (now, Some(released)));
        assert_eq!(LockIdentity::of(&STOR), Some(before.lock));
        let unknown = violation.lock == LockIdentity::Handle(0x700);
        assert_eq!(unknown, now != HandleNow::Unread, "{violation:?}");
        assert_eq!(unknown, violation.history.is_empty(), "{violation:?}");
    }
}

#[test]
fn zeroed_handle_in_reused_memory_is_not_taken_for_the_holders() {
    let mut scene = Scene::new();
    scene.call(RAISED, R::StorPortAcquireSpinLock, interrupt_lock(0x700), None);
    scene.call(RAISED, R::StorPortReleaseSpinLock, handle_of(0x700, Some(3)), None);
    scene.call(ELSEWHERE, R::StorPortAcquireSpinLock, interrupt_lock(0x800), None);
    scene.call(ELSEWHERE, R::StorPortAcquireMSISpinLock, MESSAGE, None);
    let found = scene.call(RAISED, R::StorPortReleaseSpinLock, handle_of(0x700, Some(0)), None);
    let violation = named(&scene, found, RuleId::StorPortSpinLock4, Cause::ReleaseWithoutAcquire);
    assert_eq!(violation.holder(), None);
}

#[test]
fn unchanged_handle_is_released_twice_only_while_its_frame_lives() {
    let handle = 0x1_9100;
    for (further_out, cause) in [(0x80, Cause::ReleasedTwice), (0x200, Cause::ReleaseWithoutAcquire)] {
        let mut scene = Scene::new();
        scene.call(THREAD, R::StorPortAcquireSpinLock, interrupt_lock(handle), None);
        scene.call(RAISED, R::StorPortReleaseSpinLock, handle_of(handle, Some(3)), None);
        call_at(&mut scene, further_out, RAISED, R::StorPortAcquireSpinLock, STOR, None);
        call_at(
            &mut scene,
            further_out,
            RAISED,
            R::StorPortReleaseSpinLock,
            STOR_HANDLE,
            None,
        );
        let found = scene.call(RAISED, R::StorPortReleaseSpinLock, handle_of(handle, Some(3)), None);
        let violation = named(&scene, found, RuleId::StorPortSpinLock4, cause);
        let left = violation.handle_before().unwrap().frame_left;
        assert_eq!(left, cause == Cause::ReleaseWithoutAcquire);
    }
}

#[test]
fn message_lock_released_for_the_interrupt_lock_is_the_wrong_routine() {
    let mut scene = Scene::new();
    scene.call(RAISED, R::StorPortAcquireSpinLock, interrupt_lock(0x700), None);
    let acquire = scene.sequence;
    let found = scene.call((0, 5, 1), R::StorPortReleaseMSISpinLock, MESSAGE, None);
    let violation = named(&scene, found, RuleId::StorPortSpinLock4, Cause::WrongRoutine);
    assert_eq!(violation.acquire().map(|call| call.sequence), Some(acquire));
    assert_eq!(LockIdentity::of(&MESSAGE), Some(violation.lock));
    // The interrupt lock is held still.
    assert_eq!(
        scene.call((0, 5, 1), R::StorPortReleaseSpinLock, handle_of(0x700, Some(3)), None),
        None
    );
}

#[test]
fn message_lock_released_by_an_interrupt_of_the_interrupt_locks_holder_was_not_acquired() {
    let mut scene = Scene::new();
    scene.call(RAISED, R::StorPortAcquireSpinLock, interrupt_lock(0x700), None);
    let found = call_at(
        &mut scene,
        -0x400,
        (0, 5, 1),
        R::StorPortReleaseMSISpinLock,
        MESSAGE,
        None,
    );
    named(&scene, found, RuleId::StorPortSpinLock4, Cause::ReleaseWithoutAcquire);
}

#[test]
fn release_after_somebody_elses_hold_is_no_second_one() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1));
    scene.call(ELSEWHERE, R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
    scene.call(ELSEWHERE, R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(1));
    let found = scene.call(THREAD, R::KeReleaseSpinLock, LOCK, Some(0));
    let violation = named(&scene, found, RuleId::SpinLockRelease, Cause::ReleaseWithoutAcquire);
    assert_eq!(violation.released_before(), None);
}

#[test]
fn release_after_another_lock_was_taken_may_be_a_second_one() {
    let mut scene = Scene::new();
    for lock in [LOCK, OTHER] {
        scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, lock, Some(0));
        scene.call(RAISED, R::KeReleaseSpinLock, lock, Some(1));
    }
    let found = scene.call(THREAD, R::KeReleaseSpinLock, LOCK, Some(0));
    let violation = named(&scene, found, RuleId::SpinLockRelease, Cause::ReleaseWithoutAcquire);
    assert!(violation.released_before().is_some());
}

#[test]
fn attempt_of_interrupted_code_is_not_called_the_lock_that_was_meant() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::StorPortAcquireSpinLock, STOR, None);
    let stray = handle_of(0x900, Some(0));
    let found = call_at(&mut scene, -0x400, RAISED, R::StorPortReleaseSpinLock, stray, None);
    let violation = named(&scene, found, RuleId::StorPortSpinLock4, Cause::ReleaseWithoutAcquire);
    assert_eq!(also_acquired(&violation), LockIdentity::of(&STOR));
}
