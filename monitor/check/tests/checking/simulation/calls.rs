//! What the lock routines do.

use storlock_check::contract::{ReturnValue, Routine as R, contract};
use storlock_check::event::{EventKind, LockCall, LockOperand, LockReturn};

use super::Owner;
use super::code::{Act, Step};
use super::locks::{Class, Holder};
use super::machine::{Agent, Machine, Phase};
use super::pages;

/// Routines that leave the IRQL alone.
const fn at_level(routine: R) -> bool {
    matches!(
        routine,
        R::KeAcquireSpinLockAtDpcLevel
            | R::KeTryToAcquireSpinLockAtDpcLevel
            | R::KeAcquireInStackQueuedSpinLockAtDpcLevel
            | R::ExAcquireSpinLockSharedAtDpcLevel
            | R::ExAcquireSpinLockExclusiveAtDpcLevel
            | R::KeReleaseSpinLockFromDpcLevel
            | R::KeReleaseInStackQueuedSpinLockFromDpcLevel
            | R::ExReleaseSpinLockSharedFromDpcLevel
            | R::ExReleaseSpinLockExclusiveFromDpcLevel
    )
}

/// Releases that are told the IRQL to go back to.
pub(super) const fn takes_old_irql(routine: R) -> bool {
    matches!(
        routine,
        R::KeReleaseSpinLock
            | R::KeReleaseSpinLockForDpc
            | R::KeReleaseInterruptSpinLock
            | R::ExReleaseSpinLockShared
            | R::ExReleaseSpinLockExclusive
            | R::IoReleaseCancelSpinLock
            | R::StorPortReleaseMSISpinLock
    )
}

impl Machine {
    pub(super) fn acquire(&mut self, processor: usize, agent: &mut Agent, step: Step) {
        match agent.phase {
            Phase::Enter => self.enter_acquire(processor, agent, step),
            Phase::Raise => {
                let lock = &self.locks.0[step.lock];
                if !at_level(step.routine) && lock.excludes != 0 {
                    let stor = lock.class.by_stor_handle() || matches!(lock.class, Class::Message(_) | Class::Object);
                    agent.irql = agent.irql.max(if stor { lock.level } else { 2 });
                }
                agent.phase = Phase::Inner;
            }
            Phase::Inner => {
                self.inner(processor, agent, step);
                agent.phase = Phase::Spin;
            }
            Phase::Spin => self.spin(agent, step),
            Phase::Return(success) => self.acquired(processor, agent, step, success),
            Phase::Lower => unreachable!("no phase of an acquire"),
        }
    }

    fn enter_acquire(&mut self, processor: usize, agent: &mut Agent, step: Step) {
        agent.entered = agent.irql;
        agent.again = false;
        agent.inner_seen = false;
        agent.call = self.call(processor, agent, step, step.routine);
        if let Some(EventKind::LockCall(call)) = agent.call.map(|call| &self.run.events[call as usize].kind) {
            agent.operand = call.operand;
        }
        self.judge(agent, step);
        agent.waited = 0;
        let context_needed = matches!(step.kind, 1 | 4 | 5);
        let refused = step.routine == R::StorPortAcquireSpinLockEx
            && (step.kind == 0
                || (step.kind <= 3 && agent.irql > 2)
                || (step.kind == 5 && agent.irql < 2)
                || (context_needed && step.no_context));
        let nothing = step.routine == R::StorPortAcquireSpinLock
            && (!(1..=3).contains(&step.kind) || (step.kind == 1 && step.no_context));
        self.run.seen.refused += usize::from(refused);
        self.run.seen.helped += usize::from(step.owner == Owner::Helper);
        agent.phase = if refused {
            Phase::Return(false)
        } else if nothing {
            self.run.seen.took_nothing += 1;
            agent.next += 1;
            Phase::Enter
        } else {
            Phase::Raise
        };
    }

