//! Single scenes: each rule, each reason to say less, each outcome.

use storlock_check::checker::{Checker, Found, Limits, Outcome, ReturnInterest};
use storlock_check::contract::{Routine as R, RoutineSet};
use storlock_check::event::{
    CallerAttributed, Context, Event, EventKind, LockCall, LockOperand, LockReturn, Module, Order, WatchSet,
};
use storlock_check::finding::Evidence;
use storlock_check::identity::LockIdentity;
use storlock_check::rules::{Cause, Finding, RuleId, Shortfall, Verdict};

pub const LOCK: LockOperand = LockOperand::Address(0x1000);
pub const OTHER: LockOperand = LockOperand::Address(0x2000);
pub const STOR: LockOperand = LockOperand::StorPort {
    adapter: 0xad,
    kind: 1,
    context: 0x500,
    handle: 0x700,
};
pub const STOR_HANDLE: LockOperand = LockOperand::StorPortHandle {
    adapter: 0xad,
    handle: 0x700,
    kind: Some(1),
    lock: None,
};

pub struct Scene {
    pub checker: Checker,
    pub sequence: u64,
}

/// Who calls: (processor, IRQL, thread).
pub type Who = (u32, u8, u64);
pub const THREAD: Who = (0, 0, 1);
pub const RAISED: Who = (0, 2, 1);
pub const ELSEWHERE: Who = (1, 2, 2);

pub fn context((processor, irql, thread): Who, site: u64) -> Context {
    Context {
        processor,
        irql,
        interrupts: true,
        thread,
        stack_pointer: 0x9000 + 0x10000 * thread,
        return_address: 0xf000 + site,
    }
}

impl Scene {
    fn watching(watched: RoutineSet, imported: RoutineSet) -> Self {
        let mut scene = Self {
            checker: Checker::new(Limits::default(), 1),
            sequence: 0,
        };
        let watch = WatchSet {
            watched,
            imported,
            processors: 2,
            before_target: true,
            closed: true,
            ..WatchSet::default()
        };
        scene.event(EventKind::WatchSetChanged(watch));
        scene
    }

    pub fn new() -> Self {
        let mut scene = Self::watching(RoutineSet::ALL, RoutineSet::ALL);
        scene.all_low();
        scene
    }

    fn all_low(&mut self) {
        for processor in 0..2 {
            self.event(EventKind::IrqlSeen { processor, irql: 0 });
        }
    }

    pub fn event(&mut self, kind: EventKind) -> Option<Found> {
        self.sequence += 1;
        self.checker
            .apply(&Event {
                sequence: self.sequence,
                order: Order::Total,
                kind,
            })
            .found
    }

    pub fn call(&mut self, who: Who, routine: R, operand: LockOperand, word: Option<u64>) -> Option<Found> {
        let context = context(who, self.sequence * 16);
        self.event(EventKind::LockCall(LockCall {
            routine,
            context,
            operand,
            old_irql: None,
            word,
        }))
    }

    /// The return of the last call.
    fn came_back(&mut self, who: Who, routine: R, operand: LockOperand, value: u32) {
        let call = self.sequence;
        let context = context(who, 0);
        self.event(EventKind::LockReturn(LockReturn {
            call,
            routine,
            operand,
            value,
            context,
        }));
    }

    #[track_caller]
    pub fn expect(&self, found: Option<Found>, verdict: Verdict, rule: RuleId, cause: Cause) {
        let violation = &self.checker.findings()[found.expect("a violation").index.expect("room for it")];
        assert_eq!(
            (violation.verdict, violation.rule, violation.cause),
            (verdict, rule, cause),
            "{violation:#?}"
        );
    }
}

/// Another lock that the caller has acquired and not released.
pub fn also_acquired(finding: &Finding) -> Option<LockIdentity> {
    finding.evidence.iter().find_map(|evidence| match evidence {
        Evidence::AlsoAcquired { lock, .. } => Some(*lock),
        _ => None,
    })
}

#[test]
fn release_without_acquire() {
    let mut scene = Scene::new();
    let found = scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(0));
    scene.expect(
        found,
        Verdict::Semantic,
        RuleId::SpinLockRelease,
        Cause::ReleaseWithoutAcquire,
    );
    assert_eq!(scene.checker.outcome(true), Outcome::Defect);
}

