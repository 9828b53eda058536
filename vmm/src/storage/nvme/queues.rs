//! The existing queues by identifier, and which is next (NVMe 1.4, section 4.1).
//!
//! It alone owns the queues. It must not know commands, nor how a wrong doorbell is answered, nor when an interrupt is
//! due.

use std::sync::Arc;

use super::rings::{CompletionQueue, InvalidDoorbellValue, SubmissionQueue};
use super::spec::command::{CompletionEntry, SubmissionEntry};
use crate::storage::dma::{DmaMemory, NotMemory};
use crate::storage::in_flight::{Announced, InFlight, KeptBack, RequestId};
use crate::storage::request::Request;

/// A command and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    /// The submission queue.
    pub(super) queue: u16,
    pub(super) entry: SubmissionEntry,
}

/// A command that is owed an answer.
pub(super) type CommandRequest = Request<Fetched>;

/// Which queue a doorbell is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoorbellOf {
    /// The tail of a submission queue.
    Tail(u16),
    /// The head of a completion queue.
    Head(u16),
}

impl DoorbellOf {
    /// By its place among the doorbells, in registers and in the shadow page alike.
    pub(super) fn at(index: usize) -> Self {
        let queue = (index / 2) as u16;
        if index % 2 == 0 {
            Self::Tail(queue)
        } else {
            Self::Head(queue)
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Tail(queue) => 2 * usize::from(queue),
            Self::Head(queue) => 2 * usize::from(queue) + 1,
        }
    }
}

/// How the host names the command with that identifier of a submission queue.
pub(super) fn name_of(queue: u16, command_id: u16) -> RequestId {
    RequestId {
        queue,
        id: command_id.into(),
    }
}

/// Submission and completion queues, the admin queues first.
#[derive(Debug)]
pub(super) struct Queues {
    submission: Vec<Option<SubmissionQueue>>,
    completion: Vec<Option<CompletionQueue>>,
    /// The submission queue whose turn it is.
    next: usize,
    /// Is told of each step of a command.
    in_flight: Arc<InFlight>,
}

impl Queues {
    /// None yet, with room for the admin queues and so many pairs.
    pub(super) fn new(queue_pairs: u16, in_flight: Arc<InFlight>) -> Self {
        let queues = usize::from(queue_pairs) + 1;
        Self {
            submission: vec![None; queues],
            completion: vec![None; queues],
            next: 0,
            in_flight,
        }
    }

    /// All queues are gone.
    pub(super) fn reset(&mut self) {
        self.submission.fill(None);
        self.completion.fill(None);
        self.next = 0;
        self.in_flight.reset();
    }

    /// Queue identifiers that there can be.
    pub(super) fn count(&self) -> usize {
        self.submission.len()
    }

    /// The submission queue whose turn it is; the next one's turn follows.
    pub(super) fn take_turn(&mut self) -> u16 {
        let id = self.next;
        self.next = (id + 1) % self.submission.len();
        id as u16
    }

    pub(super) fn submission(&self, id: u16) -> Option<&SubmissionQueue> {
        self.submission.get(usize::from(id))?.as_ref()
    }

    pub(super) fn completion(&self, id: u16) -> Option<&CompletionQueue> {
        self.completion.get(usize::from(id))?.as_ref()
    }

    fn submission_mut(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.submission.get_mut(usize::from(id))?.as_mut()
    }

    pub(super) fn completion_mut(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.completion.get_mut(usize::from(id))?.as_mut()
    }

    pub(super) fn completions_mut(&mut self) -> impl Iterator<Item = (u16, &mut CompletionQueue)> {
        let numbered = (0..).zip(&mut self.completion);
        numbered.filter_map(|(id, queue)| Some((id, queue.as_mut()?)))
    }

    /// A submission queue begins or, with `None`, ends. Its identifier is one that there can be.
    pub(super) fn set_submission(&mut self, id: u16, queue: Option<SubmissionQueue>) {
        if queue.is_none() {
            self.in_flight.queue_ended(id);
        }
        self.submission[usize::from(id)] = queue;
    }

