//! A fault plan: which faults a controller is to inject, and when.
//!
//! Three points ask the plan: a command was fetched, a completion is about to be posted, a register was written. Every
//! decision is made by counting, without clock and random numbers, so that the same commands meet the same faults
//! again. It decides which fault comes; the controller carries it out. By a [`FaultVocabulary`] the controller says
//! which commands, registers and statuses it has. A controller without a plan asks nobody.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A command as far as faults tell commands apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandCode {
    /// The class, as the controller numbers them (NVMe: of the admin queue, of I/O queues).
    pub class: u8,
    /// The code within the class (NVMe: the opcode).
    pub code: u16,
}

/// Commands that a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandMatch {
    /// All of them.
    Any,
    /// Those of one class.
    Class(u8),
    /// Those with one code.
    Code(CommandCode),
}

impl CommandMatch {
    fn matches(self, command: CommandCode) -> bool {
        match self {
            Self::Any => true,
            Self::Class(wanted) => wanted == command.class,
            Self::Code(wanted) => wanted == command,
        }
    }

    /// Whether it has every command that the other one has.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Class(class), Self::Class(other)) => class == other,
            (_, Self::Code(command)) => self.matches(command),
            _ => false,
        }
    }
}

/// Register writes that a fault is about: those at these offsets in the controller's BAR. A doorbell that the kernel takes
/// is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterMatch {
    /// First offset.
    pub first: u64,
    /// Last offset.
    pub last: u64,
}

impl RegisterMatch {
    /// The register at this offset.
    #[must_use]
    pub const fn at(offset: u64) -> Self {
        Self {
            first: offset,
            last: offset,
        }
    }

    fn matches(self, offset: u64) -> bool {
        (self.first..=self.last).contains(&offset)
    }
}

/// What happens to a command that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFault {
    /// It is not executed and completes with this status, as the controller encodes it.
    Fail(u32),
    /// It is not executed: the controller reports a fatal error and stands still until it is reset.
    Fatal,
    /// Its medium becomes read-only, for good; then it is executed.
    ReadOnly,
    /// Its disk is gone, for good or for so long; then it is executed, as far as that is possible.
    Remove(Option<Duration>),
}

impl FetchFault {
    /// Whether it is the disk of the command that something happens to.
    fn befalls_disk(self) -> bool {
        matches!(self, Self::ReadOnly | Self::Remove(_))
    }
}

/// What happens to the completion of a command that was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionFault {
    /// It is posted so much later.
    Delay(Duration),
    /// It is never posted.
    Drop,
    /// It is posted twice.
    Duplicate,
    /// After it comes a completion for a command that is not outstanding.
    Stray,
}

/// What happens to a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterFault {
    /// It has no effect.
    Drop,
    /// It has its effect, then the controller reports a fatal error.
    Fatal,
}

/// What a fault is about and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// When a command was fetched.
    Fetch(CommandMatch, FetchFault),
    /// When a completion is about to be posted.
    Completion(CommandMatch, CompletionFault),
    /// When a register was written.
    Register(RegisterMatch, RegisterFault),
}

/// One entry of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is about and what it does.
    pub kind: FaultKind,
    /// Matching commands or writes that are spared first.
    pub after: u64,
    /// Matching commands or writes that are hit from then on.
    pub count: u64,
}

/// What has become of one entry of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCount {
    /// Commands or writes that matched.
    pub matched: u64,
    /// How often the fault was carried out.
    pub injected: u64,
}

#[derive(Debug)]
struct Entry {
    fault: Fault,
    /// Nothing is counted yet.
    held: AtomicBool,
    matched: AtomicU64,
    injected: AtomicU64,
}

type Observer = Box<dyn Fn(usize) + Send + Sync>;

/// A plan at work: its counts, shared by the controller's worker, the vCPUs and whoever reports.
#[derive(Default)]
pub struct FaultInjector {
    entries: Vec<Entry>,
    observer: OnceLock<Observer>,
}