    fn spin(&mut self, agent: &mut Agent, step: Step) {
        let shared = pages::shared(step.routine);
        if self.locks.free(step.lock, shared) {
            self.take(agent, step, shared);
            agent.phase = Phase::Return(true);
            self.run.seen.contended += usize::from(agent.waited > 0);
        } else if step.routine == R::KeTryToAcquireSpinLockAtDpcLevel {
            self.locks.0[step.lock].doubtful |= agent.call.is_some();
            agent.phase = Phase::Return(false);
        } else {
            agent.waited += 1;
        }
    }

    fn take(&mut self, agent: &mut Agent, step: Step, shared: bool) {
        let lock = &mut self.locks.0[step.lock];
        let handle = match lock.class {
            Class::Queued | Class::Dpc | Class::StartIo | Class::Interrupt => Self::handle(agent, step.slot),
            _ => 0,
        };
        self.run.seen.took_nothing += usize::from(lock.excludes == 0);
        let at = lock.address + if lock.class == Class::Dpc { 0x40 } else { 0 };
        lock.holders.push(Holder {
            agent: agent.id,
            owner: step.owner,
            shared,
            routine: step.routine,
            handle,
            adapter: lock.adapter,
            kind: step.kind,
            before: agent.entered,
            call: agent.call,
            seen: agent.call.is_some() || agent.inner_seen,
        });
        if handle != 0 {
            self.handles.insert(handle, (step.kind, at));
        }
        agent.old.insert(step.lock, agent.entered);
        let holds = self.locks.holds_of(agent.id).count();
        agent.several |= holds > 1;
        self.run.seen.nested += usize::from(holds > 1);
    }

    fn acquired(&mut self, processor: usize, agent: &mut Agent, step: Step, success: bool) {
        agent.phase = Phase::Enter;
        agent.next += 1;
        if !success {
            agent.irql = agent.entered;
            if let Act::Try { skip } = step.act {
                agent.next = skip;
            }
        }
        let value = match contract(step.routine).result {
            ReturnValue::StorStatus => u32::from(!success) * 0xc100_0006,
            ReturnValue::OldIrql => agent.entered.into(),
            _ => success.into(),
        };
        self.came_back(processor, agent, step, value);
    }

    /// The return is caught, perhaps.
    fn came_back(&mut self, processor: usize, agent: &Agent, step: Step, value: u32) {
        let Some(call) = agent.call.filter(|_| self.random.percent(self.config.returns)) else {
            return;
        };
        let context = self.seen_context(processor, agent, step);
        let returned = LockReturn {
            call,
            routine: step.routine,
            operand: agent.operand,
            value,
            context,
        };
        self.emit(EventKind::LockReturn(returned), agent.program);
    }

    pub(super) fn convert(&mut self, processor: usize, agent: &mut Agent, step: Step) {
        if agent.phase == Phase::Enter {
            agent.call = self.call(processor, agent, step, step.routine);
            agent.operand = LockOperand::Address(self.locks.0[step.lock].address);
            self.judge(agent, step);
            agent.phase = Phase::Spin;
            return;
        }
        let (id, call) = (agent.id, agent.call);
        let holders = &mut self.locks.0[step.lock].holders;
        let alone = holders.len() == 1;
        if let Some(own) = holders.iter_mut().rfind(|holder| holder.agent == id).filter(|_| alone) {
            (own.shared, own.routine) = (false, step.routine);
            own.call = own.call.and(call);
            own.seen &= call.is_some();
        }
        agent.phase = Phase::Enter;
        agent.next += 1;
        self.came_back(processor, agent, step, alone.into());
    }

