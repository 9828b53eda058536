//! What makes two violations the same: not the lock, not the load address, but the place and its callers.

use super::*;
use crate::session::trace::Trace;

/// A release without acquire by a wrapper at 1120h that was called from `caller`; `lock` and driver as told.
fn release(guest: &mut Fake, session: &Session, base: u64, lock: u64, caller: u64) -> Action {
    {
        let mut space = guest.space.borrow_mut();
        space.write_u64(lock, 0);
        space.write_u64(STACK, base + 0x1120);
        space.write_u64(STACK + 8 + FRAME, if caller == 0 { 0 } else { base + caller });
    }
    (guest.registers.gpr[1], guest.special.cr8) = (lock, 2);
    guest.hit(session, RELEASE)
}

#[test]
fn each_bug_behind_a_wrapper_has_its_own_entry_stack_and_stop() {
    // On one lock, and each on its own; the first called from nowhere that is known, or from a known place.
    for (locks, first) in [
        ([LOCK, LOCK], 0x1200),
        ([LOCK, LOCK + 0x200], 0),
        ([LOCK, LOCK + 0x200], 0x1200),
    ] {
        let session = Session::new(config(), None, None);
        session.stop_on_violations(true);
        let mut guest = Fake::new();
        guest.boot_and_arm(&session);
        assert_eq!(release(&mut guest, &session, DRIVER, locks[0], first), Action::Stop);
        assert_eq!(release(&mut guest, &session, DRIVER, locks[1], 0x1300), Action::Stop);
        // Known by now, whatever the lock.
        assert_eq!(
            release(&mut guest, &session, DRIVER, LOCK + 0x300, 0x1300),
            Action::Resume
        );
        assert_eq!(release(&mut guest, &session, DRIVER, locks[1], 0x1300), Action::Resume);
        let report = session.report(&power_off());
        let counts: Vec<_> = report.findings.iter().map(|v| v.count).collect();
        assert_eq!(counts, [1, 3], "{:#?}", report.findings);
        let second = &report.findings[1];
        assert!(
            second.stack.iter().any(|frame| frame.offset == Some(0x1300)),
            "{:?}",
            second.stack
        );
        assert_eq!(second.signature.frames[0].to_string(), "target.sys+0x1300");
        assert_ne!(second.signature.id, report.findings[0].signature.id);
    }
}

#[test]
fn what_happens_all_the_time_costs_little_and_hides_nothing_for_long() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    let mut release = |caller| {
        let before = guest.space.borrow().reads.get();
        release(&mut guest, &session, DRIVER, LOCK, caller);
        let after = guest.space.borrow().reads.get();
        after - before
    };
    for _ in 0..1100 {
        release(0x1200);
    }
    let cheap = (0..64).filter(|_| release(0x1200) <= 4).count();
    assert_eq!(cheap, 63);
    for _ in 0..64 {
        release(0x1300);
    }
    let report = session.report(&power_off());
    assert_eq!(report.findings.len(), 2);
    assert_eq!(report.findings.iter().map(|v| v.count).sum::<u64>(), 1100 + 2 * 64);
}

/// The signature of the first violation of a driver at `base`.
fn signature_at(base: u64, caller: u64) -> crate::report::Signature {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    driver(base, &PAIR).map(&mut guest.space.borrow_mut());
    guest.boot(&session);
    guest.load_driver_at(base, 0xffff_9000_0003_0000);
    for (field, value) in [(0x18, base), (0x58, base + 0x1000)] {
        guest.space.borrow_mut().write_u64(OBJECT + field, value);
    }
    guest.registers.gpr[1] = OBJECT;
    guest.hit(&session, INSERT);
    release(&mut guest, &session, base, LOCK + (base & 0xf_0000), caller);
    session.report(&power_off()).findings[0].signature.clone()
}

#[test]
fn a_signature_is_the_same_wherever_the_driver_was_loaded() {
    let one = signature_at(DRIVER, 0x1200);
    assert_eq!(one, signature_at(AGAIN, 0x1200));
    assert_ne!(one.id, signature_at(DRIVER, 0x1210).id);
    assert_eq!(one.id.len(), 16);
}

#[test]
fn a_trace_tells_of_the_callers_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.trace");
    let trace = Trace::create(output(&path), &path, u64::MAX, Sandbox::none()).unwrap();
    let session = Session::new(config(), Some(trace), None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    for (lock, caller) in [(LOCK, 0x1200), (LOCK, 0x1300), (LOCK + 0x200, 0x1300), (LOCK, 0x1200)] {
        release(&mut guest, &session, DRIVER, lock, caller);
    }
    let mut end = power_off();
    session.close(&mut end);
    let live = session.report(&end);
    assert_eq!(live.findings.len(), 2);
    let replayed = replay::trace(&std::fs::read(&path).unwrap()[..]).unwrap();
    assert_eq!(without_names(&replayed), without_names(&live));
    let frames: Vec<_> = replayed.findings[1].stack.iter().map(|frame| frame.offset).collect();
    assert_eq!(frames, [Some(0x1120), Some(0x1300)]);
}
