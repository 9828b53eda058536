//! The trace format: what goes in comes out, and no bytes do harm.

use proptest::prelude::*;
use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::{Routine, RoutineSet};
use storlock_check::event::{
    Callback, CallerAttributed, Context, Event, EventKind, LockCall, LockOperand, LockReturn, Module, Order, WatchSet,
};
use storlock_check::trace::{Encoder, EndMark, HEADER, MAX_PAYLOAD, Reader, TraceError};

fn context() -> impl Strategy<Value = Context> {
    (
        any::<u32>(),
        any::<u8>(),
        any::<bool>(),
        any::<u64>(),
        any::<u64>(),
        any::<u64>(),
    )
        .prop_map(
            |(processor, irql, interrupts, thread, stack_pointer, return_address)| Context {
                processor,
                irql,
                interrupts,
                thread,
                stack_pointer,
                return_address,
            },
        )
}

fn operand() -> impl Strategy<Value = LockOperand> {
    let word = any::<u64>;
    prop_oneof![
        word().prop_map(LockOperand::Address),
        (word(), word()).prop_map(|(lock, handle)| LockOperand::Queued { lock, handle }),
        (word(), any::<Option<u64>>()).prop_map(|(handle, lock)| LockOperand::QueuedHandle { handle, lock }),
        (word(), any::<u32>(), word(), word()).prop_map(|(adapter, kind, context, handle)| LockOperand::StorPort {
            adapter,
            kind,
            context,
            handle
        }),
        (word(), word(), any::<Option<u32>>(), any::<Option<u64>>()).prop_map(|(adapter, handle, kind, lock)| {
            LockOperand::StorPortHandle {
                adapter,
                handle,
                kind,
                lock,
            }
        }),
        (word(), any::<u32>()).prop_map(|(adapter, message)| LockOperand::Msi { adapter, message }),
        word().prop_map(LockOperand::Interrupt),
        Just(LockOperand::Cancel),
    ]
}

fn routine() -> impl Strategy<Value = Routine> {
    proptest::sample::select(Routine::ALL)
}

fn kind() -> impl Strategy<Value = EventKind> {
    let word = any::<u64>;
    let callback = || {
        (any::<u32>(), word(), context()).prop_map(|(callback, adapter, context)| Callback {
            callback,
            adapter,
            context,
        })
    };
    prop_oneof![
        6 => (routine(), context(), operand(), any::<Option<u8>>(), any::<Option<u64>>()).prop_map(
            |(routine, context, operand, old_irql, word)| {
                EventKind::LockCall(LockCall { routine, context, operand, old_irql, word })
            }
        ),
        2 => (word(), routine(), operand(), any::<u32>(), context()).prop_map(
            |(call, routine, operand, value, context)| {
                EventKind::LockReturn(LockReturn { call, routine, operand, value, context })
            }
        ),
        1 => callback().prop_map(EventKind::CallbackEnter),
        1 => callback().prop_map(EventKind::CallbackLeave),
        1 => (any::<u32>(), any::<u8>()).prop_map(|(processor, irql)| EventKind::IrqlSeen { processor, irql }),
        1 => (word(), word(), any::<bool>(), "[a-z\u{e9}.]{0,64}").prop_map(|(base, size, target, name)| {
            EventKind::ModuleLoad(Module { base, size, target, name })
        }),
        1 => (word(), word()).prop_map(|(base, size)| EventKind::ModuleUnload { base, size }),
        1 => (word(), word()).prop_map(|(address, length)| EventKind::MemoryFreed { address, length }),
        1 => (word(), word(), word(), any::<u32>(), any::<[bool; 2]>()).prop_map(
            |(watched, imported, ambiguous, processors, [before_target, closed])| {
                EventKind::WatchSetChanged(WatchSet {
                    watched: RoutineSet::from_bits(watched),
                    imported: RoutineSet::from_bits(imported),
                    processors,
                    before_target,
                    closed,
                    ambiguous: RoutineSet::from_bits(ambiguous),
                })
            }
        ),
        1 => (word(), any::<bool>(), word(), any::<[u64; 2]>()).prop_map(|(call, target, caller, frames)| {
            EventKind::CallerAttributed(CallerAttributed { call, target, caller, frames })
        }),
        1 => word().prop_map(|fault| EventKind::FaultInjected { fault }),
        1 => Just(EventKind::Restored),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u64>(), any::<bool>(), kind()).prop_map(|(sequence, total, kind)| Event {
        sequence,
        order: if total { Order::Total } else { Order::PerProcessor },
        kind,
    })
}

