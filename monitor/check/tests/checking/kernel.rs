//! A small SMP kernel: threads that are preempted and migrate below `DISPATCH_LEVEL`, DPCs and interrupts that come in
//! between the entry of an acquire and the raise of the IRQL, contended locks, calls inside calls. It knows who holds
//! what, so it knows the truth about every call.

use std::collections::HashMap;

use storlock_check::contract::{ReturnValue, Routine as R, RoutineSet, contract};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, LockReturn, Order, WatchSet};

use crate::program::{Action, Bug, Class, LOCKS, Program, Random, Step};

/// How a kernel is built and watched.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub processors: usize,
    pub threads: usize,
    pub events: usize,
    /// Chance that a return is caught, percent.
    pub returns: u64,
    /// Routines call others to do their work.
    pub nested: bool,
    /// DPCs have a stack of their own.
    pub dpc_stack: bool,
    /// Chance that a program has the bug, percent; 0: never.
    pub bug: Option<Bug>,
    pub watched: RoutineSet,
    /// Calls of the kernel before the watch begins.
    pub unwatched_calls: usize,
}

/// A call that is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    pub sequence: u64,
    pub lock: usize,
    pub what: Bug,
    /// The lock was held, by somebody, at the call.
    pub held: bool,
    /// An attempt of the interrupted code on this processor hides it.
    pub masked: bool,
    /// The caller's acquire came back with its return caught, or needs no proof.
    pub proved: bool,
}

/// What happened, and what was wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub events: Vec<Event>,
    /// The first wrong call.
    pub wrong: Option<Wrong>,
    /// Number of (contended acquires, interrupts between entry and raise, migrations in between).
    pub seen: [usize; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Enter,
    Raise,
    Inner,
    Spin,
    Return(bool),
    Lower,
}

#[derive(Clone, Debug)]
struct Held {
    lock: usize,
    acquire: R,
    old_irql: u8,
    proved: bool,
}

#[derive(Clone, Debug)]
struct Runner {
    id: usize,
    thread: u64,
    stack: u64,
    irql: u8,
    program: Program,
    next: usize,
    phase: Phase,
    call: u64,
    holds: Vec<Held>,
    contended: bool,
}

#[derive(Clone, Debug, Default)]
struct Lock {
    holders: Vec<(usize, bool)>,
}

pub struct Kernel {
    config: Config,
    random: Random,
    processors: Vec<Vec<Runner>>,
    ready: Vec<Runner>,
    locks: Vec<Lock>,
    ids: usize,
    calls: usize,
    stopping: bool,
    /// What is in memory where lock handles are: the kind of lock, 0 where no acquire has written yet.
    handles: HashMap<u64, u32>,
    run: Run,
}

const CODE: u64 = 0xffff_f800_0010_0000;

impl Kernel {
    /// Runs a kernel until it has produced enough events or cannot go on.
    pub fn run(config: Config, seed: u64) -> Run {
        let mut kernel = Self {
            config,
            random: Random(seed),
            processors: Vec::new(),
            ready: Vec::new(),
            locks: vec![Lock::default(); LOCKS.len()],
            ids: 0,
            calls: 0,
            stopping: false,
            handles: HashMap::new(),
            run: Run::default(),
        };
        for number in 0..config.threads as u64 {
            let runner = kernel.runner(
                0xffff_e000_0000_1000 + number * 0x1000,
                0xffff_a000_0000_8000 + number * 0x10000,
                0,
            );
            kernel.ready.push(runner);
        }
        for _ in 0..config.processors {
            let thread = kernel.ready.pop().expect("more threads than processors");
            kernel.processors.push(vec![thread]);
        }
        if config.unwatched_calls == 0 {
            kernel.arm();
        }
        let mut idle = 0;
        while idle < 4000
            && !kernel
                .processors
                .iter()
                .all(|stack| stack.len() == 1 && kernel.done(&stack[0]))
        {
            let before = (kernel.run.events.len(), kernel.calls);
            kernel.step();
            idle = if before == (kernel.run.events.len(), kernel.calls) {
                idle + 1
            } else {
                0
            };
            kernel.stopping |= kernel.run.events.len() >= config.events;
            if kernel.run.events.len() >= config.events * 3 {
                break;
            }
        }
        kernel.run
    }

