//! How fast the checker replays: events a second on one core, and what it keeps in memory.
//!
//! Usage: `replay_rate [EVENTS [LOCKS]]`, by default 10 million events of 4 processors on 1,000 locks. Prints one line
//! for a person and one of `key=value` pairs for scripts.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use std::time::Duration;

use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::{Routine, RoutineSet};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, Order, WatchSet};
use storlock_check::trace::{Encoder, EndMark, Reader};

const PROCESSORS: u32 = 4;
/// Lock calls that are prepared and then repeated with new sequence numbers.
const PERIOD: u64 = 1 << 16;
/// How often they are decoded.
const DECODED: usize = 50;

/// Four processors that take turns: each acquires a lock of its own part, and another below it, and releases both.
fn calls(locks: u64) -> Vec<LockCall> {
    let part = (locks / u64::from(PROCESSORS)).max(2);
    let mut calls = Vec::new();
    let mut state = 1_u64;
    for round in 0..PERIOD / 4 {
        let processor = (round % u64::from(PROCESSORS)) as u32;
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let first = (state >> 33) % (part - 1);
        let base = 0xffff_c000_0000_0000 + u64::from(processor) * part * 64;
        let context = Context {
            processor,
            irql: 0,
            interrupts: true,
            thread: 0xffff_e000_0000_0000 + u64::from(processor) * 0x1000,
            stack_pointer: 0xffff_a000_0000_8000 + u64::from(processor) * 0x1_0000,
            return_address: 0xffff_f800_0010_0000 + (state >> 50),
        };
        let handle = context.stack_pointer - 0x40;
        let high = Context { irql: 2, ..context };
        let (outer, inner) = (base + first * 64, base + (first + 1) * 64);
        let call = |routine, context, operand, word| LockCall {
            routine,
            context,
            operand,
            old_irql: None,
            word,
        };
        let queued = LockOperand::QueuedHandle {
            handle,
            lock: Some(inner),
        };
        calls.push(call(
            Routine::KeAcquireSpinLockRaiseToDpc,
            context,
            LockOperand::Address(outer),
            Some(0),
        ));
        calls.push(call(
            Routine::KeAcquireInStackQueuedSpinLockAtDpcLevel,
            high,
            LockOperand::Queued { lock: inner, handle },
            Some(0),
        ));
        calls.push(call(
            Routine::KeReleaseInStackQueuedSpinLockFromDpcLevel,
            high,
            queued,
            Some(1),
        ));
        calls.push(call(
            Routine::KeReleaseSpinLock,
            high,
            LockOperand::Address(outer),
            Some(1),
        ));
    }
    calls
}

/// Resident memory of this process, KiB; 0 where the system does not tell.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<u64>().ok());
    let events = arguments.next().unwrap_or(10_000_000);
    let locks = arguments.next().unwrap_or(1_000);

    let calls = calls(locks);
    let mut checker = Checker::new(Limits::default(), 0x5eed);
    let watch = WatchSet {
        watched: RoutineSet::ALL,
        imported: RoutineSet::ALL,
        processors: PROCESSORS,
        before_target: true,
        closed: true,
        ..WatchSet::default()
    };
    checker.apply(&Event {
        sequence: 0,
        order: Order::Total,
        kind: EventKind::WatchSetChanged(watch),
    });

    let mut calls_in_turn = calls.iter().cycle();
    let mut early = 0;
    let start = processor_time();
    for sequence in 1..=events {
        let Some(call) = calls_in_turn.next() else { break };
        checker.apply(&Event {
            sequence,
            order: Order::Total,
            kind: EventKind::LockCall(*call),
        });
        if sequence == events / 10 {
            early = resident();
        }
    }
    let rate = events as f64 / processor_time().saturating_sub(start).as_secs_f64();
    let late = resident();
    let (kept, handles) = checker.remembered();

    let (decode_rate, bytes) = decode_rate(&calls);
    println!(
        "{:.1} million events/s checked, {:.1} million/s decoded ({bytes:.1} bytes an event); {kept} locks and {handles} handles kept, {} of {events} releases matched; resident {early} KiB after a tenth, {late} KiB at the end",
        rate / 1e6,
        decode_rate / 1e6,
        checker.statistics().matched,
    );
    println!(
        "events={events} events_per_second={rate:.0} decoded_per_second={decode_rate:.0} bytes_per_event={bytes:.2} locks={kept} handles={handles} violations={} rss_early_kib={early} rss_end_kib={late}",
        checker.findings().len()
    );
    std::process::exit(i32::from(!checker.findings().is_empty()));
}

/// Events decoded a second, and bytes an event.
fn decode_rate(calls: &[LockCall]) -> (f64, f64) {
    let (mut bytes, mut encoder) = (Encoder::header().to_vec(), Encoder::new());
    for (sequence, call) in (1..).zip(calls) {
        encoder.event(
            &Event {
                sequence,
                order: Order::Total,
                kind: EventKind::LockCall(*call),
            },
            &mut bytes,
        );
    }
    encoder.end(EndMark::Complete, &mut bytes);
    let start = processor_time();
    // Often enough for a clock that the system moves once a tick.
    let decoded: usize = (0..DECODED)
        .map(|_| Reader::new(&bytes).map_or(0, |reader| reader.flatten().count()))
        .sum();
    (
        decoded as f64 / processor_time().saturating_sub(start).as_secs_f64(),
        bytes.len() as f64 / calls.len() as f64,
    )
}

/// Processor time of this process: what others on the machine do does not count. Zero where the system does not tell.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
