//! SCSI I/O: a command for a disk, its data and its sense data.

use super::controller::{Controller, Executed};
use super::faults::FaultStatus;
use super::message::{Frame, Reply};
use super::replies::CONTEXT_MASK;
use super::spec::{
    IOCPAGE1_INITIATOR_CONTEXT_REPLY_DISABLE, TASKTAG_UNKNOWN, function, ioc_status, scsi_state, scsiio_control,
};
use super::state::Answer;
use super::{sgl, task_management};
use crate::storage::dma::DmaMemory;
use crate::storage::scsi::spec::status;
use crate::storage::scsi::{Completion, Data, Request};

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

impl Controller {
    /// SCSI I/O.
    pub(super) fn scsi_io(&mut self, frame: &Frame) -> Executed {
        let Some(disk) = self.disk_of(frame) else {
            let (target, bus) = frame.target();
            let status = task_management::not_there(bus, target >= self.device_limit());
            return not_done(frame, status).into();
        };
        match self.run(disk, frame) {
            Ok(completion) => self.scsi_answer(frame, &completion),
            Err(status) => not_done(frame, status).into(),
        }
    }

    /// Has the disk execute the command.
    fn run(&mut self, disk: usize, frame: &Frame) -> Result<Completion, u16> {
        let (cdb, length) = (frame.cdb(), usize::from(frame.u8(CDB_LENGTH)));
        let cdb = cdb.get(..length).ok_or(ioc_status::INVALID_FIELD)?;
        let direction = frame.u32(CONTROL) & scsiio_control::DATADIRECTION_MASK;
        let length = match direction {
            0 => 0,
            _ => frame.u32(DATA_LENGTH),
        };
        let segments = sgl::walk(&self.dma, frame, SGL, frame.u8(CHAIN_OFFSET), length)?;
        let pieces = self.dma.slices(&segments).map_err(|_| ioc_status::INVALID_SGL)?;
        let data = match direction {
            0 => Data::None,
            scsiio_control::READ => Data::In(&pieces),
            scsiio_control::WRITE => Data::Out(&pieces),
            _ => return Err(ioc_status::INVALID_FIELD),
        };
        let request = Request {
            initiator: self.initiator(),
            lun: frame.lun(),
            cdb,
            data,
        };
        Ok(self.disks[disk].execute(&request))
    }

    /// What the host is told: the context alone if all went well, a frame else.
    fn scsi_answer(&mut self, frame: &Frame, completion: &Completion) -> Executed {
        let expected = u64::from(data_length(frame));
        let result = if completion.wanted > expected {
            ioc_status::SCSI_DATA_OVERRUN
        } else if completion.transferred < expected {
            ioc_status::SCSI_DATA_UNDERRUN
        } else {
            ioc_status::SUCCESS
        };
        let context = frame.context();
        let by_context = context & !CONTEXT_MASK == 0 && !self.context_replies_disabled();
        if result == ioc_status::SUCCESS && completion.status == status::GOOD && by_context {
            return Executed::Done(Answer::Context(context));
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
    fn deliver_sense(&mut self, frame: &Frame, sense: &[u8]) -> (u8, u32) {
        let length = sense.len().min(frame.u8(SENSE_LENGTH).into());
        if length == 0 {
            return (0, 0);
        }
        let high = u64::from(self.state.initialisation.sense_buffer_high) << 32;
        let address = high | u64::from(frame.u32(SENSE_ADDRESS));
        match self.dma.write(address, &sense[..length]) {
            Ok(()) => (scsi_state::AUTOSENSE_VALID, length as u32),
            Err(_) => (scsi_state::AUTOSENSE_FAILED, 0),
        }
    }

    /// IOC page 1: the host wants a frame for every reply.
    fn context_replies_disabled(&self) -> bool {
        self.ioc_page_1_flags() & IOCPAGE1_INITIATOR_CONTEXT_REPLY_DISABLE != 0
    }

    /// A request that the fault plan has fail.
    pub(super) fn fail_request(&mut self, frame: &Frame, planned: FaultStatus) -> Executed {
        match (frame.function(), planned) {
            (function::SCSI_IO_REQUEST, FaultStatus::Ioc(status)) => not_done(frame, status).into(),
            (function::SCSI_IO_REQUEST, FaultStatus::Scsi(status)) => {
                self.scsi_answer(frame, &Completion::of_status(status))
            }
            (function::SCSI_IO_REQUEST, FaultStatus::Sense(sense)) => {
                let disk = self.disk_of(frame).and_then(|disk| self.disks.get(disk));
                match disk.map(|disk| disk.unit().check_condition(sense)) {
                    Some(completion) => self.scsi_answer(frame, &completion),
                    None => self.scsi_io(frame),
                }
            }
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
