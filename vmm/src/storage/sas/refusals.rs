//! Requests that the controller or a disk refuses, told in words.
//!
//! What every driver meets when it looks for what there is does not count: targets that are not there, the end of a list
//! of pages, data that are shorter than the buffer, unit attentions. Nor does what any disk would refuse: blocks behind
//! the end, a write to a disk that is write-protected.

use super::faults::{FaultStatus, VOCABULARY, code};
use super::message::Frame;
use super::spec::ioc_status;
use crate::storage::refusals::{RefusalWords, Refusals};
use crate::storage::scsi::Completion;
use crate::storage::scsi::spec::{sense_key, status};

/// Additional sense code and qualifier: LOGICAL BLOCK ADDRESS OUT OF RANGE.
const LBA_OUT_OF_RANGE: [u8; 2] = [0x21, 0];

pub(super) static WORDS: RefusalWords = RefusalWords {
    commands: &VOCABULARY,
    detail: |_| "",
    status: |bits| FaultStatus::decode(bits).meaning(),
};

/// Counts a request that did not get to a disk, or was no SCSI I/O, if it was refused.
pub(super) fn count_ioc_status(refusals: &Refusals, frame: &Frame, result: u16) {
    let usual = [
        ioc_status::SUCCESS,
        ioc_status::CONFIG_INVALID_PAGE,
        ioc_status::SCSI_INVALID_BUS,
        ioc_status::SCSI_INVALID_TARGETID,
        ioc_status::SCSI_DEVICE_NOT_THERE,
    ];
    if !usual.contains(&result) {
        refusals.count(code(frame), None, FaultStatus::ioc(result));
    }
}

/// Counts a command that a disk refused.
pub(super) fn count_completion(refusals: &Refusals, frame: &Frame, completion: &Completion) {
    let (key, additional) = sense(&completion.sense);
    let bits = match completion.status {
        status::GOOD => return,
        status::CHECK_CONDITION if key == sense_key::UNIT_ATTENTION || key == sense_key::DATA_PROTECT => return,
        status::CHECK_CONDITION if additional == LBA_OUT_OF_RANGE => return,
        status::CHECK_CONDITION => u32::from_be_bytes([status::CHECK_CONDITION, key, additional[0], additional[1]]),
        other => other.into(),
    };
    refusals.count(code(frame), None, bits);
}

/// Sense key and additional sense code of sense data in fixed or descriptor format (SPC-4, 4.5).
fn sense(data: &[u8]) -> (u8, [u8; 2]) {
    let at = |index: usize| data.get(index).copied().unwrap_or(0);
    match at(0) & 0x7f {
        0x72 | 0x73 => (at(1) & 0xf, [at(2), at(3)]),
        _ => (at(2) & 0xf, [at(12), at(13)]),
    }
}
