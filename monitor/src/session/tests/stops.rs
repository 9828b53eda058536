//! For whom a violation stops the machine.

use super::*;

/// A guest that is watched and has made one good pair of calls.
fn watched(session: &Session) -> Fake {
    let mut guest = Fake::new();
    guest.boot_and_arm(session);
    assert_ne!(guest.call(session, ACQUIRE, 0x1100, 0, 0), Action::Stop);
    assert_ne!(guest.call(session, RELEASE, 0x1110, 2, 1), Action::Stop);
    guest
}

#[test]
fn the_first_defect_stops_for_a_dump_and_no_other() {
    let session = Session::new(config(), None, None);
    session.dump_first_violation();
    let mut guest = watched(&session);
    assert_eq!(guest.call(&session, RELEASE, 0x1120, 2, 0), Action::Stop);
    let stopped = session.stopped_for(0);
    let subject = stopped.dump.unwrap();
    let report = session.report(&power_off());
    let [what, lock, caller, event] = subject.bug_check.parameters;
    assert_eq!((what >> 8, lock, caller), (1, LOCK, DRIVER + 0x1120));
    assert_eq!((event, subject.event), (report.findings[0].event, event));
    assert!(subject.comment.contains("SpinLockRelease") && subject.comment.contains("Target.sys+0x1120"));
    assert_eq!(subject.kernel.image.base, KERNEL);
    assert!(!stopped.debugger);
    assert!(session.stopped_for(0).dump.is_none());
    assert_eq!(guest.call(&session, RELEASE, 0x1130, 2, 0), Action::Resume);
    assert_eq!(session.report(&power_off()).findings.len(), 2);
}

#[test]
fn a_debugger_is_told_of_every_defect_beside_the_dump() {
    let session = Session::new(config(), None, None);
    session.dump_first_violation();
    session.stop_on_violations(true);
    let mut guest = watched(&session);
    for (place, dumped) in [(0x1120, true), (0x1130, false)] {
        assert_eq!(guest.call(&session, RELEASE, place, 2, 0), Action::Stop);
        let stopped = session.stopped_for(0);
        assert_eq!((stopped.debugger, stopped.dump.is_some()), (true, dumped));
    }
}

#[test]
fn without_dump_and_debugger_nothing_stops() {
    let session = Session::new(config(), None, None);
    let mut guest = watched(&session);
    assert_eq!(guest.call(&session, RELEASE, 0x1120, 2, 0), Action::Resume);
}

#[test]
fn a_suspect_stops_for_a_debugger_that_wants_it_and_for_no_other() {
    for (wanted, action) in [(false, Action::Resume), (true, Action::Stop)] {
        let session = Session::new(config(), None, None);
        session.dump_first_violation();
        session.stop_on_violations(true);
        session.arm_rule("suspects", wanted).unwrap();
        // The driver may release by a routine that it looks up: a second acquire proves nothing.
        let mut guest = Fake::new();
        driver(DRIVER, &[PAIR[0], PAIR[1], "MmGetSystemRoutineAddress"]).map(&mut guest.space.borrow_mut());
        guest.boot_and_arm(&session);
        guest.call(&session, ACQUIRE, 0x1100, 2, 0);
        assert_eq!(guest.call(&session, ACQUIRE, 0x1200, 2, 1), action);
        let stopped = session.stopped_for(0);
        assert_eq!((stopped.debugger, stopped.dump.is_some()), (wanted, false));
        let [suspect] = session.report(&power_off()).findings.try_into().unwrap();
        assert_eq!(suspect.verdict, Verdict::Suspect);
    }
}
