//! `--fault SPEC`: an entry of the fault plan as it is written on the command line.
//!
//! Talks to the virtual machine monitor's plan types. It must not know how a fault is carried out.

use std::str::FromStr;
use std::time::Duration;

use storlock_vmm::storage::nvme::command::{admin, nvm};
use storlock_vmm::storage::nvme::{
    CommandMatch, CompletionFault, Fault, FaultKind, FetchFault, RegisterFault, RegisterMatch, Status,
};

use super::options::Limit;
use crate::machine::PlannedFault;

/// What `storlock run --help` says about `--fault`.
pub const HELP: &str = "\
Have the emulated NVMe controller do wrong; may be given several times

SPEC is KIND:WHAT[,KEY=VALUE]..., for instance fail:read,after=3,count=1,status=0x281

Kinds of faults of commands:
  fail        the command is not executed and completes with status=STATUS
  delay       its completion comes for=DURATION later
  drop        its completion never comes
  duplicate   its completion comes twice
  stray       a completion for a command that is not outstanding follows its own
  fatal       the controller reports a fatal error (CSTS.CFS) and stops until it is reset
  read-only   the medium becomes read-only, for good
Kinds of faults of register writes:
  drop        the write has no effect
  fatal       the write has its effect, then the controller reports a fatal error

WHAT is any (command), io (all of I/O queues), read, write, flush, write-zeroes, dataset-management, compare, verify, \
write-uncorrectable, io.OPCODE; admin (all of the admin queue), identify, get-log-page, set-features, get-features, \
create-sq, delete-sq, create-cq, delete-cq, abort, async-event-request, doorbell-buffer-config, admin.OPCODE; \
or a register: doorbell, cc, aqa, asq, acq, nssr

Keys:
  after=N     matching commands or writes that are spared first [default: 0]
  count=N     how many are hit from then on, or all [default: 1]
  status=N    code type and code (Status Field bits 10:0); 0x4000: Do Not Retry [default: 0x6]
  for=TIME    such as 200ms or 5s

A run in which a planned fault was never injected is inconclusive.";

const KINDS: &str = "fail, delay, drop, duplicate, stray, fatal, read-only";

/// Names of commands: of I/O queues and of the admin queue.
const IO: [(&str, u8); 8] = [
    ("read", nvm::READ),
    ("write", nvm::WRITE),
    ("flush", nvm::FLUSH),
    ("write-zeroes", nvm::WRITE_ZEROES),
    ("dataset-management", nvm::DATASET_MANAGEMENT),
    ("compare", nvm::COMPARE),
    ("verify", nvm::VERIFY),
    ("write-uncorrectable", nvm::WRITE_UNCORRECTABLE),
];
const ADMIN: [(&str, u8); 11] = [
    ("identify", admin::IDENTIFY),
    ("get-log-page", admin::GET_LOG_PAGE),
    ("set-features", admin::SET_FEATURES),
    ("get-features", admin::GET_FEATURES),
    ("create-sq", admin::CREATE_SUBMISSION_QUEUE),
    ("delete-sq", admin::DELETE_SUBMISSION_QUEUE),
    ("create-cq", admin::CREATE_COMPLETION_QUEUE),
    ("delete-cq", admin::DELETE_COMPLETION_QUEUE),
    ("abort", admin::ABORT),
    ("async-event-request", admin::ASYNC_EVENT_REQUEST),
    ("doorbell-buffer-config", admin::DOORBELL_BUFFER_CONFIG),
];
/// Registers by their offset in BAR 0.
const REGISTERS: [(&str, u64); 5] = [
    ("cc", 0x14),
    ("aqa", 0x24),
    ("asq", 0x28),
    ("acq", 0x30),
    ("nssr", 0x20),
];