    fn done(&self, runner: &Runner) -> bool {
        self.stopping && runner.next >= runner.program.steps.len()
    }

    fn arm(&mut self) {
        let watch = WatchSet {
            watched: self.config.watched,
            imported: RoutineSet::ALL,
            processors: self.config.processors as u32,
            before_target: self.config.unwatched_calls == 0,
            ..WatchSet::default()
        };
        self.emit(EventKind::WatchSetChanged(watch));
        for processor in 0..self.config.processors as u32 {
            if self.config.unwatched_calls == 0 {
                self.emit(EventKind::IrqlSeen { processor, irql: 0 });
            }
        }
    }

    fn emit(&mut self, kind: EventKind) -> u64 {
        let sequence = self.run.events.len() as u64;
        self.run.events.push(Event {
            sequence,
            order: Order::Total,
            kind,
        });
        sequence
    }

    fn runner(&mut self, thread: u64, stack: u64, irql: u8) -> Runner {
        self.ids += 1;
        let program = if self.stopping {
            Program::default()
        } else {
            self.program(irql)
        };
        Runner {
            id: self.ids,
            thread,
            stack,
            irql,
            program,
            next: 0,
            phase: Phase::Enter,
            call: 0,
            holds: Vec::new(),
            contended: false,
        }
    }

    fn program(&mut self, irql: u8) -> Program {
        // Not before the lock words have shown that they can be trusted and every processor has been seen.
        let bug = self
            .config
            .bug
            .filter(|_| self.run.events.len() > 60 && self.random.percent(20));
        Program::new(&mut self.random, irql, bug)
    }

    fn step(&mut self) {
        let processor = self.random.below(self.processors.len());
        let depth = self.processors[processor].len();
        let top = &self.processors[processor][depth - 1];
        let (irql, thread, stack) = (top.irql, top.thread, top.stack);
        let between = top.phase == Phase::Raise;
        if irql < 2 && depth == 1 && !self.ready.is_empty() && self.random.percent(8) {
            let place = self.random.below(self.ready.len());
            std::mem::swap(&mut self.ready[place], &mut self.processors[processor][0]);
            self.run.seen[2] += usize::from(between);
            return;
        }
        let interrupt = if irql < 2 && self.random.percent(8) {
            2
        } else if irql < 5 && self.random.percent(3) {
            5
        } else {
            self.micro_step(processor);
            return;
        };
        let own_stack = 0xffff_b000_0000_8000 + processor as u64 * 0x10000 - depth as u64 * 0x1000;
        let stack = if self.config.dpc_stack {
            own_stack
        } else {
            stack - 0x800
        };
        let runner = self.runner(thread, stack, interrupt);
        self.run.seen[1] += usize::from(between);
        self.processors[processor].push(runner);
    }

    /// The top of a processor does the next bit of its work.
    fn micro_step(&mut self, processor: usize) {
        let mut runner = self.processors[processor]
            .pop()
            .expect("a processor always runs something");
        if runner.next < runner.program.steps.len() {
            let step = runner.program.steps[runner.next];
            match step.action {
                Action::Release => self.release(processor, &mut runner, step),
                Action::Acquire | Action::Try { .. } => self.acquire(processor, &mut runner, step),
            }
        } else if !self.processors[processor].is_empty() {
            return;
        } else if !self.stopping {
            runner.program = self.program(runner.irql);
            runner.next = 0;
        }
        self.processors[processor].push(runner);
    }

