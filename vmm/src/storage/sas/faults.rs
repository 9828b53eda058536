//! What a fault plan for this controller can be about: SCSI commands, task management, messages, registers; and statuses.

use super::message::Frame;
use super::spec::{function, ioc_status, offset, task_type};
use crate::storage::fault::{
    CommandClass, CommandCode, CommandMatch, CompletionFault, FaultVocabulary, FaultWord, FetchFault, RegisterFault,
    RegisterMatch, WordKind,
};
use crate::storage::scsi::Sense;
use crate::storage::scsi::spec::{asc, opcode, sense_key, service_action, status};

/// Class of SCSI commands, by operation code.
pub(crate) const IO: u8 = 0;
/// Class of task management functions, by TaskType.
pub(crate) const TASK_MANAGEMENT: u8 = 1;
/// Class of other messages, by Function.
pub(crate) const MESSAGE: u8 = 2;

/// What a request is to a fault plan.
pub(super) fn code(frame: &Frame) -> CommandCode {
    let (class, code) = match frame.function() {
        function::SCSI_IO_REQUEST => (IO, command(&frame.cdb())),
        function::SCSI_TASK_MGMT => (TASK_MANAGEMENT, frame.u8(0x05)),
        message => (MESSAGE, message),
    };
    CommandCode {
        class,
        code: code.into(),
    }
}

/// Whether a request is SCSI I/O.
pub(super) fn is_io(code: CommandCode) -> bool {
    code.class == IO
}

/// The one operation code that stands for all forms of the command of that block.
fn command(cdb: &[u8; 16]) -> u8 {
    match (cdb[0], cdb[1] & 0x1f) {
        (opcode::SERVICE_ACTION_IN_16, service_action::READ_CAPACITY_16) => opcode::READ_CAPACITY_10,
        (code, _) => form(code),
    }
}

