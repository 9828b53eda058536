//! Admin commands (NVMe 1.4, section 5): features, log pages, events, and the making and deleting of I/O queues.
//!
//! It owns what admin commands set and report (features, events, log pages). The queues and namespaces that they act on
//! are lent for each command.

use std::collections::BTreeSet;

use zerocopy::IntoBytes;

use super::completion::{Answer, Completions, check_flags};
use super::config::NvmeConfig;
use super::doorbells::{DoorbellError, Doorbells};
use super::events::{AsyncEvents, Event};
use super::features::Features;
use super::identify::{self, MAX_TRANSFER};
use super::interrupts::QueueInterrupts;
use super::log_page::{self, ErrorLog};
use super::namespaces::Namespaces;
use super::queues::{CommandRequest, DoorbellOf, Fetched, Queues};
use super::registers::MAX_QUEUE_ENTRIES;
use super::rings::{CompletionQueue, SubmissionQueue};
use super::spec::command::{COMPLETION_ENTRY_SIZE, NSID_ALL, SUBMISSION_ENTRY_SIZE, SubmissionEntry, admin};
use super::spec::features::{SAVE, id, select};
use super::spec::log_page::{CRITICAL_WARNING_READ_ONLY, CRITICAL_WARNING_TEMPERATURE, ErrorEntry, id as page_id};
use super::spec::registers::{Configuration, PAGE_SIZE};
use super::spec::status::{Failure, Status};
use super::transfer::Transfer;
use crate::storage::dma::DmaMemory;

/// Executes the commands of the admin queue.
#[derive(Debug)]
pub(super) struct Admin {
    features: Features,
    events: AsyncEvents,
    /// Survives resets.
    errors: ErrorLog,
    /// Namespaces of which Identify Namespace says something new since the Changed Namespace List was read.
    changed_namespaces: BTreeSet<u32>,
}

/// What admin commands are about.
pub(super) struct AdminContext<'a> {
    pub(super) config: &'a NvmeConfig,
    /// CC.
    pub(super) configuration: Configuration,
    pub(super) queues: &'a mut Queues,
    pub(super) doorbells: &'a mut Doorbells,
    pub(super) completions: &'a mut Completions,
    pub(super) interrupts: &'a QueueInterrupts,
    pub(super) namespaces: &'a mut Namespaces,
    pub(super) transfer: &'a mut Transfer,
}

/// What Create I/O Submission Queue and Create I/O Completion Queue have in common (Figures 151 and 155).
struct NewQueue {
    id: u16,
    entries: u32,
    base: u64,
}

impl Admin {
    pub(super) fn new(queue_pairs: u16, namespaces: usize) -> Self {
        Self {
            features: Features::new(queue_pairs, namespaces),
            events: AsyncEvents::default(),
            errors: ErrorLog::default(),
            changed_namespaces: BTreeSet::new(),
        }
    }

    /// As after power on, but for the error log.
    pub(super) fn reset(&mut self) {
        self.features.reset();
        self.events.reset();
        self.changed_namespaces.clear();
    }

    pub(super) fn features(&self) -> &Features {
        &self.features
    }

    pub(super) fn events(&self) -> &AsyncEvents {
        &self.events
    }

    pub(super) fn events_mut(&mut self) -> &mut AsyncEvents {
        &mut self.events
    }

    #[cfg(test)]
    pub(super) fn errors(&self) -> &ErrorLog {
        &self.errors
    }

    /// Logs the failure of a command.
    pub(super) fn command_failed(&mut self, command: &Fetched, failure: Failure) {
        self.errors.push(ErrorEntry::of_command(command, failure));
    }

    /// Reports a doorbell error and logs it (section 5.2, Error status).
    pub(super) fn doorbell_failed(&mut self, error: DoorbellError) {
        self.errors.push(ErrorEntry::without_command(Status::SUCCESS));
        self.events.raise(error.into());
    }

