//! The controller as a whole: it follows CC (enable, reset, shutdown) and takes commands from the queues in turn.
//!
//! Its parts (life, queues, doorbells, admin commands, I/O commands, namespaces, completions, interrupts) each own
//! their state; the controller passes commands from one to the next. It talks to guest memory, an interrupt sink,
//! backends and its [`RegisterFile`], all injected. It must not know threads, eventfds, PCI or KVM. One thread calls
//! [`process`](StorageController::process); vCPUs touch the register file only.

use std::sync::Arc;
use std::time::Duration;

use super::admin::{Admin, AdminContext};
use super::completion::{self, Answer, Completions};
use super::config::{MAX_NAMESPACES, NvmeConfig, NvmeConfigError};
use super::doorbells::{DoorbellRoute, Doorbells};
use super::faults;
use super::interrupts::QueueInterrupts;
use super::life::{Activity, Life};
use super::namespaces::Namespaces;
use super::nvm::{IoCommands, IoContext};
use super::queues::{self, CommandRequest, Queues};
use super::refusals;
use super::registers::RegisterFile;
use super::spec::command::{CompletionEntry, NSID_ALL, SubmissionEntry, admin, nvm};
use super::spec::registers::Configuration;
use super::spec::status::{Failure, Status};
use super::transfer::Transfer;
use crate::storage::backend::Backend;
use crate::storage::controllers::Observed;
use crate::storage::dma::{DmaMemory, NotMemory};
use crate::storage::fault::{CommandCode, FaultInjector, FetchFault};
use crate::storage::in_flight::{Asked, InFlight};
use crate::storage::interrupts::InterruptSink;
use crate::storage::refusals::Refusals;
use crate::storage::worker::{Attention, Progress, StorageController, Ticket};

/// Commands taken from one queue in its turn, whatever burst the host would like.
const MAX_BURST: u32 = 32;

/// An NVMe controller.
pub struct Controller {
    config: NvmeConfig,
    registers: Arc<RegisterFile>,
    plan: Option<Arc<FaultInjector>>,
    refusals: Arc<Refusals>,
    in_flight: Arc<InFlight>,
    life: Life,
    transfer: Transfer,
    queues: Queues,
    doorbells: Doorbells,
    interrupts: QueueInterrupts,
    completions: Completions,
    admin: Admin,
    io: IoCommands,
    namespaces: Namespaces,
}

impl Controller {
    /// Makes a controller, disabled, with one namespace for each backend (identifiers from 1).
    ///
    /// # Errors
    /// See [`NvmeConfigError`].
    pub fn new(
        config: NvmeConfig,
        memory: Box<dyn DmaMemory>,
        interrupts: Arc<dyn InterruptSink>,
        doorbell_route: Box<dyn DoorbellRoute>,
        backends: Vec<Box<dyn Backend>>,
    ) -> Result<Self, NvmeConfigError> {
        let vectors = config.vectors()?;
        if backends.is_empty() || backends.len() > MAX_NAMESPACES {
            return Err(NvmeConfigError::Namespaces(backends.len()));
        }
        for (nsid, backend) in (1..).zip(&backends) {
            let (length, block_size) = (backend.len(), config.block_size);
            if length == 0 || length % u64::from(block_size) != 0 {
                return Err(NvmeConfigError::OddBackend {
                    nsid,
                    length,
                    block_size,
                });
            }
        }
        let plan = (!config.faults.is_empty()).then(|| Arc::new(FaultInjector::new(&config.faults)));
        let registers = Arc::new(RegisterFile::new(plan.clone(), Arc::clone(&interrupts)));
        let name = format!("nvme{}", config.index);
        let in_flight = Arc::new(InFlight::new(name.clone(), &faults::VOCABULARY));
        InFlight::observe_messages(&in_flight, &*interrupts);
        Ok(Self {
            refusals: Arc::new(Refusals::new(name, &refusals::WORDS)),
            life: Life::new(Arc::clone(&registers)),
            transfer: Transfer::new(memory),
            queues: Queues::new(config.queue_pairs, Arc::clone(&in_flight)),
            doorbells: Doorbells::new(doorbell_route),
            interrupts: QueueInterrupts::new(interrupts, Arc::clone(&registers), vectors),
            completions: Completions::new(plan.clone()),
            admin: Admin::new(config.queue_pairs, backends.len()),
            in_flight,
            io: IoCommands::default(),
            namespaces: Namespaces::new(backends, config.block_size),
            config,
            registers,
            plan,
        })
    }

    /// The registers, for whoever answers the guest's accesses to BAR 0.
    #[must_use]
    pub fn registers(&self) -> Arc<RegisterFile> {
        Arc::clone(&self.registers)
    }

