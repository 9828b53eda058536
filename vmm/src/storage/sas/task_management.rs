//! SCSI task management: commands are done at once, so that only those are outstanding that a fault keeps back.

use super::controller::Controller;
use super::message::{Frame, Reply};
use super::spec::{ioc_status, task_response, task_type};
use crate::storage::scsi::Target;

/// Bytes of the reply.
const REPLY: usize = 0x18;
/// Where the request has TaskType and TaskMsgContext.
const TASK_TYPE: usize = 0x05;
const TASK_CONTEXT: usize = 0x30;

impl Controller {
    /// SCSI task management.
    pub(super) fn task_management(&mut self, frame: &Frame) -> Reply {
        let kind = frame.u8(TASK_TYPE);
        let (code, ended) = match self.disk_of(frame) {
            _ if kind == task_type::RESET_BUS => (task_response::TM_COMPLETE, self.reset_all()),
            Some(disk) => self.manage(disk, kind, frame),
            None => {
                let (target, bus) = frame.target();
                return response(frame, task_response::TM_COMPLETE, 0)
                    .status(not_there(bus, target >= self.device_limit()));
            }
        };
        response(frame, code, ended)
    }

    fn manage(&mut self, disk: usize, kind: u8, frame: &Frame) -> (u8, u32) {
        let whole_target = kind == task_type::TARGET_RESET;
        if !whole_target && !Target::has_unit(frame.lun()) {
            return (task_response::TM_INVALID_LUN, 0);
        }
        let terminated = ioc_status::SCSI_TASK_TERMINATED;
        let context = frame.u32(TASK_CONTEXT);
        match kind {
            task_type::ABORT_TASK => {
                let ended = self.terminate(
                    |withheld| withheld.disk == Some(disk) && withheld.context == context,
                    terminated,
                );
                (task_response::TM_COMPLETE, ended)
            }
            task_type::ABRT_TASK_SET | task_type::CLEAR_TASK_SET => {
                let ended = self.terminate(|withheld| withheld.disk == Some(disk), terminated);
                (task_response::TM_COMPLETE, ended)
            }
            task_type::TARGET_RESET | task_type::LOGICAL_UNIT_RESET => {
                (task_response::TM_COMPLETE, self.reset_disk(disk))
            }
            task_type::QUERY_TASK => {
                let mut outstanding = self.state.withheld.values();
                let found = outstanding.any(|withheld| withheld.disk == Some(disk) && withheld.context == context);
                let response = if found {
                    task_response::TM_SUCCEEDED
                } else {
                    task_response::TM_COMPLETE
                };
                (response, 0)
            }
            _ => (task_response::TM_NOT_SUPPORTED, 0),
        }
    }

    /// Resets a disk, if it is there; returns how many commands that has ended.
    pub(super) fn reset_disk(&mut self, disk: usize) -> u32 {
        if self.state.present.get(disk) != Some(&true) {
            return 0;
        }
        let ended = self.terminate(|withheld| withheld.disk == Some(disk), ioc_status::SCSI_TASK_TERMINATED);
        self.disks[disk].reset();
        ended
    }

    fn reset_all(&mut self) -> u32 {
        (0..self.disks.len()).map(|disk| self.reset_disk(disk)).sum()
    }
}

/// A task management function that the fault plan has fail.
pub(super) fn failed(frame: &Frame) -> Reply {
    response(frame, task_response::TM_FAILED, 0).status(ioc_status::SCSI_TASK_MGMT_FAILED)
}

/// IOCStatus for a disk that is not there.
pub(super) fn not_there(bus: u8, impossible: bool) -> u16 {
    match bus {
        0 if impossible => ioc_status::SCSI_INVALID_TARGETID,
        0 => ioc_status::SCSI_DEVICE_NOT_THERE,
        _ => ioc_status::SCSI_INVALID_BUS,
    }
}

fn response(frame: &Frame, code: u8, ended: u32) -> Reply {
    let reply = Reply::to(frame, REPLY)
        .put(0x04, &[code])
        .put(0x14, &ended.to_le_bytes());
    match code {
        task_response::TM_COMPLETE | task_response::TM_SUCCEEDED => reply,
        _ => reply.status(ioc_status::SCSI_TASK_MGMT_FAILED),
    }
}
