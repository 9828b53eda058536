//! How the port driver runs a miniport decides which of its locks are one: half duplex, a lock a message, no interrupt.

use storlock_check::finding::{Evidence, Overlap, Shortfall};

use super::*;

const ACQUIRE: R = R::StorPortAcquireSpinLock;
const RELEASE: R = R::StorPortReleaseSpinLock;
const MSI: [R; 2] = [R::StorPortAcquireMSISpinLock, R::StorPortReleaseMSISpinLock];

const START_IO: LockOperand = stor(0xad, 2, 0, 0x700);
const INTERRUPT: LockOperand = stor(0xad, 3, 0, 0x780);
const FULL: PortModel = PortModel::MODE_KNOWN;
const HALF: PortModel = PortModel::MODE_KNOWN.union(PortModel::HALF_DUPLEX);
const PER_MESSAGE: PortModel = PortModel::MODE_KNOWN.union(PortModel::PER_MESSAGE);
const BOTH: PortModel = HALF.union(PER_MESSAGE);

const fn message(adapter: u64, message: u32) -> LockOperand {
    LockOperand::Msi { adapter, message }
}

/// Nothing is told of the adapter, or that.
fn ready(model: Option<PortModel>) -> Sequence {
    let mut s = Sequence::ready(&STORPORT, true);
    if let Some(model) = model {
        s.told(0xad, model);
    }
    s
}

/// A driver that takes a lock from `DISPATCH_LEVEL` and another at the IRQL of its device.
fn nested(s: &mut Sequence, outer: LockOperand, inner: LockOperand) -> Vec<Found> {
    let take = |operand| {
        if matches!(operand, LockOperand::Msi { .. }) {
            MSI[0]
        } else {
            ACQUIRE
        }
    };
    s.quiet(who(0, 2, 1), take(outer), outer, None);
    if take(outer) == MSI[0] {
        s.came_back(s.number, who(0, 5, 1), MSI[0], outer, 0);
    }
    s.call(who(0, 5, 1), take(inner), inner, None)
}

#[test]
fn interrupt_lock_by_another_name_is_waited_for_by_its_holder_for_ever() {
    let (half, per_message) = (Overlap::HalfDuplex, Overlap::PerMessage);
    let rows = [
        (HALF, START_IO, INTERRUPT, half),
        (HALF, INTERRUPT, START_IO, half),
        (BOTH, START_IO, INTERRUPT, half),
        (PER_MESSAGE, INTERRUPT, message(0xad, 1), per_message),
        (PER_MESSAGE, message(0xad, 1), INTERRUPT, per_message),
        (BOTH, START_IO, message(0xad, 0), per_message),
        (BOTH, message(0xad, 0), START_IO, per_message),
    ];
    for (model, outer, inner, overlap) in rows {
        let mut s = ready(Some(model));
        let found = nested(&mut s, outer, inner);
        s.defect(&found, Cause::DoubleAcquire);
        let finding = s.finding(&found[0]);
        assert!(finding.is_deadlock());
        let told = finding
            .evidence
            .iter()
            .any(|told| matches!(told, Evidence::Overlap { overlap: by, .. } if *by == overlap));
        assert!(told, "{finding:?}");
    }
}

#[test]
fn locks_that_are_not_one_are_taken_one_inside_of_the_other() {
    let rows = [
        // Nothing is known.
        (None, START_IO, INTERRUPT),
        (None, INTERRUPT, START_IO),
        (None, INTERRUPT, message(0xad, 1)),
        (None, message(0xad, 1), INTERRUPT),
        // Another mode.
        (Some(FULL), START_IO, INTERRUPT),
        (Some(PER_MESSAGE), START_IO, INTERRUPT),
        (Some(PER_MESSAGE), START_IO, message(0xad, 1)),
        (Some(PortModel::VIRTUAL.union(BOTH)), START_IO, INTERRUPT),
        // That of another adapter, or of another message.
        (Some(BOTH), START_IO, stor(0xbd, 3, 0, 0x780)),
        (Some(BOTH), INTERRUPT, message(0xbd, 1)),
        (Some(BOTH), message(0xad, 0), message(0xad, 1)),
    ];
    for (model, outer, inner) in rows {
        let mut s = ready(model);
        let found = nested(&mut s, outer, inner);
        assert_eq!(found, [], "{model:?} {outer:?} {inner:?}");
    }
}

#[test]
fn interrupt_lock_of_another_processor_is_waited_for() {
    let mut s = ready(Some(BOTH));
    s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
    // Shows that it has come back.
    s.quiet(
        (0, 5, 1, TARGET + 0x300, stack(1)),
        ACQUIRE,
        stor(0xbd, 3, 0, 0x7c0),
        None,
    );
    for (inner, handle) in [(stor(0xad, 3, 0, 0x900), 0x900), (stor(0xad, 2, 0, 0x900), 0x900)] {
        s.quiet(who(1, 2, 2), ACQUIRE, inner, None);
        let LockOperand::StorPort { kind, .. } = inner else {
            unreachable!()
        };
        s.quiet(who(1, 5, 2), RELEASE, stor_handle(0xad, handle, kind), None);
    }
}