    /// The fault plan at work; none if the plan is empty.
    #[must_use]
    pub fn faults(&self) -> Option<Arc<FaultInjector>> {
        self.plan.clone()
    }

    /// What tells of its work.
    #[must_use]
    pub(crate) fn observed(&self) -> Observed {
        Observed {
            faults: self.plan.clone(),
            refusals: Arc::clone(&self.refusals),
            in_flight: Arc::clone(&self.in_flight),
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // The machine has come to its end.
        self.io.reset();
        self.admin.reset();
    }
}

impl StorageController for Controller {
    fn attention(&self) -> Attention {
        self.registers.attention()
    }

    fn set_bus_master(&mut self, enabled: bool) {
        self.transfer.set_bus_master(enabled);
    }

    /// Acts on what the guest wrote to the registers, then gives each submission queue one turn.
    fn process(&mut self) -> Progress {
        self.take_configuration();
        if !self.life.is_running() || !self.transfer.dma().is_bus_master() {
            return Progress::Idle;
        }
        if self.io.is_busy() {
            self.advance();
            return Progress::Pending;
        }
        self.take_doorbell_registers();
        self.take_shadow_doorbells();
        let mut worked = self.post_due();
        for _ in 0..self.queues.count() {
            let id = self.queues.take_turn();
            worked |= self.serve(id);
            if self.must_stop() {
                return Progress::Pending;
            }
        }
        self.complete_async_events();
        if !worked {
            let (memory, by_pin) = (self.transfer.dma(), self.interrupts.are_by_pin());
            self.doorbells.arm_shadow(&self.queues, memory, by_pin);
            self.take_shadow_doorbells();
        }
        self.interrupts.update(&mut self.queues);
        if worked || self.has_work() {
            Progress::Pending
        } else {
            Progress::Idle
        }
    }

    fn come_to_rest(&mut self) {
        if self.life.is_running() && self.transfer.dma().is_bus_master() {
            self.take_doorbell_registers();
            self.take_shadow_doorbells();
        }
    }

    fn take_delays(&mut self) -> Vec<(Ticket, Duration)> {
        self.completions.take_tickets()
    }

    fn is_delayed(&self, ticket: Ticket) -> bool {
        self.completions.is_delayed(ticket)
    }

    fn release(&mut self, ticket: Ticket) {
        self.completions.release(ticket);
    }
}

/// Its life.
impl Controller {
    /// Carries out what was written to CC: reset, enable, shutdown (sections 3.1.5, 7.3.2 and 7.6.2).
    fn take_configuration(&mut self) {
        let asked = self.life.take_asked();
        if asked.reset {
            self.reset();
        }
        if asked.fatal {
            self.fail();
        }
        if asked.configuration.enabled() && self.life.activity() == Activity::Disabled {
            self.enable(asked.configuration);
        }
        if self.life.take_shutdown() {
            self.shut_down();
        }
    }

    /// Controller Reset: CC.EN went from 1 to 0 (section 7.3.2), where AQA, ASQ and ACQ keep their values; or NVM
    /// Subsystem Reset (section 7.3.1), which has cleared them. Logs and media survive, all else is as after power on.
    fn reset(&mut self) {
        // What the host has taken is not cut off.
        self.take_last_doorbells();
        self.io.reset();
        self.admin.reset();
        self.queues.reset();
        self.completions.reset();
        // Before CSTS.RDY is 0: the guest may enable the controller and ring doorbells right after.
        self.doorbells.reset();
        self.life.reset();
    }

    /// Takes the doorbells for the last time. Nobody is told of a value that makes no sense now.
    fn take_last_doorbells(&mut self) {
        self.doorbells.take_registers(&self.registers, &mut self.queues, |_| {});
        self.doorbells
            .take_shadow(&mut self.queues, self.transfer.dma(), |_| {});
    }

    /// A fatal error: only a reset helps.
    fn fail(&mut self) {
        self.life.fail();
        self.in_flight.failed();
    }

    /// CC.EN went from 0 to 1: starts the admin queues (section 7.6.1).
    fn enable(&mut self, configuration: Configuration) {
        let Some((submission, completion)) = self.life.admin_queues(configuration, self.transfer.dma()) else {
            return self.fail();
        };
        self.queues.set_submission(0, Some(submission));
        self.queues.set_completion(0, Some(completion));
        self.life.start();
    }

    /// Shutdown (section 7.6.2): everything becomes durable, and nothing is fetched until the next reset.
    fn shut_down(&mut self) {
        // The host may give the memory of the doorbells back from here on.
        self.take_last_doorbells();
        if let Err(status) = self.namespaces.flush_all() {
            tracing::warn!(?status, "NVMe shutdown could not make everything durable");
        }
        self.life.shut_down();
    }
}

/// The round over the queues.
impl Controller {
    /// Whether nothing more may be fetched in this call of [`process`](StorageController::process).
    fn must_stop(&self) -> bool {
        self.registers.wants_attention() || !self.life.is_running() || self.io.is_busy()
    }