/// The one operation code that stands for all with which a command can begin.
fn form(code: u8) -> u8 {
    match code {
        opcode::READ_6 | opcode::READ_12 | opcode::READ_16 => opcode::READ_10,
        opcode::WRITE_6 | opcode::WRITE_12 | opcode::WRITE_16 => opcode::WRITE_10,
        opcode::VERIFY_12 | opcode::VERIFY_16 => opcode::VERIFY_10,
        opcode::SYNCHRONIZE_CACHE_16 => opcode::SYNCHRONIZE_CACHE_10,
        opcode::WRITE_SAME_16 => opcode::WRITE_SAME_10,
        opcode::MODE_SENSE_6 => opcode::MODE_SENSE_10,
        opcode::MODE_SELECT_6 => opcode::MODE_SELECT_10,
        other => other,
    }
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultStatus {
    /// With that SCSI status and no sense data.
    Scsi(u8),
    /// With CHECK CONDITION.
    Sense(Sense),
    /// With that IOCStatus.
    Ioc(u16),
}

/// In a status: IOCStatus is in the low half.
const IOC: u32 = 0x8000_0000;

impl FaultStatus {
    /// What a status in the form of [`VOCABULARY`] means.
    pub(super) fn decode(bits: u32) -> Self {
        let [first, key, _, _] = bits.to_be_bytes();
        if bits & IOC != 0 {
            Self::Ioc(bits as u16)
        } else if first == status::CHECK_CONDITION {
            Self::Sense(Sense::new(key & 0xf, bits as u16))
        } else {
            Self::Scsi(bits as u8)
        }
    }

    /// That IOCStatus in the form of [`VOCABULARY`].
    pub(super) fn ioc(status: u16) -> u32 {
        IOC | u32::from(status)
    }

    /// What it is, for people.
    pub(super) fn meaning(self) -> String {
        match self {
            Self::Ioc(status) => format!("IOCStatus {status:04x}h"),
            Self::Sense(sense) => {
                let [code, qualifier] = sense.code.to_be_bytes();
                let key = sense.key;
                format!("CHECK CONDITION, sense key {key:x}h, {code:02x}h/{qualifier:02x}h")
            }
            Self::Scsi(status) => format!("SCSI status {status:02x}h"),
        }
    }
}

/// The status of a number, if it is a failure.
fn status_of(number: u64) -> Option<u32> {
    let bits = u32::try_from(number).ok()?;
    let [first, key, _, _] = bits.to_be_bytes();
    let known = match first {
        // Not CHECK CONDITION, which comes with sense data.
        0 => {
            matches!(
                bits as u8,
                status::BUSY | status::RESERVATION_CONFLICT | status::TASK_SET_FULL | status::TASK_ABORTED
            ) && bits <= 0xff
        }
        status::CHECK_CONDITION => key <= 0xf,
        0x80 => bits & 0x00ff_8000 == 0 && bits as u16 != ioc_status::SUCCESS,
        _ => false,
    };
    known.then_some(bits)
}

/// CHECK CONDITION with HARDWARE ERROR, INTERNAL TARGET FAILURE.
const INTERNAL_TARGET_FAILURE: u32 = (status::CHECK_CONDITION as u32) << 24
    | (sense_key::HARDWARE_ERROR as u32) << 16
    | asc::INTERNAL_TARGET_FAILURE as u32;

/// SCSI commands that have names.
const COMMANDS: &[(&str, u16)] = &[
    ("read", opcode::READ_10 as u16),
    ("write", opcode::WRITE_10 as u16),
    ("test-unit-ready", opcode::TEST_UNIT_READY as u16),
    ("inquiry", opcode::INQUIRY as u16),
    ("report-luns", opcode::REPORT_LUNS as u16),
    ("read-capacity", opcode::READ_CAPACITY_10 as u16),
    ("mode-sense", opcode::MODE_SENSE_10 as u16),
    ("mode-select", opcode::MODE_SELECT_10 as u16),
    ("synchronize-cache", opcode::SYNCHRONIZE_CACHE_10 as u16),
    ("unmap", opcode::UNMAP as u16),
    ("write-same", opcode::WRITE_SAME_10 as u16),
    ("verify", opcode::VERIFY_10 as u16),
    ("start-stop", opcode::START_STOP_UNIT as u16),
];

/// The name of the command that an operation code is a form of, if another code stands for it.
fn name_of_form(code: u16) -> Option<&'static str> {
    let main = u8::try_from(code).ok().map(form).map(u16::from)?;
    let named = COMMANDS.iter().find(|(_, named)| *named == main && main != code)?;
    Some(named.0)
}

/// The class of messages that are SCSI I/O and task management.
fn name_of_scsi(code: u16) -> Option<&'static str> {
    const SCSI_IO: u16 = function::SCSI_IO_REQUEST as u16;
    const SCSI_TASK: u16 = function::SCSI_TASK_MGMT as u16;
    match code {
        SCSI_IO => Some("io"),
        SCSI_TASK => Some("task-management"),
        _ => None,
    }
}

/// What cannot happen to a reply that comes by the doorbell, as that to IOC Init always does.
const BY_DOORBELL: &[(CommandMatch, &str)] = &[(
    CommandMatch::Code(CommandCode {
        class: MESSAGE,
        code: function::IOC_INIT as u16,
    }),
    "its reply comes by the doorbell, a word at a time",
)];

