//! Tests of timelines against a simulation of locks that knows who holds which.

use std::collections::VecDeque;

use proptest::prelude::*;
use storlock_check::contract::Routine;
use storlock_check::event::{Context, LockOperand, Module, Order};
use storlock_check::identity::LockIdentity;

use super::*;

const BASE: u64 = 0xffff_f800_1000_0000;

fn call(sequence: u64, routine: Routine, vcpu: u32, operand: LockOperand, site: u64) -> Event {
    let context = Context {
        processor: vcpu,
        irql: 2,
        thread: 0x1000 + u64::from(vcpu),
        return_address: BASE + site,
        ..Context::default()
    };
    let call = LockCall {
        routine,
        context,
        operand,
        old_irql: None,
        word: None,
    };
    Event {
        sequence,
        order: Order::Total,
        kind: EventKind::LockCall(call),
    }
}

fn lock(number: usize) -> LockOperand {
    LockOperand::Address(0xffff_9000_0000_0000 + 64 * number as u64)
}

fn made(events: impl IntoIterator<Item = Event>) -> Timeline {
    let mut builder = TimelineBuilder::default();
    events
        .into_iter()
        .for_each(|event| builder.observe(&event, None, false));
    builder.finish()
}

/// A hold as the simulation knows it: asked, had, released, processor, lock.
type Known = (u64, u64, Option<u64>, u32, usize);

/// Processors that take locks with rising numbers and release them in the opposite order; a waiting one does nothing.
fn simulate(steps: &[(u32, usize, bool)], cpus: u32) -> (Vec<Event>, Vec<Known>) {
    let (mut events, mut holds) = (Vec::new(), Vec::new());
    let mut held: Vec<Vec<(usize, u64, u64)>> = vec![Vec::new(); cpus as usize];
    let mut waiting: Vec<Option<(usize, u64)>> = vec![None; cpus as usize];
    let mut owner: HashMap<usize, u32> = HashMap::new();
    let mut queue: HashMap<usize, VecDeque<u32>> = HashMap::new();
    for (cpu, number, release) in steps {
        let (cpu, at) = (cpu % cpus, events.len() as u64 + 1);
        let own = &mut held[cpu as usize];
        if waiting[cpu as usize].is_some() {
            continue;
        }
        if *release {
            let Some((number, asked, from)) = own.pop() else {
                continue;
            };
            events.push(call(at, Routine::KeReleaseSpinLock, cpu, lock(number), 0x20));
            holds.push((asked, from, Some(at), cpu, number));
            owner.remove(&number);
            if let Some(next) = queue.entry(number).or_default().pop_front() {
                let (_, asked) = waiting[next as usize].take().unwrap();
                owner.insert(number, next);
                held[next as usize].push((number, asked, at));
            }
        } else if own.last().is_none_or(|(top, ..)| top < number) {
            events.push(call(at, Routine::KeAcquireSpinLockRaiseToDpc, cpu, lock(*number), 0x10));
            if owner.contains_key(number) {
                waiting[cpu as usize] = Some((*number, at));
                queue.entry(*number).or_default().push_back(cpu);
            } else {
                owner.insert(*number, cpu);
                own.push((*number, at, at));
            }
        }
    }
    for (cpu, own) in held.iter().enumerate() {
        holds.extend(
            own.iter()
                .map(|(number, asked, from)| (*asked, *from, None, cpu as u32, *number)),
        );
    }
    for (cpu, asked) in waiting.iter().enumerate() {
        // What is never had counts as nothing but an open acquire.
        holds.extend(asked.map(|(number, asked)| (asked, asked, None, cpu as u32, number)));
    }
    (events, holds)
}

proptest! {
    #[test]
    fn holds_and_waits_are_those_of_the_simulation(
        steps in prop::collection::vec((0..4_u32, 0..6_usize, any::<bool>()), 1..200),
        cpus in 1..4_u32,
    ) {
        let (events, mut expected) = simulate(&steps, cpus);
        let first = events.first().map_or(0, |event| event.sequence);
        let timeline = made(events);
        let number = |hold: &Hold| {
            let LockIdentity::Address(address) = timeline.locks[hold.lock as usize].identity else { unreachable!() };
            ((address - 0xffff_9000_0000_0000) / 64) as usize
        };
        let mut found: Vec<Known> = timeline
            .holds
            .iter()
            .map(|hold| (hold.asked + first, hold.from + first, hold.to.map(|to| to + first), hold.vcpu, number(hold)))
            .collect();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(&found, &expected);
        let acquires: u64 = timeline.classes.iter().map(|class| class.acquires).sum();
        prop_assert_eq!(acquires, expected.len() as u64);
        let waited: u64 = timeline.classes.iter().map(|class| class.waited).sum();
        prop_assert_eq!(waited, expected.iter().map(|(asked, from, ..)| from - asked).sum::<u64>());
    }
}

