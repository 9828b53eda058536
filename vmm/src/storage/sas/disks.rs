//! The disks: which there are, which a request is for, and which are gone for a while.
//!
//! A disk is a [target](crate::storage::scsi) at the phy and with the identifier of its index. Whether it is there survives
//! every reset. It must not know replies and events.

use std::collections::BTreeMap;

use super::config::{MAX_DISKS, SasConfig, SasConfigError};
use super::message::Frame;
use super::spec::{function, ioc_status};
use crate::storage::backend::Backend;
use crate::storage::scsi::spec::PROTOCOL_SAS;
use crate::storage::scsi::{Completion, Data, Initiator, LogicalUnit, PortName, Request, Sense, Target, UnitConfig};
use crate::storage::worker::Ticket;

/// What there is to save of [`Disks`], besides the targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DisksState {
    /// Which disks are there: a fault may take them away.
    present: Vec<bool>,
    /// Those that come back later.
    returning: BTreeMap<Ticket, usize>,
}

/// The disks of a controller.
pub(super) struct Disks {
    targets: Vec<Target>,
    /// Who sends the commands: the controller.
    initiator: Initiator,
    state: DisksState,
}

impl Disks {
    /// A disk on each backend.
    ///
    /// # Errors
    /// See [`SasConfigError`].
    pub(super) fn new(config: &SasConfig, backends: Vec<Box<dyn Backend>>) -> Result<Self, SasConfigError> {
        if backends.is_empty() || backends.len() > MAX_DISKS {
            return Err(SasConfigError::Disks(backends.len()));
        }
        let targets = backends.into_iter().enumerate().map(|(index, backend)| {
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
                .map_err(|source| SasConfigError::Disk { index, source })
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            initiator: Initiator(config.address()),
            state: DisksState {
                present: vec![true; targets.len()],
                returning: BTreeMap::new(),
            },
            targets,
        })
    }

    /// How many there are, the missing ones included.
    pub(super) fn count(&self) -> usize {
        self.targets.len()
    }

    /// Phys, and target identifiers that there can be.
    pub(super) fn limit(&self) -> u8 {
        SasConfig::phys(self.count()) as u8
    }

    pub(super) fn is_there(&self, disk: usize) -> bool {
        self.state.present.get(disk) == Some(&true)
    }

    /// The disk that SCSI I/O or task management is for, if it is there.
    pub(super) fn addressed(&self, frame: &Frame) -> Option<usize> {
        let (target, bus) = frame.target();
        let is_scsi = matches!(frame.function(), function::SCSI_IO_REQUEST | function::SCSI_TASK_MGMT);
        let disk = usize::from(target);
        (is_scsi && bus == 0 && self.is_there(disk)).then_some(disk)
    }

    /// IOCStatus of a request for a disk that is not there.
    pub(super) fn not_there(&self, frame: &Frame) -> u16 {
        match frame.target() {
            (target, 0) if target >= self.limit() => ioc_status::SCSI_INVALID_TARGETID,
            (_, 0) => ioc_status::SCSI_DEVICE_NOT_THERE,
            _ => ioc_status::SCSI_INVALID_BUS,
        }
    }

    /// Has a disk execute a command. `None`: there is no such disk.
    pub(super) fn execute(&mut self, disk: usize, lun: [u8; 8], cdb: &[u8], data: Data<'_>) -> Option<Completion> {
        let request = Request {
            initiator: self.initiator,
            lun,
            cdb,
            data,
        };
        Some(self.targets.get_mut(disk)?.execute(&request))
    }

    /// CHECK CONDITION as the disk that the request is for would report it.
    pub(super) fn check_condition(&self, frame: &Frame, sense: Sense) -> Option<Completion> {
        let target = self.targets.get(self.addressed(frame)?)?;
        Some(target.unit().check_condition(sense))
    }

    /// Resets a disk. `false`: it is not there.
    pub(super) fn reset(&mut self, disk: usize) -> bool {
        if !self.is_there(disk) {
            return false;
        }
        self.targets[disk].reset();
        true
    }

    /// Resets all, those that are not there included.
    pub(super) fn reset_all(&mut self) {
        self.targets.iter_mut().for_each(Target::reset);
    }

    /// A disk goes. `false`: it is not there.
    pub(super) fn remove(&mut self, disk: usize) -> bool {
        let there = self.state.present.get_mut(disk);
        there.is_some_and(|present| std::mem::replace(present, false))
    }

    /// The disk comes back with that ticket.
    pub(super) fn await_return(&mut self, ticket: Ticket, disk: usize) {
        self.state.returning.insert(ticket, disk);
    }

    /// Whether a disk comes back with that ticket.
    pub(super) fn is_awaited(&self, ticket: Ticket) -> bool {
        self.state.returning.contains_key(&ticket)
    }

    /// The disk of that ticket is there again, and was lost to its initiator meanwhile. Returns which.
    pub(super) fn bring_back(&mut self, ticket: Ticket) -> Option<usize> {
        let disk = self.state.returning.remove(&ticket)?;
        *self.state.present.get_mut(disk)? = true;
        self.targets.get_mut(disk)?.lose_nexus(self.initiator);
        Some(disk)
    }
}
