//! Commands that a controller answered with a failure of its own: what it lacks, or what the guest asked for wrongly.
//!
//! Filled by the controller's worker, read by whoever reports. A failure that the fault plan wanted is none. It must not
//! know what commands do: the words for them come from the controller.

use super::fault::{CommandCode, FaultVocabulary};
use crate::tally::{Counts, Tally};

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    class: u8,
    code: u16,
    /// What the command was about, where that tells commands with one code apart (NVMe: the feature, the log page).
    detail: Option<u8>,
    status: u32,
}

/// How a controller tells of its refusals.
#[derive(Debug)]
pub struct RefusalWords {
    /// The names of commands.
    pub commands: &'static FaultVocabulary,
    /// What the detail of a command is; only for commands that have one.
    pub detail: fn(CommandCode) -> &'static str,
    /// What a status means.
    pub status: fn(u32) -> String,
}

/// The commands that one controller refused.
#[derive(Debug)]
pub struct Refusals {
    controller: String,
    words: &'static RefusalWords,
    tally: Tally<Refusal>,
}

/// Commands of a kind that were refused, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCommand {
    /// Name of the controller, such as `nvme0`.
    pub controller: String,
    /// Name of the command and what it was about, such as `set-features, feature 0xd`.
    pub command: String,
    /// The status, as a fault plan writes it.
    pub status: u32,
    /// What it means.
    pub meaning: String,
    /// How often.
    pub count: u64,
}

impl Refusals {
    /// None so far.
    #[must_use]
    pub fn new(controller: String, words: &'static RefusalWords) -> Self {
        Self {
            controller,
            words,
            tally: Tally::default(),
        }
    }

    /// Counts one.
    pub fn count(&self, command: CommandCode, detail: Option<u8>, status: u32) {
        let CommandCode { class, code } = command;
        tracing::debug!(self.controller, class, code, ?detail, status, "a command was refused");
        self.tally.count(Refusal {
            class,
            code,
            detail,
            status,
        });
    }

    /// What was refused so far in words, and how often others were that have no place of their own.
    #[must_use]
    pub fn in_words(&self) -> (Vec<RefusedCommand>, u64) {
        let Counts { kinds, others } = self.tally.counts();
        let told = kinds.into_iter().map(|(refusal, count)| RefusedCommand {
            controller: self.controller.clone(),
            command: self.command(refusal),
            status: refusal.status,
            meaning: (self.words.status)(refusal.status),
            count,
        });
        (told.collect(), others)
    }

    fn command(&self, refusal: Refusal) -> String {
        let Refusal {
            class, code, detail, ..
        } = refusal;
        let name = self.words.commands.command_name(CommandCode { class, code });
        match detail {
            None => name,
            Some(detail) => format!(
                "{name}, {} {detail:#x}",
                (self.words.detail)(CommandCode { class, code })
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WORDS: RefusalWords = RefusalWords {
        commands: &crate::storage::nvme::NVME.faults,
        detail: |_| "feature",
        status: |status| format!("status {status}"),
    };

    #[test]
    fn commands_are_told_by_the_words_of_the_fault_plan() {
        let refusals = Refusals::new("nvme0".to_owned(), &WORDS);
        let code = |class, code| CommandCode { class, code };
        refusals.count(code(0, 9), Some(0xd), 7);
        refusals.count(code(0, 9), Some(0xd), 7);
        refusals.count(code(1, 0x99), None, 7);
        refusals.count(code(9, 1), None, 8);
        let (told, others) = refusals.in_words();
        let told: Vec<_> = told.iter().map(|refused| (&*refused.command, refused.count)).collect();
        assert_eq!(told, [("set-features, feature 0xd", 2), ("io.0x99", 1), ("9.0x1", 1)]);
        assert_eq!(others, 0);
    }
}