/// What a plan can say.
pub(crate) const VOCABULARY: FaultVocabulary = FaultVocabulary {
    kinds: &[
        FaultWord {
            name: "fail",
            kind: WordKind::Fail,
            except: &[],
            help: "the request is not executed and ends with status=STATUS; task management fails whatever the status, other \
                   messages with INTERNAL_ERROR unless it is an IOCStatus",
        },
        FaultWord {
            name: "delay",
            kind: WordKind::Delay,
            except: BY_DOORBELL,
            help: "send its reply for=TIME later",
        },
        FaultWord {
            name: "drop",
            kind: WordKind::Completion(CompletionFault::Drop),
            except: BY_DOORBELL,
            help: "never send its reply",
        },
        FaultWord {
            name: "duplicate",
            kind: WordKind::Completion(CompletionFault::Duplicate),
            except: BY_DOORBELL,
            help: "send its reply twice",
        },
        FaultWord {
            name: "stray",
            kind: WordKind::Completion(CompletionFault::Stray),
            except: BY_DOORBELL,
            help: "send one more reply, for a request that had its reply before",
        },
        FaultWord {
            name: "remove",
            kind: WordKind::Remove,
            except: &[(CommandMatch::Class(MESSAGE), "these messages are for no disk")],
            help: "remove its disk, for good or for=TIME; events tell",
        },
        FaultWord {
            name: "fatal",
            kind: WordKind::Fetch(FetchFault::Fatal),
            except: &[],
            help: "go to FAULT state; stop until a diagnostic reset",
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
            help: "do the write, then go to FAULT state",
        },
    ],
    classes: &[
        CommandClass {
            name: "io",
            class: IO,
            help: "all SCSI commands; READ(10) stands for all its forms, and so do others",
            last_code: 0xff,
            instead: name_of_form,
            commands: COMMANDS,
        },
        CommandClass {
            name: "task-management",
            class: TASK_MANAGEMENT,
            help: "all task management functions",
            last_code: 0xff,
            instead: |_| None,
            commands: &[
                ("abort-task", task_type::ABORT_TASK as u16),
                ("abort-task-set", task_type::ABRT_TASK_SET as u16),
                ("target-reset", task_type::TARGET_RESET as u16),
                ("bus-reset", task_type::RESET_BUS as u16),
                ("lun-reset", task_type::LOGICAL_UNIT_RESET as u16),
                ("query-task", task_type::QUERY_TASK as u16),
            ],
        },
        CommandClass {
            name: "message",
            class: MESSAGE,
            help: "all other messages, those of the doorbell included; the latter have no delay, drop, duplicate or stray",
            last_code: 0xff,
            instead: name_of_scsi,
            commands: &[
                ("ioc-init", function::IOC_INIT as u16),
                ("ioc-facts", function::IOC_FACTS as u16),
                ("port-facts", function::PORT_FACTS as u16),
                ("port-enable", function::PORT_ENABLE as u16),
                ("config", function::CONFIG as u16),
                ("event-notification", function::EVENT_NOTIFICATION as u16),
                ("sas-io-unit-control", function::SAS_IO_UNIT_CONTROL as u16),
            ],
        },
    ],
    registers: &[
        ("doorbell", RegisterMatch::at(offset::DOORBELL)),
        ("diagnostic", RegisterMatch::at(offset::DIAGNOSTIC)),
        ("interrupt-status", RegisterMatch::at(offset::HOST_INTERRUPT_STATUS)),
        ("interrupt-mask", RegisterMatch::at(offset::HOST_INTERRUPT_MASK)),
        ("request-queue", RegisterMatch::at(offset::REQUEST_QUEUE)),
        ("reply-queue", RegisterMatch::at(offset::REPLY_QUEUE)),
        ("hi-pri-queue", RegisterMatch::at(offset::HI_PRI_REQUEST_QUEUE)),
    ],
    status: status_of,
    status_help: "0x02KKAAQQ: CHECK CONDITION with sense key, ASC and ASCQ; 0x08 (busy), 0x18 (reservation conflict), 0x28 \
                  (task set full), 0x40 (task aborted); 0x8000NNNN: IOCStatus, such as 0x8000004b (IOC terminated)",
    status_range: "0x02KKAAQQ, 0x08, 0x18, 0x28, 0x40, or 0x80000001 to 0x80007fff",
    default_status: INTERNAL_TARGET_FAILURE,
    usual_statuses: &[INTERNAL_TARGET_FAILURE],
};