#[test]
fn release_twice_names_the_release_before() {
    let mut scene = Scene::new();
    assert_eq!(scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0)), None);
    assert_eq!(scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1)), None);
    let found = scene.call(THREAD, R::KeReleaseSpinLock, LOCK, Some(0));
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, Cause::ReleasedTwice);
    assert_eq!(scene.checker.findings()[0].history.len(), 2);
}

#[test]
fn release_of_another_lock_names_the_one_acquired() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let found = scene.call(RAISED, R::KeReleaseSpinLock, OTHER, Some(0));
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, Cause::OtherLock);
    assert_eq!(
        also_acquired(&scene.checker.findings()[0]),
        Some(LockIdentity::Address(0x1000))
    );
}

#[test]
fn release_by_the_wrong_kind_of_routine() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let found = scene.call(RAISED, R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(1));
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, Cause::WrongRoutine);
    assert_eq!(
        scene.checker.findings()[0].acquire().unwrap().routine,
        R::KeAcquireSpinLockRaiseToDpc
    );
}

#[test]
fn release_of_what_another_processor_certainly_holds() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    scene.came_back(RAISED, R::KeAcquireSpinLockRaiseToDpc, LOCK, 0);
    let found = scene.call(ELSEWHERE, R::KeReleaseSpinLock, LOCK, Some(1));
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, Cause::WrongOwner);
    // The holder is not to blame for finding its lock released.
    assert_eq!(scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(0)), None);
}

#[test]
fn release_of_what_another_has_found_free_is_one_without_acquire() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let found = scene.call(ELSEWHERE, R::KeReleaseSpinLock, LOCK, Some(1));
    let cause = Cause::ReleaseWithoutAcquire;
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, cause);
}

#[test]
fn release_of_what_somebody_holds_who_was_not_seen_is_only_suspect() {
    // Somebody holds it before the acquire that is seen, perhaps the one that releases.
    for waits in [false, true] {
        let mut scene = Scene::new();
        if waits {
            scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
        }
        let found = scene.call(ELSEWHERE, R::KeReleaseSpinLock, LOCK, Some(1));
        let cause = Cause::ReleaseWithoutAcquire;
        scene.expect(found, Verdict::Suspect, RuleId::SpinLockRelease, cause);
        assert_eq!(scene.checker.findings()[0].shortfall, Shortfall::UNSEEN_HOLDER);
        assert_eq!(scene.checker.outcome(true), Outcome::Inconclusive);
    }
}

#[test]
fn try_released_by_ke_release_spin_lock_is_a_note() {
    let mut scene = Scene::new();
    scene.call(RAISED, R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, Some(0));
    let found = scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1));
    scene.expect(found, Verdict::Literal, RuleId::SpinLockRelease, Cause::UnnamedRoutine);
    assert_eq!(scene.checker.outcome(true), Outcome::Completed);
}

#[test]
fn try_that_failed_is_no_acquire() {
    let mut scene = Scene::new();
    scene.call(RAISED, R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, Some(1));
    scene.came_back(RAISED, R::KeTryToAcquireSpinLockAtDpcLevel, LOCK, 0);
    let found = scene.call(RAISED, R::KeReleaseSpinLockFromDpcLevel, LOCK, Some(0));
    scene.expect(
        found,
        Verdict::Semantic,
        RuleId::SpinLockRelease,
        Cause::ReleaseWithoutAcquire,
    );
}

#[test]
fn queued_lock_by_an_unfilled_handle() {
    let mut scene = Scene::new();
    let handle = LockOperand::QueuedHandle {
        handle: 0x8000,
        lock: None,
    };
    let found = scene.call(RAISED, R::KeReleaseInStackQueuedSpinLock, handle, None);
    scene.expect(
        found,
        Verdict::Semantic,
        RuleId::QueuedSpinLockRelease,
        Cause::ReleaseWithoutAcquire,
    );
}

