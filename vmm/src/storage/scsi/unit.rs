//! The logical unit: its state, and the way of a command through the checks that all commands have.
//!
//! What each command does is in the files by subject. It must not know logical unit numbers: those are the
//! [target](super::target)'s.

use super::attention::Attentions;
use super::cdb::Cdb;
use super::commands;
use super::config::{UnitConfig, UnitError};
use super::exchange::{Completion, Exchange, Failure, Initiator, Outcome, Request};
use super::mode::Modes;
use super::reservations::Reservations;
use super::sense::Sense;
use super::spec::{asc, opcode, sense_key};
use crate::storage::backend::Backend;

/// What the log pages count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes read.
    pub(crate) bytes_read: u64,
    /// Bytes written.
    pub(crate) bytes_written: u64,
    /// Reads that failed.
    pub(crate) read_errors: u64,
    /// Writes that failed.
    pub(crate) write_errors: u64,
}

/// Everything that a unit remembers besides its data, in one plain struct that can be saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitState {
    /// START STOP UNIT has stopped it.
    pub stopped: bool,
    /// What MODE SELECT can change.
    pub modes: Modes,
    /// Unit attention conditions.
    pub(crate) attentions: Attentions,
    /// Persistent reservations.
    pub(crate) reservations: Reservations,
    /// What log pages count.
    pub counters: Counters,
}

/// A direct-access block device.
pub struct LogicalUnit {
    pub(super) config: UnitConfig,
    pub(super) backend: Box<dyn Backend>,
    pub(super) state: UnitState,
}

impl LogicalUnit {
    /// Makes a unit, started, whose blocks are on `backend`.
    ///
    /// # Errors
    /// See [`UnitError`].
    pub fn new(config: UnitConfig, backend: Box<dyn Backend>) -> Result<Self, UnitError> {
        config.check(backend.len())?;
        Ok(Self {
            config,
            backend,
            state: UnitState::default(),
        })
    }

    /// The state besides the data.
    #[must_use]
    pub fn state(&self) -> &UnitState {
        &self.state
    }

    /// Executes a command for this unit; the logical unit number is not looked at.
    pub fn execute(&mut self, request: &Request<'_>) -> Completion {
        let mut exchange = Exchange::new(request);
        let outcome = self.run(request.cdb, &mut exchange);
        if let Err(failure) = &outcome {
            tracing::debug!(cdb = ?request.cdb, ?failure, "SCSI command not done");
        }
        exchange.complete(outcome, self.state.modes.descriptor_sense)
    }

    fn run(&mut self, cdb: &[u8], exchange: &mut Exchange<'_>) -> Outcome {
        if !heeds_no_attention(cdb) {
            if let Some(code) = self.state.attentions.take(exchange.initiator) {
                return Err(Sense::attention(code).into());
            }
        }
        let (command, cdb) = commands::identify(cdb)?;
        if self.state.reservations.excludes(exchange.initiator, command.access) {
            return Err(Failure::ReservationConflict);
        }
        if command.needs_medium {
            self.check_started()?;
        }
        (command.run)(self, cdb, exchange)
    }

    fn check_started(&self) -> Result<(), Sense> {
        if self.state.stopped {
            return Err(Sense::new(sense_key::NOT_READY, asc::INITIALIZING_COMMAND_REQUIRED));
        }
        Ok(())
    }

    /// CHECK CONDITION with that sense data, in the format that initiators have chosen.
    #[must_use]
    pub(crate) fn check_condition(&self, sense: Sense) -> Completion {
        let request = Request {
            initiator: Initiator(0),
            lun: [0; 8],
            cdb: &[],
            data: super::Data::None,
        };
        Exchange::new(&request).complete(Err(sense.into()), self.state.modes.descriptor_sense)
    }

    /// A reset of the unit: mode pages are the default ones, the unit is started, and every initiator is told. Persistent
    /// reservations survive (SPC-4, 5.12.1).
    pub fn reset(&mut self) {
        self.state.stopped = false;
        self.state.modes = Modes::default();
        self.state.attentions.replace(asc::BUS_DEVICE_RESET_OCCURRED);
    }

    /// An initiator's nexus was lost and is there again: it is told.
    pub fn lose_nexus(&mut self, initiator: Initiator) {
        self.state.attentions.add(initiator, asc::NEXUS_LOSS_OCCURRED);
    }

    /// TEST UNIT READY (SPC-4, 6.47).
    pub(super) fn test_unit_ready(&mut self, _cdb: Cdb<'_>, _exchange: &mut Exchange<'_>) -> Outcome {
        Ok(())
    }

    /// REQUEST SENSE (SPC-4, 6.39): a unit attention condition, or why the unit is not ready, or nothing.
    pub(super) fn request_sense(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let attention = self.state.attentions.take(exchange.initiator);
        let sense = attention.map_or_else(|| self.check_started().err().unwrap_or(Sense::NONE), Sense::attention);
        exchange.send(&sense.encode(cdb.bit(1, 0)), cdb.byte(4).into());
        Ok(())
    }

    /// START STOP UNIT (SBC-3, 5.25). There is nothing to load or eject, and the power conditions are not there.
    pub(super) fn start_stop_unit(&mut self, cdb: Cdb<'_>, _exchange: &mut Exchange<'_>) -> Outcome {
        let (no_flush, load_eject, start) = (cdb.bit(4, 2), cdb.bit(4, 1), cdb.bit(4, 0));
        if load_eject {
            return Err(Sense::cdb_bit(4, 1).into());
        }
        if !start && !no_flush {
            self.flush_cache()?;
        }
        self.state.stopped = !start;
        Ok(())
    }

    /// SEND DIAGNOSTIC (SPC-4, 6.42): the default self-test, and nothing else.
    pub(super) fn send_diagnostic(&mut self, cdb: Cdb<'_>, _exchange: &mut Exchange<'_>) -> Outcome {
        if cdb.u16(3) != 0 {
            return Err(Sense::cdb_byte(3).into());
        }
        self.check_started()?;
        Ok(())
    }
}

/// Commands that are done although a unit attention condition waits (SAM-5, 5.14.5).
fn heeds_no_attention(cdb: &[u8]) -> bool {
    matches!(
        cdb.first(),
        Some(&(opcode::INQUIRY | opcode::REPORT_LUNS | opcode::REQUEST_SENSE))
    )
}
