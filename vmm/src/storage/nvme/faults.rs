//! The words of a fault plan for this controller: its commands, registers and statuses.

use super::spec::command::{admin, nvm};
use super::spec::registers::{DOORBELLS, offset};
use super::spec::status::Status;
use crate::storage::fault::{
    CommandClass, CommandCode, CommandMatch, CompletionFault, FaultVocabulary, FaultWord, FetchFault, RegisterFault,
    RegisterMatch, WordKind,
};

/// Class of the commands of the admin queue.
pub(super) const ADMIN: u8 = 0;
/// Class of the commands of I/O queues.
pub(super) const IO: u8 = 1;

/// What a command of that submission queue is to a fault plan.
pub(super) fn code(queue: u16, opcode: u8) -> CommandCode {
    CommandCode {
        class: if queue == 0 { ADMIN } else { IO },
        code: opcode.into(),
    }
}

/// A failure by the bits that [`VOCABULARY`] takes for a status.
pub(super) fn status(bits: u32) -> Status {
    let status = u16::try_from(bits).ok().and_then(Status::failure);
    status.unwrap_or(Status::INTERNAL_ERROR)
}

/// Every doorbell.
pub(super) const ANY_DOORBELL: RegisterMatch = RegisterMatch {
    first: DOORBELLS,
    last: u64::MAX,
};

/// What a plan can say.
pub(super) const VOCABULARY: FaultVocabulary = FaultVocabulary {
    kinds: &[
        FaultWord {
            name: "fail",
            kind: WordKind::Fail,
            except: &[],
            help: "do not execute the command; complete it with status=STATUS",
        },
        FaultWord {
            name: "delay",
            kind: WordKind::Delay,
            except: &[],
            help: "send its completion for=TIME later",
        },
        FaultWord {
            name: "drop",
            kind: WordKind::Completion(CompletionFault::Drop),
            except: &[],
            help: "never send its completion",
        },
        FaultWord {
            name: "duplicate",
            kind: WordKind::Completion(CompletionFault::Duplicate),
            except: &[],
            help: "send its completion twice",
        },
        FaultWord {
            name: "stray",
            kind: WordKind::Completion(CompletionFault::Stray),
            except: &[],
            help: "send one more completion, for no outstanding command",
        },
        FaultWord {
            name: "fatal",
            kind: WordKind::Fetch(FetchFault::Fatal),
            except: &[],
            help: "report a fatal error (CSTS.CFS); stop until a reset",
        },
        FaultWord {
            name: "read-only",
            kind: WordKind::Fetch(FetchFault::ReadOnly),
            except: &[(
                CommandMatch::Class(ADMIN),
                "only commands of I/O queues are about a medium",
            )],
            help: "make the medium read-only, for good",
        },
        FaultWord {
            name: "drop",
            kind: WordKind::Register(RegisterFault::Drop),
            except: &[],
            help: "ignore the write",
        },
        FaultWord {
            name: "fatal",
            kind: WordKind::Register(RegisterFault::Fatal),
            except: &[],
            help: "do the write, then report a fatal error",
        },
    ],
    classes: &[
        CommandClass {
            name: "io",
            class: IO,
            help: "all commands of I/O queues",
            last_code: 0xff,
            instead: |_| None,
            commands: &[
                ("read", nvm::READ as u16),
                ("write", nvm::WRITE as u16),
                ("flush", nvm::FLUSH as u16),
                ("write-zeroes", nvm::WRITE_ZEROES as u16),
                ("dataset-management", nvm::DATASET_MANAGEMENT as u16),
                ("compare", nvm::COMPARE as u16),
                ("verify", nvm::VERIFY as u16),
                ("write-uncorrectable", nvm::WRITE_UNCORRECTABLE as u16),
            ],
        },
        CommandClass {
            name: "admin",
            class: ADMIN,
            help: "all commands of the admin queue",
            last_code: 0xff,
            instead: |_| None,
            commands: &[
                ("identify", admin::IDENTIFY as u16),
                ("get-log-page", admin::GET_LOG_PAGE as u16),
                ("set-features", admin::SET_FEATURES as u16),
                ("get-features", admin::GET_FEATURES as u16),
                ("create-sq", admin::CREATE_SUBMISSION_QUEUE as u16),
                ("delete-sq", admin::DELETE_SUBMISSION_QUEUE as u16),
                ("create-cq", admin::CREATE_COMPLETION_QUEUE as u16),
                ("delete-cq", admin::DELETE_COMPLETION_QUEUE as u16),
                ("abort", admin::ABORT as u16),
                ("async-event-request", admin::ASYNC_EVENT_REQUEST as u16),
                ("doorbell-buffer-config", admin::DOORBELL_BUFFER_CONFIG as u16),
            ],
        },
    ],
    registers: &[
        ("doorbell", ANY_DOORBELL),
        ("cc", RegisterMatch::at(offset::CC)),
        ("aqa", RegisterMatch::at(offset::AQA)),
        ("asq", RegisterMatch::at(offset::ASQ)),
        ("acq", RegisterMatch::at(offset::ACQ)),
        ("nssr", RegisterMatch::at(offset::NSSR)),
    ],
    status: |number| {
        let status = u16::try_from(number).ok().and_then(Status::failure)?;
        Some(status.into())
    },
    status_help: "code type and code (Status Field bits 10:0); 0x4000: Do Not Retry",
    status_range: "0x1 to 0x7ff, and 0x4000 for Do Not Retry",
    default_status: Status::INTERNAL_ERROR.code() as u32,
    // Unrecovered Read Error, Write Fault, Internal Error, LBA Out of Range, and Namespace Not Ready with Do Not Retry
    // (NVMe Base Specification 2.0, figures 99 to 102).
    usual_statuses: &[0x281, 0x280, 0x6, 0x80, 0x4082],
};
