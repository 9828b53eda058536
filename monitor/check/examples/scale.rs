//! What the checker costs as a guest grows: an event's time and the memory kept, beside those of a small guest.
//!
//! Usage: `scale [MODE COUNT EVENTS]`; without arguments every mode is measured and the ratios are printed, one line of
//! `key=value` pairs each. The modes are listed in [`MODES`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]
#![allow(clippy::cast_precision_loss, reason = "ratios for people")]

use std::time::Duration;

use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::{Routine, RoutineSet};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, Module, Order, WatchSet};

/// The modes, and what each measures.
const MODES: [(&str, &str); 6] = [
    ("idle", "pairs on COUNT locks that are free most of the time"),
    ("live", "pairs while COUNT other locks have an open acquire"),
    ("pending", "pairs on one lock for which COUNT threads wait"),
    (
        "half",
        "acquires by the kernel on COUNT locks, whose releases are not seen",
    ),
    ("free", "memory freed while COUNT locks are remembered"),
    ("unload", "modules unloaded while COUNT locks are remembered"),
];
const TARGET: u64 = 0xffff_f800_5000_0000;
const KERNEL: u64 = 0xffff_f800_1000_0000;
const FIRST: u64 = 0xffff_c000_0000_0000;

struct Bench {
    checker: Checker,
    sequence: u64,
    random: u64,
}

/// Nanoseconds an event, and bytes kept.
#[derive(Clone, Copy)]
struct Cost {
    nanoseconds: f64,
    bytes: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, count, events] = arguments.as_slice() {
        let (Ok(count), Ok(events)) = (count.parse(), events.parse()) else {
            eprintln!("COUNT and EVENTS are numbers");
            std::process::exit(2);
        };
        let cost = measure(mode, count, events);
        println!(
            "mode={mode} count={count} events={events} ns_per_event={:.1} kept_bytes={}",
            cost.nanoseconds, cost.bytes
        );
        return;
    }
    let base = measure("idle", 1_000, 2_000_000);
    let many = measure("idle", 1_000_000, 2_000_000);
    let half = measure("half", 65_536, 2_000_000);
    let free = measure("free", 65_536, 2_000_000);
    let unload = measure("unload", 65_536, 2_000_000);
    let live = measure("live", 60_000, 2_000_000);
    let pending = measure("pending", 4_000, 500_000);
    println!(
        "idle_1000_ns={:.1} idle_1000000_ratio={:.2} half_seen_65536_mib={:.1} half_seen_bytes_per_lock={} \
         free_65536_ratio={:.2} unload_65536_ratio={:.2} live_60000_ratio={:.2} pending_4000_ratio={:.2}",
        base.nanoseconds,
        many.nanoseconds / base.nanoseconds,
        half.bytes as f64 / 1_048_576.0,
        half.bytes / 65_536,
        free.nanoseconds / base.nanoseconds,
        unload.nanoseconds / base.nanoseconds,
        live.nanoseconds / base.nanoseconds,
        pending.nanoseconds / base.nanoseconds,
    );
}

fn measure(mode: &str, count: u64, events: u64) -> Cost {
    let before = resident();
    let mut bench = Bench::new(count.max(1 << 16) as usize);
    let nanoseconds = match mode {
        "idle" => bench.idle(count, events),
        "live" => bench.live(count, events),
        "pending" => bench.pending(count, events),
        "half" => bench.half(count, events),
        "free" => bench.free(count, events, |address| EventKind::MemoryFreed { address, length: 64 }),
        "unload" => bench.free(count, events, |base| EventKind::ModuleUnload { base, size: 64 }),
        _ => {
            for (mode, what) in MODES {
                eprintln!("{mode:8} {what}");
            }
            std::process::exit(2);
        }
    };
    Cost {
        nanoseconds,
        bytes: resident().saturating_sub(before),
    }
}

