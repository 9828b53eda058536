//! SCSI task management: commands are done at once, so that only those are outstanding that a fault keeps back.

use super::disks::Disks;
use super::message::{Frame, Reply};
use super::replies::Replies;
use super::spec::{ioc_status, sas_op, task_response, task_type};
use crate::storage::scsi::Target;

/// Bytes of the reply.
const REPLY: usize = 0x18;
/// Where the request has TaskType and TaskMsgContext.
const TASK_TYPE: usize = 0x05;
const TASK_CONTEXT: usize = 0x30;

/// What task management is about: the disks, and the commands that they still owe a reply.
pub(super) struct Tasks<'a> {
    pub(super) disks: &'a mut Disks,
    pub(super) replies: &'a mut Replies,
}

impl Tasks<'_> {
    /// SCSI task management.
    pub(super) fn manage(&mut self, frame: &Frame) -> Reply {
        let kind = frame.u8(TASK_TYPE);
        let (code, ended) = match self.disks.addressed(frame) {
            _ if kind == task_type::RESET_BUS => (task_response::TM_COMPLETE, self.reset_all()),
            Some(disk) => self.manage_disk(disk, kind, frame),
            None => {
                return response(frame, task_response::TM_COMPLETE, 0).status(self.disks.not_there(frame));
            }
        };
        response(frame, code, ended)
    }

    fn manage_disk(&mut self, disk: usize, kind: u8, frame: &Frame) -> (u8, u32) {
        let whole_target = kind == task_type::TARGET_RESET;
        if !whole_target && !Target::has_unit(frame.lun()) {
            return (task_response::TM_INVALID_LUN, 0);
        }
        let context = frame.u32(TASK_CONTEXT);
        match kind {
            task_type::ABORT_TASK => (task_response::TM_COMPLETE, self.end(disk, Some(context))),
            task_type::ABRT_TASK_SET | task_type::CLEAR_TASK_SET => (task_response::TM_COMPLETE, self.end(disk, None)),
            task_type::TARGET_RESET | task_type::LOGICAL_UNIT_RESET => {
                (task_response::TM_COMPLETE, self.reset_disk(disk))
            }
            task_type::QUERY_TASK if self.replies.is_outstanding(disk, context) => (task_response::TM_SUCCEEDED, 0),
            task_type::QUERY_TASK => (task_response::TM_COMPLETE, 0),
            _ => (task_response::TM_NOT_SUPPORTED, 0),
        }
    }

    /// SAS I/O Unit Control: links and mappings. Mappings cannot be forgotten: a disk has the identifier of its phy.
    pub(super) fn control_io_unit(&mut self, frame: &Frame) -> Reply {
        let phy = frame.u8(0x0e);
        let status = match frame.u8(0x00) {
            sas_op::PHY_LINK_RESET | sas_op::PHY_HARD_RESET if phy >= self.disks.limit() => ioc_status::INVALID_FIELD,
            sas_op::CLEAR_NOT_PRESENT
            | sas_op::CLEAR_ALL_PERSISTENT
            | sas_op::PHY_CLEAR_ERROR_LOG
            | sas_op::PHY_LINK_RESET
            | sas_op::REMOVE_DEVICE => ioc_status::SUCCESS,
            sas_op::PHY_HARD_RESET => {
                self.reset_disk(phy.into());
                ioc_status::SUCCESS
            }
            _ => ioc_status::INVALID_FIELD,
        };
        Reply::with_status(frame, status)
    }

    /// Resets a disk, if it is there; returns how many commands that has ended.
    fn reset_disk(&mut self, disk: usize) -> u32 {
        if !self.disks.reset(disk) {
            return 0;
        }
        self.end(disk, None)
    }

    /// Ends commands for a disk, all or the one of that context; returns how many get their reply by that.
    fn end(&mut self, disk: usize, context: Option<u32>) -> u32 {
        self.replies.give_up(disk, context);
        self.replies.terminate(disk, context, ioc_status::SCSI_TASK_TERMINATED)
    }

    fn reset_all(&mut self) -> u32 {
        (0..self.disks.count()).map(|disk| self.reset_disk(disk)).sum()
    }
}

/// A task management function that the fault plan has fail.
pub(super) fn failed(frame: &Frame) -> Reply {
    response(frame, task_response::TM_FAILED, 0).status(ioc_status::SCSI_TASK_MGMT_FAILED)
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