    /// As [`set_submission`](Self::set_submission).
    pub(super) fn set_completion(&mut self, id: u16, queue: Option<CompletionQueue>) {
        if queue.is_none() {
            // Nobody will take what is in it.
            self.in_flight.taken(id, u32::MAX);
        }
        self.completion[usize::from(id)] = queue;
    }

    /// Whether a submission queue has its completions posted to this completion queue.
    pub(super) fn is_completion_in_use(&self, id: u16) -> bool {
        self.submission
            .iter()
            .flatten()
            .any(|queue| queue.completion_queue == id)
    }

    /// Whether any I/O queue exists.
    pub(super) fn has_io_queues(&self) -> bool {
        self.submission[1..].iter().any(Option::is_some) || self.completion[1..].iter().any(Option::is_some)
    }

    /// Whether a completion queue exists and has room.
    pub(super) fn has_room(&self, id: u16) -> bool {
        self.completion(id).is_some_and(|queue| !queue.is_full())
    }

    /// The completion queue of a submission queue that has a command to fetch and room for its completion.
    pub(super) fn ready(&self, id: u16) -> Option<u16> {
        let queue = self.submission(id)?;
        (!queue.is_empty() && self.has_room(queue.completion_queue)).then_some(queue.completion_queue)
    }

    /// Whether any submission queue is [`ready`](Self::ready).
    pub(super) fn is_any_ready(&self) -> bool {
        (0..self.submission.len()).any(|id| self.ready(id as u16).is_some())
    }

    /// Fetches the next command of a queue; `None` if there is no such queue.
    pub(super) fn fetch(&mut self, id: u16, memory: &dyn DmaMemory) -> Option<Result<CommandRequest, NotMemory>> {
        let entry = self.submission_mut(id)?.fetch(memory);
        Some(entry.map(|entry| Request::new(Fetched { queue: id, entry })))
    }

    /// Posts a completion to a queue that has room.
    ///
    /// # Errors
    /// There is no such queue, or it is not in guest memory.
    pub(super) fn post(
        &mut self,
        id: u16,
        mut entry: CompletionEntry,
        memory: &dyn DmaMemory,
    ) -> Result<(), NotMemory> {
        let submission = self.submission(entry.submission_id.get());
        entry.submission_head = submission.map_or(0, SubmissionQueue::head).into();
        self.completion_mut(id).ok_or(NotMemory)?.post(memory, &entry)?;
        self.in_flight
            .posted(id, name_of(entry.submission_id.get(), entry.command_id.get()));
        Ok(())
    }

    /// A fault keeps a completion back.
    pub(super) fn kept_back(&self, entry: &CompletionEntry, why: KeptBack) {
        let name = name_of(entry.submission_id.get(), entry.command_id.get());
        self.in_flight.kept_back(name, why);
    }

    /// An interrupt is due for what was posted to a completion queue.
    pub(super) fn interrupt_due(&self, id: u16, by: Announced) {
        self.in_flight.due(id, by);
    }

    /// The level of the pin, which is due for some queues, reaches the host.
    pub(super) fn pin_asserted(&self) {
        self.in_flight.sent(Announced::Pin, None);
    }

    /// The host has asked for the abort of a command, which is not ended by that.
    pub(super) fn abort_asked(&self, id: u16, command_id: u16) {
        self.in_flight.abort_asked(name_of(id, command_id));
    }

    /// What the host last said by that doorbell; `None` if there is no such queue.
    pub(super) fn doorbell(&self, doorbell: DoorbellOf) -> Option<u32> {
        match doorbell {
            DoorbellOf::Tail(id) => self.submission(id).map(SubmissionQueue::tail),
            DoorbellOf::Head(id) => self.completion(id).map(CompletionQueue::head),
        }
    }

    /// Gives the value of a doorbell to its queue; `None` if there is no such queue.
    pub(super) fn ring(&mut self, doorbell: DoorbellOf, value: u32) -> Option<Result<(), InvalidDoorbellValue>> {
        match doorbell {
            DoorbellOf::Tail(id) => Some(self.submission_mut(id)?.ring(value)),
            DoorbellOf::Head(id) => {
                let taken = self.completion_mut(id)?.ring(value);
                Some(taken.map(|count| self.in_flight.taken(id, count)))
            }
        }
    }
}
