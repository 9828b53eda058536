//! What a session does with a decoded hit, under its lock.

use std::cmp::Reverse;

use storlock_check::checker::{Found, Response, ReturnInterest};
use storlock_check::contract::{Contract, Role};
use storlock_check::event::{Context, DISPATCH_LEVEL, Event, EventKind, LockCall, LockReturn, Order};
use storlock_check::finding::Finding;

use super::Session;
use super::decode;
use super::modules::ModuleId;
use super::state::{OpenReturn, Stage, State};
use crate::vmi::recorder::Recorder;
use crate::vmi::{Action, CpuState};

/// What a CALL pushes: RSP after the return is that much higher than at the entry.
const RETURN_ADDRESS_BYTES: u64 = 8;

/// Repetitions of a finding whose callers are asked for, each; and of how many more one is. A driver may break a rule, or be
/// suspected to, as often as it takes locks.
const ASKED: u64 = 1000;
const SAMPLED: u64 = 64;

/// Whether the callers of a finding are asked for that was seen so often.
const fn is_asked(times: u64) -> bool {
    times <= ASKED || times % SAMPLED == 0
}

impl Session {
    /// A lock routine was entered.
    pub(crate) fn called(
        &self,
        state: &mut State,
        cpu: &Recorder<'_>,
        call: LockCall,
        row: &'static Contract,
    ) -> Action {
        self.follow_modules(state, cpu, call.context.return_address);
        if !state.hit(&call.context, Some(row)) {
            return Action::Resume;
        }
        let unknown = state.checker.statistics().unknown_releases;
        let response = self.check(state, EventKind::LockCall(call));
        let (cookie, interest) = (state.sequence, response.interest);
        if state.checker.statistics().unknown_releases > unknown {
            state.release_not_judged(cpu, &call);
        }
        if self.found(state, cpu, &call.context, &response) {
            return Action::Stop;
        }
        // A return that would only be useful is not worth a second exit on every call.
        if interest != ReturnInterest::Needed || !self.can_catch() {
            return Action::Resume;
        }
        state.open_return(OpenReturn {
            cookie,
            frame: (call.context.return_address, call.context.stack_pointer),
            routine: call.routine,
            operand: call.operand,
        });
        Action::CatchReturn {
            return_address: call.context.return_address,
            stack_pointer: call.context.stack_pointer.wrapping_add(RETURN_ADDRESS_BYTES),
            cookie,
        }
    }

    /// A lock routine came back.
    pub(crate) fn returned(
        &self,
        state: &mut State,
        cpu: &Recorder<'_>,
        context: Context,
        value: u32,
        cookie: u64,
    ) -> Action {
        let Some(open) = state.close_return(cookie) else {
            return Action::Resume;
        };
        let event = LockReturn {
            call: cookie,
            routine: open.routine,
            operand: open.operand,
            value,
            context,
        };
        let response = self.check(state, EventKind::LockReturn(event));
        self.resume_or_stop(state, cpu, &context, &response)
    }

    fn resume_or_stop(&self, state: &mut State, cpu: &Recorder<'_>, context: &Context, response: &Response) -> Action {
        if self.found(state, cpu, context, response) {
            Action::Stop
        } else {
            Action::Resume
        }
    }

    /// A multiplexed export was entered for something that is no lock call. All that it shows is an IRQL, which is news
    /// once a processor.
    pub(crate) fn other_hit(&self, state: &mut State, cpu: &Recorder<'_>, context: Context) -> Action {
        let bit = 1u64.checked_shl(context.processor).unwrap_or(0);
        let news = context.irql < DISPATCH_LEVEL && state.seen_low & bit == 0;
        self.follow_modules(state, cpu, context.return_address);
        if state.hit(&context, None) && news {
            let kind = EventKind::IrqlSeen {
                processor: context.processor,
                irql: context.irql,
            };
            let response = self.check(state, kind);
            return self.resume_or_stop(state, cpu, &context, &response);
        }
        Action::Resume
    }

    /// Hands the next event to the checker and to the trace.
    pub(crate) fn check(&self, state: &mut State, kind: EventKind) -> Response {
        state.sequence += 1;
        let event = Event {
            sequence: state.sequence,
            order: Order::Total,
            kind,
        };
        let response = state.checker.apply(&event);
        if let Some(trace) = &self.trace {
            trace.push(event);
        }
        response
    }

    /// Notes what was found; says whether the machine is to stop for it.
    fn found(&self, state: &mut State, cpu: &Recorder<'_>, context: &Context, response: &Response) -> bool {
        if response.found.is_none() {
            return false;
        }
        let finding = |found: &Found| found.index.and_then(|index| state.checker.violations().get(index));
        let of_call = |found: &Found| finding(found).is_some_and(Finding::stands_at_call);
        let (of_call, mut found): (Vec<Found>, Vec<Found>) = response.findings().copied().partition(of_call);
        let times = |found: &Found| finding(found).map_or(0, |finding| finding.count);
        if of_call.iter().any(|found| found.first || is_asked(times(found))) {
            // A wrapper may hide who called it: which of the call's findings are new is known once its callers are.
            let told = state.who_called(cpu, context);
            let known = self.check(state, EventKind::CallerAttributed(told));
            found.extend(known.findings());
        }
        let mut stops = false;
        for found in found.iter().filter(|found| found.first) {
            let Some(index) = found.index else { continue };
            state.attribute(cpu, index);
            self.violations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            stops |= state.stops_at(cpu.index(), index);
        }
        stops
    }

    /// Whether a debug register is left.
    pub(crate) fn can_catch(&self) -> bool {
        let (watches, printers) = (self.watches.load().len(), self.printers.load().len());
        watches > 0 && watches + printers < self.config.breakpoints
    }
}

impl State {
    /// Which of the routines that share their code was called: the one that the checker's records and the IRQL speak for,
    /// among equals the first of the table, which is `first`.
    pub(crate) fn called_routine(
        &self,
        cpu: &Recorder<'_>,
        rows: &[&'static Contract],
        first: decode::Decoded,
    ) -> decode::Decoded {
        let fitness = |(call, row): &decode::Decoded| {
            let legal = (row.irql.min..=row.irql.max).contains(&call.context.irql);
            match row.role {
                Role::Release if self.checker.ends_an_acquire(call) => 3,
                Role::Release => u8::from(legal),
                _ => 1 + u8::from(legal),
            }
        };
        decode::lock_calls(cpu, rows, first.0.context)
            .min_by_key(|call| Reverse(fitness(call)))
            .unwrap_or(first)
    }

    /// Counts a hit; false if the breakpoints are not in force, as when arming failed half-way.
    fn hit(&mut self, context: &Context, row: Option<&'static Contract>) -> bool {
        if !matches!(self.stage, Stage::Armed) {
            return false;
        }
        let module = self.modules.find(context.return_address);
        let module = module.map_or(ModuleId::UNKNOWN, |(_, id)| id);
        self.hits += 1;
        self.called_by_unlisted(context.return_address);
        if self.target.as_ref().is_some_and(|(_, id)| *id == module) {
            self.target_hits += 1;
        }
        if let Some(row) = row {
            self.calls.count(row.routine, module);
        }
        if context.irql < DISPATCH_LEVEL {
            self.seen_low |= 1u64.checked_shl(context.processor).unwrap_or(0);
        }
        true
    }
}
