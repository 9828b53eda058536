//! What a session does with a decoded hit, under its lock.

use storlock_check::checker::{Response, ReturnInterest};
use storlock_check::contract::Contract;
use storlock_check::event::{Context, DISPATCH_LEVEL, Event, EventKind, LockCall, LockReturn, Order};

use super::Session;
use super::modules::ModuleId;
use super::state::{OpenReturn, Stage, State};
use crate::target::recorder::Recorder;
use crate::target::{Action, CpuState};

/// What a CALL pushes: RSP after the return is that much higher than at the entry.
const RETURN_ADDRESS_BYTES: u64 = 8;

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
        if state.checker.statistics().unknown_releases > unknown {
            state.release_not_judged(cpu, &call);
        }
        if self.found(state, cpu, response) {
            return Action::Stop;
        }
        // A return that would only be useful is not worth a second exit on every call.
        if response.interest != ReturnInterest::Needed || !self.can_catch() {
            return Action::Resume;
        }
        let cookie = state.sequence;
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
        self.resume_or_stop(state, cpu, response)
    }

    fn resume_or_stop(&self, state: &mut State, cpu: &Recorder<'_>, response: Response) -> Action {
        if self.found(state, cpu, response) {
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
            return self.resume_or_stop(state, cpu, response);
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
    fn found(&self, state: &mut State, cpu: &Recorder<'_>, response: Response) -> bool {
        let Some(found) = response.found.filter(|found| found.first) else {
            return false;
        };
        let Some(index) = found.index else { return false };
        state.attribute(cpu, index);
        self.violations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        state.stops_at(cpu.index(), index)
    }

    /// Whether a debug register is left.
    pub(crate) fn can_catch(&self) -> bool {
        let (watches, printers) = (self.watches.load().len(), self.printers.load().len());
        watches > 0 && watches + printers < self.config.hooks
    }
}

impl State {
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