/// What a fault is about.
#[derive(Clone, Copy)]
enum What {
    Commands(CommandMatch),
    Registers(RegisterMatch),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let find = |names: &[(&str, u8)]| names.iter().find(|(name, _)| *name == text).map(|&(_, opcode)| opcode);
        let commands = match text {
            "any" => CommandMatch::Any,
            "io" => CommandMatch::Io(None),
            "admin" => CommandMatch::Admin(None),
            "doorbell" => return Ok(Self::Registers(RegisterMatch::Doorbell)),
            _ => {
                if let Some((_, offset)) = REGISTERS.iter().find(|(name, _)| *name == text) {
                    return Ok(Self::Registers(RegisterMatch::Offset(*offset)));
                }
                if let Some(opcode) = find(&IO) {
                    CommandMatch::Io(Some(opcode))
                } else if let Some(opcode) = find(&ADMIN) {
                    CommandMatch::Admin(Some(opcode))
                } else if let Some(opcode) = text.strip_prefix("io.") {
                    CommandMatch::Io(Some(opcode_number(opcode)?))
                } else if let Some(opcode) = text.strip_prefix("admin.") {
                    CommandMatch::Admin(Some(opcode_number(opcode)?))
                } else {
                    return Err(format!(
                        "`{text}` is no command and no register that a fault can be about"
                    ));
                }
            }
        };
        Ok(Self::Commands(commands))
    }
}

fn opcode_number(text: &str) -> Result<u8, String> {
    u8::try_from(number(text)?).map_err(|_| format!("opcode `{text}` is more than 0xff"))
}

/// A number, decimal or hexadecimal with `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a number"))
}

/// The values behind WHAT.
#[derive(Default)]
struct Values {
    after: Option<u64>,
    count: Option<u64>,
    status: Option<Status>,
    time: Option<Duration>,
}

impl Values {
    fn take(&mut self, pair: &str) -> Result<(), String> {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("`{pair}` is not of the form KEY=VALUE"))?;
        let again = match key {
            "after" => self.after.replace(number(value)?).is_some(),
            "count" => self.count.replace(count(value)?).is_some(),
            "status" => self.status.replace(status(value)?).is_some(),
            "for" => self.time.replace(value.parse::<Limit>()?.0).is_some(),
            _ => return Err(format!("unknown key `{key}`: use after, count, status or for")),
        };
        if again {
            return Err(format!("`{key}` is given twice"));
        }
        Ok(())
    }
}

fn count(text: &str) -> Result<u64, String> {
    match text {
        "all" => Ok(u64::MAX),
        _ => match number(text)? {
            0 => Err("a fault with count=0 never happens".to_owned()),
            count => Ok(count),
        },
    }
}

fn status(text: &str) -> Result<Status, String> {
    let bits = u16::try_from(number(text)?).ok();
    bits.and_then(Status::failure)
        .ok_or_else(|| format!("status `{text}` is no failure: 0x1 to 0x7ff, and 0x4000 for Do Not Retry"))
}

/// `fail` without a status: Internal Error.
fn default_status() -> Status {
    Status::INTERNAL_ERROR
}

fn kind(name: &str, what: What, values: &Values) -> Result<FaultKind, String> {
    if name != "fail" && values.status.is_some() {
        return Err(format!("`status` belongs to fail, not to {name}"));
    }
    if name != "delay" && values.time.is_some() {
        return Err(format!("`for` belongs to delay, not to {name}"));
    }
    let commands = match what {
        What::Registers(registers) => {
            let fault = match name {
                "drop" => RegisterFault::Drop,
                "fatal" => RegisterFault::Fatal,
                _ if KINDS.split(", ").any(|known| known == name) => {
                    return Err(format!("{name} is for commands; register writes have drop and fatal"));
                }
                _ => return Err(format!("unknown kind `{name}`: use {KINDS}")),
            };
            return Ok(FaultKind::Register(registers, fault));
        }
        What::Commands(commands) => commands,
    };
    Ok(match name {
        "fail" => FaultKind::Fetch(commands, FetchFault::Fail(values.status.unwrap_or_else(default_status))),
        "fatal" => FaultKind::Fetch(commands, FetchFault::Fatal),
        "read-only" => FaultKind::Fetch(commands, FetchFault::ReadOnly),
        "delay" => {
            let time = values.time.ok_or("delay needs for=DURATION, such as for=200ms")?;
            FaultKind::Completion(commands, CompletionFault::Delay(time))
        }
        "drop" => FaultKind::Completion(commands, CompletionFault::Drop),
        "duplicate" => FaultKind::Completion(commands, CompletionFault::Duplicate),
        "stray" => FaultKind::Completion(commands, CompletionFault::Stray),
        _ => return Err(format!("unknown kind `{name}`: use {KINDS}")),
    })
}

