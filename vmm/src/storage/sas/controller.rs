//! The controller: its life (resets, faults), the round over handshakes, requests and events.
//!
//! It talks to guest memory, an interrupt sink, disks and its [`RegisterFile`], all injected. It must not know threads,
//! eventfds, PCI or KVM. One thread calls [`Controller::process`]; vCPUs touch the register file only.

use std::sync::Arc;
use std::time::Duration;

use super::config::{ConfigError, MAX_DISKS, SasConfig};
use super::faults;
use super::message::{FRAME_SIZE, Frame, Reply};
use super::registers::{RegisterFile, Reset};
use super::spec::{fault, function, ioc_status};
use super::state::{Answer, ControllerState};
use crate::storage::backend::Backend;
use crate::storage::dma::{Dma, DmaMemory};
use crate::storage::fault::{FaultInjector, FetchFault};
use crate::storage::interrupts::InterruptSink;
use crate::storage::request::Request;
use crate::storage::scsi::spec::PROTOCOL_SAS;
use crate::storage::scsi::{Initiator, LogicalUnit, PortName, Target, UnitConfig};
use crate::storage::worker::{Attention, Progress, StorageController, Ticket};

/// Requests that one call of [`Controller::process`] serves.
const BURST: usize = 32;

/// What executing a request leads to.
pub(super) enum Executed {
    /// It is answered.
    Done(Answer),
    /// It was the last one: the IOC is in FAULT state.
    Fault(u16),
}

impl From<Reply> for Executed {
    fn from(reply: Reply) -> Self {
        Self::Done(Answer::Frame(reply))
    }
}

/// A SAS controller.
pub struct Controller {
    pub(super) config: SasConfig,
    pub(super) dma: Dma,
    pub(super) registers: Arc<RegisterFile>,
    pub(super) faults: Option<Arc<FaultInjector>>,
    pub(super) disks: Vec<Target>,
    pub(super) state: ControllerState,
}