    /// The medium of a namespace has become read-only: Identify Namespace, the SMART / Health log and, if wanted, events say
    /// so.
    pub(super) fn medium_changed(&mut self, nsid: u32, namespaces: &Namespaces) {
        self.changed_namespaces.insert(nsid);
        self.events.raise(Event::NamespaceAttributeChanged);
        self.check_health(namespaces);
    }

    /// Executes a command; `None`: it completes later.
    pub(super) fn execute(&mut self, request: CommandRequest, context: &mut AdminContext<'_>) -> Option<Answer> {
        let command = request.command().entry;
        let result = match self.check(&command) {
            Ok(()) if command.opcode == admin::ASYNC_EVENT_REQUEST => return self.events.hold(request),
            Ok(()) => self.dispatch(&command, context),
            Err(failure) => Err(failure),
        };
        Some(Answer::new(request, result))
    }

    fn check(&self, command: &SubmissionEntry) -> Result<(), Failure> {
        check_flags(command)?;
        if self.events.held_ids().any(|held| held == command.command_id.get()) {
            return Err(Status::COMMAND_ID_CONFLICT.into());
        }
        Ok(())
    }

    fn dispatch(&mut self, command: &SubmissionEntry, context: &mut AdminContext<'_>) -> Result<u32, Failure> {
        match command.opcode {
            admin::DELETE_SUBMISSION_QUEUE => context.delete_submission_queue(command),
            admin::CREATE_SUBMISSION_QUEUE => context.create_submission_queue(command, &self.features),
            admin::GET_LOG_PAGE => self.get_log_page(command, context),
            admin::DELETE_COMPLETION_QUEUE => context.delete_completion_queue(command),
            admin::CREATE_COMPLETION_QUEUE => context.create_completion_queue(command, &self.features),
            admin::IDENTIFY => identify::identify(command, context.config, context.namespaces, context.transfer),
            admin::ABORT => self.abort(command, context.queues),
            admin::SET_FEATURES => self.set_features(command, context),
            admin::GET_FEATURES => self.get_features(command),
            admin::DOORBELL_BUFFER_CONFIG => {
                let pages = (command.prp1.get(), command.prp2.get());
                let memory = context.transfer.dma();
                context.doorbells.configure(pages, context.queues, memory).map(|()| 0)
            }
            _ => Err(Failure::at(Status::INVALID_OPCODE, 0, 0)),
        }
    }

    /// Abort (section 5.1). Commands run to their end as they are fetched, so what can be aborted is a held
    /// Asynchronous Event Request; anything else is "not aborted" (bit 0 of dword 0).
    fn abort(&mut self, command: &SubmissionEntry, queues: &Queues) -> Result<u32, Failure> {
        let queue = command.dword10.get() as u16;
        let command_id = (command.dword10.get() >> 16) as u16;
        if queues.submission(queue).is_none() {
            return Err(Failure::at(Status::INVALID_FIELD, 10, 0));
        }
        let aborted = queue == 0 && self.events.abort(command_id);
        queues.abort_asked(queue, command_id);
        Ok(u32::from(!aborted))
    }

    /// Get Features (section 5.13).
    fn get_features(&self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (dword10, dword11) = (command.dword10.get(), command.dword11.get());
        let (feature, nsid) = (dword10 as u8, command.namespace_id.get());
        match (dword10 >> 8 & 7, feature) {
            (select::CURRENT, id::ASYNC_EVENT_CONFIGURATION) => Ok(self.events.configuration()),
            (select::CURRENT, _) => self.features.value(feature, dword11, nsid),
            // Saved values that cannot be changed are the defaults.
            (select::DEFAULT | select::SAVED, id::ASYNC_EVENT_CONFIGURATION) => Ok(0),
            (select::DEFAULT | select::SAVED, _) => self.features.defaults().value(feature, dword11, nsid),
            (select::CAPABILITIES, _) => Features::capabilities(feature),
            _ => Err(Failure::at(Status::INVALID_FIELD, 10, 8)),
        }
    }

