//! The controller: its life (enable, reset, shutdown), the round over the queues, and completions.
//!
//! It talks to guest memory, an interrupt sink, backends and its [`RegisterFile`], all injected. It must not know
//! threads, eventfds, PCI or KVM. One thread calls [`process`](StorageController::process); vCPUs touch the register file only.

use std::sync::Arc;
use std::time::Duration;

use super::config::{ConfigError, ControllerConfig, MAX_NAMESPACES};
use super::faults;
use super::prp;
use super::registers::RegisterFile;
use super::rings::{CompletionQueue, SubmissionQueue};
use super::spec::command::{COMPLETION_ENTRY_SIZE, SUBMISSION_ENTRY_SIZE};
use super::spec::command::{CompletionEntry, SubmissionEntry};
use super::spec::log_page::ErrorEntry;
use super::spec::registers::{
    Configuration, FATAL, READY, SHUTDOWN_COMPLETE, SHUTDOWN_OCCURRING, SUBSYSTEM_RESET_OCCURRED, aqa,
};
use super::spec::status::{Failure, Status};
use super::state::{Activity, ControllerState};
use crate::storage::backend::Backend;
use crate::storage::dma::{Dma, DmaMemory};
use crate::storage::fault::{FaultInjector, FetchFault};
use crate::storage::interrupts::InterruptSink;
use crate::storage::segments::Segment;
use crate::storage::worker::{Attention, Progress, StorageController, Ticket};

/// Who is told whether doorbell registers of I/O queues still carry a value that matters.
pub trait DoorbellRoute: Send {
    /// `true`: a write is only a nudge from now on, its value may be lost. `false`: the value matters again. Called
    /// before the guest can learn of the change.
    fn use_shadow(&mut self, active: bool);
}

/// For controllers whose doorbell writes always arrive with their value.
impl DoorbellRoute for () {
    fn use_shadow(&mut self, _active: bool) {}
}

/// Commands taken from one queue in its turn, whatever burst the host would like.
const MAX_BURST: u32 = 32;

/// A namespace and what keeps its data.
pub(super) struct Namespace {
    pub(super) backend: Box<dyn Backend>,
    block_shift: u32,
}

impl Namespace {
    /// Logical blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.backend.len() >> self.block_shift
    }

    /// log2 of the logical block size in bytes.
    pub(super) fn block_shift(&self) -> u32 {
        self.block_shift
    }
}

/// An NVMe controller.
pub struct Controller {
    pub(super) config: ControllerConfig,
    pub(super) memory: Dma,
    pub(super) interrupts: Arc<dyn InterruptSink>,
    pub(super) doorbell_route: Box<dyn DoorbellRoute>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) registers: Arc<RegisterFile>,
    pub(super) faults: Option<Arc<FaultInjector>>,
    pub(super) state: ControllerState,
    // Room that is kept between commands; without meaning from one to the next.
    pub(super) buffer: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    pub(super) written_doorbells: Vec<(usize, u16)>,
}

impl Controller {
    /// Makes a controller, disabled, with one namespace for each backend (identifiers from 1).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(
        config: ControllerConfig,
        memory: Box<dyn DmaMemory>,
        interrupts: Arc<dyn InterruptSink>,
        doorbell_route: Box<dyn DoorbellRoute>,
        backends: Vec<Box<dyn Backend>>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if backends.is_empty() || backends.len() > MAX_NAMESPACES {
            return Err(ConfigError::Namespaces(backends.len()));
        }
        for (nsid, backend) in (1..).zip(&backends) {
            let (length, block_size) = (backend.len(), config.block_size);
            if length == 0 || length % u64::from(block_size) != 0 {
                return Err(ConfigError::OddBackend {
                    nsid,
                    length,
                    block_size,
                });
            }
        }
        let block_shift = config.block_size.trailing_zeros();
        let namespaces = backends
            .into_iter()
            .map(|backend| Namespace { backend, block_shift })
            .collect::<Vec<_>>();
        let faults = (!config.faults.is_empty()).then(|| Arc::new(FaultInjector::new(&config.faults)));
        Ok(Self {
            state: ControllerState::new(config.queue_pairs, namespaces.len()),
            config,
            memory: Dma::new(memory),
            registers: Arc::new(RegisterFile::new(faults.clone(), Arc::clone(&interrupts))),
            interrupts,
            doorbell_route,
            namespaces,
            faults,
            buffer: Vec::new(),
            segments: Vec::new(),
            written_doorbells: Vec::new(),
        })
    }

    /// The registers, for whoever answers the guest's accesses to BAR 0.
    #[must_use]
    pub fn registers(&self) -> Arc<RegisterFile> {
        Arc::clone(&self.registers)
    }

    /// The state besides the registers.
    #[must_use]
    pub fn state(&self) -> &ControllerState {
        &self.state
    }

    /// The fault plan at work; none if the plan is empty.
    #[must_use]
    pub fn faults(&self) -> Option<Arc<FaultInjector>> {
        self.faults.clone()
    }

    pub(super) fn configuration(&self) -> Configuration {
        self.registers.lock().configuration
    }
}

