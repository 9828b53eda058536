//! Rules on pairs of acquire and release, and what the rules on releases share.

mod cancel_spin_lock;
mod double_acquire;
mod lock_cleared;
mod missing_release;
mod queued_spin_lock_release;
mod spin_lock_release;

pub(super) use cancel_spin_lock::CancelSpinLock;
pub(super) use double_acquire::DoubleAcquire;
pub(super) use lock_cleared::LockCleared;
pub(super) use missing_release::MissingRelease;
pub(super) use queued_spin_lock_release::QueuedSpinLockRelease;
pub(super) use spin_lock_release::SpinLockRelease;

use super::{Findings, RuleId};
use crate::contract::SystemModule;
use crate::finding::{Cause, Evidence, Shortfall};
use crate::matching::{Fact, Facts, Pairing, ReleaseFacts};

/// Judges a release for the rule that governs its class of locks; others have nothing to say.
#[inline]
pub(super) fn judge_release(rule: RuleId, facts: &Facts<'_>, findings: &mut Findings) {
    if let Fact::Release(release) = &facts.fact {
        if RuleId::of_release(facts.row.class) == rule {
            judge_paired(rule, facts, release, findings);
        }
    }
}

/// Judges a release by how it is paired.
fn judge_paired(rule: RuleId, facts: &Facts<'_>, release: &ReleaseFacts<'_>, findings: &mut Findings) {
    let shortfall = release.shortfall;
    match release.pairing {
        Pairing::TookNothing => {}
        Pairing::Own => judge_own(rule, facts, release, findings),
        Pairing::Unmatched => judge_unmatched(rule, facts, release, findings),
        // Nobody holds it. If the caller's acquire has come back, somebody else has cleared the lock: see `LockCleared`.
        Pairing::Waiting if LockCleared::is_possible(release) => {}
        Pairing::Waiting => {
            findings.broken(rule, facts, Cause::ReleaseWithoutAcquire, Shortfall::UNRESOLVED);
        }
        // Of other drivers' pairs one half may be made by routines that are not watched.
        _ if release.half_seen => {}
        Pairing::Foreign => {
            findings.broken(rule, facts, Cause::WrongOwner, shortfall);
        }
        Pairing::Refused => {
            let draft = findings.broken(rule, facts, Cause::ReleaseWithoutAcquire, Shortfall::empty());
            draft.evidence.extend(release.refused.copied().map(Evidence::Refused));
        }
        Pairing::OtherHandle(handle) => {
            let draft = findings.broken(rule, facts, Cause::OtherHandle, shortfall);
            draft.because(Evidence::AcquiredHandle(handle));
        }
        Pairing::WrongAdapter(acquired) => {
            let draft = findings.broken(rule, facts, Cause::WrongAdapter, shortfall);
            if let Some(released) = facts.call.operand.adapter() {
                draft.because(Evidence::Adapter { acquired, released });
            }
        }
        Pairing::ChangedHandle(acquired, now) => {
            let draft = findings.broken(rule, facts, Cause::ChangedHandle, shortfall);
            draft.because(Evidence::Kind { acquired, now });
        }
    }
}

/// A release by somebody who has an open acquire of the lock.
fn judge_own(rule: RuleId, facts: &Facts<'_>, release: &ReleaseFacts<'_>, findings: &mut Findings) {
    let Some(record) = release.record else { return };
    if !record.fits && !release.half_seen {
        findings.broken(rule, facts, Cause::WrongRoutine, release.shortfall);
    }
}

/// A release by somebody of whom no acquire was seen. Which kind of wrong release it looks like is not asked here.
fn judge_unmatched(rule: RuleId, facts: &Facts<'_>, release: &ReleaseFacts<'_>, findings: &mut Findings) {
    let cause = Cause::ReleaseWithoutAcquire;
    match release.word_held {
        // Nobody holds it, whatever was or was not watched; unless the caller's hold was ended by somebody else.
        Some(false) => {
            let shortfall = release.shortfall & Shortfall::CONTRADICTED;
            findings.broken(rule, facts, cause, shortfall);
        }
        _ if !release.known => {}
        _ if release.half_seen && facts.row.module != SystemModule::Storport => {}
        _ if release.holder.is_some() => {
            findings.broken(rule, facts, Cause::WrongOwner, release.shortfall);
        }
        // That somebody holds it is explained, and not by an acquire of the caller's.
        Some(true) if release.taken_by_other => {
            findings.broken(rule, facts, cause, release.shortfall);
        }
        Some(true) => {
            let shortfall = release.shortfall | Shortfall::UNSEEN_HOLDER;
            findings.broken(rule, facts, cause, shortfall);
        }
        None => {
            findings.broken(rule, facts, cause, release.shortfall);
        }
    }
}