#[test]
fn storport_lock_released_twice() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::StorPortAcquireSpinLockEx, STOR, None);
    assert_eq!(scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None), None);
    let found = scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
    scene.expect(
        found,
        Verdict::Semantic,
        RuleId::StorPortSpinLock4,
        Cause::ReleasedTwice,
    );
    assert!(matches!(
        scene.checker.findings()[0].lock,
        LockIdentity::StorPort { context: 0x500, .. }
    ));
}

#[test]
fn storport_lock_is_unknown_until_every_processor_was_low() {
    let mut scene = Scene::watching(RoutineSet::ALL, RoutineSet::ALL);
    scene.event(EventKind::IrqlSeen { processor: 0, irql: 1 });
    assert_eq!(scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None), None);
    assert_eq!(scene.checker.statistics().unknown_releases, 1);
    scene.event(EventKind::IrqlSeen { processor: 1, irql: 0 });
    assert!(scene.checker.past_known());
    let found = scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
    assert_eq!(found.unwrap().verdict, Verdict::Semantic);
}

#[test]
fn storport_lock_of_a_driver_that_had_not_run_is_known_at_once() {
    let mut scene = Scene::watching(RoutineSet::ALL, RoutineSet::ALL);
    scene.event(EventKind::ModuleLoad(storlock_check::event::Module {
        base: 0xf000,
        size: 0x1000,
        target: true,
        name: "target.sys".into(),
    }));
    let found = scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
    assert_eq!(found.unwrap().verdict, Verdict::Semantic);
}

#[test]
fn release_is_suspect_while_a_feeder_is_not_watched() {
    let notification = RoutineSet::of(&[R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock]);
    let mut scene = Scene::watching(
        notification,
        notification.union(RoutineSet::of(&[R::StorPortAcquireSpinLockEx])),
    );
    scene.all_low();
    let found = scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
    scene.expect(
        found,
        Verdict::Suspect,
        RuleId::StorPortSpinLock4,
        Cause::ReleaseWithoutAcquire,
    );
    assert_eq!(scene.checker.findings()[0].shortfall, Shortfall::UNWATCHED);
}

#[test]
fn unreadable_handle_makes_the_past_unknown() {
    let mut scene = Scene::new();
    let unreadable = LockOperand::StorPort {
        adapter: 0xad,
        kind: 2,
        context: 0,
        handle: 0,
    };
    scene.call(THREAD, R::StorPortAcquireSpinLock, unreadable, None);
    assert_eq!(scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None), None);
}

#[test]
fn cancel_spin_lock_may_be_held_on_entry_of_a_cancel_routine() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.call(RAISED, R::IoReleaseCancelSpinLock, LockOperand::Cancel, None),
        None
    );
}

