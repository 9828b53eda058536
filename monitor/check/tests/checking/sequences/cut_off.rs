//! Runs that are over while the driver holds a lock: where the processors stand says whether it is still its business.

use storlock_check::event::StillHeld;
use storlock_check::finding::Shortfall;

use super::*;

impl Sequence {
    /// The machine stands still; what that has shown.
    fn stands(&mut self, stopped: &[Who]) -> Vec<Found> {
        let found = stopped
            .iter()
            .map(|&who| self.event(EventKind::ProcessorStopped(context(who))));
        let found: Vec<Found> = found.collect::<Vec<_>>().into_iter().flatten().collect();
        self.checker.run_ended();
        found
    }

    #[track_caller]
    fn ends(mut self, stopped: &[Who], outcome: Outcome) {
        let found = self.stands(stopped);
        let told: Vec<_> = found.iter().map(|found| self.finding(found)).collect();
        assert!(told.is_empty(), "{told:#x?}");
        assert_eq!(self.outcome(), outcome, "{stopped:?}");
    }

    #[track_caller]
    fn ends_with_missing_release(mut self, stopped: &[Who]) {
        let found = self.stands(stopped);
        self.defect(&found, Cause::MissingRelease);
    }
}

/// Thread 1 has acquired LOCK from PASSIVE_LEVEL on processor 0, as far as its entry tells.
fn acquired() -> Sequence {
    let mut s = Sequence::ready(&PAIR, true);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s
}

/// The same, and it is known to have come back: another lock was taken and given back under it.
fn holds() -> Sequence {
    let mut s = acquired();
    s.quiet(who(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, SECOND, Some(0));
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, SECOND, Some(1));
    s
}

const IDLE: Who = (1, 0, 7, 0, stack(7));

/// Where a thread of the driver stands: `above` its pointer at the calls.
const fn at(processor: u32, irql: u8, thread: u64, above: i64) -> Who {
    let (processor, irql, thread, address, pointer) = who(processor, irql, thread);
    (processor, irql, thread, address, pointer.wrapping_add_signed(above))
}

#[test]
fn critical_section_in_which_the_run_ends_is_silent() {
    for make in [acquired, holds] {
        // In the section; deeper, in what it calls; in an outer function, if a wrapper has acquired the lock.
        for above in [8, -0x200, 0x180] {
            make().ends(&[at(0, 2, 1, above), IDLE], Outcome::Completed);
        }
        // A device interrupts it, on its stack or on one of its own.
        make().ends(&[at(0, 9, 1, -0x400), IDLE], Outcome::Completed);
        make().ends(&[(0, 9, 1, 0, stack(40)), IDLE], Outcome::Completed);
    }
}

#[test]
fn acquire_that_is_not_back_when_the_run_ends_is_silent() {
    // At its first instruction, at PASSIVE_LEVEL still; in the routine, before the raise; spinning.
    for stopped in [at(0, 0, 1, 0), at(0, 0, 1, -0x28), at(0, 2, 1, -0x28)] {
        acquired().ends(&[stopped, IDLE], Outcome::Completed);
    }
    // It was moved to the other processor before the raise.
    acquired().ends(&[(0, 0, 7, 0, stack(7)), at(1, 0, 1, -0x28)], Outcome::Completed);
}

#[test]
fn lock_whose_holder_has_gone_on_when_the_run_ends_is_a_missing_release() {
    // The thread is out of the acquire, below DISPATCH_LEVEL.
    acquired().ends_with_missing_release(&[at(0, 0, 1, 8), IDLE]);
    acquired().ends_with_missing_release(&[at(0, 1, 1, 0x100), IDLE]);
    acquired().ends_with_missing_release(&[IDLE, at(0, 0, 1, 0x100)]);
    // The processor that has the lock runs something else there, or a program in user mode.
    holds().ends_with_missing_release(&[(0, 0, 7, 0, stack(7)), IDLE]);
    holds().ends_with_missing_release(&[(0, 0, 0, 0x7ff0_0000, 0x30_0000), IDLE]);
}

#[test]
fn lock_of_which_nothing_is_known_when_the_run_ends_leaves_it_open() {
    // The thread runs nowhere: it waits to be run in the acquire, or has left the lock behind.
    acquired().ends(&[(0, 0, 7, 0, stack(7)), IDLE], Outcome::Inconclusive);
    // The processor runs another thread: it has been below DISPATCH_LEVEL.
    holds().ends(&[(0, 2, 7, 0, stack(7)), IDLE], Outcome::Inconclusive);
    // It runs far outside of the frame of the acquire, or another DPC at the same level: what lies between was left.
    holds().ends(&[at(0, 2, 1, 0x800), IDLE], Outcome::Inconclusive);
    holds().ends(&[(0, 2, 1, 0, stack(40)), IDLE], Outcome::Inconclusive);
    // Of the processor nothing is said.
    for make in [acquired, holds] {
        make().ends(&[], Outcome::Inconclusive);
        make().ends(&[IDLE], Outcome::Inconclusive);
    }
}

