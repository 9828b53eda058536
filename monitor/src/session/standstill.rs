//! The end of a run, as the checker is told of it: where the processors stand, which may show that a lock was left behind.
//!
//! Gets the last looks and what ended the run. It must not know what the checker makes of them. All that it tells is in the
//! event trace, so that the trace leads to the same findings.

use storlock_check::event::EventKind;

use super::config::{End, EndKind};
use super::finish;
use super::replay;
use super::state::State;

/// Tells it, once. A replayed trace has the processors among its events.
pub(super) fn tell(state: &mut State, end: &End) {
    let (looks, left) = (state.ending.take_contexts(), state.ending.take_left());
    if state.discovery.is_armed() && (tells_of_the_guest(state, end) || finish::has_crashed(state, end)) {
        for (stopped, returned) in left {
            for returned in returned {
                state.ledger.append(EventKind::LockReturn(returned));
            }
            let response = state.ledger.append(EventKind::DriverLeft(stopped));
            replay::place(state, &response, None);
        }
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

/// Whether the registers at the end are those of code that was simply stopped: a crash raises the IRQL, and a triple fault or
/// a reset may clear it.
fn tells_of_the_guest(state: &State, end: &End) -> bool {
    let stopped = matches!(
        end.kind,
        EndKind::PowerOff | EndKind::TimeLimit | EndKind::Interrupted | EndKind::Stopped | EndKind::Deadlock
    );
    stopped && !finish::has_crashed(state, end)
}