#[test]
fn double_acquire_needs_a_proved_hold() {
    // Another stack: a DPC that came in before the thread had the lock.
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let mut dpc = context(RAISED, 1);
    dpc.stack_pointer += 0x100_0000;
    let call = LockCall {
        routine: R::KeAcquireSpinLockRaiseToDpc,
        context: dpc,
        operand: LOCK,
        old_irql: None,
        word: Some(1),
    };
    assert_eq!(scene.event(EventKind::LockCall(call)), None);
    // The frame of the first one runs on.
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let found = scene.call(RAISED, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    scene.expect(found, Verdict::Semantic, RuleId::DoubleAcquire, Cause::DoubleAcquire);
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    scene.came_back(RAISED, R::KeAcquireSpinLockRaiseToDpc, LOCK, 0);
    let found = scene.call(RAISED, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    scene.expect(found, Verdict::Semantic, RuleId::DoubleAcquire, Cause::DoubleAcquire);
}

/// A helper takes the port driver's lock that its caller took at the same level: nothing but the caller can have called it,
/// however deep its frame is below that of the first acquire.
#[test]
fn storport_lock_taken_again_by_a_helper_is_a_double_acquire() {
    for helper in [-0x80_i64, 0x40] {
        let mut scene = Scene::new();
        let mut take = |moved: i64, handle| {
            let mut dpc = context(RAISED, handle);
            dpc.stack_pointer = dpc.stack_pointer.wrapping_add_signed(moved);
            let operand = LockOperand::StorPort {
                adapter: 0xad,
                kind: 1,
                context: 0x500,
                handle,
            };
            scene.event(EventKind::LockCall(LockCall {
                routine: R::StorPortAcquireSpinLock,
                context: dpc,
                operand,
                old_irql: None,
                word: None,
            }))
        };
        assert_eq!(take(0, 0x700), None);
        let found = take(helper, 0x740);
        scene.expect(found, Verdict::Semantic, RuleId::DoubleAcquire, Cause::DoubleAcquire);
    }
}

#[test]
fn conversion_decides_which_release_fits() {
    for (converted, release) in [(1, R::ExReleaseSpinLockExclusive), (0, R::ExReleaseSpinLockShared)] {
        for routine in [R::ExReleaseSpinLockExclusive, R::ExReleaseSpinLockShared] {
            let mut scene = Scene::new();
            scene.call(THREAD, R::ExAcquireSpinLockShared, LOCK, Some(0));
            scene.call(RAISED, R::ExTryConvertSharedSpinLockExclusive, LOCK, Some(1));
            scene.came_back(RAISED, R::ExTryConvertSharedSpinLockExclusive, LOCK, converted);
            assert_eq!(scene.call(RAISED, routine, LOCK, Some(1)).is_none(), routine == release);
        }
    }
}

#[test]
fn only_the_target_makes_a_defect() {
    let mut scene = Scene::new();
    let module = Module {
        base: 0x10_0000,
        size: 0x1000,
        target: true,
        name: "miniport.sys".into(),
    };
    scene.event(EventKind::ModuleLoad(module));
    let found = scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(0)).unwrap();
    assert!(!found.concerns_target);
    assert_eq!(scene.checker.outcome(true), Outcome::NotApplicable);
    assert_eq!(scene.checker.outcome(false), Outcome::Inconclusive);
}

#[test]
fn one_cause_is_reported_once_and_counted() {
    let mut scene = Scene::new();
    for round in 0..5 {
        let call = LockCall {
            routine: R::KeReleaseSpinLock,
            context: context(RAISED, 7),
            operand: LOCK,
            old_irql: Some(0),
            word: Some(0),
        };
        assert_eq!(scene.event(EventKind::LockCall(call)).unwrap().first, round == 0);
    }
    let counts: Vec<_> = scene
        .checker
        .findings()
        .iter()
        .map(|violation| violation.count)
        .collect();
    assert_eq!(counts, [5]);
}

#[test]
fn freed_and_restored_memory_takes_its_locks_along() {
    for gone in [
        EventKind::MemoryFreed {
            address: 0xff0,
            length: 0x100,
        },
        EventKind::Restored,
    ] {
        let mut scene = Scene::new();
        scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        scene.event(gone);
        assert_eq!(scene.checker.remembered().0, 0);
        let found = scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1));
        assert_ne!(found.map(|found| found.verdict), Some(Verdict::Semantic));
        assert_eq!(scene.checker.outcome(true), Outcome::Inconclusive);
    }
}

#[test]
fn return_is_wanted_where_it_tells_something() {
    let mut scene = Scene::new();
    let mut interest = |who, routine| {
        scene.sequence += 1;
        let call = LockCall {
            routine,
            context: context(who, 1),
            operand: LOCK,
            old_irql: None,
            word: Some(0),
        };
        let event = Event {
            sequence: scene.sequence,
            order: Order::Total,
            kind: EventKind::LockCall(call),
        };
        scene.checker.apply(&event).interest
    };
    assert_eq!(
        interest(RAISED, R::KeTryToAcquireSpinLockAtDpcLevel),
        ReturnInterest::Needed
    );
    assert_eq!(interest(THREAD, R::KeAcquireSpinLockRaiseToDpc), ReturnInterest::Useful);
    assert_eq!(interest(RAISED, R::KeReleaseSpinLock), ReturnInterest::None);
}

#[test]
fn saved_checker_goes_on_where_it_stopped() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    scene.call(RAISED, R::StorPortAcquireSpinLock, STOR, None);
    scene.checker = Checker::resume(scene.checker.save(), 99);
    assert_eq!(scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None), None);
    assert_eq!(scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1)), None);
    let found = scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(0));
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, Cause::ReleasedTwice);
}

