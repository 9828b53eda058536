//! Attention belongs to the driver under test: what others do uses up none of it, and no bug of its hides another.

use storlock_check::event::CallerAttributed;

use super::*;

#[test]
fn releases_of_unknown_holds_leave_the_outcome_open() {
    // The second processor never calls below DISPATCH_LEVEL: a hold may be older than the watch.
    let mut s = Sequence::armed(WatchSet {
        before_target: false,
        ..watch(&STORPORT)
    });
    s.low(0);
    s.quiet(
        who(0, 2, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        None,
    );
    for _ in 0..4 {
        s.quiet(
            who(0, 2, 1),
            R::StorPortReleaseSpinLock,
            stor_handle(0xad, 0x700, 1),
            None,
        );
    }
    assert_eq!(s.checker.statistics().open(OpenQuestion::UnknownReleases), 3);
    assert_eq!(s.outcome(), Outcome::Inconclusive);
}

#[test]
fn second_bug_behind_one_wrapper_is_a_finding_of_its_own() {
    let mut s = Sequence::ready(&PAIR, true);
    let unlock = TARGET + 0x40;
    let release = |s: &mut Sequence, thread, lock, frame| {
        let processor = (thread % 2) as u32;
        let caller = (processor, 2, thread, unlock, stack(thread));
        let found = s.call(caller, R::KeReleaseSpinLock, LockOperand::Address(lock), Some(0));
        let told = CallerAttributed {
            call: s.number,
            target: false,
            caller: unlock,
            frames: [TARGET + frame, TARGET + 0x900],
        };
        (found, s.event(EventKind::CallerAttributed(told)))
    };
    let (first, _) = release(&mut s, 2, 0x1000, 0x200);
    let (second, told) = release(&mut s, 3, 0x9000, 0x300);
    assert!(first[0].first && second[0].first && told[0].first);
    assert_eq!(s.checker.findings().len(), 2);
    // The first one again on a lock of its own: the callers show that it is known.
    let (_, told) = release(&mut s, 4, 0xa000, 0x200);
    assert_eq!((told[0].index, told[0].first), (Some(0), false));
    // The second one again on the first one's lock.
    let (third, told) = release(&mut s, 5, 0x1000, 0x300);
    assert_eq!((third[0].first, told[0].index, told[0].first), (false, Some(1), false));
    // A third one on a lock that the first one has an entry for.
    let (fourth, told) = release(&mut s, 6, 0x1000, 0x400);
    assert!(!fourth[0].first && told[0].first);
    let counts: Vec<_> = s.checker.findings().iter().map(|finding| finding.count).collect();
    assert_eq!(counts, [2, 2, 1]);
    assert_eq!(s.checker.statistics().target_violations, 5);
}

#[test]
fn one_bug_on_ever_new_locks_does_not_fill_the_report() {
    let mut s = Sequence::ready(&PAIR, true);
    for lock in 0..1000_u64 {
        let operand = LockOperand::Address(0x1000 + 64 * lock);
        s.call(who(0, 2, 1), R::KeReleaseSpinLock, operand, Some(0));
    }
    let findings = s.checker.findings();
    assert!(findings.len() <= 16, "{}", findings.len());
    assert_eq!(findings.iter().map(|finding| finding.count).sum::<u64>(), 1000);
}

#[test]
fn signature_is_the_same_at_another_load_address() {
    let mut ids = Vec::new();
    for base in [TARGET, 0xffff_f800_1234_0000] {
        let mut s = Sequence::armed(watch(&PAIR));
        s.load_target(base);
        let caller = (0, 2, 1, base + 0x123, stack(1));
        s.call(caller, R::KeReleaseSpinLock, LOCK, Some(0));
        s.event(EventKind::CallerAttributed(CallerAttributed {
            call: s.number,
            target: true,
            caller: base + 0x123,
            frames: [base + 0x456, base + 0x789],
        }));
        let signature = &s.checker.findings()[0].signature;
        assert_eq!(signature.site.to_string(), "target.sys+0x123");
        ids.push(signature.id());
    }
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn tail_call_of_the_driver_is_not_merged_with_another_drivers() {
    let mut s = Sequence::ready(&STORPORT, true);
    let storport = 0x8_8888;
    s.quiet(
        who(0, 0, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        None,
    );
    s.quiet(
        who(0, 2, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 1),
        None,
    );
    let release = |s: &mut Sequence, thread, operand| {
        let caller = (0, 2, 1, storport, stack(thread));
        s.call(caller, R::StorPortReleaseSpinLock, operand, None)
    };
    let other = release(&mut s, 3, stor_handle(0xee, 0x1700, 0));
    let target = release(&mut s, 4, stor_handle(0xad, 0x2700, 0));
    assert!(other[0].first && !other[0].concerns_target);
    assert!(target[0].first);
    s.defect(&target, Cause::ReleaseWithoutAcquire);
}

#[test]
fn half_seen_locks_of_the_kernel_do_not_make_the_past_unknown() {
    for threads in [0_u64, 129, 5000] {
        let mut s = Sequence::ready(&PAIR, true);
        s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
        s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
        for thread in 0..threads {
            let they = ((thread % 2) as u32, 0, 100 + thread, OTHER, stack(100 + thread));
            let theirs = LockOperand::Address(0xffff_f800_0000_0000);
            s.quiet(they, R::KeAcquireSpinLockRaiseToDpc, theirs, Some(0));
        }
        let found = s.call(who(1, 2, 2), R::KeReleaseSpinLock, LOCK, Some(1));
        s.suspect(&found, Cause::ReleaseWithoutAcquire);
        assert!(s.checker.past_known());
    }
}

#[test]
fn violations_of_other_drivers_leave_room_for_the_targets() {
    let mut s = Sequence::ready(&PAIR, true);
    for place in 0..5000_u64 {
        let they = (0, 2, 3, OTHER + place, stack(3));
        s.call(they, R::KeReleaseSpinLock, LOCK, Some(0));
    }
    let found = s.call(
        who(0, 2, 1),
        R::KeReleaseSpinLock,
        LockOperand::Address(0x1000),
        Some(0),
    );
    assert!(found[0].first && found[0].index.is_some());
    s.defect(&found, Cause::ReleaseWithoutAcquire);
}

#[test]
fn locks_of_other_drivers_do_not_push_out_the_targets() {
    let limits = Limits {
        locks: 64,
        handles: 64,
        ..Limits::default()
    };
    let mut s = Sequence::ready(&PAIR, true);
    s.checker = Checker::new(limits, 9);
    s.load_target(TARGET);
    s.event(EventKind::WatchSetChanged(watch(&PAIR)));
    s.low(0);
    s.low(1);
    s.quiet(who(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    for lock in 0..10_000_u64 {
        let they = (1, 0, 50 + lock % 7, OTHER, stack(50 + lock % 7));
        let theirs = LockOperand::Address(0x10_0000 + 64 * lock);
        s.quiet(they, R::KeAcquireSpinLockRaiseToDpc, theirs, Some(0));
    }
    assert_eq!(s.checker.history_at(0xffff_c000_0000_1000).len(), 1);
    s.quiet(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(1));
    let found = s.call(who(0, 2, 1), R::KeReleaseSpinLock, LOCK, Some(0));
    s.defect(&found, Cause::ReleasedTwice);
}

#[test]
fn lock_that_the_kernel_took_and_gave_back_unseen_is_no_certain_double_acquire() {
    // A service of the kernel takes the driver's lock by its own routine, which is watched, and releases it by inlined code.
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = Sequence::ready(&[PAIR, set].concat(), true);
    s.quiet(who(0, 2, 1), set[0], LOCK, Some(0));
    s.quiet(who(0, 2, 1), set[1], LOCK, Some(1));
    s.quiet((0, 2, 1, OTHER, stack(1) - 0x60), set[0], LOCK, Some(0));
    s.quiet(who(1, 2, 2), set[0], LOCK, Some(1));
    // The other processor has got it by now, and this one waits.
    let found = s.call(who(0, 2, 1), set[0], LOCK, Some(1));
    s.suspect(&found, Cause::DoubleAcquire);
}

#[test]
fn cancel_lock_that_the_kernel_gave_back_unseen_has_no_certain_owner() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = Sequence::ready(&[PAIR, set].concat(), true);
    s.quiet((0, 2, 1, OTHER, stack(1) - 0x60), set[0], LockOperand::Cancel, None);
    s.quiet(who(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, SECOND, Some(0));
    // A cancel routine on the other processor, entered with the lock.
    let found = s.call(who(1, 2, 2), set[1], LockOperand::Cancel, None);
    assert_ne!(s.outcome(), Outcome::Defect, "{found:?}");
}

#[test]
fn unknown_release_that_the_target_made_by_a_jump_counts_as_its() {
    let set = [R::KeReleaseSpinLock, R::KeAcquireSpinLockRaiseToDpc];
    let theirs = (0, 2, 1, OTHER, stack(1));
    for target in [false, true] {
        let mut s = Sequence::watching(&set, true);
        // The past is not known yet, and the word cannot be read.
        s.quiet(theirs, R::KeReleaseSpinLock, LOCK, None);
        let told = CallerAttributed {
            call: s.number,
            target,
            caller: TARGET + 0x500,
            ..CallerAttributed::default()
        };
        // Told once or again, and of another call.
        s.event(EventKind::CallerAttributed(told));
        s.event(EventKind::CallerAttributed(told));
        let statistics = s.checker.statistics();
        assert_eq!(statistics.unknown_releases, 1);
        assert_eq!(statistics.open(OpenQuestion::UnknownReleases), u64::from(target));
        s.quiet(theirs, R::KeReleaseSpinLock, SECOND, None);
        s.event(EventKind::CallerAttributed(told));
        assert_eq!(
            s.checker.statistics().open(OpenQuestion::UnknownReleases),
            u64::from(target)
        );
    }
}
