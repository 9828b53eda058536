//! Completions on their way to a completion queue: posted at once, or what a fault makes of them.
//!
//! A delayed completion gets a ticket; whoever owns time, the worker, hands the ticket back when it is due. It knows
//! neither clocks nor what a command does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::controller::Controller;
use super::faults;
use super::spec::command::{CompletionEntry, admin};
use crate::storage::fault::CompletionFault;
use crate::storage::worker::Ticket;

/// Most completions that are delayed at once. A controller that has so many fetches no command until one is due.
const MAX_DELAYED: usize = 1024;

/// A completion that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// The completion queue.
    pub queue: u16,
    /// The entry; SQHD is filled in when it is posted.
    pub entry: CompletionEntry,
}

/// Completions that faults keep back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Those that wait for their time, by what they are asked for.
    pub delayed: BTreeMap<Ticket, Delayed>,
    /// Those that wait for room only, by completion queue, oldest first.
    pub due: VecDeque<(u16, CompletionEntry)>,
    /// The next ticket; none is given twice.
    pub next_ticket: Ticket,
    /// Tickets that the worker has not taken yet, and how long each has to wait.
    pub new_tickets: Vec<(Ticket, Duration)>,
}

impl Withheld {
    /// Whether nothing more can be delayed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.delayed.len() >= MAX_DELAYED
    }

    /// As after a reset: nothing is kept back. Old tickets stay unknown for ever.
    pub(super) fn emptied(&self) -> Self {
        Self {
            next_ticket: self.next_ticket,
            ..Self::default()
        }
    }

    /// A submission queue is gone, and with it the completions of its commands.
    pub(super) fn forget_queue(&mut self, id: u16) {
        let is_of_queue = |entry: &CompletionEntry| entry.submission_id.get() == id;
        self.delayed.retain(|_, delayed| !is_of_queue(&delayed.entry));
        self.due.retain(|(_, entry)| !is_of_queue(entry));
    }

    /// A delayed completion is due: it waits for room only. A ticket of before a reset or of a deleted queue means nothing.
    pub(super) fn release(&mut self, ticket: Ticket) {
        if let Some(delayed) = self.delayed.remove(&ticket) {
            self.due.push_back((delayed.queue, delayed.entry));
        }
    }

    fn delay(&mut self, queue: u16, entry: CompletionEntry, time: Duration) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.delayed.insert(ticket, Delayed { queue, entry });
        self.new_tickets.push((ticket, time));
    }
}

impl Controller {
    /// Completes a command of that opcode: its completion is posted, unless a fault wants something else. There is room
    /// for one entry. `false`: the queue memory failed.
    pub(super) fn finish(&mut self, queue: u16, opcode: u8, entry: CompletionEntry) -> bool {
        let plan = self.faults.as_deref();
        let fault = plan.and_then(|plan| plan.completion_due(faults::code(entry.submission_id.get(), opcode)));
        match fault {
            None => self.post(queue, entry),
            Some(CompletionFault::Drop) => true,
            Some(CompletionFault::Delay(time)) => {
                self.state.withheld.delay(queue, entry, time);
                true
            }
            Some(CompletionFault::Duplicate) => self.post(queue, entry) && self.post_or_wait(queue, entry),
            Some(CompletionFault::Stray) => {
                let stray = CompletionEntry {
                    command_id: self.stray_command_id(entry.submission_id.get()).into(),
                    ..entry
                };
                self.post(queue, entry) && self.post_or_wait(queue, stray)
            }
        }
    }

    /// A command identifier that no command of the queue has. From the top: drivers count from 0, and FFFFh stands for
    /// "no command" in the Error Information log.
    fn stray_command_id(&self, queue: u16) -> u16 {
        let mut taken = BTreeSet::new();
        if let Some(Some(submission)) = self.state.submission_queues.get(usize::from(queue)) {
            taken.extend(submission.waiting_ids(&self.memory));
        }
        let delayed = self.state.withheld.delayed.values().map(|delayed| &delayed.entry);
        let delayed = delayed.filter(|entry| entry.submission_id.get() == queue);
        taken.extend(delayed.map(|entry| entry.command_id.get()));
        if queue == 0 {
            taken.extend(self.state.events.requests.iter().chain(&self.state.events.aborted));
        }
        (0..0xffff).rev().find(|id| !taken.contains(id)).unwrap_or(0xffff)
    }

    /// Whether a completion queue exists and has room.
    pub(super) fn has_room(&self, queue: u16) -> bool {
        let queue = self.state.completion_queues.get(usize::from(queue));
        queue.and_then(Option::as_ref).is_some_and(|queue| !queue.is_full())
    }

    fn post_or_wait(&mut self, queue: u16, entry: CompletionEntry) -> bool {
        if self.has_room(queue) {
            return self.post(queue, entry);
        }
        self.state.withheld.due.push_back((queue, entry));
        true
    }

    /// Posts a completion. `false`: the queue memory failed.
    fn post(&mut self, queue: u16, mut entry: CompletionEntry) -> bool {
        let submission = self.state.submission_queue(entry.submission_id.get());
        entry.submission_head = submission.map_or(0, |queue| queue.head()).into();
        let Some(queue) = self
            .state
            .completion_queues
            .get_mut(usize::from(queue))
            .and_then(Option::as_mut)
        else {
            return false;
        };
        let posted = queue.post(&self.memory, &entry).is_ok();
        if !posted {
            self.fail();
        }
        posted
    }

    /// Posts what waits for nothing but room. Returns whether anything was posted.
    pub(super) fn post_due(&mut self) -> bool {
        let mut posted = false;
        for _ in 0..self.state.withheld.due.len() {
            let Some((queue, entry)) = self.state.withheld.due.pop_front() else {
                break;
            };
            if self.has_room(queue) {
                posted |= self.post(queue, entry);
                self.signal(queue);
            } else {
                self.state.withheld.due.push_back((queue, entry));
            }
        }
        posted
    }

    /// Whether [`post_due`](Self::post_due) would post something.
    pub(super) fn is_posting_due(&self) -> bool {
        self.state.withheld.due.iter().any(|&(queue, _)| self.has_room(queue))
    }

    /// Completes held Asynchronous Event Requests for which there is an event, as far as there is room.
    pub(super) fn complete_async_events(&mut self) {
        while self.has_room(0) && !self.state.withheld.is_full() {
            let Some((command_id, dword0, status)) = self.state.events.next_completion() else {
                break;
            };
            let entry = CompletionEntry {
                dword0: dword0.into(),
                command_id: command_id.into(),
                status: status.with_phase(false).into(),
                ..CompletionEntry::default()
            };
            if !self.finish(0, admin::ASYNC_EVENT_REQUEST, entry) {
                break;
            }
        }
        self.signal(0);
    }
}
