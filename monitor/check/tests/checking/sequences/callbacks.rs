//! Locks that the port driver holds around a callback.

use storlock_check::contract::{Callback, PortModel};
use storlock_check::event::InCallback;

use super::*;

const START_IO: LockOperand = stor(0xad, 2, 0, 0x700);

/// The callback tells of itself, and acquires.
fn acquire_in(s: &mut Sequence, callback: Callback, port: PortModel, who: Who) -> Vec<Found> {
    tell(s, callback, port, who);
    s.call(who, R::StorPortAcquireSpinLock, START_IO, None)
}

fn tell(s: &mut Sequence, callback: Callback, port: PortModel, who: Who) {
    let context = context(who);
    s.event(EventKind::InCallback(InCallback {
        callback,
        port,
        context,
    }));
}

#[test]
fn start_io_that_takes_the_start_io_lock_is_a_defect_and_waits_for_ever() {
    let mut s = Sequence::ready(&STORPORT, true);
    let found = acquire_in(&mut s, Callback::HwStorStartIo, PortModel::empty(), who(0, 2, 1));
    s.defect(&found, Cause::HeldByPortDriver);
    assert!(s.finding(&found[0]).is_deadlock());
}

#[test]
fn start_io_of_several_channels_may_take_it() {
    let mut s = Sequence::ready(&STORPORT, true);
    for port in [PortModel::VIRTUAL, PortModel::HALF_DUPLEX] {
        assert_eq!(acquire_in(&mut s, Callback::HwStorStartIo, port, who(0, 2, 1)), []);
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 2),
            None,
        );
    }
    assert_eq!(
        acquire_in(&mut s, Callback::HwStorBuildIo, PortModel::empty(), who(0, 2, 1)),
        []
    );
}

#[test]
fn what_was_told_of_another_call_says_nothing() {
    let mut s = Sequence::ready(&STORPORT, true);
    tell(&mut s, Callback::HwStorStartIo, PortModel::empty(), who(0, 2, 1));
    let other = (0, 2, 1, TARGET + 0x200, stack(1) + 0x40);
    s.quiet(other, R::StorPortAcquireSpinLock, START_IO, None);
    // Nor of the call after the next.
    s.quiet(other, R::StorPortReleaseSpinLock, stor_handle(0xad, 0x700, 2), None);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, START_IO, None);
}

#[test]
fn acquire_that_is_refused_there_takes_nothing_and_waits_for_nothing() {
    let mut s = Sequence::ready(&STORPORT, true);
    tell(&mut s, Callback::HwStorInterrupt, PortModel::empty(), who(0, 5, 1));
    s.quiet(
        who(0, 5, 1),
        R::StorPortAcquireSpinLockEx,
        stor(0xad, 3, 0, 0x700),
        None,
    );
}

#[test]
fn who_waits_at_the_end_for_a_lock_that_the_port_driver_may_hold_is_suspected() {
    let mut s = Sequence::ready(&STORPORT, true);
    s.quiet(who(0, 2, 1), R::StorPortAcquireSpinLock, START_IO, None);
    tell(
        &mut s,
        Callback::HwStorStartIo,
        PortModel::MAY_BE_CONCURRENT,
        who(0, 2, 1),
    );
    let found = s.event(EventKind::ProcessorStopped(context(who(0, 2, 1))));
    let finding = s.finding(&found[0]);
    assert_eq!(
        (finding.cause, finding.verdict),
        (Cause::HeldByPortDriver, Verdict::Suspect)
    );
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn what_was_found_at_the_call_is_not_found_again_at_the_end() {
    let mut s = Sequence::ready(&STORPORT, true);
    acquire_in(&mut s, Callback::HwStorStartIo, PortModel::empty(), who(0, 2, 1));
    tell(&mut s, Callback::HwStorStartIo, PortModel::empty(), who(0, 2, 1));
    assert_eq!(s.event(EventKind::ProcessorStopped(context(who(0, 2, 1)))), []);
    assert_eq!(s.checker.findings()[0].count, 1);
}
