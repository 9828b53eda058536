//! The machine: processors, threads that are preempted and migrate below `DISPATCH_LEVEL`, DPCs and interrupts that come
//! in between the entry of an acquire and the raise of the IRQL; and what a host sees of them.

use std::collections::HashMap;

use storlock_check::contract::{PortModel, Routine as R};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, Module, Order, PortTold, WatchSet};

use super::code::{Act, Author, Given, Program, Step};
use super::locks::{ADAPTERS, Class, Holder, Locks};
use super::pages::Broken;
use super::{Config, Owner, Random, Run, Wrong};

/// How far a routine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Enter,
    Raise,
    Inner,
    Spin,
    Return(bool),
    Lower,
}

/// A thread, a DPC or an interrupt.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub id: usize,
    pub thread: u64,
    pub stack: u64,
    pub irql: u8,
    pub steps: Vec<Step>,
    /// Number of its program.
    pub program: u32,
    pub next: usize,
    pub phase: Phase,
    /// It stands at the first instruction of a routine whose entry was seen already, and will be once more.
    pub again: bool,
    /// Event of the call that it is in, its operand and the IRQL at its entry.
    pub call: Option<u64>,
    pub operand: LockOperand,
    pub entered: u8,
    /// A routine that its acquire did its work by was seen.
    pub inner_seen: bool,
    pub given: u8,
    pub ending: Option<Holder>,
    /// IRQLs before its own raises.
    pub raised: Vec<u8>,
    /// Old IRQL of the last acquire of each lock, as the program keeps it in its variables.
    pub old: HashMap<usize, u8>,
    /// It had several locks at once and still has one.
    pub several: bool,
    pub waited: usize,
}

pub struct Machine {
    pub(super) config: Config,
    pub(super) random: Random,
    pub(super) processors: Vec<Vec<Agent>>,
    pub(super) ready: Vec<Agent>,
    pub(super) locks: Locks,
    /// What is in memory where handles are: kind, and address of the lock.
    pub(super) handles: HashMap<u64, (u32, u64)>,
    /// Where the modules are: target, helper, other, kernel, port driver; 0 for the unrelated one if it is not there.
    pub(super) modules: [u64; 6],
    pub(super) run: Run,
    pub(super) armed: bool,
    ids: usize,
    calls: usize,
    programs: u32,
    steps: u64,
    limit: usize,
    bug_placed: bool,
    pub(super) stopping: bool,
}

const NAMES: [&str; 6] = [
    "target.sys",
    "helper.sys",
    "other.sys",
    "ntoskrnl.exe",
    "storport.sys",
    "unrelated.sys",
];
/// Steps in which nothing moves before it is said that nothing will.
const PATIENCE: u64 = 600;
pub(super) const MODULE_SIZE: u64 = 0x10_0000;

impl Machine {
    /// Runs a machine until it has produced enough events or cannot go on.
    pub fn run(config: Config, seed: u64) -> Run {
        let mut machine = Self {
            config,
            random: Random(seed),
            processors: Vec::new(),
            ready: Vec::new(),
            locks: Locks::new(&config),
            handles: HashMap::new(),
            modules: [0; 6],
            run: Run::default(),
            armed: false,
            ids: 0,
            calls: 0,
            programs: 0,
            steps: 0,
            limit: config.events,
            bug_placed: false,
            stopping: false,
        };
        machine.boot();
        if config.unwatched_calls == 0 {
            machine.arm();
        }
        let mut moved_at = 0;
        let mut moved = machine.moved();
        while !machine.done() {
            machine.steps += 1;
            machine.step();
            if machine.moved() != moved {
                (moved, moved_at) = (machine.moved(), machine.steps);
            } else if machine.steps - moved_at > PATIENCE {
                machine.run.hung = true;
                break;
            }
            machine.stopping |= machine.run.events.len() >= machine.limit;
            if machine.run.events.len() >= machine.limit * 3 || config.cut.is_some_and(|cut| machine.steps >= cut) {
                break;
            }
        }
        machine.run.complete = machine.done();
        machine.end();
        machine.run
    }

