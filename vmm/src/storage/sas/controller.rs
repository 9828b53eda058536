//! The controller as a whole: it follows resets and takes messages from the doorbell and the request FIFO.
//!
//! Its parts (life, handshakes, IOC, events, configuration pages, disks, replies) and the tickets each own their state; the
//! controller passes messages from one to the next. It talks to guest memory, an interrupt sink, disks and its
//! [`RegisterFile`], all injected. It must not know threads, eventfds, PCI or KVM. One thread calls
//! [`process`](StorageController::process); vCPUs touch the register file only.

use std::sync::Arc;
use std::time::Duration;

use super::config::{SasConfig, SasConfigError};
use super::config_pages::ConfigPages;
use super::disks::Disks;
use super::events::Events;
use super::faults;
use super::handshake::Handshakes;
use super::ioc::Ioc;
use super::life::Life;
use super::message::{FRAME_SIZE, Frame, Reply};
use super::page_content::PageContents;
use super::refusals;
use super::registers::{RegisterFile, Reset};
use super::replies::{Answer, Replies};
use super::scsi_io::ScsiIo;
use super::spec::{fault, function, ioc_status};
use super::task_management::Tasks;
use crate::storage::backend::Backend;
use crate::storage::controllers::Observed;
use crate::storage::dma::{Dma, DmaMemory};
use crate::storage::fault::{FaultInjector, FetchFault};
use crate::storage::in_flight::{Asked, InFlight, RequestId};
use crate::storage::interrupts::InterruptSink;
use crate::storage::refusals::Refusals;
use crate::storage::request::Request;
use crate::storage::scsi;
use crate::storage::tickets::Tickets;
use crate::storage::worker::{Attention, Progress, StorageController, Ticket};

/// Requests that one call of [`process`](StorageController::process) serves.
const BURST: usize = 32;

/// A SAS controller.
pub struct Controller {
    config: SasConfig,
    registers: Arc<RegisterFile>,
    plan: Option<Arc<FaultInjector>>,
    refusals: Arc<Refusals>,
    in_flight: Arc<InFlight>,
    dma: Dma,
    life: Life,
    handshakes: Handshakes,
    ioc: Ioc,
    events: Events,
    pages: ConfigPages,
    disks: Disks,
    replies: Replies,
    tickets: Tickets,
}

impl Controller {
    /// Makes a controller with a disk on each backend.
    ///
    /// # Errors
    /// See [`SasConfigError`].
    pub fn new(
        config: SasConfig,
        memory: Box<dyn DmaMemory>,
        interrupts: Arc<dyn InterruptSink>,
        backends: Vec<Box<dyn Backend>>,
    ) -> Result<Self, SasConfigError> {
        let disks = Disks::new(&config, backends)?;
        let plan = (!config.faults.is_empty()).then(|| Arc::new(FaultInjector::new(&config.faults)));
        let name = format!("sas{}", config.index);
        let in_flight = Arc::new(InFlight::new(name.clone(), &faults::VOCABULARY));
        InFlight::observe_messages(&in_flight, &*interrupts);
        let registers = RegisterFile::new(plan.clone(), interrupts, Attention::default(), Arc::clone(&in_flight));
        let registers = Arc::new(registers);
        Ok(Self {
            refusals: Arc::new(Refusals::new(name, &refusals::WORDS)),
            config,
            dma: Dma::new(memory),
            life: Life::new(Arc::clone(&registers)),
            handshakes: Handshakes::new(Arc::clone(&registers)),
            ioc: Ioc::new(Arc::clone(&registers), disks.limit()),
            events: Events::default(),
            pages: ConfigPages::default(),
            disks,
            replies: Replies::new(Arc::clone(&registers), plan.clone()),
            in_flight,
            tickets: Tickets::default(),
            registers,
            plan,
        })
    }

    /// The registers, for whoever answers the guest's accesses.
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

    /// The events.
    #[cfg(test)]
    pub(super) fn events(&mut self) -> &mut Events {
        &mut self.events
    }
}