    pub(super) fn release(&mut self, processor: usize, agent: &mut Agent, mut step: Step) {
        let own = self.locks.held_by(step.lock, agent.id).copied();
        if own.is_some_and(|own| own.routine == R::ExTryConvertSharedSpinLockExclusive) {
            step.routine = match step.routine {
                R::ExReleaseSpinLockShared => R::ExReleaseSpinLockExclusive,
                R::ExReleaseSpinLockSharedFromDpcLevel => R::ExReleaseSpinLockExclusiveFromDpcLevel,
                other => other,
            };
        }
        match agent.phase {
            Phase::Enter => {
                agent.given = self.given(agent, step);
                let before = self.run.wrong.is_some();
                self.judge(agent, step);
                let call = self.call(processor, agent, step, step.routine);
                if let Some(wrong) = self.run.wrong.as_mut().filter(|_| !before) {
                    wrong.call = call;
                }
                let cancel = self.locks.0[step.lock].class == Class::Cancel;
                let half = own.is_some_and(|own| call.is_some() != own.seen);
                self.run.seen.half_pairs += usize::from(half);
                // It looks like the release of an acquire that was seen: of a try that failed, of one whose own release is
                // not seen, of one that the interrupted code is about to make.
                let lock = &mut self.locks.0[step.lock];
                lock.doubtful |= call.is_none() && own.is_some_and(|own| own.seen);
                let doubtful = lock.doubtful
                    || self.interrupted_at(processor, step.lock)
                    || call.is_some_and(|call| self.looks_inner(call));
                let unknown = own.is_some_and(|own| !own.seen) && !cancel && !doubtful && step.owner == Owner::Target;
                self.run.unknown_releases.extend(call.filter(|_| unknown));
                agent.phase = Phase::Inner;
            }
            Phase::Inner => {
                if own.is_some() {
                    self.inner(processor, agent, step);
                }
                agent.phase = Phase::Spin;
            }
            Phase::Spin => {
                let handle = Self::handle(agent, step.slot);
                let empty = self.locks.0[step.lock].class.by_stor_handle()
                    && self.handles.get(&handle).is_none_or(|(kind, _)| *kind == 0);
                agent.ending = own;
                if !empty {
                    self.locks.give_back(step.lock, agent.id);
                }
                agent.phase = Phase::Lower;
            }
            _ => {
                if takes_old_irql(step.routine) {
                    agent.irql = agent.given;
                } else if let Some(own) = agent.ending.filter(|_| !at_level(step.routine)) {
                    agent.irql = own.before;
                }
                agent.several &= self.locks.holds_of(agent.id).next().is_some();
                self.check_scope(agent, false);
                agent.phase = Phase::Enter;
                agent.next += 1;
            }
        }
    }

    /// Whether a release looks like one that the release before it, on its processor, has made by a jump: from the same frame,
    /// with the same place to return to.
    fn looks_inner(&self, call: u64) -> bool {
        let calls = self.run.events.iter().rev().filter_map(|event| match &event.kind {
            EventKind::LockCall(call) => Some((event.sequence, call)),
            _ => None,
        });
        let mut calls = calls.skip_while(|(sequence, _)| *sequence > call);
        let Some((_, inner)) = calls.next() else { return false };
        let place = |call: &LockCall| {
            (
                call.context.thread,
                call.context.stack_pointer,
                call.context.return_address,
            )
        };
        // What interrupts the outer one comes in between.
        let level = inner.context.irql;
        let own = |call: &LockCall| call.context.processor == inner.context.processor && call.context.irql <= level;
        let before = calls.find(|(_, outer)| own(outer));
        before.is_some_and(|(_, outer)| {
            place(outer) == place(inner)
                && outer.operand == inner.operand
                && contract(outer.routine).may_call.contains(inner.routine)
        })
    }

    /// Whether the code that was interrupted on a processor is in a routine of the lock.
    fn interrupted_at(&self, processor: usize, lock: usize) -> bool {
        self.processors[processor].iter().any(|below| {
            let step = below.steps.get(below.next);
            below.phase != Phase::Enter && step.is_some_and(|step| step.lock == lock)
        })
    }

