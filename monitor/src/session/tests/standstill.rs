//! Runs that are over while the driver under test has a lock.

use super::*;

/// The driver has acquired its lock when the machine is looked at, at this IRQL, `above` the stack pointer of the call.
fn held(session: &Session, irql: u64, above: u64) {
    let mut guest = Fake::new();
    guest.boot_and_arm(session);
    guest.call(session, ACQUIRE, 0x1100, 0, 0);
    guest.registers.gpr[4] = STACK + above;
    guest.registers.rip = DRIVER + 0x1108;
    guest.special.cr8 = irql;
    session.look(&mut guest);
}

fn ended(kind: EndKind) -> End {
    End { kind, ..End::default() }
}

#[test]
fn a_critical_section_in_which_the_run_ends_is_no_mistake() {
    let session = Session::new(config(), None, None);
    held(&session, 2, 8);
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.conditions);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn a_lock_that_is_left_behind_is_found_by_where_its_processor_stands_at_the_end() {
    for kind in [
        EndKind::PowerOff,
        EndKind::TimeLimit,
        EndKind::Interrupted,
        EndKind::Stopped,
    ] {
        let session = Session::new(config(), None, None);
        held(&session, 0, 8);
        let mut end = ended(kind);
        session.close(&mut end);
        // However often it is asked for.
        for _ in 0..2 {
            let report = session.report(&end);
            assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
            let found = &report.findings[0];
            assert_eq!((found.rule, found.verdict), (RuleId::MissingRelease, Verdict::Semantic));
            assert_eq!(found.caller.offset, Some(0x1100));
            assert_eq!(found.count, 1);
        }
    }
}

#[test]
fn where_a_processor_stands_after_a_crash_says_nothing_of_its_locks() {
    for kind in [
        EndKind::TripleFault,
        EndKind::Reset,
        EndKind::Crash,
        EndKind::InternalError,
        EndKind::Failed,
    ] {
        let session = Session::new(config(), None, None);
        held(&session, 0, 8);
        let report = session.report(&ended(kind));
        assert!(report.findings.is_empty(), "{kind:?}: {:?}", report.findings);
    }
}

#[test]
fn trace_and_recording_have_where_the_processors_stood() {
    for (irql, outcome) in [(0, Outcome::Defect), (2, Outcome::Completed)] {
        let directory = tempfile::tempdir().unwrap();
        let [trace, recording] = ["events.trace", "run.rec"].map(|name| directory.path().join(name));
        let header = serde_json::to_vec(&config()).unwrap();
        let session = Session::new(
            config(),
            Some(Trace::create(output(&trace), &trace, u64::MAX, Sandbox::none()).unwrap()),
            Some(Recording::create(output(&recording), u64::MAX, header, Sandbox::none()).unwrap()),
        );
        held(&session, irql, 8);
        let mut end = power_off();
        session.close(&mut end);
        let live = session.report(&end);
        assert_eq!(live.outcome, outcome, "{:?}", live.conditions);
        for replayed in [
            replay::trace(&std::fs::read(&trace).unwrap()[..]).unwrap(),
            replay::recording(&std::fs::read(&recording).unwrap()[..]).unwrap(),
        ] {
            assert_eq!(replayed.outcome, outcome, "{:?}", replayed.conditions);
            assert_eq!(without_names(&replayed), without_names(&live));
        }
    }
}

#[test]
fn a_processor_in_user_mode_has_no_thread_that_could_be_read() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    // The program has put what looks like the thread where its own GS leads.
    guest.registers.gpr[4] = STACK + 8;
    guest.special.cr8 = 0;
    guest.special.cpl = 3;
    session.look(&mut guest);
    let report = session.report(&power_off());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.outcome, Outcome::Inconclusive);
}