#[test]
fn attempt_at_apc_level_moves_with_its_thread() {
    let mut scene = Scene::new();
    scene.call(
        (0, 1, 5),
        R::StorPortAcquireMSISpinLock,
        LockOperand::Msi {
            adapter: 0xad,
            message: 1,
        },
        None,
    );
    let release = scene.call(
        (1, 5, 5),
        R::StorPortReleaseMSISpinLock,
        LockOperand::Msi {
            adapter: 0xad,
            message: 1,
        },
        None,
    );
    assert_eq!(release, None);
}

#[test]
fn interrupt_lock_released_without_acquire() {
    let mut scene = Scene::new();
    let lock = LockOperand::Interrupt(0x3000);
    assert_eq!(scene.call(THREAD, R::KeAcquireInterruptSpinLock, lock, None), None);
    assert_eq!(scene.call((0, 5, 1), R::KeReleaseInterruptSpinLock, lock, None), None);
    let found = scene.call((0, 5, 1), R::KeReleaseInterruptSpinLock, lock, None);
    scene.expect(found, Verdict::Semantic, RuleId::SpinLockRelease, Cause::ReleasedTwice);
}

#[test]
fn history_that_was_not_kept_is_counted() {
    let mut scene = Scene::new();
    for _ in 0..20 {
        scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1));
    }
    scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(0));
    let violation = &scene.checker.findings()[0];
    assert_eq!((violation.history.len(), violation.history_evicted), (8, 32));
    let sequences: Vec<_> = violation.history.iter().map(|entry| entry.call.sequence).collect();
    assert!(sequences.is_sorted());
}

#[test]
fn events_of_no_total_order_prove_nothing_against_another_processor() {
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    scene.came_back(RAISED, R::KeAcquireSpinLockRaiseToDpc, LOCK, 0);
    scene.sequence += 1;
    let call = LockCall {
        routine: R::KeReleaseSpinLock,
        context: context(ELSEWHERE, 1),
        operand: LOCK,
        old_irql: Some(0),
        word: Some(1),
    };
    let event = Event {
        sequence: scene.sequence,
        order: Order::PerProcessor,
        kind: EventKind::LockCall(call),
    };
    let found = scene.checker.apply(&event).found;
    scene.expect(found, Verdict::Suspect, RuleId::SpinLockRelease, Cause::WrongOwner);
}

#[test]
fn every_rule_and_cause_has_a_text() {
    for rule in RuleId::ALL {
        assert!(!rule.meta().text.is_empty() && !rule.meta().source.is_empty() && !rule.meta().name.is_empty());
    }
    assert_eq!(
        LockIdentity::of(&STOR).unwrap().to_string(),
        "DpcLock of adapter 0x00000000000000ad, DPC 0x0000000000000500"
    );
    let start_io = LockOperand::StorPort {
        adapter: 1,
        kind: 2,
        context: 9,
        handle: 1,
    };
    assert_eq!(
        LockIdentity::of(&start_io).unwrap().to_string(),
        "StartIoLock of adapter 0x0000000000000001"
    );
}

#[test]
fn a_violation_that_returns_elsewhere_can_be_claimed_for_the_target() {
    let mut scene = Scene::new();
    scene.event(EventKind::ModuleLoad(Module {
        base: 0x10_0000,
        size: 0x1000,
        target: true,
        name: "target.sys".to_owned(),
    }));
    let release = |scene: &mut Scene| {
        let call = LockCall {
            routine: R::KeReleaseSpinLock,
            context: context(RAISED, 0),
            operand: LOCK,
            old_irql: None,
            word: Some(0),
        };
        scene.event(EventKind::LockCall(call)).expect("a violation")
    };
    let first = release(&mut scene);
    assert!(first.first && !first.concerns_target);
    assert_ne!(scene.checker.outcome(true), Outcome::Defect);
    let told = CallerAttributed {
        call: scene.sequence,
        target: true,
        ..CallerAttributed::default()
    };
    scene.event(EventKind::CallerAttributed(told));
    assert_eq!(scene.checker.outcome(true), Outcome::Defect);
    let again = release(&mut scene);
    assert!(!again.first && again.concerns_target);
    assert_eq!(scene.checker.statistics().target_violations, 2);
}
