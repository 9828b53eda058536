//! Runs that are over while the driver under test has a lock.

use std::time::Duration;

use super::golden::play_to;
use super::*;
use crate::report::{Cause, DumpReason};

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

/// How long the open acquire has been held, as the end of the run has it, in milliseconds.
fn held_ms(session: &Session) -> u64 {
    let mut end = ended(EndKind::TimeLimit);
    session.close(&mut end);
    let [(_, held)] = end.open_ms[..] else {
        panic!("{:?}", end.open_ms)
    };
    held
}

#[test]
fn a_lock_is_not_held_while_the_machine_stands_still() {
    const STILL: Duration = Duration::from_secs(2);
    // At the end, while a dump is written.
    let session = Session::new(config(), None, None);
    held(&session, 2, 8);
    std::thread::sleep(STILL);
    assert!(held_ms(&session) < 2000);
    // Before it: what was known of the time is void.
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    std::thread::sleep(STILL);
    assert!(session.dump_subject(DumpReason::Reset).is_some());
    guest.registers.gpr[4] = STACK + 8;
    guest.registers.rip = DRIVER + 0x1108;
    guest.special.cr8 = 2;
    session.look(&mut guest);
    assert_eq!(held_ms(&session), 0);
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

const MINIPORT: &str = "imports StorPortInitialize StorPortNotification
    initialize 10=1000 20=1600
    configure find=1600 model=1 mode=1
    memory 4800=0";

/// What is found of a miniport's acquire, from PASSIVE_LEVEL, of a lock of this kind `at` a place, when a processor has stopped
/// so; `seconds` later, if that is known.
fn found_of(kind: u32, at: &str, stop: &str, (end, seconds): (EndKind, u64)) -> Vec<(Cause, Verdict)> {
    let acquire = format!(
        "call StorPortAcquireSpinLock adapter=60000 kind={kind} context=0 handle=4800 irql=0 at {at} from storport+1200"
    );
    let end = End {
        open_ms: (0..40).map(|event| (event, seconds * 1000)).collect(),
        ..ended(end)
    };
    let report = play_to(&format!("{MINIPORT}\n{acquire}\nstop {stop}"), &end);
    let findings = report.findings.into_iter();
    findings.map(|finding| (finding.cause, finding.verdict)).collect()
}

#[test]
fn a_lock_is_left_behind_if_its_thread_stops_raised_without_the_driver_on_its_stack() {
    let semantic = vec![(Cause::MissingRelease, Verdict::Semantic)];
    let bug_check = End {
        bug_check: Some(crate::report::BugCheck {
            code: 0xb8,
            parameters: [0; 4],
        }),
        ..ended(EndKind::Reset)
    };
    let scene = |stop: &str| {
        format!(
            "imports KeAcquireSpinLockRaiseToDpc KeReleaseSpinLock
             call KeAcquireSpinLockRaiseToDpc lock=20000 word=0 irql=0 deeper=80 at 1100 from 1400 storport+1200
             stop {stop}"
        )
    };
    for end in [ended(EndKind::TimeLimit), bug_check] {
        let found = |stop: &str| -> Vec<_> {
            let findings = play_to(&scene(stop), &end).findings.into_iter();
            findings.map(|finding| (finding.cause, finding.verdict)).collect()
        };
        assert_eq!(found("irql=2 nt+1800 at storport+1200"), semantic, "{:?}", end.kind);
        // It may be about to release it.
        assert_eq!(found("irql=2 nt+1800 at 1400 from storport+1200"), []);
        // Where its stack leads is not known.
        assert_eq!(found("irql=2 nt+1800 at other+3f00"), []);
    }
}

#[test]
fn a_lock_is_left_behind_if_another_callback_runs_raised_on_the_stack_of_its_thread() {
    let in_start_io = "irql=2 nt+1800 at 1100 from storport+1200";
    let semantic = vec![(Cause::MissingRelease, Verdict::Semantic)];
    for end in [EndKind::TimeLimit, EndKind::PowerOff] {
        assert_eq!(found_of(2, "1650", in_start_io, (end, 0)), semantic, "{end:?}");
        // The same callback may be running still.
        assert_eq!(found_of(2, "1150", in_start_io, (end, 0)), []);
        assert_eq!(
            found_of(2, "1650", "irql=2 nt+1800 at 1100 from 1700 storport+1200", (end, 0)),
            []
        );
    }
    // Nobody knows whether an interrupt lock was taken at all.
    let raised = in_start_io.replace("irql=2", "irql=5");
    let suspect = vec![(Cause::MissingRelease, Verdict::Suspect)];
    assert_eq!(found_of(3, "1650", &raised, (EndKind::TimeLimit, 0)), suspect);
    assert_eq!(found_of(3, "1650", in_start_io, (EndKind::TimeLimit, 0)), []);
}

#[test]
fn a_lock_that_is_held_for_seconds_when_the_machine_stands_still_is_suspect() {
    // What the driver has called since has overwritten the acquire's return address.
    let polls = "irql=2 deeper=40 nt+1800 at 1110 from 1120 storport+1200";
    let suspect = vec![(Cause::MissingRelease, Verdict::Suspect)];
    assert_eq!(found_of(2, "1150", polls, (EndKind::TimeLimit, 4)), suspect);
    assert_eq!(found_of(2, "1150", polls, (EndKind::TimeLimit, 1)), []);
    assert_eq!(found_of(2, "1150", polls, (EndKind::Crash, 4)), []);
    // It may wait for the lock itself.
    let waits = "irql=2 deeper=40 nt+1800 at 1110 from 1150 storport+1200";
    assert_eq!(found_of(2, "1150", waits, (EndKind::TimeLimit, 4)), []);
    let raised = polls.replace("irql=2", "irql=5");
    assert_eq!(found_of(3, "1150", &raised, (EndKind::TimeLimit, 4)), suspect);
    assert_eq!(found_of(3, "1150", polls, (EndKind::TimeLimit, 4)), []);
}

#[test]
fn a_recording_has_how_long_a_lock_was_held() {
    let session = Session::new(config(), None, None);
    held(&session, 2, 8);
    let mut end = ended(EndKind::TimeLimit);
    session.close(&mut end);
    assert_eq!(end.open_ms.len(), 1, "{:?}", end.open_ms);
    let text = serde_json::to_string(&end).unwrap();
    assert_eq!(serde_json::from_str::<End>(&text).unwrap(), end);
}