    /// The machine stands still, wherever its processors are.
    fn end(&mut self) {
        let mut holders = self.locks.0.iter().flat_map(|lock| &lock.holders);
        self.run.holds_at_end = holders.any(|holder| holder.owner == Owner::Target);
        let in_routine = |agent: &Agent| agent.again || agent.phase != Phase::Enter;
        self.run.waits_elsewhere = self.ready.iter().any(in_routine);
        for place in 0..self.processors.len() {
            if let Some(top) = self.processors[place].last().cloned() {
                let stopped = self.stopped(place, &top);
                self.emit(EventKind::ProcessorStopped(stopped), 0);
            }
        }
    }

    /// Where an agent stands: in a lock routine, at its first instruction or deeper, or in the code that calls it.
    fn stopped(&mut self, processor: usize, agent: &Agent) -> Context {
        let Some(step) = agent.steps.get(agent.next).copied() else {
            return Context {
                processor: self.config.first + processor as u32,
                irql: agent.irql,
                interrupts: true,
                thread: agent.thread,
                stack_pointer: agent.stack + 8,
                return_address: 0,
            };
        };
        let context = self.context(processor, agent, step);
        let stack_pointer = if agent.again {
            context.stack_pointer
        } else if agent.phase == Phase::Enter {
            context.stack_pointer + 8
        } else {
            context.stack_pointer - self.random.pick(&[0, 8, 0x60])
        };
        Context {
            stack_pointer,
            ..context
        }
    }

    /// Threads at the beginning of time.
    pub(super) fn boot(&mut self) {
        self.place_modules();
        (self.processors, self.ready) = (Vec::new(), Vec::new());
        for number in 0..self.config.threads as u64 {
            let thread = 0xffff_e000_0000_1000 + number * 0x1000;
            let agent = self.agent(thread, 0xffff_a000_0000_8000 + number * 0x10000, 0);
            self.ready.push(agent);
        }
        for _ in 0..self.config.processors {
            let thread = self.ready.pop().expect("more threads than processors");
            self.processors.push(vec![thread]);
        }
    }

    fn place_modules(&mut self) {
        let slide = self.random.next() % 0x100 * 0x20_0000;
        for (number, base) in self.modules.iter_mut().enumerate().take(5) {
            *base = 0xffff_f800_0000_0000 + slide + number as u64 * 0x1000_0000;
        }
    }

    fn moved(&self) -> (usize, usize, u32) {
        (self.run.events.len(), self.calls, self.programs)
    }

    fn done(&self) -> bool {
        let over = |agent: &Agent| agent.next >= agent.steps.len();
        let finished = |stack: &Vec<Agent>| stack.len() == 1 && over(&stack[0]);
        self.stopping && self.processors.iter().all(finished) && self.ready.iter().all(over)
    }

    /// The host begins to watch.
    pub(super) fn arm(&mut self) {
        self.armed = true;
        let before_target = self.config.unwatched_calls == 0;
        for number in 0..5 {
            self.load(number);
        }
        let watch = WatchSet {
            watched: self.config.watched,
            imported: self.config.imported,
            processors: self.config.first + self.config.processors as u32,
            before_target,
            closed: self.config.closed,
            ..WatchSet::default()
        };
        self.emit(EventKind::WatchSetChanged(watch), 0);
        self.tell_modes();
        let idle = self.config.first;
        let seen = if before_target { watch.processors } else { idle };
        for processor in 0..seen {
            self.emit(EventKind::IrqlSeen { processor, irql: 0 }, 0);
        }
    }