impl std::fmt::Debug for FaultInjector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultInjector")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl FaultInjector {
    /// Puts a plan to work. Where several entries want the same command or write, the first one has it; the others have
    /// counted it all the same.
    #[must_use]
    pub fn new(plan: &[Fault]) -> Self {
        let entries = plan.iter().map(|&fault| Entry {
            fault,
            held: AtomicBool::new(false),
            matched: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        });
        Self {
            entries: entries.collect(),
            observer: OnceLock::new(),
        }
    }

    /// Has `observer` called with the index of the entry whenever a fault is carried out, on the thread that does it.
    /// The first observer stays.
    pub fn observe(&self, observer: impl Fn(usize) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Has an entry, by its index in the plan, count nothing until [`begin`](Self::begin). To be called before the guest
    /// runs.
    pub fn hold(&self, index: usize) {
        if let Some(entry) = self.entries.get(index) {
            entry.held.store(true, Ordering::Relaxed);
        }
    }

    /// From here on every entry counts. Works on any thread, and once or more often.
    pub fn begin(&self) {
        for entry in &self.entries {
            entry.held.store(false, Ordering::Relaxed);
        }
    }

    /// What has become of each entry of the plan, in its order.
    #[must_use]
    pub fn counts(&self) -> Vec<FaultCount> {
        let count = |entry: &Entry| FaultCount {
            matched: entry.matched.load(Ordering::Relaxed),
            injected: entry.injected.load(Ordering::Relaxed),
        };
        self.entries.iter().map(count).collect()
    }

    /// A command was fetched: what to do with it instead of what the guest asked for. `for_disk`: it is for a disk that is
    /// there. A fault that befalls the disk matches no other command, because it could do nothing.
    pub(crate) fn command_fetched(&self, command: CommandCode, for_disk: bool) -> Option<FetchFault> {
        self.first(|kind| match kind {
            FaultKind::Fetch(wanted, fault) => {
                (wanted.matches(command) && (for_disk || !fault.befalls_disk())).then_some(fault)
            }
            _ => None,
        })
    }

    /// The completion of a command is about to be posted: what to do with it.
    pub(crate) fn completion_due(&self, command: CommandCode) -> Option<CompletionFault> {
        self.first(|kind| match kind {
            FaultKind::Completion(wanted, fault) if wanted.matches(command) => Some(fault),
            _ => None,
        })
    }

    /// A register was written, before that has any effect: what to do with the write.
    pub(crate) fn register_written(&self, offset: u64) -> Option<RegisterFault> {
        self.first(|kind| match kind {
            FaultKind::Register(wanted, fault) if wanted.matches(offset) => Some(fault),
            _ => None,
        })
    }

    /// Counts a match in every entry that `wanted` takes; the first one whose turn it is has its fault carried out.
    fn first<F>(&self, wanted: impl Fn(FaultKind) -> Option<F>) -> Option<F> {
        let mut chosen = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let Some(fault) = wanted(entry.fault.kind).filter(|_| !entry.held.load(Ordering::Relaxed)) else {
                continue;
            };
            let earlier = entry.matched.fetch_add(1, Ordering::Relaxed);
            let Fault { after, count, .. } = entry.fault;
            if chosen.is_none() && earlier >= after && earlier - after < count {
                chosen = Some((index, entry, fault));
            }
        }
        let (index, entry, fault) = chosen?;
        entry.injected.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(index, kind = ?entry.fault.kind, "fault injected");
        if let Some(observer) = self.observer.get() {
            observer(index);
        }
        Some(fault)
    }
}

/// The kind of fault that a word stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// [`FetchFault::Fail`], which takes a status.
    Fail,
    /// [`CompletionFault::Delay`], which takes a time.
    Delay,
    /// [`FetchFault::Remove`], which may take a time.
    Remove,
    /// Any other when a command was fetched.
    Fetch(FetchFault),
    /// Any other when a completion is about to be posted.
    Completion(CompletionFault),
    /// When a register was written.
    Register(RegisterFault),
}

/// A kind of fault that a controller offers. A word may be there for commands and once more for register writes.
#[derive(Clone, Copy, Debug)]
pub struct FaultWord {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it stands for.
    pub kind: WordKind,
    /// Commands that it cannot happen to, and why; a plan that says so all the same is refused.
    pub except: &'static [(CommandMatch, &'static str)],
    /// What it does, for help.
    pub help: &'static str,
}

/// A class of commands.
#[derive(Clone, Copy, Debug)]
pub struct CommandClass {
    /// Its name on the command line.
    pub name: &'static str,
    /// [`CommandCode::class`].
    pub class: u8,
    /// Which commands these are, for help.
    pub help: &'static str,
    /// The largest [`CommandCode::code`].
    pub last_code: u16,
    /// The word for a code that no command has for a plan, because the command goes by that word.
    pub instead: fn(u16) -> Option<&'static str>,
    /// Commands with names, by code.
    pub commands: &'static [(&'static str, u16)],
}

/// What a plan for a kind of controller can say, and by which words.
#[derive(Clone, Copy, Debug)]
pub struct FaultVocabulary {
    /// Kinds of faults.
    pub kinds: &'static [FaultWord],
    /// Classes of commands.
    pub classes: &'static [CommandClass],
    /// Registers.
    pub registers: &'static [(&'static str, RegisterMatch)],
    /// Turns a number into a status; `None` if it is no failure.
    pub status: fn(u64) -> Option<u32>,
    /// What a status is, for help.
    pub status_help: &'static str,
    /// Which numbers are failures, for an error.
    pub status_range: &'static str,
    /// The status of a failure for which none was given.
    pub default_status: u32,
    /// Statuses that a driver is most likely to meet: what is tried where nobody says which.
    pub usual_statuses: &'static [u32],
}

