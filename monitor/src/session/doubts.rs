//! Reasons why a run is not Completed although no contract was seen broken: something may have been missed.
//!
//! Talks to nothing. Other parts add reasons; at the end of the run they become conditions.

use crate::report::Doubt;

/// Reasons of one kind that are reported; the guest chooses how often most of them occur.
const TOLD: usize = 4;

/// Kinds of reasons, each with a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What the guest's module list says of the driver under test has changed while the driver was there.
    Entry,
    /// The driver under test called while it was in no module list.
    Unlisted,
    /// Modules came and went too often to be followed, or the list cannot be read.
    Modules,
    /// There may be another kernel than the one that was watched.
    Kernel,
    /// The driver under test may have run before the breakpoints were in force.
    Late,
    /// The guest has disturbed the hooks.
    Hooks,
    /// The driver under test calls, or may call, lock routines that are not known or not watched.
    Imports,
}

impl Kind {
    const fn of(doubt: &Doubt) -> Self {
        match doubt {
            Doubt::EntryChanged { .. }
            | Doubt::TwoOfOneName { .. }
            | Doubt::TooManyImages { .. }
            | Doubt::ImageStays { .. } => Self::Entry,
            Doubt::CalledUnlisted { .. } => Self::Unlisted,
            Doubt::TooManyModuleChanges { .. } | Doubt::ModuleListUnreadable { .. } | Doubt::TwoModuleLists { .. } => {
                Self::Modules
            }
            Doubt::TwoKernels { .. } | Doubt::OtherKernel { .. } => Self::Kernel,
            Doubt::Late => Self::Late,
            Doubt::HooksBroken => Self::Hooks,
            Doubt::ImportsUnknown
            | Doubt::ImportsUnrecognised { .. }
            | Doubt::ImportElsewhere { .. }
            | Doubt::ReloadedUnread { .. }
            | Doubt::ReloadedImport { .. } => Self::Imports,
        }
    }
}

/// The reasons so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Vec<Doubt>);

impl Doubts {
    /// Adds a reason, if it is new.
    pub(crate) fn add(&mut self, doubt: Doubt) {
        let kind = Kind::of(&doubt);
        let told = self.0.iter().filter(|other| Kind::of(other) == kind).count();
        if told < TOLD && !self.0.contains(&doubt) {
            tracing::info!("{doubt}");
            self.0.push(doubt);
        }
    }

    /// All of them.
    pub(crate) fn list(&self) -> &[Doubt] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_a_kind_of_reasons_a_few_times() {
        let mut doubts = Doubts::default();
        let stays = |base| Doubt::ImageStays {
            name: "a.sys".to_owned(),
            base,
        };
        for round in 0..1000 {
            doubts.add(Doubt::Late);
            doubts.add(stays(round));
        }
        assert_eq!(doubts.list(), [Doubt::Late, stays(0), stays(1), stays(2), stays(3)]);
    }
}
