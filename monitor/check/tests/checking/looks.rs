//! What a checker tells of locks to whoever looks at a stopped guest, and in which words.

use std::collections::BTreeSet;

use storlock_check::contract::{Contract, QUEUE_HANDLE_LOCK, Routine as R, STOR_HANDLE_LOCK, Width, contract};
use storlock_check::event::LockOperand;
use storlock_check::identity::LockIdentity;
use storlock_check::rules::{Cause, Step};

use crate::scenes::{ELSEWHERE, LOCK, OTHER, RAISED, STOR, STOR_HANDLE, Scene, THREAD};

#[test]
fn open_acquires_are_told_oldest_first_until_they_are_released() {
    let mut scene = Scene::new();
    let open = |scene: &Scene| -> Vec<(u64, R, bool, u32)> {
        let list = scene.checker.open_acquires();
        list.iter()
            .map(|open| (open.call.sequence, open.call.routine, open.held, open.processor))
            .collect()
    };
    assert_eq!(open(&scene), []);
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    let first = scene.sequence;
    // It may still be waiting: nothing has been seen of its caller since.
    assert_eq!(open(&scene), [(first, R::KeAcquireSpinLockRaiseToDpc, false, 0)]);
    scene.call(ELSEWHERE, R::KeAcquireSpinLockAtDpcLevel, OTHER, Some(0));
    let second = scene.sequence;
    // The next call on that processor: its spin lock was entered at DISPATCH_LEVEL and has come back.
    scene.call(ELSEWHERE, R::StorPortAcquireSpinLock, STOR, None);
    let third = scene.sequence;
    assert_eq!(
        open(&scene),
        [
            (first, R::KeAcquireSpinLockRaiseToDpc, false, 0),
            (second, R::KeAcquireSpinLockAtDpcLevel, true, 1),
            (third, R::StorPortAcquireSpinLock, false, 1),
        ]
    );
    scene.call(ELSEWHERE, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
    scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1));
    assert_eq!(open(&scene), [(second, R::KeAcquireSpinLockAtDpcLevel, true, 1)]);
    scene.call(ELSEWHERE, R::KeReleaseSpinLockFromDpcLevel, OTHER, Some(1));
    assert_eq!(open(&scene), []);
}

#[test]
fn an_address_has_the_history_of_each_lock_there_and_of_no_other() {
    const MESSAGE: LockOperand = LockOperand::Msi {
        adapter: 0xad,
        message: 3,
    };
    let mut scene = Scene::new();
    scene.call(THREAD, R::KeAcquireSpinLockRaiseToDpc, LOCK, Some(0));
    scene.call(RAISED, R::StorPortAcquireSpinLock, STOR, None);
    scene.call(RAISED, R::StorPortReleaseSpinLock, STOR_HANDLE, None);
    scene.call(RAISED, R::KeReleaseSpinLock, LOCK, Some(1));
    scene.call(ELSEWHERE, R::StorPortAcquireMSISpinLock, MESSAGE, None);

    let at_lock = scene.checker.history_at(0x1000);
    let (lock, history) = &at_lock[0];
    assert_eq!((at_lock.len(), *lock), (1, LockIdentity::Address(0x1000)));
    assert_eq!(history[0].call.routine, R::KeReleaseSpinLock, "the latest first");
    assert_eq!(history[0].step, Step::Released);
    assert_eq!(history[1].call.routine, R::KeAcquireSpinLockRaiseToDpc);

    let of_adapter = scene.checker.history_at(0xad);
    let locks: Vec<_> = of_adapter.iter().map(|(lock, _)| Some(*lock)).collect();
    assert_eq!(locks, [LockIdentity::of(&STOR), LockIdentity::of(&MESSAGE)]);
    assert!(of_adapter.iter().all(|(_, history)| !history.is_empty()));
    assert_eq!(scene.checker.history_at(0x2000), []);
}

#[test]
fn every_cause_has_a_word_and_a_line_of_its_own() {
    let causes = Cause::ALL;
    let numbers: Vec<_> = causes.iter().map(|cause| cause.number()).collect();
    assert_eq!(
        numbers,
        (1..=causes.len() as u16).collect::<Vec<_>>(),
        "they are for good"
    );
    let words: BTreeSet<_> = causes.iter().map(|cause| cause.name()).collect();
    let lines: BTreeSet<_> = causes.iter().map(|cause| cause.text()).collect();
    assert_eq!((words.len(), lines.len()), (causes.len(), causes.len()));
    let one_word = |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    assert!(words.iter().all(|word| one_word(word)), "{words:?}");
}

