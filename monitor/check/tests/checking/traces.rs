//! The trace format: what goes in comes out, and no bytes do harm.

use proptest::prelude::*;
use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::{Callback, PortModel, Routine, RoutineSet};
use storlock_check::event::{
    CallerAttributed, Context, Event, EventKind, InCallback, LockCall, LockOperand, LockReturn, Module, Order,
    PortTold, StillHeld, WatchSet,
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
    let callback = || proptest::sample::select(Callback::ALL);
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
        1 => (callback(), any::<u8>(), context()).prop_map(|(callback, port, context)| {
            let port = PortModel::from_bits_truncate(port);
            EventKind::InCallback(InCallback { callback, port, context })
        }),
        1 => (any::<u32>(), any::<u8>()).prop_map(|(processor, irql)| EventKind::IrqlSeen { processor, irql }),
        1 => context().prop_map(EventKind::ProcessorStopped),
        1 => (word(), word(), any::<bool>(), context()).prop_map(|(acquire, milliseconds, left, stopped)| {
            EventKind::StillHeld(StillHeld { acquire, milliseconds, left, stopped })
        }),
        1 => (word(), any::<u8>()).prop_map(|(adapter, port)| {
            let port = PortModel::from_bits_truncate(port);
            EventKind::PortTold(PortTold { adapter, port })
        }),
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

/// Values that the host's side of an event can have: the guest's side can be anything.
fn possible(mut events: Vec<Event>) -> Vec<Event> {
    let mut sequence = 0;
    let place = |context: &mut Context| {
        context.processor %= 256;
        context.irql %= 16;
    };
    let fits = |base: u64, size: &mut u64| *size = (*size).min(u64::MAX - base);
    for event in &mut events {
        sequence += 1 + event.sequence % 1000;
        event.sequence = sequence;
        match &mut event.kind {
            EventKind::LockCall(call) => place(&mut call.context),
            EventKind::LockReturn(returned) => {
                returned.call %= sequence;
                place(&mut returned.context);
            }
            EventKind::CallerAttributed(told) => told.call %= sequence,
            EventKind::InCallback(told) => place(&mut told.context),
            EventKind::IrqlSeen { processor, irql } => (*processor, *irql) = (*processor % 256, *irql % 16),
            EventKind::ProcessorStopped(stopped) => place(stopped),
            EventKind::StillHeld(told) => {
                told.acquire %= sequence;
                place(&mut told.stopped);
            }
            EventKind::ModuleLoad(module) => fits(module.base, &mut module.size),
            EventKind::ModuleUnload { base, size } => fits(*base, size),
            EventKind::MemoryFreed { address, length } => fits(*address, length),
            EventKind::WatchSetChanged(watch) => watch.processors = 1 + watch.processors % 256,
            EventKind::PortTold(_) | EventKind::FaultInjected { .. } | EventKind::Restored => {}
        }
    }
    events
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
        let events = possible(events);
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
        let mut bytes = encode(&possible(events), Some(EndMark::Complete));
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
        let limits = Limits { locks: 8, handles: 8, records: 4, findings: 5, names: 4, open: 64 };
        let mut checker = Checker::new(limits, 3);
        for event in &events {
            checker.apply(event);
        }
        let (locks, handles) = checker.remembered();
        prop_assert!(locks <= 8 && handles <= 8);
        prop_assert!(checker.findings().len() <= 5);
    }
}

/// Acquires that are never released, and returns of calls that were never made: each keeps a record.
#[test]
fn open_acquires_of_all_locks_together_are_bounded() {
    let limits = Limits {
        open: 1000,
        ..Limits::default()
    };
    let mut checker = Checker::new(limits, 3);
    // Of the driver under test's locks the most is kept. Its calls below return to address 0.
    checker.apply(&Event {
        sequence: 0,
        order: Order::Total,
        kind: EventKind::ModuleLoad(Module {
            base: 0,
            size: 0x1000,
            target: true,
            name: "target.sys".into(),
        }),
    });
    let held = |checker: &Checker| checker.open_acquires().len();
    for number in 0..20_000_u64 {
        let context = Context {
            processor: (number % 256) as u32,
            irql: 0,
            thread: 1 + number,
            stack_pointer: 0x10_0000 * (1 + number),
            ..Context::default()
        };
        let (routine, operand) = (
            Routine::KeAcquireSpinLockRaiseToDpc,
            LockOperand::Address(0x1000 + number / 90 * 8),
        );
        let kind = if number % 2 == 0 {
            EventKind::LockReturn(LockReturn {
                call: number,
                routine,
                operand,
                value: 1,
                context,
            })
        } else {
            EventKind::LockCall(LockCall {
                routine,
                context,
                operand,
                old_irql: None,
                word: Some(1),
            })
        };
        checker.apply(&Event {
            sequence: number + 1,
            order: Order::Total,
            kind,
        });
        assert!(held(&checker) <= 1001, "{} after {number}", held(&checker));
    }
    assert!(checker.statistics().records_evicted > 0);
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    let event = |sequence, kind| Event {
        sequence,
        order: Order::Total,
        kind,
    };
    let seen = |processor, irql| EventKind::IrqlSeen { processor, irql };
    let call = |processor, irql| {
        EventKind::LockCall(LockCall {
            routine: Routine::KeReleaseSpinLock,
            context: Context {
                processor,
                irql,
                ..Context::default()
            },
            operand: LockOperand::Address(0x1000),
            // The guest's own argument: it may be wrong, and that is worth a verdict.
            old_irql: Some(200),
            word: None,
        })
    };
    let module = |base, size| {
        EventKind::ModuleLoad(Module {
            base,
            size,
            target: false,
            name: "a.sys".to_owned(),
        })
    };
    let watch = |processors| {
        EventKind::WatchSetChanged(WatchSet {
            processors,
            ..WatchSet::default()
        })
    };
    for (kind, wrong) in [
        (seen(255, 15), None),
        (seen(256, 0), Some("processor")),
        (seen(0, 16), Some("IRQL")),
        (call(0, 2), None),
        (call(u32::MAX, 2), Some("processor")),
        (call(1, 0xff), Some("IRQL")),
        (module(u64::MAX, 0), None),
        (module(u64::MAX, 1), Some("memory")),
        (watch(256), None),
        (watch(0), Some("processors")),
        (watch(257), Some("processors")),
    ] {
        let bytes = encode(&[event(7, kind.clone())], None);
        let read: Vec<_> = Reader::new(&bytes).unwrap().collect();
        match (&read[..], wrong) {
            ([Ok(read)], None) => assert_eq!(read.kind, kind),
            ([Err(error)], Some(word)) => assert!(error.to_string().contains(word), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    let order = |first, second| {
        let bytes = encode(
            &[event(first, EventKind::Restored), event(second, EventKind::Restored)],
            None,
        );
        Reader::new(&bytes).unwrap().filter_map(Result::err).count()
    };
    assert_eq!((order(0, 1), order(5, 9), order(5, 5), order(5, 4)), (0, 0, 1, 1));
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