    /// How the port driver runs the adapters of the driver under test.
    fn tell_modes(&mut self) {
        let mut port = PortModel::MODE_KNOWN;
        port.set(PortModel::HALF_DUPLEX, self.config.half_duplex);
        for (number, adapter) in ADAPTERS.into_iter().enumerate().take(2) {
            port.set(PortModel::PER_MESSAGE, self.config.per_message && number == 0);
            if self.config.told {
                self.emit(EventKind::PortTold(PortTold { adapter, port }), 0);
            }
        }
    }

    pub(super) fn load(&mut self, number: usize) {
        if !self.config.owners {
            return;
        }
        let module = Module {
            base: self.modules[number],
            size: MODULE_SIZE,
            target: number == 0,
            name: NAMES[number].into(),
        };
        self.emit(EventKind::ModuleLoad(module), 0);
    }

    pub(super) fn emit(&mut self, kind: EventKind, program: u32) -> Option<u64> {
        if !self.armed {
            return None;
        }
        let sequence = self.run.events.len() as u64;
        self.run.events.push(Event {
            sequence,
            order: Order::Total,
            kind,
        });
        self.run.programs.push(program);
        Some(sequence)
    }

    pub(super) fn agent(&mut self, thread: u64, stack: u64, irql: u8) -> Agent {
        self.ids += 1;
        let mut agent = Agent {
            id: self.ids,
            thread,
            stack,
            irql,
            steps: Vec::new(),
            program: 0,
            next: 0,
            phase: Phase::Enter,
            again: false,
            call: None,
            operand: LockOperand::Cancel,
            entered: 0,
            inner_seen: false,
            given: 0,
            ending: None,
            raised: Vec::new(),
            old: HashMap::new(),
            several: false,
            waited: 0,
        };
        if !self.stopping {
            self.begin(&mut agent);
        }
        agent
    }

    /// Gives an agent a new program.
    fn begin(&mut self, agent: &mut Agent) {
        let owner = if self.config.owners {
            use Owner::{Nt, Other, Port, Target};
            self.random.pick(&[Target, Target, Target, Target, Other, Nt, Nt, Port])
        } else {
            Owner::Target
        };
        // Not before the machine has run for a while.
        let bug = self
            .config
            .bug
            .filter(|_| !self.bug_placed && agent.irql <= 2 && self.run.events.len() > 30 && self.random.percent(25));
        let config = self.config;
        let mut author = Author {
            random: &mut self.random,
            config: &config,
            locks: &self.locks,
        };
        let Program { steps } = match bug {
            Some(bug) => author.wrong(bug, agent.irql),
            None => author.right(owner, agent.irql),
        };
        self.bug_placed |= bug.is_some();
        self.programs += 1;
        self.run.seen.programs += 1;
        (agent.steps, agent.next, agent.program) = (steps, 0, self.programs);
    }

