//! Parses an entry of the fault plan, `--fault SPEC`, and makes the help of that option.
//!
//! Asks the controllers' vocabularies for the help. It must not know what their words mean.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use storlock_vmm::storage::fault::FaultVocabulary;
use storlock_vmm::storage::{CONTROLLERS, ControllerKind};

use super::faults::{CountFrom, PlannedFault, is_of_commands, number};
use super::units::{Limit, as_text};

/// What `storlock run --help` says about `--fault`.
#[must_use]
pub fn help() -> String {
    let mut text = BEGINNING.to_owned();
    for kind in CONTROLLERS {
        text.push_str(&controller_help(kind));
    }
    text + END
}

const BEGINNING: &str = "\
Inject a fault into the storage controller of the driver under test; may be given several times

SPEC is KIND:WHAT[,KEY=VALUE]..., for instance fail:read,after=3,count=1,status=0x281

Keys:
  after=N     first let N matching commands or writes pass [default: 0]
  count=N     then inject the fault into N of them, or into all [default: 1]
  status=N    with fail: the status, see below
  for=TIME    with delay and remove: how long, such as 200ms or 5s
  from=WHEN   start counting when the guest starts (`start`) or when the
              breakpoints are set (`armed`)
              [default: armed with --firmware and --driver, else start]

The kind of controller decides which KIND, WHAT and status are possible.
";

const END: &str = "
A run in which a planned fault was never injected is inconclusive.";

/// What a kind of controller offers.
fn controller_help(controller: &ControllerKind) -> String {
    let words = &controller.faults;
    let mut text = format!(
        "\nController {}, faults of commands:\n{}",
        controller.name,
        kinds(words, true)
    );
    let _ = write!(text, "Faults of register writes:\n{}", kinds(words, false));
    text.push_str("WHAT is any (command)");
    for class in words.classes {
        let _ = write!(text, ", {} ({})", class.name, class.help);
        for (name, _) in class.commands {
            let _ = write!(text, ", {name}");
        }
        let _ = write!(text, ", {}.CODE", class.name);
    }
    let registers: Vec<_> = words.registers.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "; or a register: {}", registers.join(", "));
    let (status, default) = (words.status_help, words.default_status);
    let _ = writeln!(text, "status is {status} [default: {default:#x}]");
    text
}

fn kinds(words: &FaultVocabulary, of_commands: bool) -> String {
    let mut text = String::new();
    for word in words
        .kinds
        .iter()
        .filter(|word| is_of_commands(word.kind) == of_commands)
    {
        let _ = writeln!(text, "  {:<11} {}", word.name, word.help);
    }
    text
}

impl std::fmt::Display for PlannedFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

as_text!(PlannedFault, "a fault, such as \"fail:read,after=3\"");

/// The values behind WHAT.
#[derive(Default)]
struct Values {
    after: Option<u64>,
    count: Option<u64>,
    status: Option<u64>,
    time: Option<Duration>,
    from: Option<CountFrom>,
}

impl Values {
    fn take(&mut self, pair: &str) -> Result<(), String> {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("`{pair}` is not of the form KEY=VALUE"))?;
        let again = match key {
            "after" => self.after.replace(number(value)?).is_some(),
            "count" => self.count.replace(count(value)?).is_some(),
            "status" => self.status.replace(number(value)?).is_some(),
            "for" => self.time.replace(value.parse::<Limit>()?.0).is_some(),
            "from" => self.from.replace(from(value)?).is_some(),
            _ => return Err(format!("unknown key `{key}`: use after, count, status, for or from")),
        };
        if again {
            return Err(format!("`{key}` is given twice"));
        }
        Ok(())
    }
}