impl StorageController for Controller {
    fn attention(&self) -> Attention {
        self.registers.attention()
    }

    fn set_bus_master(&mut self, enabled: bool) {
        self.memory.set_bus_master(enabled);
    }

    /// Acts on what the guest wrote to the registers, then gives each submission queue one turn.
    fn process(&mut self) -> Progress {
        self.take_configuration();
        if self.state.activity != Activity::Running || !self.memory.is_bus_master() {
            return Progress::Idle;
        }
        if self.advance() {
            return Progress::Pending;
        }
        self.take_doorbell_registers();
        self.take_shadow_doorbells();
        let mut worked = self.post_due();
        for _ in 0..self.state.submission_queues.len() {
            let id = self.state.next_queue;
            self.state.next_queue = (id + 1) % self.state.submission_queues.len();
            worked |= self.serve(id as u16);
            if self.must_stop() {
                return Progress::Pending;
            }
        }
        self.complete_async_events();
        if !worked {
            self.arm_shadow_doorbells();
        }
        self.update_interrupts();
        if worked || self.has_work() {
            Progress::Pending
        } else {
            Progress::Idle
        }
    }

    fn take_delays(&mut self) -> Vec<(Ticket, Duration)> {
        std::mem::take(&mut self.state.withheld.new_tickets)
    }

    fn is_delayed(&self, ticket: Ticket) -> bool {
        self.state.withheld.delayed.contains_key(&ticket)
    }

    fn release(&mut self, ticket: Ticket) {
        self.state.withheld.release(ticket);
    }
}

impl Controller {
    /// Whether nothing more may be fetched in this call of [`process`](StorageController::process).
    fn must_stop(&self) -> bool {
        self.registers.wants_attention() || self.state.activity != Activity::Running || self.state.in_hand.is_some()
    }

    /// Whether a queue has both a command to fetch and room for its completion, or a completion can be posted.
    fn has_work(&self) -> bool {
        if self.is_posting_due() {
            return true;
        }
        let mut queues = self.state.submission_queues.iter().flatten();
        !self.state.withheld.is_full()
            && (queues.any(|queue| !queue.is_empty() && self.has_room(queue.completion_queue))
                || (self.state.events.is_completion_due() && self.has_room(0)))
    }

    /// Carries out what was written to CC: reset, enable, shutdown (sections 3.1.5, 7.3.2 and 7.6.2).
    fn take_configuration(&mut self) {
        let (reset, configuration, fatal) = {
            let mut registers = self.registers.lock();
            let fatal = std::mem::take(&mut registers.fatal_pending);
            (registers.reset_pending, registers.configuration, fatal)
        };
        if reset {
            self.reset();
        }
        if fatal {
            self.fail();
        }
        if configuration.enabled() && self.state.activity == Activity::Disabled {
            self.enable(configuration);
        }
        let shutdown = {
            let mut registers = self.registers.lock();
            let shutdown = std::mem::take(&mut registers.shutdown_pending);
            if shutdown {
                registers.set_shutdown_status(SHUTDOWN_OCCURRING);
            }
            shutdown
        };
        if shutdown {
            self.shut_down();
        }
    }

