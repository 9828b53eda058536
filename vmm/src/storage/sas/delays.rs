//! Tickets for what is to happen later: the worker takes them, and hands each back when its time has come.
//!
//! It must not know what a ticket is for: whoever asked for it does.

use std::time::Duration;

use crate::storage::worker::Ticket;

/// What there is to save of [`Delays`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DelaysState {
    /// The ticket that is given next; none is given twice.
    next: Ticket,
    /// Tickets that the worker has not taken yet.
    untaken: Vec<(Ticket, Duration)>,
}

/// Gives tickets.
#[derive(Default)]
pub(super) struct Delays {
    state: DelaysState,
}

impl Delays {
    /// A ticket that comes back after that time.
    pub(super) fn ticket(&mut self, time: Duration) -> Ticket {
        let ticket = self.state.next;
        self.state.next += 1;
        self.state.untaken.push((ticket, time));
        ticket
    }

    /// Tickets given since the last call.
    pub(super) fn take(&mut self) -> Vec<(Ticket, Duration)> {
        std::mem::take(&mut self.state.untaken)
    }
}