    /// Set Features (section 5.21).
    fn set_features(&mut self, command: &SubmissionEntry, context: &mut AdminContext<'_>) -> Result<u32, Failure> {
        let (dword10, value) = (command.dword10.get(), command.dword11.get());
        let (feature, nsid) = (dword10 as u8, command.namespace_id.get());
        Features::capabilities(feature)?;
        if dword10 & SAVE != 0 {
            return Err(Failure::at(Status::FEATURE_NOT_SAVEABLE, 10, 31));
        }
        if feature != id::ERROR_RECOVERY && nsid != 0 && nsid != NSID_ALL {
            context.namespaces.get(nsid)?;
            return Err(Failure::at(Status::FEATURE_NOT_NAMESPACE_SPECIFIC, 1, 0));
        }
        match feature {
            // What was cached before the cache is turned off is made durable.
            id::VOLATILE_WRITE_CACHE if value & 1 == 0 => context.namespaces.flush_all()?,
            id::ASYNC_EVENT_CONFIGURATION => {
                self.events.configure(value);
                self.check_health(context.namespaces);
                return Ok(0);
            }
            _ => {}
        }
        let result = self
            .features
            .set(feature, value, nsid, context.queues.has_io_queues())?;
        if feature == id::TEMPERATURE_THRESHOLD {
            self.check_health(context.namespaces);
        }
        Ok(result)
    }

    /// Critical Warning of the SMART / Health log, as things are.
    fn critical_warning(&self, namespaces: &Namespaces) -> u8 {
        let mut warning = 0;
        if self.features.is_temperature_critical() {
            warning |= CRITICAL_WARNING_TEMPERATURE;
        }
        if namespaces.are_media_read_only() {
            warning |= CRITICAL_WARNING_READ_ONLY;
        }
        warning
    }

    /// Raises the SMART / Health events of the critical warnings that the host wants to know of (section 5.21.1.11).
    fn check_health(&mut self, namespaces: &Namespaces) {
        let warning = self.critical_warning(namespaces);
        if warning & CRITICAL_WARNING_TEMPERATURE != 0 {
            self.events.raise(Event::TemperatureThreshold);
        }
        if warning & CRITICAL_WARNING_READ_ONLY != 0 {
            self.events.raise(Event::ReliabilityDegraded);
        }
    }

    fn log_page(&self, page: u8, namespaces: &Namespaces) -> Result<Vec<u8>, Failure> {
        Ok(match page {
            page_id::ERROR_INFORMATION => self.errors.page(),
            page_id::SMART_HEALTH => {
                let warning = self.critical_warning(namespaces);
                let log = log_page::smart_health(warning, namespaces.counters(), self.errors.count());
                log.as_bytes().to_vec()
            }
            page_id::FIRMWARE_SLOT => log_page::firmware_slot(),
            page_id::CHANGED_NAMESPACES => log_page::changed_namespaces(&self.changed_namespaces),
            page_id::COMMAND_EFFECTS => log_page::command_effects(),
            _ => return Err(Failure::at(Status::INVALID_LOG_PAGE, 10, 0)),
        })
    }

    /// Get Log Page (section 5.14). What is asked for beyond the end of the page reads as zeroes.
    fn get_log_page(&mut self, command: &SubmissionEntry, context: &mut AdminContext<'_>) -> Result<u32, Failure> {
        let dword10 = command.dword10.get();
        let identifier = dword10 as u8;
        let page = self.log_page(identifier, context.namespaces)?;
        // All pages are the controller's; none is kept for each namespace (LPA bit 0).
        if ![0, NSID_ALL].contains(&command.namespace_id.get()) {
            return Err(Failure::at(Status::INVALID_FIELD, 1, 0));
        }
        // NUMD is 0's based: lower half in dword 10, upper half in dword 11.
        let dwords = (u64::from(dword10 >> 16) | u64::from(command.dword11.get() & 0xffff) << 16) + 1;
        let length = dwords * 4;
        if length > MAX_TRANSFER as u64 {
            return Err(Failure::at(Status::INVALID_FIELD, 10, 16));
        }
        let offset = u64::from(command.dword12.get()) | u64::from(command.dword13.get()) << 32;
        if offset % 4 != 0 || offset > page.len() as u64 {
            return Err(Failure::at(Status::INVALID_FIELD, 12, 0));
        }
        let mut data = page[offset as usize..].to_vec();
        data.resize(length as usize, 0);
        context.transfer.send(command, &data)?;
        let retain = dword10 >> 15 & 1 != 0;
        if !retain {
            self.events.log_page_read(identifier);
            if identifier == page_id::CHANGED_NAMESPACES {
                self.changed_namespaces.clear();
            }
        }
        Ok(0)
    }
}