    /// Whether a queue has both a command to fetch and room for its completion, or a completion can be posted.
    fn has_work(&self) -> bool {
        if self.completions.is_posting_due(&self.queues) {
            return true;
        }
        let is_event_due = || self.admin.events().is_completion_due() && self.queues.has_room(0);
        !self.completions.is_full() && (self.queues.is_any_ready() || is_event_due())
    }

    pub(super) fn take_doorbell_registers(&mut self) {
        let wrong = |error| self.admin.doorbell_failed(error);
        self.doorbells.take_registers(&self.registers, &mut self.queues, wrong);
    }

    fn take_shadow_doorbells(&mut self) {
        let wrong = |error| self.admin.doorbell_failed(error);
        let memory = self.transfer.dma();
        self.doorbells.take_shadow(&mut self.queues, memory, wrong);
    }

    /// Gives a submission queue its turn. Returns whether a command was fetched.
    fn serve(&mut self, id: u16) -> bool {
        let burst = self.admin.features().arbitration_burst().min(MAX_BURST);
        let mut completion_queue = None;
        for _ in 0..burst {
            // A command may have deleted the queue that the next one would come from.
            let Some(target) = self.queues.ready(id).filter(|_| !self.completions.is_full()) else {
                break;
            };
            completion_queue = Some(target);
            self.serve_one(id);
            if self.must_stop() {
                break;
            }
        }
        if let Some(completion_queue) = completion_queue {
            self.interrupts.signal(&mut self.queues, completion_queue);
        }
        completion_queue.is_some()
    }

    /// Fetches a command, executes it and posts its completion; the controller fails if the queue memory does.
    fn serve_one(&mut self, id: u16) {
        let request = match self.queues.fetch(id, self.transfer.dma()) {
            Some(Ok(request)) => request,
            Some(Err(NotMemory)) => return self.fail(),
            None => return,
        };
        let command = request.command();
        let code = faults::code(id, command.entry.opcode);
        let nsid = command.entry.namespace_id.get();
        if let Some(asked) = asked(&command.entry, code) {
            self.in_flight
                .fetched(queues::name_of(id, command.entry.command_id.get()), asked);
        }
        let for_disk = id != 0 && self.namespaces.has_named(nsid);
        let plan = self.plan.as_deref();
        let answer = match plan.and_then(|plan| plan.command_fetched(code, for_disk)) {
            Some(FetchFault::Fatal) => {
                request.abandon();
                return self.fail();
            }
            Some(FetchFault::Fail(bits)) => {
                let failure = self.failed_on_purpose(faults::status(bits));
                Some(Answer {
                    is_planned: true,
                    ..Answer::new(request, Err(failure))
                })
            }
            Some(FetchFault::ReadOnly) => {
                self.make_read_only(nsid);
                self.execute(request)
            }
            // That a disk goes is none of this controller's kinds.
            Some(FetchFault::Remove(_)) | None => self.execute(request),
        };
        if let Some(answer) = answer {
            self.post_answer(answer);
        }
    }

    /// The failure of a command that the fault plan has fail: counted and logged as a real one is.
    fn failed_on_purpose(&mut self, status: Status) -> Failure {
        if status.is_media_error() {
            self.namespaces.count_media_error();
        }
        status.into()
    }

    /// The medium of a namespace, or of each (FFFFFFFFh), becomes read-only, for good. Nothing happens if there is no such
    /// namespace.
    pub(super) fn make_read_only(&mut self, named: u32) {
        for nsid in self.namespaces.named(named) {
            if self.namespaces.make_read_only(nsid) {
                self.admin.medium_changed(nsid, &self.namespaces);
            }
        }
    }

    /// Executes a fetched command. `None`: it completes later.
    fn execute(&mut self, request: CommandRequest) -> Option<Answer> {
        let command = request.command();
        tracing::trace!(
            queue = command.queue,
            opcode = command.entry.opcode,
            id = command.entry.command_id.get(),
            "NVMe command"
        );
        if command.queue != 0 {
            let (io, mut context) = self.io();
            return io.execute(request, &mut context);
        }
        let configuration = self.life.configuration();
        let mut context = AdminContext {
            config: &self.config,
            configuration,
            queues: &mut self.queues,
            doorbells: &mut self.doorbells,
            completions: &mut self.completions,
            interrupts: &self.interrupts,
            namespaces: &mut self.namespaces,
            transfer: &mut self.transfer,
        };
        self.admin.execute(request, &mut context)
    }

