//! SCSI I/O: a command for a disk, its data and its sense data.

use super::disks::Disks;
use super::faults::FaultStatus;
use super::ioc::Initialisation;
use super::message::{Frame, Reply};
use super::replies::{ADDRESS_REPLY, Answer};
use super::spec::{TASKTAG_UNKNOWN, function, ioc_status, scsi_state, scsiio_control};
use super::{refusals, sgl, task_management};
use crate::storage::dma::{Dma, DmaMemory};
use crate::storage::refusals::Refusals;
use crate::storage::scsi::spec::status;
use crate::storage::scsi::{Completion, Data};

/// Bytes of the reply.
const REPLY: usize = 0x24;
/// Where the request has its fields.
const CHAIN_OFFSET: usize = 0x02;
const CDB_LENGTH: usize = 0x04;
const SENSE_LENGTH: usize = 0x05;
const CONTROL: usize = 0x14;
const DATA_LENGTH: usize = 0x28;
const SENSE_ADDRESS: usize = 0x2c;
const SGL: usize = 0x30;

/// What SCSI I/O is done with.
pub(super) struct ScsiIo<'a> {
    pub(super) disks: &'a mut Disks,
    pub(super) refusals: &'a Refusals,
    pub(super) memory: &'a Dma,
    /// What the host has told of itself.
    pub(super) host: &'a Initialisation,
    /// The host wants a frame for every reply.
    pub(super) by_frame_only: bool,
}

impl ScsiIo<'_> {
    /// SCSI I/O.
    pub(super) fn execute(&mut self, frame: &Frame) -> Answer {
        let Some(disk) = self.disks.addressed(frame) else {
            return not_done(frame, self.disks.not_there(frame)).into();
        };
        match self.run(disk, frame) {
            Ok(completion) => {
                refusals::count_completion(self.refusals, frame, &completion);
                self.answer(frame, &completion)
            }
            Err(status) => {
                refusals::count_ioc_status(self.refusals, frame, status);
                not_done(frame, status).into()
            }
        }
    }

    /// Has the disk execute the command.
    fn run(&mut self, disk: usize, frame: &Frame) -> Result<Completion, u16> {
        let (cdb, length) = (frame.cdb(), usize::from(frame.u8(CDB_LENGTH)));
        let cdb = cdb.get(..length).ok_or(ioc_status::INVALID_FIELD)?;
        let direction = frame.u32(CONTROL) & scsiio_control::DATADIRECTION_MASK;
        let length = data_length(frame);
        let segments = sgl::walk(self.memory, frame, SGL, frame.u8(CHAIN_OFFSET), length)?;
        let pieces = self.memory.slices(&segments).map_err(|_| ioc_status::INVALID_SGL)?;
        let data = match direction {
            0 => Data::None,
            scsiio_control::READ => Data::In(&pieces),
            scsiio_control::WRITE => Data::Out(&pieces),
            _ => return Err(ioc_status::INVALID_FIELD),
        };
        let completion = self.disks.execute(disk, frame.lun(), cdb, data);
        completion.ok_or(ioc_status::SCSI_DEVICE_NOT_THERE)
    }

    /// What the host is told: the context alone if all went well, a frame else.
    fn answer(&self, frame: &Frame, completion: &Completion) -> Answer {
        let expected = u64::from(data_length(frame));
        let result = if completion.wanted > expected {
            ioc_status::SCSI_DATA_OVERRUN
        } else if completion.transferred < expected {
            ioc_status::SCSI_DATA_UNDERRUN
        } else {
            ioc_status::SUCCESS
        };
        let context = frame.context();
        let by_context = context & ADDRESS_REPLY == 0 && !self.by_frame_only;
        if result == ioc_status::SUCCESS && completion.status == status::GOOD && by_context {
            return Answer::Context(context);
        }
        let (state, sense) = self.deliver_sense(frame, &completion.sense);
        Reply::to(frame, REPLY)
            .put(0x0c, &[completion.status, state])
            .status(result)
            .put(0x14, &(completion.transferred as u32).to_le_bytes())
            .put(0x18, &sense.to_le_bytes())
            .put(0x20, &TASKTAG_UNKNOWN.to_le_bytes())
            .into()
    }

    /// Writes sense data where the host wants them. Returns SCSIState and SenseCount.
    fn deliver_sense(&self, frame: &Frame, sense: &[u8]) -> (u8, u32) {
        let length = sense.len().min(frame.u8(SENSE_LENGTH).into());
        if length == 0 {
            return (0, 0);
        }
        let address = self.host.sense_address(frame.u32(SENSE_ADDRESS));
        match self.memory.write(address, &sense[..length]) {
            Ok(()) => (scsi_state::AUTOSENSE_VALID, length as u32),
            Err(_) => (scsi_state::AUTOSENSE_FAILED, 0),
        }
    }

    /// A request that the fault plan has fail.
    pub(super) fn fail(&mut self, frame: &Frame, planned: FaultStatus) -> Answer {
        match (frame.function(), planned) {
            (function::SCSI_IO_REQUEST, FaultStatus::Ioc(status)) => not_done(frame, status).into(),
            (function::SCSI_IO_REQUEST, FaultStatus::Scsi(status)) => {
                self.answer(frame, &Completion::of_status(status))
            }
            (function::SCSI_IO_REQUEST, FaultStatus::Sense(sense)) => match self.disks.check_condition(frame, sense) {
                Some(completion) => self.answer(frame, &completion),
                None => self.execute(frame),
            },
            (function::SCSI_TASK_MGMT, _) => task_management::failed(frame).into(),
            (_, FaultStatus::Ioc(status)) => Reply::with_status(frame, status).into(),
            _ => Reply::with_status(frame, ioc_status::INTERNAL_ERROR).into(),
        }
    }
}

fn data_length(frame: &Frame) -> u32 {
    match frame.u32(CONTROL) & scsiio_control::DATADIRECTION_MASK {
        0 => 0,
        _ => frame.u32(DATA_LENGTH),
    }
}

/// The reply to a command that did not get to a disk.
fn not_done(frame: &Frame, status: u16) -> Reply {
    Reply::to(frame, REPLY)
        .put(0x0c, &[0, scsi_state::NO_SCSI_STATUS])
        .status(status)
        .put(0x20, &TASKTAG_UNKNOWN.to_le_bytes())
}

/// The reply to a command that was ended.
pub(super) fn terminated(frame: &Frame, status: u16) -> Reply {
    not_done(frame, status).put(0x0d, &[scsi_state::NO_SCSI_STATUS | scsi_state::TERMINATED])
}