#[test]
fn what_a_routine_calls_to_do_its_work_is_no_hold_of_its_own() {
    let timeline = made([
        call(1, Routine::KeAcquireSpinLockRaiseToDpc, 0, lock(0), 0x10),
        call(2, Routine::KeAcquireSpinLockAtDpcLevel, 0, lock(0), 0x500),
        call(5, Routine::KeReleaseSpinLock, 0, lock(0), 0x20),
        call(6, Routine::KeReleaseSpinLockFromDpcLevel, 0, lock(0), 0x510),
    ]);
    assert_eq!(timeline.holds.len(), 1);
    assert_eq!((timeline.holds[0].asked, timeline.holds[0].to), (0, Some(4)));
}

#[test]
fn a_try_that_comes_back_without_the_lock_holds_nothing() {
    let returned = LockReturn {
        call: 2,
        routine: Routine::KeTryToAcquireSpinLockAtDpcLevel,
        operand: lock(1),
        value: 0,
        context: Context::default(),
    };
    let timeline = made([
        call(1, Routine::KeAcquireSpinLockRaiseToDpc, 1, lock(0), 0x10),
        // Taken by somebody else, and not.
        call(2, Routine::KeTryToAcquireSpinLockAtDpcLevel, 0, lock(0), 0x30),
        call(3, Routine::KeTryToAcquireSpinLockAtDpcLevel, 0, lock(1), 0x40),
        Event {
            sequence: 4,
            order: Order::Total,
            kind: EventKind::LockReturn(returned),
        },
    ]);
    assert_eq!(timeline.holds.len(), 1, "{:?}", timeline.holds);
    assert_eq!(timeline.classes.iter().map(|class| class.contended).sum::<u64>(), 1);
}

#[test]
fn a_release_by_handle_ends_the_hold_of_the_acquire_that_filled_it_in() {
    let (adapter, handle) = (0x5000, 0x6000);
    let acquire = LockOperand::StorPort {
        adapter,
        kind: 3,
        context: 0,
        handle,
    };
    let release = LockOperand::StorPortHandle {
        adapter,
        handle,
        kind: Some(3),
        lock: None,
    };
    let timeline = made([
        call(1, Routine::StorPortAcquireSpinLock, 0, acquire, 0x10),
        call(9, Routine::StorPortReleaseSpinLock, 0, release, 0x20),
    ]);
    assert_eq!(timeline.holds[0].to, Some(8));
    assert_eq!(timeline.class_name(0), "InterruptLock");
}

#[test]
fn times_are_taken_where_there_are_any_and_never_go_back() {
    let mut builder = TimelineBuilder::default();
    let module = Module {
        base: BASE,
        size: 0x1000,
        target: true,
        name: "a.sys".to_owned(),
    };
    let load = Event {
        sequence: 1,
        order: Order::Total,
        kind: EventKind::ModuleLoad(module),
    };
    builder.observe(&load, Some(1_000_000), false);
    builder.observe(
        &call(2, Routine::KeAcquireSpinLockRaiseToDpc, 0, lock(0), 0x10),
        Some(1_000_500),
        true,
    );
    builder.observe(
        &call(3, Routine::KeReleaseSpinLock, 0, lock(0), 0x20),
        Some(1_000_200),
        false,
    );
    let timeline = builder.finish();
    assert_eq!((timeline.clock, timeline.end), (Clock::Nanoseconds, 500));
    assert_eq!((timeline.holds[0].asked, timeline.holds[0].to), (500, Some(500)));
    assert_eq!(timeline.class_name(0), "spin lock of a.sys+0x10");
    assert_eq!(
        timeline.marks,
        [Mark {
            time: 500,
            event: 2,
            vcpu: 0
        }]
    );
}

#[test]
fn which_lock_was_taken_under_which_is_counted_by_class() {
    let pair = |at: u64, first: (usize, u64), second: (usize, u64)| {
        [
            call(at, Routine::KeAcquireSpinLockRaiseToDpc, 0, lock(first.0), first.1),
            call(
                at + 1,
                Routine::KeAcquireSpinLockAtDpcLevel,
                0,
                lock(second.0),
                second.1,
            ),
            call(at + 2, Routine::KeReleaseSpinLockFromDpcLevel, 0, lock(second.0), 0x20),
            call(at + 3, Routine::KeReleaseSpinLock, 0, lock(first.0), 0x20),
        ]
    };
    let timeline = made(
        [
            pair(1, (0, 0x10), (1, 0x30)),
            pair(5, (1, 0x30), (0, 0x10)),
            pair(9, (0, 0x10), (1, 0x30)),
        ]
        .concat(),
    );
    let edges: Vec<_> = timeline
        .order
        .iter()
        .map(|edge| (edge.held, edge.taken, edge.count, edge.event))
        .collect();
    assert_eq!(edges, [(0, 1, 2, 2), (1, 0, 1, 6)]);
}

#[test]
fn a_guest_with_endless_locks_makes_no_endless_timeline() {
    let events = (0..200_000_u64).map(|n| {
        call(
            n + 1,
            Routine::KeAcquireSpinLockRaiseToDpc,
            (n % 300) as u32,
            lock(n as usize),
            n,
        )
    });
    let timeline = made(events);
    assert!(timeline.locks.len() <= 1 << 16 && timeline.places.len() <= 1 << 14 && timeline.classes.len() <= 1 << 10);
    assert!(timeline.holds.len() <= 1 << 14);
}