impl Bench {
    fn new(locks: usize) -> Self {
        let limits = Limits {
            locks,
            handles: locks,
            ..Limits::default()
        };
        let mut bench = Self {
            checker: Checker::new(limits, 77),
            sequence: 0,
            random: 1,
        };
        bench.event(EventKind::ModuleLoad(Module {
            base: TARGET,
            size: 0x10_0000,
            target: true,
            name: "target.sys".into(),
        }));
        bench.event(EventKind::WatchSetChanged(WatchSet {
            watched: RoutineSet::ALL,
            imported: RoutineSet::ALL,
            processors: 4,
            before_target: true,
            closed: true,
            ..WatchSet::default()
        }));
        bench
    }

    fn event(&mut self, kind: EventKind) {
        self.sequence += 1;
        self.checker.apply(&Event {
            sequence: self.sequence,
            order: Order::Total,
            kind,
        });
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn call(&mut self, (processor, irql, thread): (u64, u8, u64), routine: Routine, lock: u64, caller: u64) {
        let word = u64::from(routine == Routine::KeReleaseSpinLock);
        self.event(EventKind::LockCall(LockCall {
            routine,
            operand: LockOperand::Address(lock),
            old_irql: None,
            word: Some(word),
            context: Context {
                processor: processor as u32,
                irql,
                interrupts: true,
                thread: 1 + thread,
                stack_pointer: 0xffff_a000_0000_9000 + thread * 0x1_0000,
                return_address: caller,
            },
        }));
    }

    fn pair(&mut self, processor: u64, lock: u64) {
        self.call(
            (processor, 0, processor),
            Routine::KeAcquireSpinLockRaiseToDpc,
            lock,
            TARGET,
        );
        self.call((processor, 2, processor), Routine::KeReleaseSpinLock, lock, TARGET);
    }

    fn pairs(&mut self, events: u64, mut lock: impl FnMut(&mut Self) -> u64) -> f64 {
        let start = processor_time();
        for _ in 0..events / 2 {
            let processor = self.below(4);
            let lock = lock(self);
            self.pair(processor, lock);
        }
        processor_time().saturating_sub(start).as_nanos() as f64 / events as f64
    }

    fn remember(&mut self, count: u64) {
        for number in 0..count {
            self.pair(0, FIRST + number * 64);
        }
    }

    fn idle(&mut self, count: u64, events: u64) -> f64 {
        self.remember(count);
        self.pairs(events, |bench| FIRST + bench.below(count) * 64)
    }

    fn live(&mut self, count: u64, events: u64) -> f64 {
        for number in 0..count {
            let thread = (0, 0, 1_000 + number);
            self.call(
                thread,
                Routine::KeAcquireSpinLockRaiseToDpc,
                FIRST + number * 64,
                TARGET,
            );
        }
        self.pairs(events, |bench| FIRST + (1 << 32) + bench.below(1_000) * 64)
    }

    fn pending(&mut self, count: u64, events: u64) -> f64 {
        for number in 0..count {
            let thread = (0, 0, 1_000 + number);
            self.call(thread, Routine::KeAcquireSpinLockRaiseToDpc, FIRST, TARGET);
        }
        self.pairs(events, |_| FIRST)
    }

    /// 4,000 threads acquire in the kernel.
    fn half(&mut self, count: u64, events: u64) -> f64 {
        let start = processor_time();
        for event in 0..events {
            let (thread, lock) = (self.below(4_000), FIRST + self.below(count) * 64);
            self.call(
                (event % 4, 0, thread),
                Routine::KeAcquireSpinLockRaiseToDpc,
                lock,
                KERNEL,
            );
        }
        processor_time().saturating_sub(start).as_nanos() as f64 / events as f64
    }

    fn free(&mut self, count: u64, events: u64, kind: impl Fn(u64) -> EventKind) -> f64 {
        self.remember(count);
        let start = processor_time();
        for _ in 0..events {
            self.event(kind(0xffff_d000_0000_0000));
        }
        processor_time().saturating_sub(start).as_nanos() as f64 / events as f64
    }
}

/// Resident memory of this process, bytes; 0 where the system does not tell.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

/// Processor time of this process: what others on the machine do does not count. Zero where the system does not tell.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