    fn io(&mut self) -> (&mut IoCommands, IoContext<'_>) {
        let context = IoContext {
            namespaces: &mut self.namespaces,
            transfer: &mut self.transfer,
            write_cache: self.admin.features().has_write_cache(),
        };
        (&mut self.io, context)
    }

    /// Does one piece of the command in hand, and completes it after the last one.
    fn advance(&mut self) {
        let (io, mut context) = self.io();
        let answer = io.advance(&mut context);
        if let Some(completion_queue) = answer.and_then(|answer| self.post_answer(answer)) {
            self.interrupts.signal(&mut self.queues, completion_queue);
        }
    }

    /// Posts the completion of a command. Returns the completion queue.
    fn post_answer(&mut self, answer: Answer) -> Option<u16> {
        let Answer {
            request,
            result,
            is_planned,
        } = answer;
        let Some(queue) = self.queues.submission(request.command().queue) else {
            request.abandon();
            return None;
        };
        let completion_queue = queue.completion_queue;
        let (dword0, status) = match result {
            Ok(dword0) => (dword0, Status::SUCCESS),
            Err(failure) => {
                let command = request.command();
                self.admin.command_failed(command, failure);
                if !is_planned {
                    refusals::count(&self.refusals, command.queue, &command.entry, failure);
                }
                (0, failure.status.with_more())
            }
        };
        let opcode = request.command().entry.opcode;
        let entry = completion::entry(&request, dword0, status);
        request.complete();
        self.finish(completion_queue, opcode, entry);
        Some(completion_queue)
    }

    /// Hands a completion over. `false`: the queue memory failed.
    fn finish(&mut self, queue: u16, opcode: u8, entry: CompletionEntry) -> bool {
        let (memory, held) = (self.transfer.dma(), self.admin.events().held_ids());
        let completion = (queue, opcode, entry);
        let result = self.completions.finish(completion, &mut self.queues, memory, held);
        if result.is_err() {
            self.fail();
        }
        result.is_ok()
    }

    /// Posts what waits for nothing but room. Returns whether anything was posted.
    fn post_due(&mut self) -> bool {
        let (mut posted, mut failed) = (false, false);
        let memory = self.transfer.dma();
        self.completions
            .post_due(&mut self.queues, memory, |queues, queue, result| {
                posted |= result.is_ok();
                failed |= result.is_err();
                self.interrupts.signal(queues, queue);
            });
        if failed {
            self.fail();
        }
        posted
    }

    /// Completes held Asynchronous Event Requests for which there is an event, as far as there is room.
    fn complete_async_events(&mut self) {
        while self.queues.has_room(0) && !self.completions.is_full() {
            let Some((request, dword0, status)) = self.admin.events_mut().next_completion() else {
                break;
            };
            let entry = completion::entry(&request, dword0, status);
            request.complete();
            if !self.finish(0, admin::ASYNC_EVENT_REQUEST, entry) {
                break;
            }
        }
        self.interrupts.signal(&mut self.queues, 0);
    }
}

/// What a command asks for; `None` for an Asynchronous Event Request, which is meant to stay outstanding.
fn asked(entry: &SubmissionEntry, code: CommandCode) -> Option<Asked> {
    let of_admin = code == faults::code(0, entry.opcode);
    if of_admin && entry.opcode == admin::ASYNC_EVENT_REQUEST {
        return None;
    }
    let blocks = || (entry.starting_lba(), (entry.dword12.get() & 0xffff) + 1);
    let nsid = entry.namespace_id.get();
    Some(Asked {
        command: code,
        disk: (nsid != 0 && nsid != NSID_ALL).then_some(nsid),
        blocks: (!of_admin && nvm::WITH_LBA.contains(&entry.opcode)).then(blocks),
    })
}

/// What tests look at.
#[cfg(test)]
impl Controller {
    pub(super) fn activity(&self) -> Activity {
        self.life.activity()
    }

    pub(super) fn queues(&mut self) -> &mut Queues {
        &mut self.queues
    }

    pub(super) fn admin(&self) -> &Admin {
        &self.admin
    }

    pub(super) fn completions(&self) -> &Completions {
        &self.completions
    }

    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(super) fn is_busy(&self) -> bool {
        self.io.is_busy()
    }

    pub(super) fn replace_memory(&mut self, memory: Box<dyn DmaMemory>) {
        self.transfer.replace_memory(memory);
    }

    /// What is remembered besides registers and what backends and counters keep.
    pub(super) fn memory(&self) -> String {
        let Self {
            life,
            queues,
            doorbells,
            completions,
            admin,
            io,
            ..
        } = self;
        let shadow = doorbells.has_shadow();
        format!(
            "{:?} {queues:?} {shadow:?} {completions:?} {admin:?} {io:?}",
            life.activity()
        )
    }
}