    fn step(&mut self) {
        if self.config.reuse && self.random.percent(2) {
            self.reuse();
        }
        if self.config.reset && self.run.seen.resets == 0 && self.run.events.len() > 40 && self.random.percent(2) {
            return self.reset();
        }
        let processor = self.random.below(self.processors.len());
        let depth = self.processors[processor].len();
        let top = &self.processors[processor][depth - 1];
        let (irql, thread, stack) = (top.irql, top.thread, top.stack);
        let between = top.phase == Phase::Raise;
        let again = between && irql < 2 && self.random.percent(40);
        if self.random.percent(1) {
            let processor = self.config.first + processor as u32;
            self.emit(EventKind::IrqlSeen { processor, irql }, 0);
        }
        if irql < 2 && depth == 1 && !self.ready.is_empty() && self.random.percent(8) {
            let place = self.random.below(self.ready.len());
            self.enter_again(processor, again);
            std::mem::swap(&mut self.ready[place], &mut self.processors[processor][0]);
            self.run.seen.migrated += usize::from(between);
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
        let agent = self.agent(thread, stack, interrupt);
        self.run.seen.between += usize::from(between);
        self.enter_again(processor, again);
        self.processors[processor].push(agent);
    }

    /// What comes in between an entry and the routine's first instruction may have the host see the entry once more.
    fn enter_again(&mut self, processor: usize, again: bool) {
        if let Some(top) = self.processors[processor].last_mut().filter(|_| again) {
            (top.phase, top.again) = (Phase::Enter, true);
            self.run.seen.again += 1;
        }
    }

    /// The top of a processor does the next bit of its work.
    fn micro_step(&mut self, processor: usize) {
        let mut agent = self.processors[processor]
            .pop()
            .expect("a processor always runs something");
        if agent.next < agent.steps.len() {
            let step = agent.steps[agent.next];
            self.act(processor, &mut agent, step);
        } else {
            self.check_scope(&agent, true);
            if !self.processors[processor].is_empty() {
                return;
            }
            if !self.stopping {
                self.begin(&mut agent);
            }
        }
        self.processors[processor].push(agent);
    }

    fn act(&mut self, processor: usize, agent: &mut Agent, step: Step) {
        match step.act {
            Act::Release => return self.release(processor, agent, step),
            Act::Convert => return self.convert(processor, agent, step),
            Act::Acquire | Act::Try { .. } => return self.acquire(processor, agent, step),
            Act::Raise(level) => {
                agent.raised.push(agent.irql);
                agent.irql = agent.irql.max(level);
            }
            Act::Lower => {
                agent.irql = agent.raised.pop().unwrap_or(agent.irql);
                self.check_scope(agent, false);
            }
            Act::Leave => {
                if let Some(own) = self.locks.held_by(step.lock, agent.id) {
                    agent.irql = own.before;
                }
                self.check_scope(agent, false);
            }
            Act::Clear => {
                if let Some(own) = self.locks.held_by(step.lock, agent.id).copied() {
                    self.wrong(Broken::Cleared, None, own.before, own.call.is_some());
                }
                self.locks.0[step.lock].holders.clear();
            }
            Act::Zero => {
                self.handles.insert(Self::handle(agent, step.slot), (0, 0));
            }
            Act::Copy(to) => {
                let content = self.handles.get(&Self::handle(agent, step.slot)).copied();
                self.handles
                    .insert(Self::handle(agent, to), content.unwrap_or_default());
            }
            Act::Await => {
                agent.waited += 1;
                let holders = &self.locks.0[step.lock].holders;
                if holders.is_empty() && agent.waited < 200 {
                    return;
                }
            }
        }
        agent.next += 1;
    }

    /// Nobody may go below `DISPATCH_LEVEL`, or come to the end of what he does, with a lock.
    pub(super) fn check_scope(&mut self, agent: &Agent, end: bool) {
        if !end && agent.irql >= 2 {
            return;
        }
        let own = self
            .locks
            .holds_of(agent.id)
            .find(|(lock, holder)| holder.owner == Owner::Target && self.locks.0[*lock].excludes != 0);
        if let Some((call, before)) = own.map(|(_, holder)| (holder.call, holder.before)) {
            self.wrong(Broken::PastScope, call, before, true);
        }
    }

    /// Notes the first wrong call; later ones may follow from it.
    pub(super) fn wrong(&mut self, broken: Broken, call: Option<u64>, before: u8, whole: bool) {
        if self.run.wrong.is_none() {
            let at = self.run.events.len() as u64;
            self.run.wrong = Some(Wrong {
                call,
                at,
                broken,
                low: before < 2,
                whole,
            });
            self.limit = self.limit.max(self.run.events.len() + 40);
        }
    }

    pub(super) const fn handle(agent: &Agent, slot: u64) -> u64 {
        agent.stack + 0x100 + slot * 0x40
    }

    pub(super) fn context(&self, processor: usize, agent: &Agent, step: Step) -> Context {
        Context {
            processor: self.config.first + processor as u32,
            irql: agent.irql,
            interrupts: agent.irql < 5,
            thread: agent.thread,
            stack_pointer: agent.stack - step.depth * 0x80,
            return_address: self.modules[step.owner as usize] + 0x1000 + step.site * 16,
        }
    }

    /// The same as it is read: the thread not always is.
    pub(super) fn seen_context(&mut self, processor: usize, agent: &Agent, step: Step) -> Context {
        let context = self.context(processor, agent, step);
        let readable = !(self.config.unreadable && self.random.percent(3));
        let thread = if readable { context.thread } else { 0 };
        Context { thread, ..context }
    }

    /// An operand as it is read.
    pub(super) fn operand(&mut self, agent: &Agent, step: Step) -> LockOperand {
        let lock = &self.locks.0[step.lock];
        let handle = Self::handle(agent, step.slot);
        let adapter = step.adapter.unwrap_or(lock.adapter);
        let (kind, at) = self.handles.get(&handle).copied().unwrap_or_default();
        let readable = !(self.config.unreadable && self.random.percent(2));
        let release = step.act == Act::Release;
        match lock.class {
            Class::Spin | Class::Ex => LockOperand::Address(lock.address),
            Class::Queued if release => LockOperand::QueuedHandle {
                handle,
                lock: readable.then_some(at),
            },
            Class::Queued => LockOperand::Queued {
                lock: lock.address,
                handle,
            },
            Class::Dpc | Class::StartIo | Class::Interrupt if release => LockOperand::StorPortHandle {
                adapter,
                handle,
                kind: readable.then_some(kind),
                lock: readable.then_some(at),
            },
            Class::Dpc | Class::StartIo | Class::Interrupt => LockOperand::StorPort {
                adapter,
                kind: step.kind,
                context: if step.no_context || lock.class != Class::Dpc {
                    0
                } else {
                    lock.address
                },
                handle: if readable { handle } else { 0 },
            },
            Class::Message(message) => LockOperand::Msi { adapter, message },
            Class::Object => LockOperand::Interrupt(lock.address),
            Class::Cancel => LockOperand::Cancel,
        }
    }

    /// The lock word, where a host can find it.
    pub(super) fn word(&mut self, step: Step, operand: &LockOperand) -> Option<u64> {
        let lock = &self.locks.0[step.lock];
        let visible = match (lock.class, operand) {
            (Class::Dpc, LockOperand::StorPortHandle { lock, .. }) => lock.is_some_and(|lock| lock != 0),
            (Class::Dpc, LockOperand::StorPort { context, .. }) => *context != 0,
            (Class::Queued, LockOperand::QueuedHandle { lock, .. }) => lock.is_some_and(|lock| lock != 0),
            (class, _) => class.in_pool(),
        };
        let readable = !(self.config.unreadable && self.random.percent(2));
        (visible && readable).then_some(lock.holders.len() as u64)
    }

    /// A call is made: seen, if its routine is watched.
    pub(super) fn call(&mut self, processor: usize, agent: &Agent, step: Step, routine: R) -> Option<u64> {
        self.calls += 1;
        if !self.armed && self.calls >= self.config.unwatched_calls {
            self.arm();
        }
        if step.unseen || !self.config.watched.contains(routine) {
            return None;
        }
        let operand = self.operand(agent, step);
        let word = self.word(step, &operand);
        let old_irql = super::calls::takes_old_irql(routine).then_some(agent.given);
        let call = LockCall {
            routine,
            context: self.seen_context(processor, agent, step),
            operand,
            old_irql,
            word,
        };
        self.emit(EventKind::LockCall(call), agent.program)
    }

    /// The old IRQL that a release gives.
    pub(super) fn given(&self, agent: &Agent, step: Step) -> u8 {
        let of = |lock| agent.old.get(&lock).copied().unwrap_or(agent.irql);
        match step.given {
            Given::Own => of(step.lock),
            Given::Of(lock) => of(lock),
            Given::Wrong if of(step.lock) < 2 => 2,
            Given::Wrong => 0,
        }
    }
}