    /// Controller Reset: CC.EN went from 1 to 0 (section 7.3.2), where AQA, ASQ and ACQ keep their values; or NVM
    /// Subsystem Reset (section 7.3.1), which has cleared them.
    fn reset(&mut self) {
        self.state.reset();
        // Before CSTS.RDY is 0: the guest may enable the controller and ring doorbells right after.
        self.doorbell_route.use_shadow(false);
        let mut registers = self.registers.lock();
        registers.status &= SUBSYSTEM_RESET_OCCURRED;
        if std::mem::take(&mut registers.subsystem_reset_pending) {
            registers.status = SUBSYSTEM_RESET_OCCURRED;
        }
        registers.reset_pending = false;
    }

    /// CC.EN went from 0 to 1: checks the configuration and starts the admin queues (section 7.6.1).
    fn enable(&mut self, configuration: Configuration) {
        let (attributes, submission_base, completion_base) = {
            let registers = self.registers.lock();
            (
                registers.admin_queue_attributes,
                registers.admin_submission_queue,
                registers.admin_completion_queue,
            )
        };
        // Both sizes are 0's based; a queue has two entries or more.
        let submission_entries = aqa::submission_entries(attributes);
        let completion_entries = aqa::completion_entries(attributes);
        let fits = |base: u64, entries: u32, size: u64| {
            entries >= 2 && self.memory.contains(base, (u64::from(entries) * size) as usize)
        };
        let usable = configuration.command_set() == 0
            && configuration.memory_page_size() == 0
            && configuration.arbitration() == 0
            && fits(submission_base, submission_entries, SUBMISSION_ENTRY_SIZE)
            && fits(completion_base, completion_entries, COMPLETION_ENTRY_SIZE);
        if !usable {
            tracing::warn!(
                ?configuration,
                attributes,
                submission_base,
                completion_base,
                "NVMe controller cannot be enabled"
            );
            self.fail();
            return;
        }
        self.state.submission_queues[0] = Some(SubmissionQueue::new(submission_base, submission_entries, 0));
        self.state.completion_queues[0] = Some(CompletionQueue::new(completion_base, completion_entries, Some(0)));
        self.state.activity = Activity::Running;
        self.registers.lock().status |= READY;
    }

    /// Shutdown (section 7.6.2): everything becomes durable, and nothing is fetched until the next reset.
    fn shut_down(&mut self) {
        if let Err(status) = self.flush_all() {
            tracing::warn!(?status, "NVMe shutdown could not make everything durable");
        }
        if self.state.activity == Activity::Running {
            self.state.activity = Activity::ShutDown;
        }
        self.registers.lock().set_shutdown_status(SHUTDOWN_COMPLETE);
    }

    /// Controller Fatal Status (section 9.5): a queue cannot be used; only a reset helps.
    pub(super) fn fail(&mut self) {
        self.state.activity = Activity::Fatal;
        self.registers.lock().status |= FATAL;
    }

    /// Gives a submission queue its turn. Returns whether a command was fetched.
    fn serve(&mut self, id: u16) -> bool {
        let burst = self.state.features.arbitration_burst().min(MAX_BURST);
        let mut completion_queue = None;
        for _ in 0..burst {
            // A command may have deleted the queue that the next one would come from.
            let Some(queue) = self.state.submission_queue(id) else {
                break;
            };
            let target = queue.completion_queue;
            if queue.is_empty() || !self.has_room(target) || self.state.withheld.is_full() {
                break;
            }
            completion_queue = Some(target);
            self.serve_one(id);
            if self.must_stop() {
                break;
            }
        }
        if let Some(completion_queue) = completion_queue {
            self.signal(completion_queue);
        }
        completion_queue.is_some()
    }

    /// Fetches a command, executes it and posts its completion; the controller fails if the queue memory does.
    fn serve_one(&mut self, id: u16) {
        let Some(queue) = self.state.submission_queues[usize::from(id)].as_mut() else {
            return;
        };
        let Ok(command) = queue.fetch(&self.memory) else {
            return self.fail();
        };
        let result = match self.fetch_fault(id, &command) {
            Some(FetchFault::Fatal) => return self.fail(),
            Some(FetchFault::Fail(status)) => Err(self.failed_on_purpose(faults::status(status))),
            Some(FetchFault::ReadOnly) => {
                self.make_read_only(command.namespace_id.get());
                self.execute(id, &command)
            }
            None => self.execute(id, &command),
        };
        if let Some(result) = result.transpose() {
            self.post_result(id, &command, result);
        }
    }

