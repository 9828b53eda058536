//! Lock cleared: a lock's memory must not be initialised, zeroed or freed while somebody holds it.

use crate::contract::{SystemModule, contract};
use crate::finding::{Cause, PriorCall, Shortfall, Verdict};
use crate::matching::{Fact, Facts, Pairing, ReleaseFacts};
use crate::rules::{Findings, Meta, Rule, RuleId};

/// See [`META`].
pub(crate) struct LockCleared;

const META: Meta = Meta {
    number: 8,
    name: "LockCleared",
    text: "The memory of a spin lock belongs to the lock routines while the lock is held: it must not be initialised \
           again, zeroed, overwritten or freed.",
    source: "wdm/nf-wdm-keinitializespinlock; devtest/deadlock-detection (multiple initialisation)",
    verdicts: &[Verdict::Suspect],
    causes: &[Cause::LockCleared],
};

impl Rule for LockCleared {
    fn meta(&self) -> &'static Meta {
        &META
    }

    /// The holder releases, and nobody holds the lock: whoever cleared it is not this call. Who it was is not seen, so
    /// this is a suspicion and never the holder's blame. Where the port driver keeps a lock's word is believed only once the
    /// word was seen to be set.
    #[inline]
    fn observe(&self, facts: &Facts<'_>, findings: &mut Findings) {
        let Fact::Release(release) = &facts.fact else { return };
        let certain = release.record.is_some_and(|record| record.certain);
        let own = release.pairing == Pairing::Own
            && certain
            && release.word_held == Some(false)
            && (release.words_proven || facts.row.module == SystemModule::Ntoskrnl)
            && !release.half_seen
            && !release.shortfall.contains(Shortfall::DISTURBED);
        if own || Self::is_possible(release) {
            let mut shortfall = Shortfall::CONTRADICTED;
            shortfall.set(Shortfall::UNRESOLVED, !own);
            shortfall.set(Shortfall::UNPROVED_WORD, own && !release.words_proven);
            let (rule, cause) = (RuleId::LockCleared, Cause::LockCleared);
            findings.add(rule, facts, cause, Verdict::Suspect, shortfall);
        }
    }
}

impl LockCleared {
    /// Whether a release whose acquire has not proved to have come back, and which finds the lock free, may be the
    /// holder's: that of an acquire that cannot have failed. It is that, or a stray one of an interrupt of the acquire.
    pub(super) fn is_possible(release: &ReleaseFacts<'_>) -> bool {
        let cannot_fail = |acquire: &PriorCall| !contract(acquire.routine).result.may_fail();
        release.pairing == Pairing::Waiting && release.record.is_some_and(|record| cannot_fail(record.call))
    }
}
