//! Commands that the controller refuses, told in words.
//!
//! What any controller would refuse, because the request is wrong wherever it is sent, does not count: blocks behind the
//! end, an identifier that is in use, a write to a namespace that is protected, a command that was to be aborted.

use super::faults::{ADMIN, VOCABULARY, code};
use super::spec::command::{SubmissionEntry, admin};
use super::spec::status::{Failure, Status};
use crate::storage::fault::CommandCode;
use crate::storage::refusals::{RefusalWords, Refusals};

pub(super) static WORDS: RefusalWords = RefusalWords {
    commands: &VOCABULARY,
    detail: |CommandCode { code, .. }| {
        if code == u16::from(admin::IDENTIFY) {
            "CNS"
        } else if code == u16::from(admin::GET_LOG_PAGE) {
            "page"
        } else {
            "feature"
        }
    },
    status: |status| meaning(status).to_owned(),
};

/// Statuses that this controller gives, by their bits 10:0.
const MEANINGS: [(Status, &str); 20] = [
    (Status::INVALID_OPCODE, "Invalid Command Opcode"),
    (Status::INVALID_FIELD, "Invalid Field in Command"),
    (Status::DATA_TRANSFER_ERROR, "Data Transfer Error"),
    (Status::INTERNAL_ERROR, "Internal Error"),
    (Status::INVALID_NAMESPACE_OR_FORMAT, "Invalid Namespace or Format"),
    (Status::COMMAND_SEQUENCE_ERROR, "Command Sequence Error"),
    (Status::PRP_OFFSET_INVALID, "PRP Offset Invalid"),
    (Status::CAPACITY_EXCEEDED, "Capacity Exceeded"),
    (Status::COMPLETION_QUEUE_INVALID, "Completion Queue Invalid"),
    (Status::INVALID_QUEUE_IDENTIFIER, "Invalid Queue Identifier"),
    (Status::INVALID_QUEUE_SIZE, "Invalid Queue Size"),
    (
        Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED,
        "Asynchronous Event Request Limit Exceeded",
    ),
    (Status::INVALID_INTERRUPT_VECTOR, "Invalid Interrupt Vector"),
    (Status::INVALID_LOG_PAGE, "Invalid Log Page"),
    (Status::INVALID_QUEUE_DELETION, "Invalid Queue Deletion"),
    (Status::FEATURE_NOT_SAVEABLE, "Feature Identifier Not Saveable"),
    (Status::FEATURE_NOT_CHANGEABLE, "Feature Not Changeable"),
    (Status::FEATURE_NOT_NAMESPACE_SPECIFIC, "Feature Not Namespace Specific"),
    (Status::WRITE_FAULT, "Write Fault"),
    (Status::UNRECOVERED_READ_ERROR, "Unrecovered Read Error"),
];

fn meaning(status: u32) -> &'static str {
    let mut known = MEANINGS.iter();
    let known = known.find(|(known, _)| u32::from(known.code()) == status & 0x7ff);
    known.map_or("a failure", |(_, text)| text)
}

/// The statuses of such requests.
const WRONG_REQUESTS: [Status; 4] = [
    Status::LBA_OUT_OF_RANGE,
    Status::COMMAND_ID_CONFLICT,
    Status::NAMESPACE_WRITE_PROTECTED,
    Status::ABORT_REQUESTED,
];

/// Counts a command that failed.
pub(super) fn count(refusals: &Refusals, queue: u16, command: &SubmissionEntry, failure: Failure) {
    if WRONG_REQUESTS.iter().any(|wrong| wrong.code() == failure.status.code()) {
        return;
    }
    let code = code(queue, command.opcode);
    let has_detail = code.class == ADMIN
        && matches!(
            command.opcode,
            admin::IDENTIFY | admin::GET_LOG_PAGE | admin::SET_FEATURES | admin::GET_FEATURES
        );
    let detail = has_detail.then_some(command.dword10.get() as u8);
    refusals.count(code, detail, failure.status.into());
}
