//! An entry of the fault plan, and the fault that it means for the target's kind of controller.
//!
//! Talks to the controllers' vocabularies. It must not know what their words mean.

use std::time::Duration;

use storlock_vmm::storage::Fault;
use storlock_vmm::storage::fault::{
    CommandClass, CommandCode, CommandMatch, CompletionFault, FaultKind, FaultVocabulary, FaultWord, FetchFault,
    RegisterMatch, WordKind,
};

use super::disk::{Disk, target_kind};

/// An entry of the fault plan in words, which have a meaning once the kind of controller is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFault {
    /// As it was written on the command line.
    pub text: String,
    /// The kind of fault.
    pub kind: String,
    /// The command or register that it is about.
    pub what: String,
    /// Matching commands or writes that are spared first.
    pub after: u64,
    /// Matching commands or writes that are hit from then on.
    pub count: u64,
    /// The status of a command that fails.
    pub status: Option<u64>,
    /// By how much a completion is delayed.
    pub time: Option<Duration>,
    /// From when on it counts; `None`: as the guest's way of booting has it.
    pub from: Option<CountFrom>,
}

/// From when on a fault counts the commands or writes that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountFrom {
    /// From the guest's start: what firmware reads to boot counts, too.
    Start,
    /// From when the breakpoints for the driver under test are in force.
    Armed,
}

/// What a fault is about.
enum About {
    Commands(CommandMatch),
    Registers(RegisterMatch),
}

/// Whether the target's controller knows all of these faults.
///
/// # Errors
/// The first that it does not know, and why.
pub fn check_faults(disks: &[Disk], faults: &[PlannedFault]) -> Result<(), String> {
    if disks.is_empty() && !faults.is_empty() {
        return Err("there is no disk, so no controller that could inject it".to_owned());
    }
    let words = &target_kind(disks).faults;
    faults.iter().try_for_each(|fault| fault.resolve(words).map(drop))
}

impl PlannedFault {
    /// What the entry means in a controller's words.
    ///
    /// # Errors
    /// Which of its words means nothing there; the text begins with the entry.
    pub(crate) fn resolve(&self, words: &FaultVocabulary) -> Result<Fault, String> {
        let kind = about(&self.what, words).and_then(|what| self.kind(&what, words));
        Ok(Fault {
            kind: kind.map_err(|reason| format!("{}: {reason}", self.text))?,
            after: self.after,
            count: self.count,
        })
    }

    fn kind(&self, what: &About, words: &FaultVocabulary) -> Result<FaultKind, String> {
        let named = || words.kinds.iter().filter(|word| word.name == self.kind);
        let kind = match what {
            About::Commands(_) => named().find(|word| is_of_commands(word.kind)),
            About::Registers(_) => named().find(|word| !is_of_commands(word.kind)),
        };
        let word = kind.ok_or_else(|| self.no_such_kind(what, words))?;
        let kind = word.kind;
        self.check_exceptions(what, word)?;
        if kind != WordKind::Fail && self.status.is_some() {
            return Err(format!("`status` belongs to fail, not to {}", self.kind));
        }
        if !takes_time(kind) && self.time.is_some() {
            let takers = words.kinds.iter().filter(|word| takes_time(word.kind));
            let takers: Vec<&str> = takers.map(|word| word.name).collect();
            return Err(format!(
                "`for` belongs to {}, not to {}",
                takers.join(" and "),
                self.kind
            ));
        }
        Ok(match (kind, what) {
            (WordKind::Fail, About::Commands(commands)) => {
                FaultKind::Fetch(*commands, FetchFault::Fail(self.status(words)?))
            }
            (WordKind::Delay, About::Commands(commands)) => {
                let time = self.time.ok_or("delay needs for=TIME, such as for=200ms")?;
                FaultKind::Completion(*commands, CompletionFault::Delay(time))
            }
            (WordKind::Remove, About::Commands(commands)) => FaultKind::Fetch(*commands, FetchFault::Remove(self.time)),
            (WordKind::Fetch(fault), About::Commands(commands)) => FaultKind::Fetch(*commands, fault),
            (WordKind::Completion(fault), About::Commands(commands)) => FaultKind::Completion(*commands, fault),
            (WordKind::Register(fault), About::Registers(registers)) => FaultKind::Register(*registers, fault),
            _ => return Err(self.no_such_kind(what, words)),
        })
    }