/// Commands about queues.
impl AdminContext<'_> {
    /// Create I/O Completion Queue (section 5.3).
    fn create_completion_queue(&mut self, command: &SubmissionEntry, features: &Features) -> Result<u32, Failure> {
        let dword11 = command.dword11.get();
        let exists = self.queues.completion(command.dword10.get() as u16).is_some();
        let entry_size = self.configuration.completion_entry_size();
        let sizes = (entry_size, COMPLETION_ENTRY_SIZE);
        let queue = self.new_queue(command, exists, features.completion_queues(), sizes)?;
        let vector = (dword11 >> 16) as u16;
        if vector >= self.interrupts.vectors() {
            return Err(Failure::at(Status::INVALID_INTERRUPT_VECTOR, 11, 16));
        }
        let interrupts = dword11 >> 1 & 1 != 0;
        let new = CompletionQueue::new(queue.base, queue.entries, interrupts.then_some(vector));
        self.queues.set_completion(queue.id, Some(new));
        self.doorbells.start(DoorbellOf::Head(queue.id), self.transfer.dma());
        Ok(0)
    }

    /// Create I/O Submission Queue (section 5.4).
    fn create_submission_queue(&mut self, command: &SubmissionEntry, features: &Features) -> Result<u32, Failure> {
        let exists = self.queues.submission(command.dword10.get() as u16).is_some();
        let entry_size = self.configuration.submission_entry_size();
        let sizes = (entry_size, SUBMISSION_ENTRY_SIZE);
        let queue = self.new_queue(command, exists, features.submission_queues(), sizes)?;
        let completion_queue = (command.dword11.get() >> 16) as u16;
        if completion_queue == 0 || completion_queue > features.completion_queues() {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 11, 16));
        }
        if self.queues.completion(completion_queue).is_none() {
            return Err(Failure::at(Status::COMPLETION_QUEUE_INVALID, 11, 16));
        }
        let new = SubmissionQueue::new(queue.base, queue.entries, completion_queue);
        self.queues.set_submission(queue.id, Some(new));
        self.doorbells.start(DoorbellOf::Tail(queue.id), self.transfer.dma());
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
        let length = (u64::from(entries) * entry_size.1) as usize;
        if !self.transfer.dma().contains(base, length) {
            return Err(Failure::at(Status::INVALID_FIELD, 6, 0));
        }
        Ok(NewQueue { id, entries, base })
    }

    /// Delete I/O Completion Queue (section 5.5).
    fn delete_completion_queue(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let id = command.dword10.get() as u16;
        if id == 0 || self.queues.completion(id).is_none() {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 10, 0));
        }
        if self.queues.is_completion_in_use(id) {
            return Err(Failure::at(Status::INVALID_QUEUE_DELETION, 10, 0));
        }
        self.queues.set_completion(id, None);
        Ok(0)
    }

    /// Delete I/O Submission Queue (section 5.6). Every command that was fetched has completed; those that were not are
    /// never fetched.
    fn delete_submission_queue(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let id = command.dword10.get() as u16;
        if id == 0 || self.queues.submission(id).is_none() {
            return Err(Failure::at(Status::INVALID_QUEUE_IDENTIFIER, 10, 0));
        }
        self.queues.set_submission(id, None);
        self.completions.forget_queue(id);
        Ok(0)
    }
}
