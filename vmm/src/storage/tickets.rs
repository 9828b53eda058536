//! Tickets for what a controller is to do later: its worker takes them, and hands each back when its time has come.
//!
//! It must not know what a ticket is for: whoever asked for it does.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::worker::Ticket;

/// Gives tickets, none twice.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    next: Ticket,
    /// Those that the worker has not taken yet, and how long each has to wait.
    untaken: Vec<(Ticket, Duration)>,
}

impl Tickets {
    /// A ticket that comes back after that time.
    pub(super) fn give(&mut self, time: Duration) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.untaken.push((ticket, time));
        ticket
    }

    /// Tickets given since the last call.
    pub(super) fn take(&mut self) -> Vec<(Ticket, Duration)> {
        std::mem::take(&mut self.untaken)
    }

    /// What the worker has not taken yet is not wanted any more.
    pub(super) fn forget(&mut self) {
        self.untaken.clear();
    }
}
