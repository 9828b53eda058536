//! Unit attention conditions (SAM-5, 5.14): what each initiator is to be told before its next command is done.
//!
//! It knows initiators and codes, not what led to them.

use std::collections::BTreeMap;

use super::exchange::Initiator;
use super::spec::asc;

/// What waits for each initiator, oldest first; none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attentions(BTreeMap<Initiator, Vec<u16>>);

impl Attentions {
    /// Takes the condition that the initiator is to be told next. One that was never seen is told of the power-on.
    pub(super) fn take(&mut self, initiator: Initiator) -> Option<u16> {
        let waiting = self.0.entry(initiator).or_insert_with(|| vec![asc::POWER_ON_OCCURRED]);
        (!waiting.is_empty()).then(|| waiting.remove(0))
    }

    /// Establishes a condition for one initiator. One that was never seen needs none: it will be told of the power-on.
    pub(super) fn add(&mut self, initiator: Initiator, code: u16) {
        if let Some(waiting) = self.0.get_mut(&initiator) {
            if !waiting.contains(&code) {
                waiting.push(code);
            }
        }
    }

    /// Establishes a condition for every initiator but one.
    pub(super) fn add_for_others(&mut self, than: Initiator, code: u16) {
        let others: Vec<Initiator> = self.0.keys().copied().filter(|&other| other != than).collect();
        for other in others {
            self.add(other, code);
        }
    }

    /// A reset clears what waited, and is itself what is to be told.
    pub(super) fn replace(&mut self, code: u16) {
        for waiting in self.0.values_mut() {
            *waiting = vec![code];
        }
    }
}