impl Controller {
    /// Makes a controller with a disk on each backend.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(
        config: SasConfig,
        memory: Box<dyn DmaMemory>,
        interrupts: Arc<dyn InterruptSink>,
        backends: Vec<Box<dyn Backend>>,
    ) -> Result<Self, ConfigError> {
        if backends.is_empty() || backends.len() > MAX_DISKS {
            return Err(ConfigError::Disks(backends.len()));
        }
        let disks = backends.into_iter().enumerate().map(|(index, backend)| {
            let unit = UnitConfig {
                block_size: config.block_size,
                serial_number: config.serial(index),
                name: config.unit_name(index),
                port: Some(PortName {
                    protocol: PROTOCOL_SAS,
                    name: config.disk_address(index),
                }),
            };
            let unit = LogicalUnit::new(unit, backend);
            unit.map(Target::new)
                .map_err(|source| ConfigError::Disk { index, source })
        });
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        let faults = (!config.faults.is_empty()).then(|| Arc::new(FaultInjector::new(&config.faults)));
        let registers = RegisterFile::new(faults.clone(), interrupts, Attention::default());
        Ok(Self {
            config,
            dma: Dma::new(memory),
            registers: Arc::new(registers),
            faults,
            state: ControllerState::new(disks.len()),
            disks,
        })
    }

    /// The registers, for whoever answers the guest's accesses.
    #[must_use]
    pub fn registers(&self) -> Arc<RegisterFile> {
        Arc::clone(&self.registers)
    }

    /// The state besides the registers and the disks.
    #[must_use]
    pub fn state(&self) -> &ControllerState {
        &self.state
    }

    /// The fault plan at work; none if the plan is empty.
    #[must_use]
    pub fn faults(&self) -> Option<Arc<FaultInjector>> {
        self.faults.clone()
    }

    /// The disks' initiator: this controller.
    pub(super) fn initiator(&self) -> Initiator {
        Initiator(self.config.address())
    }

    /// Acts on resets, a handshake and requests, then tells events.
    pub fn process(&mut self) -> Progress {
        self.take_reset();
        self.take_handshake();
        let (operational, requests) = {
            let registers = self.registers.lock();
            let settled = registers.reset.is_none() && !registers.is_handshake_complete();
            (registers.is_operational(), registers.has_requests() && settled)
        };
        if !operational && requests {
            self.fail(fault::FIFO);
        }
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
            let Some(descriptor) = self.registers.lock().next_request() else {
                break;
            };
            self.serve(descriptor);
        }
        self.send_events();
        if self.flush_replies() && self.registers.lock().has_requests() {
            Progress::Pending
        } else {
            Progress::Idle
        }
    }

    /// Carries out a reset that the host has asked for.
    fn take_reset(&mut self) {
        let Some(reset) = self.registers.lock().reset else {
            return;
        };
        // Requests that were not answered never will be; the host knows.
        self.state.reset();
        if reset > Reset::MessageUnit {
            for disk in &mut self.disks {
                disk.reset();
            }
        }
        if reset == Reset::Hard {
            self.state.changed_pages.clear();
        }
        let mut registers = self.registers.lock();
        registers.finish_reset(reset);
        self.registers.update_interrupt(&mut registers);
    }

    /// The IOC comes into FAULT state.
    pub(super) fn fail(&mut self, code: u16) {
        let mut registers = self.registers.lock();
        if registers.reset.is_some() {
            // What went wrong was before the reset.
            return;
        }
        registers.fail(code);
        self.registers.update_interrupt(&mut registers);
    }

    /// Fetches a request, executes it and posts what answers it.
    fn serve(&mut self, descriptor: u32) {
        let mut bytes = [0; FRAME_SIZE];
        let address = u64::from(self.state.initialisation.host_mfa_high) << 32 | u64::from(descriptor);
        if self.dma.read(address, &mut bytes).is_err() {
            self.fail(fault::REQUEST_MESSAGE_PCI_BUS_FAULT);
            return;
        }
        let request = Request::new(Frame::new(&bytes));
        let frame = *request.command();
        match self.execute_or_fail(&frame) {
            Executed::Done(answer) => {
                self.finish(&frame, answer);
                request.complete();
            }
            Executed::Fault(code) => {
                self.fail(code);
                request.abandon();
            }
        }
    }

    /// Executes a request, unless the fault plan has something else in mind.
    pub(super) fn execute_or_fail(&mut self, frame: &Frame) -> Executed {
        let code = faults::code(frame);
        let planned = self.faults.as_ref().and_then(|faults| faults.command_fetched(code));
        match planned {
            Some(FetchFault::Fail(status)) => self.fail_request(frame, faults::FaultStatus::decode(status)),
            Some(FetchFault::Fatal) => Executed::Fault(fault::INJECTED),
            Some(FetchFault::Remove(back)) => {
                if let Some(disk) = self.disk_of(frame) {
                    self.remove_disk(disk, back);
                }
                self.execute(frame)
            }
            // A medium that becomes read-only is none of this controller's kinds.
            Some(FetchFault::ReadOnly) | None => self.execute(frame),
        }
    }

    fn execute(&mut self, frame: &Frame) -> Executed {
        match frame.function() {
            function::SCSI_IO_REQUEST => return self.scsi_io(frame),
            function::SCSI_TASK_MGMT => self.task_management(frame),
            function::IOC_INIT => self.ioc_init(frame),
            function::IOC_FACTS => self.ioc_facts(frame),
            function::PORT_FACTS => self.port_facts(frame),
            function::PORT_ENABLE => self.port_enable(frame),
            function::CONFIG => self.config_request(frame),
            function::EVENT_NOTIFICATION => self.event_notification(frame),
            function::EVENT_ACK => Self::event_ack(frame),
            function::SAS_IO_UNIT_CONTROL => self.sas_io_unit_control(frame),
            // There is no firmware to load or to read, no RAID, no target mode, no expander.
            _ => Reply::with_status(frame, ioc_status::INVALID_FUNCTION),
        }
        .into()
    }

    /// The disk that SCSI I/O or task management is for, if it is there.
    pub(super) fn disk_of(&self, frame: &Frame) -> Option<usize> {
        let (target, bus) = frame.target();
        let is_scsi = matches!(frame.function(), function::SCSI_IO_REQUEST | function::SCSI_TASK_MGMT);
        let disk = usize::from(target);
        (is_scsi && bus == 0 && self.state.present.get(disk) == Some(&true)).then_some(disk)
    }

    /// A ticket for what is to happen later.
    pub(super) fn delay(&mut self, time: Duration) -> Ticket {
        let ticket = self.state.next_ticket;
        self.state.next_ticket += 1;
        self.state.delays.push((ticket, time));
        ticket
    }

    /// A disk goes; what it still owes is terminated. It comes back after that time.
    pub(super) fn remove_disk(&mut self, disk: usize, back: Option<Duration>) {
        if !std::mem::replace(&mut self.state.present[disk], false) {
            return;
        }
        self.terminate(|withheld| withheld.disk == Some(disk), ioc_status::SCSI_IOC_TERMINATED);
        self.tell_of_disk(disk, false);
        if let Some(time) = back {
            let ticket = self.delay(time);
            self.state.returning.insert(ticket, disk);
        }
    }

    fn return_disk(&mut self, disk: usize) {
        if let Some(present) = self.state.present.get_mut(disk) {
            *present = true;
            let initiator = self.initiator();
            self.disks[disk].lose_nexus(initiator);
            self.tell_of_disk(disk, true);
        }
    }
}

impl StorageController for Controller {
    fn attention(&self) -> Attention {
        self.registers.attention()
    }

    fn set_bus_master(&mut self, enabled: bool) {
        self.dma.set_bus_master(enabled);
    }

    fn process(&mut self) -> Progress {
        Controller::process(self)
    }

    fn take_delays(&mut self) -> Vec<(Ticket, Duration)> {
        std::mem::take(&mut self.state.delays)
    }

    fn is_delayed(&self, ticket: Ticket) -> bool {
        self.state.withheld.contains_key(&ticket) || self.state.returning.contains_key(&ticket)
    }

    fn release(&mut self, ticket: Ticket) {
        if let Some(withheld) = self.state.withheld.remove(&ticket) {
            self.post(withheld.answer);
        }
        if let Some(disk) = self.state.returning.remove(&ticket) {
            self.return_disk(disk);
        }
    }
}