impl StorageController for Controller {
    fn attention(&self) -> Attention {
        self.registers.attention()
    }

    fn set_bus_master(&mut self, enabled: bool) {
        self.dma.set_bus_master(enabled);
    }

    /// Acts on resets, a handshake and requests, then tells events.
    fn process(&mut self) -> Progress {
        self.take_reset();
        self.take_handshake();
        let operational = self.life.is_operational();
        if !self.dma.is_bus_master() || !operational {
            return Progress::Idle;
        }
        for _ in 0..BURST {
            if !self.flush_replies() {
                return Progress::Idle;
            }
            if self.registers.attention().is_wanted() {
                return Progress::Pending;
            }
            let only_urgent = self.replies.has_no_credit();
            let Some(descriptor) = self.registers.lock().next_request(only_urgent) else {
                break;
            };
            self.serve(descriptor);
        }
        self.tell_events();
        let only_urgent = self.replies.has_no_credit();
        if self.flush_replies() && self.registers.lock().has_requests(only_urgent) {
            Progress::Pending
        } else {
            Progress::Idle
        }
    }

    fn take_delays(&mut self) -> Vec<(Ticket, Duration)> {
        self.tickets.take()
    }

    fn is_delayed(&self, ticket: Ticket) -> bool {
        self.replies.is_withheld(ticket) || self.disks.is_awaited(ticket)
    }

    fn release(&mut self, ticket: Ticket) {
        self.replies.release(ticket);
        if let Some(disk) = self.disks.bring_back(ticket) {
            self.events.tell_of_disk(disk, self.config.disk_address(disk), true);
        }
    }
}

impl Controller {
    /// Carries out a reset that the host has asked for. Which disks are there survives, and when they come back; what was
    /// written to pages does unless the reset is a hard one.
    fn take_reset(&mut self) {
        let Some(reset) = self.life.asked_reset() else {
            return;
        };
        self.in_flight.reset();
        self.ioc.reset();
        self.events.reset();
        self.replies.reset();
        if reset > Reset::MessageUnit {
            self.disks.reset_all();
        }
        if reset == Reset::Hard {
            self.pages.reset();
        }
        self.life.finish_reset(reset);
    }

    /// Executes the message of a handshake that is complete. It waits while so many replies wait for the host that one
    /// more, which SCSI I/O by the doorbell has in the FIFO, would make them grow for ever.
    fn take_handshake(&mut self) {
        if self.replies.is_full() {
            self.flush_replies();
            if self.replies.is_full() {
                return;
            }
        }
        let Some(frame) = self.handshakes.take() else {
            return;
        };
        let waiting = self.replies.waiting();
        let executed = self.execute_or_fail(&frame);
        if let Some(answer) = self.handshakes.answer(&frame, executed) {
            self.replies.queue(answer);
        }
        if self.replies.waiting() > waiting {
            self.flush_replies();
        }
    }

    /// Fetches a request, executes it and posts what answers it.
    fn serve(&mut self, descriptor: u32) {
        let mut bytes = [0; FRAME_SIZE];
        let address = self.ioc.initialisation().frame_address(descriptor);
        if self.dma.read(address, &mut bytes).is_err() {
            return self.life.fail(fault::REQUEST_MESSAGE_PCI_BUS_FAULT);
        }
        let request = Request::new(Frame::new(&bytes));
        let frame = *request.command();
        let asked = asked(&frame, self.disks.addressed(&frame));
        self.in_flight.fetched(
            RequestId {
                queue: 0,
                id: frame.context(),
            },
            asked,
        );
        match self.execute_or_fail(&frame) {
            Ok(answer) => {
                let disk = self.disks.addressed(&frame);
                self.replies.finish(&frame, disk, answer, &mut self.tickets);
                request.complete();
            }
            Err(code) => {
                self.life.fail(code);
                request.abandon();
            }
        }
        self.flush_replies();
    }

    /// Posts replies, as far as there is room. `false`: some wait for the host, if only for bus mastering.
    fn flush_replies(&mut self) -> bool {
        if !self.dma.is_bus_master() {
            return self.replies.waiting() == 0;
        }
        self.replies.flush(&self.dma, self.ioc.initialisation())
    }

