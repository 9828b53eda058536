//! Posts completions to completion queues: at once, or as a fault says.
//!
//! A delayed completion gets a ticket, which the worker hands back when it is due. It must know neither clocks nor what
//! a command does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::faults;
use super::queues::{CommandRequest, Queues};
use super::spec::command::{CompletionEntry, SubmissionEntry};
use super::spec::status::{Failure, Status};
use crate::storage::dma::{DmaMemory, NotMemory};
use crate::storage::fault::{CompletionFault, FaultInjector};
use crate::storage::in_flight::KeptBack;
use crate::storage::tickets::Tickets;
use crate::storage::worker::Ticket;

/// Most completions that are delayed at once. A controller that has so many fetches no command until one is due.
const MAX_DELAYED: usize = 1024;

/// What a command has come to.
pub(super) struct Answer {
    pub(super) request: CommandRequest,
    /// Dword 0 of the completion, or why the command failed.
    pub(super) result: Result<u32, Failure>,
    /// The fault plan wants it to fail.
    pub(super) is_planned: bool,
}

impl Answer {
    pub(super) fn new(request: CommandRequest, result: Result<u32, Failure>) -> Self {
        Self {
            request,
            result,
            is_planned: false,
        }
    }
}

/// Neither fused operations (FUSES is 0) nor SGLs (SGLS is 0) are supported (section 4.2).
pub(super) fn check_flags(command: &SubmissionEntry) -> Result<(), Failure> {
    if command.flags & 3 != 0 {
        return Err(Failure::at(Status::INVALID_FIELD, 0, 8));
    }
    if command.flags >> 6 != 0 {
        return Err(Failure::at(Status::INVALID_FIELD, 0, 14));
    }
    Ok(())
}

/// The completion of a command; SQHD and the phase tag are filled in when it is posted.
pub(super) fn entry(request: &CommandRequest, dword0: u32, status: Status) -> CompletionEntry {
    let command = request.command();
    CompletionEntry {
        dword0: dword0.into(),
        submission_id: command.queue.into(),
        command_id: command.entry.command_id,
        status: status.with_phase(false).into(),
        ..CompletionEntry::default()
    }
}

/// A completion that waits for its time.
#[derive(Debug)]
struct Delayed {
    /// The completion queue.
    queue: u16,
    entry: CompletionEntry,
}

/// Posts completions, and keeps those back that faults want kept back.
#[derive(Debug)]
pub(super) struct Completions {
    plan: Option<Arc<FaultInjector>>,
    /// Those that wait for their time, by what they are asked for.
    delayed: BTreeMap<Ticket, Delayed>,
    /// Those that wait for room only, by completion queue, oldest first.
    due: VecDeque<(u16, CompletionEntry)>,
    tickets: Tickets,
}

impl Completions {
    pub(super) fn new(plan: Option<Arc<FaultInjector>>) -> Self {
        Self {
            plan,
            delayed: BTreeMap::new(),
            due: VecDeque::new(),
            tickets: Tickets::default(),
        }
    }

    /// Nothing is kept back any more. Old tickets stay unknown for ever.
    pub(super) fn reset(&mut self) {
        self.delayed.clear();
        self.due.clear();
        self.tickets.forget();
    }

    /// Whether nothing more can be delayed.
    pub(super) fn is_full(&self) -> bool {
        self.delayed.len() >= MAX_DELAYED
    }

    /// A submission queue is gone, and with it the completions of its commands.
    pub(super) fn forget_queue(&mut self, id: u16) {
        let is_of_queue = |entry: &CompletionEntry| entry.submission_id.get() == id;
        self.delayed.retain(|_, delayed| !is_of_queue(&delayed.entry));
        self.due.retain(|(_, entry)| !is_of_queue(entry));
    }

    pub(super) fn take_tickets(&mut self) -> Vec<(Ticket, Duration)> {
        self.tickets.take()
    }

    pub(super) fn is_delayed(&self, ticket: Ticket) -> bool {
        self.delayed.contains_key(&ticket)
    }

