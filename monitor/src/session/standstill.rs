//! The end of a run, as the checker is told of it: where the processors stand, which may show that a lock was left behind.
//!
//! Gets the last looks and what ended the run. It must not know what the checker makes of them. All that it tells is in the
//! event trace, so that the trace leads to the same findings.

use storlock_check::event::{DISPATCH_LEVEL, EventKind, StillHeld};

use super::config::{End, EndKind};
use super::finish;
use super::held::OpenAtEnd;
use super::replay;
use super::state::State;

/// How long the acquires had been made that are open on the processors' stacks when these were looked at, by event, in
/// milliseconds. A debugger may have held the machine for any time.
pub(super) fn ages(state: &State) -> Vec<(u64, u64)> {
    let looked = state.ending.looked_at().filter(|_| !state.stops.was_debugged());
    let open = state.ending.open_acquires();
    let age = |acquire| looked.map_or(0, |looked| state.ledger.age(acquire, looked));
    open.map(|acquire| (acquire, age(acquire))).collect()
}

/// Tells it, once. A replayed trace has the processors among its events.
pub(super) fn tell(state: &mut State, end: &End) {
    let (looks, held) = (state.ending.take_contexts(), state.ending.take_held());
    if state.discovery.is_armed() {
        tell_held(state, end, held);
    }
    if state.discovery.is_armed() && tells_of_the_guest(state, end) {
        for stopped in looks {
            if let Some(told) = state.ending.in_callback(stopped.processor) {
                state.ledger.append(EventKind::InCallback(told));
            }
            let response = state.ledger.append(EventKind::ProcessorStopped(stopped));
            replay::place(state, &response, None);
        }
    }
    if finish::ended_by_itself(state, end) {
        state.ledger.run_ended();
    }
}

/// Tells of the acquires that are open on the processors' stacks. After a crash only those say anything whose callback is
/// over, and the IRQL says nothing.
fn tell_held(state: &mut State, end: &End, held: Vec<OpenAtEnd>) {
    let (simply_stopped, crashed) = (tells_of_the_guest(state, end), finish::has_crashed(state, end));
    for open in held.into_iter().filter(|open| simply_stopped || (crashed && open.left)) {
        if let Some(returned) = open.returned {
            state.ledger.append(EventKind::LockReturn(returned));
        }
        let age = end.open_ms.iter().find(|(acquire, _)| *acquire == open.acquire);
        let mut stopped = open.stopped;
        if crashed {
            stopped.irql = stopped.irql.min(DISPATCH_LEVEL);
        }
        let response = state.ledger.append(EventKind::StillHeld(StillHeld {
            acquire: open.acquire,
            milliseconds: age.map_or(0, |(_, age)| *age),
            left: open.left,
            stopped,
        }));
        replay::place(state, &response, None);
    }
}

/// Whether the registers at the end are those of code that was simply stopped: a crash raises the IRQL, and a triple fault or
/// a reset may clear it.
fn tells_of_the_guest(state: &State, end: &End) -> bool {
    let stopped = matches!(
        end.kind,
        EndKind::PowerOff | EndKind::TimeLimit | EndKind::Interrupted | EndKind::Stopped | EndKind::Deadlock
    );
    stopped && !finish::has_crashed(state, end)
}