#[test]
fn a_lock_is_told_by_what_it_is_and_where() {
    let of_kind = |kind, context| LockIdentity::StorPort {
        adapter: 0xad,
        kind,
        context,
    };
    for (lock, text, address) in [
        (
            LockIdentity::Address(0x1000),
            "spin lock 0x0000000000001000",
            Some(0x1000),
        ),
        (
            of_kind(1, 0x500),
            "DpcLock of adapter 0x00000000000000ad, DPC 0x0000000000000500",
            Some(0xad),
        ),
        (of_kind(2, 0), "StartIoLock of adapter 0x00000000000000ad", Some(0xad)),
        (of_kind(3, 0), "InterruptLock of adapter 0x00000000000000ad", Some(0xad)),
        (
            of_kind(4, 0),
            "ThreadedDpcLock of adapter 0x00000000000000ad",
            Some(0xad),
        ),
        (of_kind(5, 0), "DpcLevelLock of adapter 0x00000000000000ad", Some(0xad)),
        (
            of_kind(77, 9),
            "STOR_SPINLOCK 77 of adapter 0x00000000000000ad",
            Some(0xad),
        ),
        (
            LockIdentity::Msi {
                adapter: 0xad,
                message: 3,
            },
            "lock of message 3 of adapter 0x00000000000000ad",
            Some(0xad),
        ),
        (
            LockIdentity::Interrupt(0x3000),
            "lock of interrupt object 0x0000000000003000",
            Some(0x3000),
        ),
        (LockIdentity::Cancel, "cancel spin lock", None),
        (
            LockIdentity::Handle(0x700),
            "unknown lock, handle 0x0000000000000700",
            Some(0x700),
        ),
    ] {
        assert_eq!((lock.to_string().as_str(), lock.address()), (text, address));
    }
}

#[test]
fn the_words_that_a_call_is_judged_by_are_where_its_operand_says() {
    let word = |routine, operand: LockOperand| contract(routine).lock_word(&operand);
    let queued = LockOperand::Queued {
        lock: 0x1000,
        handle: 0x700,
    };
    let handle = |lock| LockOperand::QueuedHandle { handle: 0x700, lock };
    assert_eq!(word(R::KeReleaseSpinLock, LOCK), Some((0x1000, Width::Qword)));
    assert_eq!(word(R::ExAcquireSpinLockExclusive, LOCK), Some((0x1000, Width::Dword)));
    assert_eq!(
        word(R::KeAcquireInStackQueuedSpinLock, queued),
        Some((0x1000, Width::Qword))
    );
    let release = R::KeReleaseInStackQueuedSpinLock;
    assert_eq!(word(release, handle(Some(0x1000))), Some((0x1000, Width::Qword)));
    assert_eq!(word(release, handle(None)), None, "not known yet");
    // The lock of the DPC, whatever kind of acquire; the others are storport's.
    let stor = |kind, context| LockOperand::StorPort {
        adapter: 0xad,
        kind,
        context,
        handle: 0x700,
    };
    for kind in [1, 4, 5] {
        let lock = word(R::StorPortAcquireSpinLockEx, stor(kind, 0x500));
        assert_eq!(lock, Some((0x540, Width::Qword)), "kind {kind}");
    }
    assert_eq!(word(R::StorPortAcquireSpinLock, stor(2, 0x500)), None);
    assert_eq!(word(R::StorPortAcquireSpinLock, stor(1, 0)), None, "without a DPC");
    let held = |kind, lock| LockOperand::StorPortHandle {
        adapter: 0xad,
        handle: 0x700,
        kind,
        lock,
    };
    let release = R::StorPortReleaseSpinLock;
    assert_eq!(word(release, held(Some(1), Some(0x540))), Some((0x540, Width::Qword)));
    assert_eq!(word(release, held(Some(3), Some(0x540))), None);
    assert_eq!(word(release, held(Some(1), Some(0))), None, "names none");

    let field = Contract::handle_lock_field(&handle(None));
    assert_eq!(field, Some(0x700 + QUEUE_HANDLE_LOCK));
    assert_eq!(
        Contract::handle_kind_field(&STOR_HANDLE),
        Some(0x700 + STOR_HANDLE_LOCK)
    );
    // A hostile handle at the end of the address space has no field behind it.
    let last = LockOperand::QueuedHandle {
        handle: u64::MAX,
        lock: None,
    };
    assert_eq!(Contract::handle_lock_field(&last), None);
    assert_eq!(
        (Contract::handle_lock_field(&LOCK), Contract::handle_kind_field(&LOCK)),
        (None, None)
    );
}
