//! One command and its data: what a controller hands over, and what it gets back.
//!
//! The one place that decides how much of a parameter list goes where: never more than the allocation length, never more
//! than the initiator's memory. It knows no command.

use vm_memory::VolatileSlice;

use super::sense::Sense;
use super::spec::{asc, sense_key, status};
use crate::storage::segments;

/// Who sends commands: a number that the controller chooses, for SAS the SAS address of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Initiator(pub u64);

/// The initiator's memory for a command's data. Others may access it meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// There is none.
    None,
    /// It takes what the target sends.
    In(&'a [VolatileSlice<'a>]),
    /// It holds what the target gets.
    Out(&'a [VolatileSlice<'a>]),
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who sends it.
    pub initiator: Initiator,
    /// The logical unit number, in the eight bytes of SAM-5, 4.7.
    pub lun: [u8; 8],
    /// Command descriptor block, of any length.
    pub cdb: &'a [u8],
    /// Its data.
    pub data: Data<'a>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Status code.
    pub status: u8,
    /// Sense data, for CHECK CONDITION.
    pub sense: Vec<u8>,
    /// Bytes of the initiator's memory that were read or written, from the beginning.
    pub transferred: u64,
    /// Bytes that the target would have transferred. More than there was memory for is an overrun.
    pub wanted: u64,
}

impl Completion {
    /// A status without data and sense.
    #[must_use]
    pub(crate) fn of_status(status: u8) -> Self {
        Self {
            status,
            sense: Vec::new(),
            transferred: 0,
            wanted: 0,
        }
    }
}

/// Why a command was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// CHECK CONDITION.
    Check(Sense),
    /// RESERVATION CONFLICT.
    ReservationConflict,
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

/// Whether a command was done.
pub(super) type Outcome = Result<(), Failure>;

/// A command while it is executed.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) initiator: Initiator,
    data: Data<'a>,
    transferred: u64,
    wanted: u64,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(request: &Request<'a>) -> Self {
        Self {
            initiator: request.initiator,
            data: request.data,
            transferred: 0,
            wanted: 0,
        }
    }

    /// Sends parameter data: at most the allocation length of them.
    pub(super) fn send(&mut self, data: &[u8], allocation: usize) {
        let data = &data[..data.len().min(allocation)];
        let target = self.target(data.len() as u64);
        let room = segments::length(&target) as usize;
        // `target` has no more room than was asked for.
        segments::scatter(&data[..room.min(data.len())], &target);
        self.transferred = room as u64;
    }

    /// The initiator's memory for `length` bytes that the target sends; less, if there is less.
    pub(super) fn target(&mut self, length: u64) -> Vec<VolatileSlice<'a>> {
        self.wanted = length;
        match self.data {
            Data::In(pieces) => segments::part(pieces, 0, length),
            _ => Vec::new(),
        }
    }

    /// The initiator's memory that holds the `length` bytes that the target gets.
    ///
    /// # Errors
    /// There are fewer: a target that gets less than it asks for can do nothing with it.
    pub(super) fn source(&mut self, length: u64) -> Result<Vec<VolatileSlice<'a>>, Sense> {
        self.wanted = length;
        let pieces = match self.data {
            Data::Out(pieces) => segments::part(pieces, 0, length),
            _ => Vec::new(),
        };
        if segments::length(&pieces) < length {
            return Err(Sense::new(sense_key::ABORTED_COMMAND, asc::DATA_PHASE_ERROR));
        }
        Ok(pieces)
    }

    /// A copy of the `length` bytes that the target gets. The caller has bounded the length.
    ///
    /// # Errors
    /// As for [`source`](Self::source).
    pub(super) fn receive(&mut self, length: u32) -> Result<Vec<u8>, Sense> {
        let source = self.source(length.into())?;
        self.transferred = length.into();
        Ok(segments::gathered(&source))
    }

    /// The data of a command that reads or writes blocks were transferred.
    pub(super) fn set_transferred(&mut self, bytes: u64) {
        self.transferred = bytes;
    }

    /// What the controller is told.
    pub(super) fn complete(self, outcome: Outcome, descriptor_sense: bool) -> Completion {
        let (status, sense) = match outcome {
            Ok(()) => (status::GOOD, Vec::new()),
            Err(Failure::Check(sense)) => (status::CHECK_CONDITION, sense.encode(descriptor_sense)),
            Err(Failure::ReservationConflict) => (status::RESERVATION_CONFLICT, Vec::new()),
        };
        Completion {
            status,
            sense,
            transferred: self.transferred,
            wanted: self.wanted,
        }
    }
}
