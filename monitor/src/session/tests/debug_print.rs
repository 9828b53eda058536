//! The log of what drivers print for a debugger.

use super::*;

const TEXT: u64 = 0xffff_9000_0007_0000;

/// A guest that prints twice, watched with so many debug registers.
fn printing(breakpoints: usize) -> (Session, Fake) {
    let session = Session::new(
        Config {
            debug_print: true,
            breakpoints,
            ..config()
        },
        None,
        None,
    );
    let mut guest = Fake::new();
    guest.space.borrow_mut().write(TEXT, b"read %u of %x\n\0");
    guest.boot_and_arm(&session);
    (session, guest)
}

#[test]
fn lines_are_logged_with_the_event_they_come_after() {
    let (session, mut guest) = printing(4);
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    (guest.registers.gpr[1], guest.registers.gpr[2], guest.registers.gpr[8]) = (TEXT, 7, 0x20);
    guest.hit(&session, PRINT);
    // NewIrql of the release.
    guest.registers.gpr[2] = 0;
    guest.call(&session, RELEASE, 0x1110, 2, 1);
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Completed);
    let log = report.debug_print.unwrap();
    assert_eq!(log.routines, ["nt!DbgPrint"]);
    let lines: Vec<_> = log.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(lines, ["read 7 of 20"]);
    assert_eq!(report.cost.hits, 2, "a line is no hit of a lock routine");
    assert!(report.watch.catch_return, "one register is left");
}

#[test]
fn lock_routines_come_before_printing_ones() {
    let (session, guest) = printing(2);
    assert!(
        guest
            .breakpoints
            .iter()
            .all(|breakpoint| breakpoint.address != KERNEL + u64::from(PRINT))
    );
    let report = session.report(&power_off());
    assert!(report.debug_print.unwrap().routines.is_empty());
}