/// The half duplex model without an interrupt object: it takes nothing, and the IRQL stays.
#[test]
fn start_io_lock_that_is_not_taken_may_be_taken_again_and_is_not_left_behind() {
    for model in [Some(HALF), Some(BOTH)] {
        let mut s = ready(model);
        for inner in [INTERRUPT, stor(0xad, 2, 0, 0x780)] {
            s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
            s.quiet(who(0, 2, 1), ACQUIRE, inner, None);
            let LockOperand::StorPort { kind, .. } = inner else {
                unreachable!()
            };
            s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x780, kind), None);
            s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
        }
        assert_eq!(s.outcome(), Outcome::Completed);
    }
    for model in [Some(HALF), None] {
        let mut s = ready(model);
        s.quiet(who(0, 0, 1), ACQUIRE, START_IO, None);
        s.quiet(who(0, 0, 1), ACQUIRE, stor(0xad, 1, 0x500, 0x780), Some(0));
        s.low(0);
        let other = LockOperand::StorPortHandle {
            adapter: 0xad,
            handle: 0x780,
            kind: Some(1),
            lock: Some(0x540),
        };
        s.quiet(who(0, 2, 1), RELEASE, other, Some(1));
        s.quiet(who(0, 0, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
        assert_eq!(s.outcome(), Outcome::Completed);
    }
}

#[test]
fn start_io_lock_of_an_adapter_of_which_nothing_is_known_makes_no_defect() {
    let again = (0, 2, 1, TARGET + 0x200, stack(1) + 0x40);
    let mut s = ready(None);
    s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
    let found = s.call(again, ACQUIRE, stor(0xad, 2, 0, 0x780), None);
    s.suspect(&found, Cause::DoubleAcquire);
    assert_eq!(s.finding(&found[0]).shortfall, Shortfall::MAYBE_NONE);
    // The full duplex model: there is such a lock.
    let mut s = ready(Some(FULL));
    s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
    let found = s.call(again, ACQUIRE, stor(0xad, 2, 0, 0x780), None);
    s.defect(&found, Cause::DoubleAcquire);
    // Whatever the model is: the routine has raised the IRQL.
    let mut s = ready(None);
    s.quiet(who(0, 0, 1), ACQUIRE, START_IO, None);
    s.came_back(s.number, who(0, 2, 1), ACQUIRE, START_IO, 0);
    let found = s.call(again, ACQUIRE, stor(0xad, 2, 0, 0x780), None);
    s.defect(&found, Cause::DoubleAcquire);
    let mut s = ready(None);
    s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
    let found = s.call(
        (0, 5, 1, TARGET + 0x200, stack(1)),
        ACQUIRE,
        stor(0xad, 2, 0, 0x780),
        None,
    );
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn irql_that_another_lock_has_raised_shows_no_interrupt_lock() {
    let set = [
        STORPORT.as_slice(),
        &[R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock],
    ]
    .concat();
    let mut s = Sequence::ready(&set, true);
    s.told(0xad, HALF);
    s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
    let object = LockOperand::Interrupt(0xffff_9000_0000_3000);
    s.quiet(who(0, 2, 1), R::KeAcquireInterruptSpinLock, object, None);
    s.quiet(who(0, 5, 1), ACQUIRE, INTERRUPT, None);
    s.quiet(who(0, 5, 1), RELEASE, stor_handle(0xad, 0x780, 3), None);
    assert_eq!(
        s.call_back_to(who(0, 5, 1), R::KeReleaseInterruptSpinLock, object, None, Some(2)),
        []
    );
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn acquire_that_is_refused_waits_for_nothing() {
    let mut s = ready(Some(HALF));
    s.quiet(who(0, 2, 1), ACQUIRE, START_IO, None);
    s.quiet(who(0, 5, 1), R::StorPortAcquireSpinLockEx, INTERRUPT, None);
    s.quiet(who(0, 5, 1), RELEASE, stor_handle(0xad, 0x700, 2), None);
    assert_eq!(s.outcome(), Outcome::Completed);
}

#[test]
fn what_was_told_of_an_adapter_is_forgotten_with_its_memory() {
    let mut s = ready(None);
    let adapter = 0xffff_c100_0000_0000;
    s.told(adapter, HALF);
    s.event(EventKind::MemoryFreed {
        address: adapter,
        length: 0x1000,
    });
    let found = nested(&mut s, stor(adapter, 2, 0, 0x700), stor(adapter, 3, 0, 0x780));
    assert_eq!(found, []);
}

#[test]
fn two_adapters_are_run_in_two_modes() {
    let mut s = ready(Some(HALF));
    s.told(0xbd, FULL);
    assert_eq!(nested(&mut s, stor(0xbd, 2, 0, 0x700), stor(0xbd, 3, 0, 0x780)), []);
    s.quiet(who(0, 5, 1), RELEASE, stor_handle(0xbd, 0x780, 3), None);
    s.quiet(who(0, 2, 1), RELEASE, stor_handle(0xbd, 0x700, 2), None);
    let found = nested(&mut s, START_IO, INTERRUPT);
    s.defect(&found, Cause::DoubleAcquire);
}

#[test]
fn start_io_lock_left_behind_is_a_defect_if_there_is_one() {
    let later = (0, 0, 1, TARGET + 0x600, stack(1) + 0x100);
    for (model, caught) in [(Some(FULL), false), (None, true), (Some(FULL), true)] {
        let mut s = ready(model);
        s.quiet(who(0, 0, 1), ACQUIRE, START_IO, None);
        if caught {
            s.came_back(s.number, who(0, 2, 1), ACQUIRE, START_IO, 0);
        }
        let found = s.call(later, ACQUIRE, stor(0xad, 1, 0x500, 0x780), Some(0));
        s.defect(&found, Cause::MissingRelease);
    }
}