    /// Whether a kind of fault can happen to what it is to be about.
    fn check_exceptions(&self, what: &About, word: &FaultWord) -> Result<(), String> {
        let About::Commands(commands) = what else {
            return Ok(());
        };
        match word.except.iter().find(|(except, _)| except.covers(*commands)) {
            Some((_, why)) => Err(format!("{} cannot happen to {}: {why}", word.name, self.what)),
            None => Ok(()),
        }
    }

    fn status(&self, words: &FaultVocabulary) -> Result<u32, String> {
        let Some(status) = self.status else {
            return Ok(words.default_status);
        };
        (words.status)(status).ok_or_else(|| format!("status {status:#x} is no failure: {}", words.status_range))
    }

    fn no_such_kind(&self, what: &About, words: &FaultVocabulary) -> String {
        let list = |names: Vec<&str>| names.join(", ");
        let of = |commands| {
            let kinds = words
                .kinds
                .iter()
                .filter(move |word| is_of_commands(word.kind) == commands);
            kinds.map(|word| word.name).collect::<Vec<_>>()
        };
        let (commands, registers) = (of(true), of(false));
        let kind = &self.kind;
        match what {
            About::Commands(_) if registers.contains(&kind.as_str()) => {
                format!("{kind} is for register writes; commands have {}", list(commands))
            }
            About::Registers(_) if commands.contains(&kind.as_str()) => {
                format!("{kind} is for commands; register writes have {}", list(registers))
            }
            About::Commands(_) => format!("unknown kind `{kind}`: use {}", list(commands)),
            About::Registers(_) => format!("unknown kind `{kind}`: use {}", list(registers)),
        }
    }
}

/// A number, decimal or hexadecimal with `0x`.
pub(super) fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a number"))
}

/// Whether `for=` can follow the word.
fn takes_time(kind: WordKind) -> bool {
    matches!(kind, WordKind::Delay | WordKind::Remove)
}

/// Whether a kind of fault is one of commands, not of register writes.
pub(super) fn is_of_commands(kind: WordKind) -> bool {
    !matches!(kind, WordKind::Register(_))
}

/// Finds the command or register that a word names.
fn about(text: &str, words: &FaultVocabulary) -> Result<About, String> {
    if text == "any" {
        return Ok(About::Commands(CommandMatch::Any));
    }
    if let Some((_, registers)) = words.registers.iter().find(|(name, _)| *name == text) {
        return Ok(About::Registers(*registers));
    }
    for class in words.classes {
        if let Some(commands) = of_class(text, class)? {
            return Ok(About::Commands(commands));
        }
    }
    Err(format!(
        "`{text}` is no command and no register that a fault can be about"
    ))
}

/// The commands that a word names if it is about that class.
fn of_class(text: &str, class: &CommandClass) -> Result<Option<CommandMatch>, String> {
    let code = |code| {
        let class = class.class;
        Some(CommandMatch::Code(CommandCode { class, code }))
    };
    if text == class.name {
        return Ok(Some(CommandMatch::Class(class.class)));
    }
    if let Some((_, named)) = class.commands.iter().find(|(name, _)| *name == text) {
        return Ok(code(*named));
    }
    let Some(digits) = text.strip_prefix(class.name).and_then(|rest| rest.strip_prefix('.')) else {
        return Ok(None);
    };
    let number = u16::try_from(number(digits)?).ok();
    let Some(number) = number.filter(|number| *number <= class.last_code) else {
        return Err(format!("`{digits}` is more than {:#x}", class.last_code));
    };
    match (class.instead)(number) {
        Some(word) => Err(format!(
            "`{text}` is one of the commands that go by the name of `{word}`"
        )),
        None => Ok(code(number)),
    }
}