impl FromStr for PlannedFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` is not of the form KIND:WHAT[,KEY=VALUE]..., such as fail:read,after=3")
        })?;
        let mut parts = rest.split(',');
        let what = parts.next().unwrap_or_default().parse()?;
        let mut values = Values::default();
        parts.try_for_each(|pair| values.take(pair))?;
        Ok(Self {
            text: text.to_owned(),
            fault: Fault {
                kind: kind(name, what, &values)?,
                after: values.after.unwrap_or(0),
                count: values.count.unwrap_or(1),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Fault {
        let planned: PlannedFault = text.parse().unwrap();
        assert_eq!(planned.text, text);
        planned.fault
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = text.parse::<PlannedFault>().unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }

    const READS: CommandMatch = CommandMatch::Io(Some(0x02));

    #[test]
    fn a_fault_has_a_kind_a_command_and_counts() {
        let expected = Fault {
            kind: FaultKind::Fetch(READS, FetchFault::Fail(Status::UNRECOVERED_READ_ERROR)),
            after: 3,
            count: 2,
        };
        assert_eq!(parse("fail:read,count=2,after=3,status=0x281"), expected);
        let all = parse("drop:any,count=all");
        assert_eq!((all.after, all.count), (0, u64::MAX));
        assert_eq!(
            all.kind,
            FaultKind::Completion(CommandMatch::Any, CompletionFault::Drop)
        );
    }

    #[test]
    fn every_kind_is_there() {
        let completion = |fault| FaultKind::Completion(READS, fault);
        let fetch = |fault| FaultKind::Fetch(READS, fault);
        for (text, expected) in [
            ("fail:read", fetch(FetchFault::Fail(Status::INTERNAL_ERROR))),
            ("fatal:read", fetch(FetchFault::Fatal)),
            ("read-only:read", fetch(FetchFault::ReadOnly)),
            (
                "delay:read,for=250ms",
                completion(CompletionFault::Delay(Duration::from_millis(250))),
            ),
            ("drop:read", completion(CompletionFault::Drop)),
            ("duplicate:read", completion(CompletionFault::Duplicate)),
            ("stray:read", completion(CompletionFault::Stray)),
            (
                "drop:doorbell",
                FaultKind::Register(RegisterMatch::Doorbell, RegisterFault::Drop),
            ),
            (
                "fatal:cc",
                FaultKind::Register(RegisterMatch::Offset(0x14), RegisterFault::Fatal),
            ),
        ] {
            assert_eq!(
                parse(text),
                Fault {
                    kind: expected,
                    after: 0,
                    count: 1
                },
                "{text}"
            );
        }
    }

    #[test]
    fn commands_are_named_or_numbered() {
        for (text, expected) in [
            ("drop:io", CommandMatch::Io(None)),
            ("drop:flush", CommandMatch::Io(Some(0))),
            ("drop:io.0x0d", CommandMatch::Io(Some(0x0d))),
            ("drop:admin", CommandMatch::Admin(None)),
            ("drop:create-cq", CommandMatch::Admin(Some(5))),
            ("drop:admin.192", CommandMatch::Admin(Some(0xc0))),
        ] {
            assert_eq!(
                parse(text).kind,
                FaultKind::Completion(expected, CompletionFault::Drop),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("read", "KIND:WHAT");
        refused("explode:read", "unknown kind `explode`");
        refused("explode:cc", "unknown kind `explode`");
        refused("fail:reed", "`reed` is no command and no register");
        refused("fail:", "`` is no command");
        refused("fail:io.0x100", "more than 0xff");
        refused("fail:io.x", "`x` is not a number");
        refused("fail:read,after", "`after` is not of the form KEY=VALUE");
        refused("fail:read,first=1", "unknown key `first`");
        refused("fail:read,after=1,after=2", "`after` is given twice");
        refused("fail:read,count=0", "never happens");
        refused("fail:read,count=-1", "`-1` is not a number");
        refused("fail:read,status=0", "status `0` is no failure");
        refused("fail:read,status=0x10281", "is no failure");
        refused("drop:read,status=0x281", "`status` belongs to fail, not to drop");
        refused("drop:read,for=1s", "`for` belongs to delay, not to drop");
        refused("delay:read", "delay needs for=DURATION");
        refused("delay:read,for=1week", "unknown suffix `week`");
        refused("delay:cc,for=1s", "delay is for commands");
    }
}
