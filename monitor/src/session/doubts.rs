//! Reasons why a run is not Completed although no contract was seen broken: something may have been missed.
//!
//! Talks to nothing. Other parts add reasons; at the end of the run they become conditions.

/// Reasons of one kind that are told; the guest chooses how often most of them occur.
const TOLD: usize = 4;

/// Kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
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
    /// The driver under test calls, or may call, lock routines that are not known or not watched.
    Imports,
}

/// The reasons so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    list: Vec<(Doubt, String)>,
}

impl Doubts {
    /// Adds a reason, a sentence, if it is new.
    pub(crate) fn add(&mut self, kind: Doubt, reason: String) {
        let told = self.list.iter().filter(|(other, _)| *other == kind).count();
        if told < TOLD && !self.list.iter().any(|(_, known)| *known == reason) {
            tracing::info!("{reason}");
            self.list.push((kind, reason));
        }
    }

    /// All of them.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(_, reason)| reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_a_kind_of_reasons_a_few_times() {
        let mut doubts = Doubts::default();
        for round in 0..1000 {
            doubts.add(Doubt::Late, "late".to_owned());
            doubts.add(Doubt::Entry, format!("renamed {round}"));
        }
        let told: Vec<_> = doubts.reasons().collect();
        assert_eq!(told, ["late", "renamed 0", "renamed 1", "renamed 2", "renamed 3"]);
    }
}