impl FaultVocabulary {
    /// The name of a command, or its class and number where it has none.
    #[must_use]
    pub fn command_name(&self, command: CommandCode) -> String {
        let CommandCode { class, code } = command;
        let Some(known) = self.classes.iter().find(|known| known.class == class) else {
            return format!("{class}.{code:#x}");
        };
        let name = known.commands.iter().find(|(_, named)| *named == code);
        name.map_or_else(|| format!("{}.{code:#x}", known.name), |(name, _)| (*name).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const READ: CommandCode = CommandCode { class: 1, code: 2 };
    const WRITE: CommandCode = CommandCode { class: 1, code: 1 };

    fn drop_reads(after: u64, count: u64) -> Fault {
        Fault {
            kind: FaultKind::Completion(CommandMatch::Code(READ), CompletionFault::Drop),
            after,
            count,
        }
    }

    #[test]
    fn a_fault_spares_the_first_matches_and_hits_the_next() {
        let faults = FaultInjector::new(&[drop_reads(2, 3)]);
        let hit: Vec<bool> = (0..7).map(|_| faults.completion_due(READ).is_some()).collect();
        assert_eq!(hit, [false, false, true, true, true, false, false]);
        let expected = FaultCount {
            matched: 7,
            injected: 3,
        };
        assert_eq!(faults.counts(), [expected]);
    }

    #[test]
    fn only_the_point_and_the_commands_that_were_named_are_counted() {
        let faults = FaultInjector::new(&[drop_reads(0, u64::MAX)]);
        assert_eq!(faults.completion_due(WRITE), None);
        assert_eq!(
            faults.completion_due(CommandCode { class: 0, ..READ }),
            None,
            "another class"
        );
        assert_eq!(faults.command_fetched(READ, true), None);
        assert_eq!(faults.register_written(0x14), None);
        assert_eq!(faults.counts(), [FaultCount::default()]);
        assert_eq!(faults.completion_due(READ), Some(CompletionFault::Drop));
    }

    #[test]
    fn the_first_entry_wins_and_the_others_count() {
        let faults = FaultInjector::new(&[drop_reads(1, 1), drop_reads(0, 2)]);
        let seen = Arc::<Mutex<Vec<usize>>>::default();
        let sink = Arc::clone(&seen);
        faults.observe(move |index| sink.lock().unwrap().push(index));
        for _ in 0..3 {
            faults.completion_due(READ);
        }
        assert_eq!(*seen.lock().unwrap(), [1, 0]);
        assert!(
            faults
                .counts()
                .iter()
                .all(|count| (count.matched, count.injected) == (3, 1))
        );
    }

    #[test]
    fn an_entry_that_is_held_counts_from_the_beginning_on() {
        let faults = FaultInjector::new(&[drop_reads(1, 1), drop_reads(0, 1)]);
        faults.hold(0);
        faults.hold(7);
        assert!(
            faults.completion_due(READ).is_some(),
            "the second, which waits for nothing"
        );
        assert!(faults.completion_due(READ).is_none());
        faults.begin();
        assert!(faults.completion_due(READ).is_none(), "spared");
        assert!(faults.completion_due(READ).is_some());
        let counts: Vec<_> = faults
            .counts()
            .iter()
            .map(|count| (count.matched, count.injected))
            .collect();
        assert_eq!(counts, [(2, 1), (4, 1)]);
    }

    #[test]
    fn what_befalls_a_disk_matches_only_commands_for_one() {
        let fault = |what| Fault {
            kind: FaultKind::Fetch(CommandMatch::Any, what),
            after: 0,
            count: 1,
        };
        for what in [FetchFault::Remove(None), FetchFault::ReadOnly] {
            let faults = FaultInjector::new(&[fault(what)]);
            assert_eq!(faults.command_fetched(READ, false), None);
            assert_eq!(faults.counts(), [FaultCount::default()]);
            assert_eq!(faults.command_fetched(READ, true), Some(what));
        }
        let faults = FaultInjector::new(&[fault(FetchFault::Fatal)]);
        assert_eq!(faults.command_fetched(READ, false), Some(FetchFault::Fatal));
    }

    #[test]
    fn a_match_covers_what_has_no_other_commands() {
        let (all, class, code) = (CommandMatch::Any, CommandMatch::Class(1), CommandMatch::Code(READ));
        let covered = |by: CommandMatch| [all, class, code].map(|other| by.covers(other));
        assert_eq!(covered(all), [true, true, true]);
        assert_eq!(covered(class), [false, true, true]);
        assert_eq!(covered(code), [false, false, true]);
        assert!(!code.covers(CommandMatch::Code(WRITE)) && !CommandMatch::Class(0).covers(class));
        assert!(!CommandMatch::Class(0).covers(code));
    }

    #[test]
    fn registers_are_matched_by_ranges_of_offsets_or_one_by_one() {
        let fault = |wanted| Fault {
            kind: FaultKind::Register(wanted, RegisterFault::Drop),
            after: 0,
            count: 1,
        };
        let faults = FaultInjector::new(&[
            fault(RegisterMatch {
                first: 0x1000,
                last: 0x1fff,
            }),
            fault(RegisterMatch::at(0x14)),
        ]);
        assert_eq!(faults.register_written(0x24), None);
        assert_eq!(faults.register_written(0x1008), Some(RegisterFault::Drop));
        assert_eq!(faults.register_written(0x14), Some(RegisterFault::Drop));
    }
}