    fn context(&self, processor: usize, runner: &Runner, step: Step, inner: bool) -> Context {
        let tail = inner && step.site % 2 == 0;
        let site = if inner && !tail { 0x10_0000 } else { step.site * 16 };
        Context {
            processor: processor as u32,
            irql: runner.irql,
            interrupts: runner.irql < 5,
            thread: runner.thread,
            stack_pointer: runner.stack - step.depth * 0x80 - if inner && !tail { 0x40 } else { 0 },
            return_address: CODE + site,
        }
    }

    fn handle(runner: &Runner, step: Step) -> u64 {
        runner.stack + 0x100 + step.slot * 0x20
    }

    fn operand(&self, runner: &Runner, step: Step) -> LockOperand {
        let address = 0xffff_c000_0000_0000 + step.lock as u64 * 0x40;
        let handle = Self::handle(runner, step);
        let release = step.action == Action::Release;
        match LOCKS[step.lock] {
            Class::Spin | Class::Ex => LockOperand::Address(address),
            Class::Queued if release => LockOperand::QueuedHandle {
                handle,
                lock: Some(address),
            },
            Class::Queued => LockOperand::Queued { lock: address, handle },
            Class::StorPort if release => LockOperand::StorPortHandle {
                adapter: 0xad,
                handle,
                kind: Some(self.handles.get(&handle).copied().unwrap_or(0)),
                lock: None,
            },
            Class::StorPort => LockOperand::StorPort {
                adapter: 0xad,
                kind: 1,
                context: address,
                handle,
            },
            Class::Msi => LockOperand::Msi {
                adapter: 0xad,
                message: step.lock as u32,
            },
        }
    }

    fn call(&mut self, processor: usize, runner: &mut Runner, step: Step, routine: R, inner: bool) -> Option<u64> {
        self.calls += 1;
        if self.calls == self.config.unwatched_calls {
            self.arm();
        }
        if self.calls < self.config.unwatched_calls || !self.config.watched.contains(routine) {
            return None;
        }
        let word = match LOCKS[step.lock] {
            Class::StorPort | Class::Msi => None,
            _ => Some(self.locks[step.lock].holders.len() as u64),
        };
        let context = self.context(processor, runner, step, inner);
        let operand = self.operand(runner, step);
        Some(self.emit(EventKind::LockCall(LockCall {
            routine,
            context,
            operand,
            old_irql: None,
            word,
        })))
    }

    fn acquire(&mut self, processor: usize, runner: &mut Runner, step: Step) {
        let row = contract(step.routine);
        match runner.phase {
            Phase::Enter => {
                let call = self.call(processor, runner, step, step.routine, false);
                runner.call = call.unwrap_or(u64::MAX);
                runner.contended = false;
                if runner.holds.iter().any(|held| held.lock == step.lock) {
                    self.wrong(processor, runner, step, Bug::Double, call);
                }
                runner.phase = Phase::Raise;
            }
            Phase::Raise => {
                let held = Held {
                    lock: step.lock,
                    acquire: step.routine,
                    old_irql: runner.irql,
                    proved: runner.irql >= 2,
                };
                runner.holds.push(held);
                let raised = if LOCKS[step.lock] == Class::Msi { 5 } else { 2 };
                runner.irql = runner.irql.max(raised);
                runner.phase = Phase::Inner;
            }
            Phase::Inner => {
                if let (true, Some(routine)) = (self.config.nested, row.may_call.iter().next()) {
                    self.call(processor, runner, step, routine, true);
                }
                runner.phase = Phase::Spin;
            }
            Phase::Spin => self.spin(runner, step),
            Phase::Return(success) => self.acquired(processor, runner, step, success),
            Phase::Lower => unreachable!("no phase of an acquire"),
        }
    }