    /// Completes a command that was in hand, and interrupts.
    pub(super) fn complete(&mut self, id: u16, command: &SubmissionEntry, result: Result<u32, Failure>) {
        if let Some(completion_queue) = self.post_result(id, command, result) {
            self.signal(completion_queue);
        }
    }

    /// Posts the completion of a command of submission queue `id`. Returns the completion queue.
    fn post_result(&mut self, id: u16, command: &SubmissionEntry, result: Result<u32, Failure>) -> Option<u16> {
        let completion_queue = self.state.submission_queue(id)?.completion_queue;
        let (dword0, status) = match result {
            Ok(dword0) => (dword0, Status::SUCCESS),
            Err(failure) => {
                self.state.error_log.push(ErrorEntry::of_command(id, command, failure));
                (0, failure.status.with_more())
            }
        };
        let entry = CompletionEntry {
            dword0: dword0.into(),
            submission_id: id.into(),
            command_id: command.command_id,
            status: status.with_phase(false).into(),
            ..CompletionEntry::default()
        };
        self.finish(completion_queue, command.opcode, entry);
        Some(completion_queue)
    }

    fn fetch_fault(&self, queue: u16, command: &SubmissionEntry) -> Option<FetchFault> {
        let plan = self.faults.as_deref()?;
        plan.command_fetched(faults::code(queue, command.opcode))
    }

    /// The failure of a command that the fault plan has fail: counted and logged as a real one is.
    fn failed_on_purpose(&mut self, status: Status) -> Failure {
        if status.is_media_error() {
            self.state.counters.media_errors += 1;
        }
        status.into()
    }

    /// Executes a fetched command. `Ok(None)`: it completes later.
    fn execute(&mut self, queue: u16, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
        tracing::trace!(
            queue,
            opcode = command.opcode,
            id = command.command_id.get(),
            "NVMe command"
        );
        if queue == 0 {
            self.execute_admin(command)
        } else {
            self.execute_nvm(queue, command)
        }
    }

    /// The namespace of that identifier and its index.
    pub(super) fn namespace(&self, nsid: u32) -> Result<(usize, &Namespace), Failure> {
        let index = (nsid as usize).checked_sub(1);
        index
            .and_then(|index| Some((index, self.namespaces.get(index)?)))
            .ok_or(Failure::at(Status::INVALID_NAMESPACE_OR_FORMAT, 1, 0))
    }

    /// Whether the namespace with that index cannot be written.
    pub(super) fn is_read_only(&self, index: usize) -> bool {
        self.namespaces[index].backend.is_read_only() || self.state.media[index].read_only
    }

    /// Transfers `data` to where the command wants it.
    pub(super) fn send(&mut self, command: &SubmissionEntry, data: &[u8]) -> Result<(), Failure> {
        self.find_segments(command, data.len())?;
        let sent = self.memory.scatter(&self.segments, data);
        Ok(sent.map_err(|_| Status::DATA_TRANSFER_ERROR)?)
    }

    /// Transfers `length` bytes from where the command has them into the controller's buffer, which is handed out; the
    /// caller gives it back by assigning `self.buffer`.
    pub(super) fn receive(&mut self, command: &SubmissionEntry, length: usize) -> Result<Vec<u8>, Failure> {
        self.find_segments(command, length)?;
        let mut data = std::mem::take(&mut self.buffer);
        data.resize(length, 0);
        let received = self.memory.gather(&self.segments, &mut data);
        received.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        Ok(data)
    }

    pub(super) fn find_segments(&mut self, command: &SubmissionEntry, length: usize) -> Result<(), Failure> {
        let (prp1, prp2) = (command.prp1.get(), command.prp2.get());
        prp::walk(&self.memory, prp1, prp2, length, &mut self.segments).map_err(|status| {
            if status == Status::PRP_OFFSET_INVALID {
                Failure::at(status, 6, 0)
            } else {
                status.into()
            }
        })
    }
}