fn from(text: &str) -> Result<CountFrom, String> {
    match text {
        "start" => Ok(CountFrom::Start),
        "armed" => Ok(CountFrom::Armed),
        _ => Err(format!("`from={text}`: a fault counts from=start or from=armed")),
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

impl FromStr for PlannedFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` is not of the form KIND:WHAT[,KEY=VALUE]..., such as fail:read,after=3")
        })?;
        let mut parts = rest.split(',');
        let what = parts.next().unwrap_or_default();
        let mut values = Values::default();
        parts.try_for_each(|pair| values.take(pair))?;
        Ok(Self {
            text: text.to_owned(),
            kind: name.to_owned(),
            what: what.to_owned(),
            after: values.after.unwrap_or(0),
            count: values.count.unwrap_or(1),
            status: values.status,
            time: values.time,
            from: values.from,
        })
    }
}

#[cfg(test)]
mod tests {
    use storlock_vmm::storage::Fault;
    use storlock_vmm::storage::fault::{
        CommandCode, CommandMatch, CompletionFault, FaultKind, FetchFault, RegisterFault, RegisterMatch,
    };

    use super::*;

    fn resolve(text: &str) -> Result<Fault, String> {
        let planned: PlannedFault = text.parse()?;
        assert_eq!(planned.text, text);
        let nvme = ControllerKind::named("nvme").unwrap();
        planned.resolve(&nvme.faults)
    }

    fn parse(text: &str) -> Fault {
        resolve(text).unwrap()
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = resolve(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }

    const ADMIN: u8 = 0;
    const IO: u8 = 1;

    fn code(class: u8, code: u16) -> CommandMatch {
        CommandMatch::Code(CommandCode { class, code })
    }

    const READS: CommandMatch = CommandMatch::Code(CommandCode { class: IO, code: 0x02 });

    #[test]
    fn a_fault_has_a_kind_a_command_and_counts() {
        let expected = Fault {
            kind: FaultKind::Fetch(READS, FetchFault::Fail(0x281)),
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
            ("fail:read", fetch(FetchFault::Fail(0x006))),
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
                FaultKind::Register(
                    RegisterMatch {
                        first: 0x1000,
                        last: u64::MAX,
                    },
                    RegisterFault::Drop,
                ),
            ),
            (
                "fatal:cc",
                FaultKind::Register(RegisterMatch::at(0x14), RegisterFault::Fatal),
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
            ("drop:io", CommandMatch::Class(IO)),
            ("drop:flush", code(IO, 0)),
            ("drop:io.0x0d", code(IO, 0x0d)),
            ("drop:admin", CommandMatch::Class(ADMIN)),
            ("drop:create-cq", code(ADMIN, 5)),
            ("drop:admin.192", code(ADMIN, 0xc0)),
        ] {
            assert_eq!(
                parse(text).kind,
                FaultKind::Completion(expected, CompletionFault::Drop),
                "{text}"
            );
        }
    }

    #[test]
    fn a_fault_may_say_from_when_on_it_counts() {
        let from = |text: &str| text.parse::<PlannedFault>().unwrap().from;
        assert_eq!(from("drop:read"), None);
        assert_eq!(from("drop:read,from=start"), Some(CountFrom::Start));
        assert_eq!(from("drop:read,from=armed,after=2"), Some(CountFrom::Armed));
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
        refused("fail:read,from=arming", "from=start or from=armed");
        refused("fail:read,from=start,from=armed", "`from` is given twice");
        refused("fail:read,count=0", "never happens");
        refused("fail:read,count=-1", "`-1` is not a number");
        refused("fail:read,status=0", "status 0x0 is no failure");
        refused("fail:read,status=0x10281", "is no failure");
        refused("drop:read,status=0x281", "`status` belongs to fail, not to drop");
        refused("drop:read,for=1s", "`for` belongs to delay, not to drop");
        refused("delay:read", "delay needs for=TIME");
        refused("delay:read,for=1week", "unknown suffix `week`");
        refused(
            "delay:cc,for=1s",
            "delay is for commands; register writes have drop, fatal",
        );
    }

    #[test]
    fn what_cannot_happen_is_refused() {
        let sas = ControllerKind::named("sas").unwrap();
        let refused_by_sas = |text: &str, why: &str| {
            let error = text.parse::<PlannedFault>().unwrap().resolve(&sas.faults).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        };
        refused(
            "read-only:identify",
            "read-only cannot happen to identify: only commands of I/O queues",
        );
        refused("read-only:admin", "cannot happen to admin");
        refused("read-only:admin.6", "cannot happen to admin.6");
        refused_by_sas(
            "remove:config",
            "remove cannot happen to config: these messages are for no disk",
        );
        refused_by_sas("remove:message", "cannot happen to message");
        refused_by_sas("drop:ioc-init", "comes by the doorbell");
        refused_by_sas("delay:message.2,for=1s", "comes by the doorbell");
        refused_by_sas("fail:io.0x88", "go by the name of `read`");
        refused_by_sas("fail:io.0x15", "go by the name of `mode-select`");
        refused_by_sas("fail:message.0", "go by the name of `io`");
        refused_by_sas("drop:message.1", "go by the name of `task-management`");
    }

    #[test]
    fn help_names_every_word_of_every_controller() {
        let help = help();
        for words in CONTROLLERS.iter().map(|kind| kind.faults) {
            let classes = words.classes.iter().flat_map(|class| class.commands);
            let registers = words.registers.iter().map(|(name, _)| *name);
            let named = words.kinds.iter().map(|kind| kind.name).chain(registers);
            for word in named.chain(classes.map(|(name, _)| *name)) {
                assert!(help.contains(word), "{word}");
            }
        }
    }
}
