//! Sequences of calls as drivers and kernels make them, in which the easy reading is the wrong one: what must not be
//! said of an innocent driver, and what must be said of a guilty one.

mod adapters;
mod agents;
mod attention;
mod by_hand;
mod callbacks;
mod classes;
mod cut_off;
mod dishonest;
mod families;
mod held;
mod irql;
mod lifetimes;
mod port_modes;
mod reuse;
mod right;
mod storport;
mod swapped;
mod travels;
mod turns;
mod unreadable;
mod unseen;
mod upgrades;

use storlock_check::checker::{Checker, Found, Limits, OpenQuestion, Outcome};
use storlock_check::contract::{PortModel, Routine as R, RoutineSet};
use storlock_check::event::{
    Context, Event, EventKind, LockCall, LockOperand, LockReturn, Module, Order, PortTold, WatchSet,
};
use storlock_check::finding::{Cause, Finding, Verdict};

/// Where the driver under test is, and some other module.
pub const TARGET: u64 = 0xf000;
pub const OTHER: u64 = 0x5_0000;
pub const LOCK: LockOperand = LockOperand::Address(0xffff_c000_0000_1000);
pub const SECOND: LockOperand = LockOperand::Address(0x2000);

pub const PAIR: [R; 2] = [R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock];
pub const STORPORT: [R; 5] = [
    R::StorPortAcquireSpinLock,
    R::StorPortReleaseSpinLock,
    R::StorPortAcquireMSISpinLock,
    R::StorPortReleaseMSISpinLock,
    R::StorPortAcquireSpinLockEx,
];

/// Processor, IRQL, thread, return address, stack pointer.
pub type Who = (u32, u8, u64, u64, u64);

/// The stack of a thread.
pub const fn stack(thread: u64) -> u64 {
    0x10_0000 * (thread + 1) + 0x9000
}

/// A thread of the driver under test.
pub const fn who(processor: u32, irql: u8, thread: u64) -> Who {
    (processor, irql, thread, TARGET + 0x100 + 16 * thread, stack(thread))
}

pub const fn context((processor, irql, thread, return_address, stack_pointer): Who) -> Context {
    Context {
        processor,
        irql,
        interrupts: true,
        thread,
        stack_pointer,
        return_address,
    }
}

pub const fn stor(adapter: u64, kind: u32, context: u64, handle: u64) -> LockOperand {
    LockOperand::StorPort {
        adapter,
        kind,
        context,
        handle,
    }
}

pub const fn stor_handle(adapter: u64, handle: u64, kind: u32) -> LockOperand {
    LockOperand::StorPortHandle {
        adapter,
        handle,
        kind: Some(kind),
        lock: None,
    }
}

pub struct Sequence {
    pub checker: Checker,
    pub number: u64,
}

impl Sequence {
    /// A driver that imports what is watched; `closed`: and reaches nothing else.
    pub fn watching(routines: &[R], closed: bool) -> Self {
        Self::armed(WatchSet {
            closed,
            ..watch(routines)
        })
    }

    pub fn armed(watch: WatchSet) -> Self {
        let mut sequence = Self {
            checker: Checker::new(Limits::default(), 1),
            number: 0,
        };
        sequence.load_target(TARGET);
        sequence.event(EventKind::WatchSetChanged(watch));
        sequence
    }

    /// Both processors are seen below `DISPATCH_LEVEL`.
    pub fn ready(routines: &[R], closed: bool) -> Self {
        let mut sequence = Self::watching(routines, closed);
        sequence.low(0);
        sequence.low(1);
        sequence
    }

    pub fn load_target(&mut self, base: u64) {
        self.event(EventKind::ModuleLoad(Module {
            base,
            size: 0x1000,
            target: true,
            name: "target.sys".into(),
        }));
    }

    pub fn event(&mut self, kind: EventKind) -> Vec<Found> {
        self.number += 1;
        let response = self.checker.apply(&Event {
            sequence: self.number,
            order: Order::Total,
            kind,
        });
        response.findings().copied().collect()
    }

    /// How the port driver runs an adapter.
    pub fn told(&mut self, adapter: u64, port: PortModel) {
        self.event(EventKind::PortTold(PortTold { adapter, port }));
    }

    pub fn low(&mut self, processor: u32) -> Vec<Found> {
        self.event(EventKind::IrqlSeen { processor, irql: 0 })
    }

    /// A call; what was found, the gravest first.
    pub fn call(&mut self, who: Who, routine: R, operand: LockOperand, word: Option<u64>) -> Vec<Found> {
        self.call_back_to(who, routine, operand, word, None)
    }

    /// A call with an old-IRQL argument.
    pub fn call_back_to(
        &mut self,
        who: Who,
        routine: R,
        operand: LockOperand,
        word: Option<u64>,
        old_irql: Option<u8>,
    ) -> Vec<Found> {
        self.event(EventKind::LockCall(LockCall {
            routine,
            context: context(who),
            operand,
            old_irql,
            word,
        }))
    }

    #[track_caller]
    pub fn quiet(&mut self, who: Who, routine: R, operand: LockOperand, word: Option<u64>) {
        let found = self.call(who, routine, operand, word);
        let told: Vec<_> = found.iter().map(|found| self.finding(found)).collect();
        assert!(told.is_empty(), "{told:#x?}");
    }

    pub fn came_back(&mut self, call: u64, who: Who, routine: R, operand: LockOperand, value: u32) {
        self.event(EventKind::LockReturn(LockReturn {
            call,
            routine,
            operand,
            value,
            context: context(who),
        }));
    }

    #[track_caller]
    pub fn finding(&self, found: &Found) -> &Finding {
        &self.checker.findings()[found.index.expect("room for it")]
    }

    /// Verdict, cause and whether it concerns the driver under test, of the gravest.
    #[track_caller]
    pub fn gravest(&self, found: &[Found]) -> (Verdict, Cause, bool) {
        let found = found.first().expect("a finding");
        (found.verdict, self.finding(found).cause, found.concerns_target)
    }

    #[track_caller]
    pub fn defect(&self, found: &[Found], cause: Cause) {
        assert_eq!(self.gravest(found), (Verdict::Semantic, cause, true));
        assert_eq!(self.outcome(), Outcome::Defect);
    }

    #[track_caller]
    pub fn suspect(&self, found: &[Found], cause: Cause) {
        assert_eq!(self.gravest(found), (Verdict::Suspect, cause, true));
        assert_eq!(self.outcome(), Outcome::Inconclusive);
    }

    pub fn outcome(&self) -> Outcome {
        self.checker.outcome(true)
    }
}

pub fn watch(routines: &[R]) -> WatchSet {
    WatchSet {
        watched: RoutineSet::of(routines),
        imported: RoutineSet::of(routines),
        processors: 2,
        before_target: true,
        ..WatchSet::default()
    }
}
