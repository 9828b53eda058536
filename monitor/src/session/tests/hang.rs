//! A guest whose processor waits for itself.

use super::*;

/// The lock is taken from `PASSIVE_LEVEL`, and taken again by the same function.
fn takes_twice(session: &Session) -> (Fake, Action) {
    let mut guest = Fake::new();
    guest.boot_and_arm(session);
    assert_eq!(guest.call(session, ACQUIRE, 0x1100, 0, 0), Action::Resume);
    let action = guest.call(session, ACQUIRE, 0x1120, 2, 1);
    (guest, action)
}

fn at_time_limit() -> End {
    End {
        kind: EndKind::TimeLimit,
        duration_ms: 9000,
        ..End::default()
    }
}

#[test]
fn a_processor_that_would_wait_for_itself_ends_the_run_unless_it_is_to_go_on_or_is_debugged() {
    for (go_on, debugged) in [(false, false), (true, false), (false, true)] {
        let session = Session::new(
            Config {
                after_deadlock_go_on: go_on,
                ..config()
            },
            None,
            None,
        );
        session.stop_on_violations(debugged);
        let (_, action) = takes_twice(&session);
        let stopped = session.stopped_for(0);
        assert_eq!(action == Action::Stop, !go_on);
        assert_eq!((stopped.deadlock, stopped.debugger), (!go_on && !debugged, debugged));
        let report = session.report(&at_time_limit());
        assert_eq!(report.findings[0].rule, RuleId::DoubleAcquire);
        assert_eq!(report.findings[0].verdict, Verdict::Semantic);
    }
}

#[test]
fn a_processor_that_hangs_in_an_acquire_is_told_with_its_lock_and_who_has_it() {
    let session = Session::new(config(), None, None);
    let (mut guest, _) = takes_twice(&session);
    // It spins in a frame of the routine.
    guest.registers.gpr[4] = STACK - 0x28;
    guest.registers.rip = KERNEL + u64::from(ACQUIRE) + 8;
    session.look(&mut guest);
    let report = session.report(&at_time_limit());
    let waits = report.end.processors[0].waits_for.as_ref().unwrap();
    let holder = waits.holder.as_ref().unwrap();
    assert_eq!(waits.lock, crate::report::LockIdentity::Address(LOCK));
    assert_eq!(
        (waits.acquire.caller.offset, holder.acquire.caller.offset),
        (Some(0x1120), Some(0x1100))
    );
    assert!(holder.certain && holder.released.is_none() && holder.vcpu == 0);
    assert_eq!(report.end.deadlock, [0]);
    let time_limit = Reason::TimeLimit {
        seconds: 9,
        waiting: vec![0],
        circle: vec![0],
    };
    assert!(
        report.conditions.iter().any(|condition| condition.reason == time_limit),
        "{:?}",
        report.conditions
    );
    let end = End {
        detail: Some("x".to_owned()),
        ..at_time_limit()
    };
    let text = crate::report::text::render(&session.report(&end));
    for line in [
        "vCPU 0 --waits for--> ",
        "= lock: waits for",
        "= lock: held since event",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn a_processor_that_has_left_the_acquire_waits_for_nothing() {
    let session = Session::new(config(), None, None);
    let (mut guest, _) = takes_twice(&session);
    // Somewhere below, the driver has called something else: the return address is another's.
    guest.space.borrow_mut().write_u64(STACK, DRIVER + 0x1300);
    guest.registers.gpr[4] = STACK - 0x28;
    session.look(&mut guest);
    let end = session.report(&at_time_limit()).end;
    assert!(end.processors[0].waits_for.is_none() && end.deadlock.is_empty());
}

/// An interrupt that comes in before the acquire has raised the IRQL runs deeper on the same stack, too.
#[test]
fn a_call_deeper_on_the_stack_waits_for_the_first_only_if_that_has_come_back() {
    // A processor that stands that deep has overwritten the return address of the first call, or has not.
    for (deeper, overwritten) in [("90", true), ("300", false)] {
        let report = golden::play(&format!(
            "imports KeAcquireSpinLockRaiseToDpc KeReleaseSpinLock
             call KeAcquireSpinLockRaiseToDpc lock=20000 word=0 irql=0 at 1100 from 1400 storport+1200
             call KeAcquireSpinLockRaiseToDpc lock=20000 word=1 irql=2 deeper={deeper} at 1110 from 1120 1400"
        ));
        let found: Vec<RuleId> = report.findings.iter().map(|found| found.rule).collect();
        let expected = if overwritten { &[RuleId::DoubleAcquire][..] } else { &[] };
        assert_eq!(found, expected, "{deeper}");
    }
}