    /// A routine does its work by another one, by a call or by a jump.
    fn inner(&mut self, processor: usize, agent: &mut Agent, step: Step) {
        let class = self.locks.0[step.lock].class;
        if !self.config.nested || step.unseen {
            return;
        }
        if class == Class::Dpc && self.config.owners {
            return self.port_inner(processor, agent, step);
        }
        let Some(routine) = contract(step.routine).may_call.iter().next() else {
            return;
        };
        // A release lowers the IRQL last, so that it cannot end by a jump to one that does not.
        let lowers = matches!(
            step.routine,
            R::KeReleaseSpinLock
                | R::KeReleaseInStackQueuedSpinLock
                | R::ExReleaseSpinLockShared
                | R::ExReleaseSpinLockExclusive
        );
        let tail = step.site % 2 == 0 && !lowers;
        let inside = Step {
            depth: step.depth + u64::from(!tail),
            owner: if tail { step.owner } else { Owner::Nt },
            ..step
        };
        agent.inner_seen = self.call(processor, agent, inside, routine).is_some();
    }

    /// The port driver takes the lock of a DPC by its address and the queue handle in its own.
    fn port_inner(&mut self, processor: usize, agent: &Agent, step: Step) {
        let handle = Self::handle(agent, step.slot) + 8;
        let lock = self.locks.0[step.lock].address + 0x40;
        let (routine, operand) = if step.act == Act::Release {
            let operand = LockOperand::QueuedHandle {
                handle,
                lock: Some(lock),
            };
            (R::KeReleaseInStackQueuedSpinLockFromDpcLevel, operand)
        } else {
            let operand = LockOperand::Queued { lock, handle };
            (R::KeAcquireInStackQueuedSpinLockAtDpcLevel, operand)
        };
        if !self.config.watched.contains(routine) {
            return;
        }
        let inside = Step {
            depth: step.depth + 2,
            owner: Owner::Port,
            site: 7,
            ..step
        };
        let call = LockCall {
            routine,
            context: self.seen_context(processor, agent, inside),
            operand,
            old_irql: None,
            word: Some(self.locks.0[step.lock].holders.len() as u64),
        };
        self.emit(EventKind::LockCall(call), agent.program);
    }

    /// The pages judge a call of the driver under test.
    fn judge(&mut self, agent: &Agent, step: Step) {
        if step.owner != Owner::Target || !self.armed {
            return;
        }
        let lock = &self.locks.0[step.lock];
        let handle = Self::handle(agent, step.slot);
        let own = if step.act == Act::Release {
            self.locks.held_by(step.lock, agent.id)
        } else {
            self.locks.in_the_way_of(step.lock, agent.id)
        };
        let at = lock.address + if lock.class == Class::Dpc { 0x40 } else { 0 };
        let content = self.handles.get(&handle).copied().unwrap_or_default();
        let call = pages::Call {
            routine: step.routine,
            irql: agent.irql,
            own,
            others: lock.holders.iter().any(|holder| holder.agent != agent.id),
            handle,
            adapter: step.adapter.unwrap_or(lock.adapter),
            kind: step.kind,
            no_context: step.no_context,
            given: takes_old_irql(step.routine).then_some(agent.given),
            handle_intact: own.is_none_or(|own| own.handle == 0 || content == (own.kind, at)),
            several: agent.several,
        };
        let whole = own.is_none_or(|own| own.call.is_some());
        let before = own.map_or(agent.irql, |own| own.before);
        let waits = matches!(step.act, Act::Acquire) && own.is_none() && !step.no_context;
        let later = |(other, _): (usize, &Holder)| self.locks.0[other].group > lock.group;
        let out_of_order = waits && self.locks.holds_of(agent.id).any(later);
        let broken = pages::judge(&call).or(out_of_order.then_some(pages::Broken::OutOfOrder));
        if let Some(broken) = broken {
            // A release is judged before its event, an acquire after it.
            let seen = if step.act == Act::Release { None } else { agent.call };
            self.wrong(broken, seen, before, whole);
        }
    }
}