fn encode(events: &[Event], end: Option<EndMark>) -> Vec<u8> {
    let (mut bytes, mut encoder) = (Encoder::header().to_vec(), Encoder::new());
    for event in events {
        encoder.event(event, &mut bytes);
    }
    if let Some(end) = end {
        encoder.end(end, &mut bytes);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_come_out_as_they_went_in(events in proptest::collection::vec(event(), 0..40), end in 0..4_u8) {
        let end = [None, Some(EndMark::Complete), Some(EndMark::DiskFull), Some(EndMark::CutOff)][end as usize];
        let bytes = encode(&events, end);
        let mut reader = Reader::new(&bytes).unwrap();
        let read: Vec<_> = reader.by_ref().map(Result::unwrap).collect();
        prop_assert_eq!(read, events);
        prop_assert_eq!(reader.end(), end);
    }

    #[test]
    fn changed_bytes_never_do_harm(
        events in proptest::collection::vec(event(), 1..40),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&events, Some(EndMark::Complete));
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut checker = Checker::new(Limits { locks: 16, handles: 16, ..Limits::default() }, 1);
        if let Ok(reader) = Reader::new(&bytes) {
            prop_assert!(reader.clone().count() <= bytes.len());
            for event in reader.flatten() {
                checker.apply(&event);
            }
        }
        prop_assert!(checker.remembered().0 <= 16);
    }

    #[test]
    fn any_events_leave_the_checker_bounded(events in proptest::collection::vec(event(), 0..300)) {
        let limits = Limits { locks: 8, handles: 8, records: 4, violations: 5, names: 4 };
        let mut checker = Checker::new(limits, 3);
        for event in &events {
            checker.apply(event);
        }
        let (locks, handles) = checker.remembered();
        prop_assert!(locks <= 8 && handles <= 8);
        prop_assert!(checker.violations().len() <= 5);
    }
}

#[test]
fn other_bytes_are_refused_by_name() {
    assert_eq!(Reader::new(b"").unwrap_err(), TraceError::Magic);
    assert_eq!(Reader::new(b"NOTATRACE123").unwrap_err(), TraceError::Magic);
    assert_eq!(
        Reader::new(b"STORLTRC\x01\x00\x00\x00").unwrap_err(),
        TraceError::Version(1)
    );
}

#[test]
fn record_longer_than_any_is_refused_without_reading_it() {
    let mut bytes = Encoder::header().to_vec();
    bytes.extend([0xff, 0xff, 0xff, 0x7f, 1]);
    let read: Vec<_> = Reader::new(&bytes).unwrap().collect();
    assert!(matches!(read[..], [Err(TraceError::TooLong(length))] if length > MAX_PAYLOAD as u64));
}

#[test]
fn unknown_record_is_skipped_only_if_its_tag_allows_it() {
    let restored = Event {
        sequence: 1,
        order: Order::Total,
        kind: EventKind::Restored,
    };
    let with = |tag: u8| {
        let mut bytes = Encoder::header().to_vec();
        bytes.extend([1, tag, 0]);
        Encoder::new().event(&restored, &mut bytes);
        bytes
    };
    assert_eq!(
        Reader::new(&with(0x80)).unwrap().collect::<Vec<_>>(),
        [Ok(restored.clone())]
    );
    assert_eq!(
        Reader::new(&with(0x7f)).unwrap().next(),
        Some(Err(TraceError::UnknownTag(0x7f)))
    );
}

#[test]
fn trace_without_end_mark_is_told_from_a_complete_one() {
    let bytes = encode(
        &[Event {
            sequence: 1,
            order: Order::Total,
            kind: EventKind::Restored,
        }],
        Some(EndMark::Complete),
    );
    for cut in HEADER..bytes.len() {
        let mut reader = Reader::new(&bytes[..cut]).unwrap();
        assert!(reader.by_ref().all(|event| event.is_ok()));
        assert_eq!(reader.end(), None, "cut at {cut}");
    }
}