    fn spin(&mut self, runner: &mut Runner, step: Step) {
        let shared = contract(step.routine).mode == storlock_check::contract::Mode::Shared;
        let free = self.locks[step.lock].holders.iter().all(|holder| shared && holder.1);
        let refused = step.routine == R::StorPortAcquireSpinLockEx && self.random.percent(5);
        let gives_up = step.routine == R::KeTryToAcquireSpinLockAtDpcLevel && !free;
        if refused || gives_up {
            runner.phase = Phase::Return(false);
        } else if free {
            self.locks[step.lock].holders.push((runner.id, shared));
            self.handles.insert(Self::handle(runner, step), 1);
            runner.phase = Phase::Return(true);
            self.run.seen[0] += usize::from(runner.contended);
        } else {
            runner.contended = true;
        }
    }

    fn acquired(&mut self, processor: usize, runner: &mut Runner, step: Step, success: bool) {
        runner.phase = Phase::Enter;
        runner.next += 1;
        let caught = runner.call != u64::MAX && self.random.percent(self.config.returns);
        if !success {
            let held = runner.holds.pop().expect("pushed when it raised");
            runner.irql = held.old_irql;
            let Action::Try { skip } = step.action else { return };
            runner.next = skip;
        } else if let Some(held) = runner.holds.last_mut() {
            held.proved |= caught;
        }
        if caught {
            let value = match contract(step.routine).result {
                ReturnValue::StorStatus => u32::from(!success),
                _ => u32::from(success),
            };
            let context = self.context(processor, runner, step, false);
            let operand = self.operand(runner, step);
            let call = runner.call;
            self.emit(EventKind::LockReturn(LockReturn {
                call,
                routine: step.routine,
                operand,
                value,
                context,
            }));
        }
    }

    fn release(&mut self, processor: usize, runner: &mut Runner, step: Step) {
        let held = runner.holds.iter().rposition(|held| held.lock == step.lock);
        match runner.phase {
            Phase::Enter => {
                let call = self.call(processor, runner, step, step.routine, false);
                match held.map(|place| &runner.holds[place]) {
                    None => {
                        let what = runner.program.bug.unwrap_or(Bug::Stray);
                        self.wrong(processor, runner, step, what, call);
                    }
                    Some(held) if !contract(step.routine).fed_by.contains(held.acquire) => {
                        self.wrong(processor, runner, step, Bug::WrongRoutine, call);
                    }
                    Some(_) => {}
                }
                runner.phase = Phase::Inner;
            }
            Phase::Inner => {
                let inner = contract(step.routine).may_call.iter().next();
                if let (true, Some(routine), Some(_)) = (self.config.nested, inner, held) {
                    self.call(processor, runner, step, routine, true);
                }
                runner.phase = Phase::Spin;
            }
            Phase::Spin => {
                let holders = &mut self.locks[step.lock].holders;
                let own = holders.iter().position(|holder| holder.0 == runner.id);
                if let Some(place) = own.or(if holders.is_empty() { None } else { Some(0) }) {
                    holders.remove(place);
                }
                runner.phase = Phase::Lower;
            }
            _ => {
                if let Some(place) = held {
                    runner.irql = runner.holds.remove(place).old_irql;
                }
                runner.phase = Phase::Enter;
                runner.next += 1;
            }
        }
    }

    /// Notes the first wrong call; later ones may follow from it.
    fn wrong(&mut self, processor: usize, runner: &Runner, step: Step, what: Bug, call: Option<u64>) {
        let (Some(sequence), None) = (call, self.run.wrong) else {
            return;
        };
        let masked = self.processors[processor].iter().any(|below| {
            below.phase != Phase::Enter
                && below
                    .program
                    .steps
                    .get(below.next)
                    .is_some_and(|below| below.lock == step.lock)
        });
        let proved = runner
            .holds
            .iter()
            .rfind(|held| held.lock == step.lock)
            .is_some_and(|held| held.proved);
        let held = !self.locks[step.lock].holders.is_empty();
        self.run.wrong = Some(Wrong {
            sequence,
            lock: step.lock,
            what,
            held,
            masked,
            proved,
        });
        self.stopping = true;
    }
}