    /// A delayed completion is due: it waits for room only. A ticket of before a reset or of a deleted queue means nothing.
    pub(super) fn release(&mut self, ticket: Ticket) {
        if let Some(delayed) = self.delayed.remove(&ticket) {
            self.due.push_back((delayed.queue, delayed.entry));
        }
    }

    fn delay(&mut self, queue: u16, entry: CompletionEntry, time: Duration) {
        self.delayed.insert(self.tickets.give(time), Delayed { queue, entry });
    }

    /// Completes a command of that opcode: its completion is posted, unless a fault wants something else. There is room
    /// for one entry. `held` are command identifiers of requests that the controller holds.
    ///
    /// # Errors
    /// The queue memory failed.
    pub(super) fn finish(
        &mut self,
        (queue, opcode, entry): (u16, u8, CompletionEntry),
        queues: &mut Queues,
        memory: &dyn DmaMemory,
        held: impl Iterator<Item = u16>,
    ) -> Result<(), NotMemory> {
        let plan = self.plan.as_deref();
        let fault = plan.and_then(|plan| plan.completion_due(faults::code(entry.submission_id.get(), opcode)));
        match fault {
            None => queues.post(queue, entry, memory),
            Some(CompletionFault::Drop) => {
                queues.kept_back(&entry, KeptBack::Dropped);
                Ok(())
            }
            Some(CompletionFault::Delay(time)) => {
                queues.kept_back(&entry, KeptBack::Delayed);
                self.delay(queue, entry, time);
                Ok(())
            }
            Some(CompletionFault::Duplicate) => {
                queues.post(queue, entry, memory)?;
                self.post_or_wait(queue, entry, queues, memory)
            }
            Some(CompletionFault::Stray) => {
                let stray = CompletionEntry {
                    command_id: self
                        .stray_command_id(entry.submission_id.get(), queues, memory, held)
                        .into(),
                    ..entry
                };
                queues.post(queue, entry, memory)?;
                self.post_or_wait(queue, stray, queues, memory)
            }
        }
    }

    /// A command identifier that no command of the queue has. From the top: drivers count from 0, and FFFFh stands for
    /// "no command" in the Error Information log.
    fn stray_command_id(
        &self,
        queue: u16,
        queues: &Queues,
        memory: &dyn DmaMemory,
        held: impl Iterator<Item = u16>,
    ) -> u16 {
        let mut taken = BTreeSet::new();
        if let Some(submission) = queues.submission(queue) {
            taken.extend(submission.waiting_ids(memory));
        }
        let delayed = self.delayed.values().map(|delayed| &delayed.entry);
        let delayed = delayed.filter(|entry| entry.submission_id.get() == queue);
        taken.extend(delayed.map(|entry| entry.command_id.get()));
        if queue == 0 {
            taken.extend(held);
        }
        (0..0xffff).rev().find(|id| !taken.contains(id)).unwrap_or(0xffff)
    }

    fn post_or_wait(
        &mut self,
        queue: u16,
        entry: CompletionEntry,
        queues: &mut Queues,
        memory: &dyn DmaMemory,
    ) -> Result<(), NotMemory> {
        if queues.has_room(queue) {
            return queues.post(queue, entry, memory);
        }
        self.due.push_back((queue, entry));
        Ok(())
    }

    /// Posts each completion that waits for nothing but room, once, and has `posted` called with its queue.
    pub(super) fn post_due(
        &mut self,
        queues: &mut Queues,
        memory: &dyn DmaMemory,
        mut posted: impl FnMut(&mut Queues, u16, Result<(), NotMemory>),
    ) {
        for _ in 0..self.due.len() {
            let Some((queue, entry)) = self.due.pop_front() else {
                break;
            };
            if queues.has_room(queue) {
                let result = queues.post(queue, entry, memory);
                posted(queues, queue, result);
            } else {
                self.due.push_back((queue, entry));
            }
        }
    }

    /// Whether [`post_due`](Self::post_due) would post something.
    pub(super) fn is_posting_due(&self, queues: &Queues) -> bool {
        self.due.iter().any(|&(queue, _)| queues.has_room(queue))
    }

    /// How many are delayed and how many wait for room.
    #[cfg(test)]
    pub(super) fn withheld(&self) -> (usize, usize) {
        (self.delayed.len(), self.due.len())
    }
}