    /// Tells events, as far as there is room.
    pub(super) fn tell_events(&mut self) {
        while self.replies.waiting() == 0 {
            let Some(reply) = self.events.next() else {
                return;
            };
            self.replies.queue(reply.into());
            self.flush_replies();
        }
    }

    /// Executes a request, unless the fault plan says otherwise.
    ///
    /// # Errors
    /// It was the last one: the code with which the IOC comes into FAULT state.
    fn execute_or_fail(&mut self, frame: &Frame) -> Result<Answer, u16> {
        let code = faults::code(frame);
        let disk = self.disks.addressed(frame);
        let planned = self.plan.as_ref();
        match planned.and_then(|plan| plan.command_fetched(code, disk.is_some())) {
            Some(FetchFault::Fail(status)) => {
                let status = faults::FaultStatus::decode(status);
                return Ok(self.scsi_io().fail(frame, status));
            }
            Some(FetchFault::Fatal) => return Err(fault::INJECTED),
            Some(FetchFault::Remove(back)) => {
                if let Some(disk) = disk {
                    self.remove_disk(disk, back);
                }
            }
            // A medium that becomes read-only is none of this controller's kinds.
            Some(FetchFault::ReadOnly) | None => {}
        }
        Ok(self.execute(frame))
    }

    fn execute(&mut self, frame: &Frame) -> Answer {
        let reply = match frame.function() {
            function::SCSI_IO_REQUEST => return self.scsi_io().execute(frame),
            function::SCSI_TASK_MGMT => self.tasks().manage(frame),
            function::IOC_INIT => self.ioc.initialise(frame),
            function::IOC_FACTS => self.ioc.facts(frame, self.events.are_listened_to()),
            function::PORT_FACTS => self.ioc.port_facts(frame),
            function::PORT_ENABLE => self.ioc.port_enable(frame),
            function::CONFIG => {
                let contents = PageContents {
                    config: &self.config,
                    disks: &self.disks,
                };
                self.pages.execute(frame, &contents, &self.dma)
            }
            function::EVENT_NOTIFICATION => self.events.notification(frame),
            function::EVENT_ACK => Events::acknowledge(frame),
            function::SAS_IO_UNIT_CONTROL => self.tasks().control_io_unit(frame),
            // There is no firmware to load or to read, no RAID, no target mode, no expander.
            _ => Reply::with_status(frame, ioc_status::INVALID_FUNCTION),
        };
        refusals::count_ioc_status(&self.refusals, frame, reply.ioc_status());
        reply.into()
    }

    fn scsi_io(&mut self) -> ScsiIo<'_> {
        ScsiIo {
            disks: &mut self.disks,
            refusals: &self.refusals,
            memory: &self.dma,
            host: self.ioc.initialisation(),
            by_frame_only: self.pages.are_context_replies_disabled(),
        }
    }

    fn tasks(&mut self) -> Tasks<'_> {
        Tasks {
            disks: &mut self.disks,
            replies: &mut self.replies,
        }
    }

    /// A disk goes; what it still owes is terminated. It comes back after that time.
    fn remove_disk(&mut self, disk: usize, back: Option<Duration>) {
        if !self.disks.remove(disk) {
            return;
        }
        self.replies.terminate(disk, None, ioc_status::SCSI_IOC_TERMINATED);
        self.events.tell_of_disk(disk, self.config.disk_address(disk), false);
        if let Some(time) = back {
            self.disks.await_return(self.tickets.give(time), disk);
        }
    }
}

/// What a request asks for.
fn asked(frame: &Frame, disk: Option<usize>) -> Asked {
    let is_io = frame.function() == function::SCSI_IO_REQUEST;
    Asked {
        command: faults::code(frame),
        disk: disk.and_then(|disk| u32::try_from(disk).ok()),
        blocks: is_io.then(|| scsi::blocks_of(&frame.cdb())).flatten(),
    }
}
