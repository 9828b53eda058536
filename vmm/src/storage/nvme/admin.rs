//! Admin commands: their dispatch, and the making and deleting of I/O queues (NVMe 1.4, section 5).
//!
//! Identify, features, log pages, events and the doorbell buffer have files of their own.

use super::controller::Controller;
use super::registers::MAX_QUEUE_ENTRIES;
use super::rings::{CompletionQueue, SubmissionQueue};
use super::spec::command::{COMPLETION_ENTRY_SIZE, SUBMISSION_ENTRY_SIZE};
use super::spec::command::{SubmissionEntry, admin};
use super::spec::registers::PAGE_SIZE;
use super::spec::status::{Failure, Status};
use crate::storage::dma::DmaMemory;

/// What Create I/O Submission Queue and Create I/O Completion Queue have in common (Figures 151 and 155).
struct NewQueue {
    id: u16,
    entries: u32,
    base: u64,
}

impl Controller {
    /// Executes an admin command. `Ok(None)`: it completes later.
    pub(super) fn execute_admin(&mut self, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
        check_flags(command)?;
        if self.state.events.holds(command.command_id.get()) {
            return Err(Status::COMMAND_ID_CONFLICT.into());
        }
        match command.opcode {
            admin::DELETE_SUBMISSION_QUEUE => self.delete_submission_queue(command),
            admin::CREATE_SUBMISSION_QUEUE => self.create_submission_queue(command),
            admin::GET_LOG_PAGE => self.get_log_page(command),
            admin::DELETE_COMPLETION_QUEUE => self.delete_completion_queue(command),
            admin::CREATE_COMPLETION_QUEUE => self.create_completion_queue(command),
            admin::IDENTIFY => self.identify(command),
            admin::ABORT => self.abort(command),
            admin::SET_FEATURES => self.set_features(command),
            admin::GET_FEATURES => self.get_features(command),
            admin::ASYNC_EVENT_REQUEST => return self.async_event_request(command),
            admin::DOORBELL_BUFFER_CONFIG => self.doorbell_buffer_config(command),
            _ => Err(Failure::at(Status::INVALID_OPCODE, 0, 0)),
        }
        .map(Some)
    }

    /// Create I/O Completion Queue (section 5.3).
    fn create_completion_queue(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let dword11 = command.dword11.get();
        let exists = self.state.completion_queue(command.dword10.get() as u16).is_some();
        let limit = self.state.features.completion_queues;
        let entry_size = self.configuration().completion_entry_size();
        let queue = self.new_queue(command, exists, limit, (entry_size, COMPLETION_ENTRY_SIZE))?;
        let vector = (dword11 >> 16) as u16;
        if vector >= self.interrupt_vectors() {
            return Err(Failure::at(Status::INVALID_INTERRUPT_VECTOR, 11, 16));
        }
        let interrupts = dword11 >> 1 & 1 != 0;
        let new = CompletionQueue::new(queue.base, queue.entries, interrupts.then_some(vector));
        self.state.completion_queues[usize::from(queue.id)] = Some(new);
        self.start_head_doorbell(queue.id);
        Ok(0)
    }

    /// Create I/O Submission Queue (section 5.4).
    fn create_submission_queue(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let exists = self.state.submission_queue(command.dword10.get() as u16).is_some();
        let limit = self.state.features.submission_queues;
        let entry_size = self.configuration().submission_entry_size();
        let queue = self.new_queue(command, exists, limit, (entry_size, SUBMISSION_ENTRY_SIZE))?;
        let completion_queue = (command.dword11.get() >> 16) as u16;
        if completion_queue == 0 || completion_queue > self.state.features.completion_queues {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 11, 16));
        }
        if self.state.completion_queue(completion_queue).is_none() {
            return Err(Failure::at(Status::COMPLETION_QUEUE_INVALID, 11, 16));
        }
        let new = SubmissionQueue::new(queue.base, queue.entries, completion_queue);
        self.state.submission_queues[usize::from(queue.id)] = Some(new);
        self.start_tail_doorbell(queue.id);
        Ok(0)
    }

    /// Checks what both kinds of queue have in common. `entry_size` is what CC says (as a power of two) and what it
    /// has to be, in bytes.
    fn new_queue(
        &self,
        command: &SubmissionEntry,
        exists: bool,
        limit: u16,
        entry_size: (u32, u64),
    ) -> Result<NewQueue, Failure> {
        let id = command.dword10.get() as u16;
        let entries = (command.dword10.get() >> 16) + 1;
        let base = command.prp1.get();
        if id == 0 || id > limit || exists {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 10, 0));
        }
        if !(2..=MAX_QUEUE_ENTRIES).contains(&entries) || 1 << entry_size.0 != entry_size.1 {
            return Err(Failure::at(Status::INVALID_QUEUE_SIZE, 10, 16));
        }
        // PC: CAP.CQR demands physically contiguous queues.
        if command.dword11.get() & 1 == 0 {
            return Err(Failure::at(Status::INVALID_FIELD, 11, 0));
        }
        if base % PAGE_SIZE != 0 {
            return Err(Failure::at(Status::PRP_OFFSET_INVALID, 6, 0));
        }
        if !self.memory.contains(base, (u64::from(entries) * entry_size.1) as usize) {
            return Err(Failure::at(Status::INVALID_FIELD, 6, 0));
        }
        Ok(NewQueue { id, entries, base })
    }

    /// Delete I/O Completion Queue (section 5.5).
    fn delete_completion_queue(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let id = command.dword10.get() as u16;
        if id == 0 || self.state.completion_queue(id).is_none() {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 10, 0));
        }
        if self
            .state
            .submission_queues
            .iter()
            .flatten()
            .any(|queue| queue.completion_queue == id)
        {
            return Err(Failure::at(Status::INVALID_QUEUE_DELETION, 10, 0));
        }
        self.state.completion_queues[usize::from(id)] = None;
        Ok(0)
    }

    /// Delete I/O Submission Queue (section 5.6). Every command that was fetched has completed; those that were not are
    /// never fetched.
    fn delete_submission_queue(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let id = command.dword10.get() as u16;
        if id == 0 || self.state.submission_queue(id).is_none() {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 10, 0));
        }
        self.state.submission_queues[usize::from(id)] = None;
        self.state.withheld.forget_queue(id);
        Ok(0)
    }

    /// Whether any I/O queue exists.
    pub(super) fn has_io_queues(&self) -> bool {
        self.state.submission_queues[1..].iter().any(Option::is_some)
            || self.state.completion_queues[1..].iter().any(Option::is_some)
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