#[test]
fn processors_that_go_on_have_not_stopped() {
    let mut s = holds();
    s.event(EventKind::ProcessorStopped(context(at(0, 2, 1, 8))));
    // It goes on, on another thread, and nothing more is said of where it stands.
    s.event(EventKind::IrqlSeen { processor: 1, irql: 2 });
    s.ends(&[IDLE], Outcome::Inconclusive);
}

#[test]
fn lock_that_a_dpc_holds_when_the_run_ends_is_silent_and_one_that_it_left_behind_is_not() {
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let acquired = || {
        let mut s = Sequence::ready(&set, true);
        s.quiet((0, 2, 1, TARGET + 0x300, stack(9)), set[0], LOCK, Some(0));
        s
    };
    acquired().ends(&[(0, 2, 1, 0, stack(9) + 8), IDLE], Outcome::Completed);
    acquired().ends(&[(0, 13, 1, 0, stack(40)), IDLE], Outcome::Completed);
    acquired().ends_with_missing_release(&[(0, 0, 1, 0, stack(1)), IDLE]);
    acquired().ends_with_missing_release(&[(0, 1, 7, 0, stack(7)), IDLE]);
}

#[test]
fn try_that_may_have_failed_is_open_unless_it_may_still_be_held() {
    let set = [R::KeTryToAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let tried = || {
        let mut s = Sequence::ready(&set, true);
        s.quiet(who(0, 2, 1), set[0], LOCK, Some(1));
        s
    };
    tried().ends(&[at(0, 2, 1, 8), IDLE], Outcome::Completed);
    tried().ends(&[at(0, 0, 1, 8), IDLE], Outcome::Inconclusive);
}

#[test]
fn lock_that_is_held_with_interrupts_off_is_not_left_before_they_are_on() {
    // Against the page of the routine, which other rules tell; but the lock is held.
    let call = |stack_pointer, interrupts| Context {
        stack_pointer,
        interrupts,
        ..context(who(0, 0, 1))
    };
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    for interrupts in [false, true] {
        let mut s = Sequence::ready(&set, true);
        s.event(EventKind::LockCall(LockCall {
            routine: set[0],
            context: call(stack(1), false),
            operand: LOCK,
            old_irql: None,
            word: Some(0),
        }));
        let found = s.event(EventKind::ProcessorStopped(call(stack(1) + 8, interrupts)));
        assert_eq!(!found.is_empty(), interrupts);
    }
}

#[test]
fn interrupt_lock_that_may_be_none_is_open_below_dispatch_level() {
    let operand = stor(0xad, 3, 0, 0x700);
    let acquired = || {
        let mut s = Sequence::ready(&STORPORT, true);
        s.quiet(who(0, 0, 1), R::StorPortAcquireSpinLock, operand, None);
        s
    };
    acquired().ends(&[at(0, 5, 1, 8), IDLE], Outcome::Completed);
    acquired().ends(&[at(0, 0, 1, -0x20), IDLE], Outcome::Completed);
    acquired().ends(&[at(0, 0, 1, 8), IDLE], Outcome::Inconclusive);
}

#[test]
fn processor_beyond_the_first_64_is_followed_to_the_end() {
    let mut s = Sequence::armed(WatchSet {
        processors: 200,
        closed: true,
        ..watch(&PAIR)
    });
    (0..200).for_each(|processor| {
        s.low(processor);
    });
    s.quiet(who(130, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(131, 0, 2), R::KeAcquireSpinLockRaiseToDpc, SECOND, Some(0));
    let mut stopped: Vec<Who> = (0..200)
        .map(|number| (number, 0, 1000 + u64::from(number), 0, 0))
        .collect();
    stopped[130] = at(130, 2, 1, 8);
    stopped[131] = at(131, 0, 2, 8);
    let found = s.stands(&stopped);
    assert_eq!(found.len(), 1);
    s.defect(&found, Cause::MissingRelease);
    assert_eq!(s.finding(&found[0]).call.context.thread, 2);
}

/// The machine stands still, and an acquire is open.
fn still(s: &mut Sequence, acquire: u64, stopped: Who, (left, milliseconds): (bool, u64)) -> Vec<Found> {
    s.event(EventKind::StillHeld(StillHeld {
        acquire,
        milliseconds,
        left,
        stopped: context(stopped),
    }))
}

#[test]
fn lock_is_left_behind_if_its_callback_is_over_whatever_runs_on_its_stack() {
    for (make, above) in [(acquired as fn() -> Sequence, 0x20), (acquired, -0x20), (holds, -0x20)] {
        let mut s = make();
        let acquire = s.checker.open_acquires()[0].call.sequence;
        let found = still(&mut s, acquire, at(0, 2, 1, above), (true, 0));
        s.defect(&found, Cause::MissingRelease);
        assert_eq!(s.finding(&found[0]).call_sequence, acquire);
        assert!(s.checker.open_acquires().is_empty());
        // Once.
        assert_eq!(still(&mut s, acquire, at(0, 2, 1, above), (true, 0)), []);
    }
    // Somebody else has released it.
    let mut s = holds();
    let acquire = s.checker.open_acquires()[0].call.sequence;
    s.call(who(1, 2, 2), R::KeReleaseSpinLock, LOCK, Some(1));
    assert_eq!(still(&mut s, acquire, at(0, 2, 1, 0), (true, 0)), []);
    assert_eq!(still(&mut s, 4711, at(0, 2, 1, 0), (true, 0)), []);
}

#[test]
fn lock_that_is_held_for_long_at_the_end_is_suspect() {
    for (irql, milliseconds, expected) in [(2, 3000, true), (2, 2999, false), (0, 9000, false)] {
        let mut s = holds();
        let acquire = s.checker.open_acquires()[0].call.sequence;
        let found = still(&mut s, acquire, at(0, irql, 1, -0x20), (false, milliseconds));
        assert_eq!(!found.is_empty(), expected, "{irql} {milliseconds}");
        if expected {
            s.suspect(&found, Cause::MissingRelease);
            assert_eq!(s.finding(&found[0]).shortfall, Shortfall::GOES_ON);
            assert_eq!(s.checker.open_acquires().len(), 1);
        }
    }
}

/// The IRQL tells whether such a lock was taken, and not whose it is.
#[test]
fn interrupt_lock_whose_callback_is_over_is_suspect() {
    for (irql, expected) in [(5, true), (2, false)] {
        let mut s = Sequence::ready(&STORPORT, true);
        s.quiet(who(0, 0, 1), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x700), None);
        let acquire = s.number;
        let found = still(&mut s, acquire, at(0, irql, 1, 0x20), (true, 0));
        assert_eq!(!found.is_empty(), expected, "{irql}");
        if expected {
            s.suspect(&found, Cause::MissingRelease);
        }
    }
}

/// Work items of one queue run in several threads: one lowers the IRQL in place of the release, another one waits for ever.
#[test]
fn thread_that_no_processor_runs_has_left_the_lock_for_which_another_waits() {
    let waiting = |waiter_word| {
        let mut s = acquired();
        let first = s.number;
        s.quiet(who(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(waiter_word));
        (s, first)
    };
    let idle = |processor| (processor, 0, 7, 0, stack(7));
    let (mut s, first) = waiting(1);
    let found = s.stands(&[idle(0), at(1, 2, 2, -0x28)]);
    s.defect(&found, Cause::MissingRelease);
    assert_eq!(s.finding(&found[0]).call_sequence, first);
    // It runs in its critical section, or in an interrupt of that; the other one has not found the lock taken, or does not wait.
    for (word, stopped) in [
        (1, [at(0, 2, 1, 8), at(1, 2, 2, -0x28)]),
        (1, [at(0, 5, 1, -0x400), at(1, 2, 2, -0x28)]),
        (0, [idle(0), at(1, 2, 2, -0x28)]),
        (1, [idle(0), at(1, 0, 2, -0x28)]),
        (1, [idle(0), (1, 2, 0, 0, stack(2) - 0x28)]),
    ] {
        let (mut s, _) = waiting(word);
        assert_eq!(s.stands(&stopped), [], "{word} {stopped:?}");
    }
    // A third one may have the lock.
    let mut s = acquired();
    s.quiet(who(1, 0, 3), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    s.quiet(who(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(1));
    assert_eq!(s.stands(&[idle(0), at(1, 2, 2, -0x28)]), []);
    // Only one of the processors was looked at.
    let (mut s, _) = waiting(1);
    assert_eq!(s.stands(&[at(1, 2, 2, -0x28)]), []);
}
