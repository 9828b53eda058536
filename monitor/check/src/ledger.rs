//! What was found, kept: one entry a cause and place, counted; room is reserved for the driver under test.
//!
//! Talks to the findings and to the list of modules, by which a place gets a name that survives a reboot. Must not know
//! how a finding was made.
//!
//! One call site may be that of a wrapper, behind which there are several bugs. So a finding on another lock is an entry
//! of its own at first, up to [`VARIANTS`]; when the callers are told ([`EventKind::CallerAttributed`]) those that
//! have the same become one.
//!
//! [`EventKind::CallerAttributed`]: crate::event::EventKind::CallerAttributed

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::event::CallerAttributed;
use crate::finding::{FRAMES, Finding, Fnv, Place, Signature, Verdict};
use crate::identity::LockIdentity;
use crate::modules::Modules;

/// Locks on which a finding at one place is an entry of its own.
const VARIANTS: usize = 8;

/// A verdict that an event gave rise to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How much it weighs.
    pub verdict: Verdict,
    /// Its place in [`Checker::findings`](crate::checker::Checker::findings); `None` if there were too many to keep.
    pub index: Option<usize>,
    /// Not seen before.
    pub first: bool,
    /// Whether it concerns the driver under test.
    pub concerns_target: bool,
}

/// Verdicts about the driver under test, repetitions included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) semantic: u64,
    pub(crate) suspect: u64,
}

impl Tally {
    const fn add(&mut self, verdict: Verdict, times: u64) {
        match verdict {
            Verdict::Semantic => self.semantic += times,
            Verdict::Suspect => self.suspect += times,
            Verdict::Literal => {}
        }
    }
}

/// A finding of the last call, for whoever says more of its caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pending {
    /// Where it was counted.
    index: usize,
    /// All of it, if it was no new one.
    again: Option<Finding>,
}

/// The findings of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    limit: usize,
    findings: Vec<Finding>,
    /// By place: the locks that have an entry there.
    places: HashMap<u64, Vec<(LockIdentity, usize)>>,
    /// Of the call that came last.
    pending: Vec<Pending>,
    /// Entries that concern others than the driver under test.
    others: usize,
    /// Of those that were not kept.
    dropped: Tally,
    tally: Tally,
    pub(crate) not_kept: u64,
}

impl Ledger {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// An event comes: what was found before is not asked about any more.
    pub(crate) fn next_event(&mut self) {
        if !self.pending.is_empty() {
            self.pending.clear();
        }
    }

    /// Keeps a finding, or counts it if it is known. `past` gives its history if it is new.
    pub(crate) fn report(&mut self, mut finding: Finding, modules: &Modules, past: impl FnOnce(&mut Finding)) -> Found {
        let place = place_of(&finding, modules);
        let verdict = finding.verdict;
        if let Some(index) = self.known(place, &finding) {
            let known = &mut self.findings[index];
            let claimed = !known.concerns_target && finding.concerns_target;
            let earlier = known.count;
            known.count += 1;
            // Once the driver under test is known to have to do with it, it had from the start.
            known.concerns_target |= finding.concerns_target;
            let concerns_target = known.concerns_target;
            if claimed {
                self.others -= 1;
                self.tally.add(verdict, earlier);
            }
            if concerns_target {
                self.tally.add(verdict, 1);
            }
            finding.concerns_target = concerns_target;
            past(&mut finding);
            self.pending.push(Pending {
                index,
                again: Some(finding),
            });
            return Found {
                verdict,
                index: Some(index),
                first: false,
                concerns_target,
            };
        }
        let concerns_target = finding.concerns_target;
        if concerns_target {
            self.tally.add(verdict, 1);
        }
        let Some(index) = self.room(concerns_target) else {
            self.not_kept += 1;
            if concerns_target {
                self.dropped.add(verdict, 1);
            }
            return Found {
                verdict,
                index: None,
                first: false,
                concerns_target,
            };
        };
        finding.signature.site = modules.place(finding.call.context.return_address);
        past(&mut finding);
        self.places.entry(place).or_default().push((finding.lock, index));
        self.findings.push(finding);
        self.pending.push(Pending { index, again: None });
        Found {
            verdict,
            index: Some(index),
            first: true,
            concerns_target,
        }
    }

    /// The entry that a finding belongs to, as far as its place and its lock tell.
    fn known(&self, place: u64, finding: &Finding) -> Option<usize> {
        let entries = self.places.get(&place)?;
        let same = entries.iter().find(|(lock, _)| *lock == finding.lock);
        let full = entries.len() >= VARIANTS || !finding.stands_at_call();
        same.or(entries.first().filter(|_| full)).map(|(_, index)| *index)
    }

    /// Where a new entry goes. Those of other modules fill no more than half of the room.
    fn room(&mut self, concerns_target: bool) -> Option<usize> {
        if self.findings.len() >= self.limit || (!concerns_target && self.others >= self.limit / 2) {
            return None;
        }
        self.others += usize::from(!concerns_target);
        Some(self.findings.len())
    }

    /// More is known of who made the last call. What each of its findings now is, and the locks that are the driver's
    /// under test.
    pub(crate) fn attribute(&mut self, told: &CallerAttributed, modules: &Modules) -> (Vec<Found>, Vec<LockIdentity>) {
        let (mut found, mut claimed) = (Vec::new(), Vec::new());
        // Youngest first: an entry that turns out to be a known one is the last of the list, and goes.
        for pending in std::mem::take(&mut self.pending).into_iter().rev() {
            let Some(entry) = self.findings.get(pending.index) else {
                continue;
            };
            let call = pending.again.as_ref().unwrap_or(entry);
            if call.call_sequence != told.call || !call.stands_at_call() {
                continue;
            }
            let signature = signature(call, told, modules);
            let lock = call.lock;
            let (index, first) = match pending.again {
                None => self.settle(pending.index, signature),
                Some(again) => self.resettle(pending.index, again, signature),
            };
            let entry = &mut self.findings[index];
            if told.target {
                if !std::mem::replace(&mut entry.concerns_target, true) {
                    self.others = self.others.saturating_sub(1);
                }
                claimed.push(lock);
            }
            found.push(Found {
                verdict: entry.verdict,
                index: Some(index),
                first,
                concerns_target: entry.concerns_target,
            });
        }
        found.reverse();
        self.recount();
        (found, claimed)
    }

    /// Gives a new entry its whole signature; if another entry has it, that one counts the call.
    fn settle(&mut self, index: usize, signature: Signature) -> (usize, bool) {
        let verdict = self.findings[index].verdict;
        if let Some(same) = self.with(&signature, verdict).filter(|same| *same != index) {
            if index + 1 == self.findings.len() {
                let gone = self.findings.pop();
                self.others -= usize::from(gone.is_some_and(|gone| !gone.concerns_target));
                for entries in self.places.values_mut() {
                    for (_, place) in entries.iter_mut().filter(|(_, place)| *place == index) {
                        *place = same;
                    }
                }
                self.findings[same].count += 1;
                return (same, false);
            }
        }
        self.findings[index].signature = signature;
        (index, true)
    }

    /// Moves a repetition to the entry that it belongs to by its callers; makes that if there is none and there is room.
    fn resettle(&mut self, index: usize, mut again: Finding, signature: Signature) -> (usize, bool) {
        let entry = &self.findings[index];
        let untold = entry.signature.frames.iter().all(Place::is_none);
        if untold || entry.signature == signature {
            return (index, false);
        }
        if let Some(same) = self.with(&signature, entry.verdict) {
            self.findings[index].count -= 1;
            self.findings[same].count += 1;
            return (same, false);
        }
        let Some(new) = self.room(again.concerns_target) else {
            return (index, false);
        };
        self.findings[index].count -= 1;
        again.signature = signature;
        self.findings.push(again);
        (new, true)
    }

    /// The entry of a signature.
    fn with(&self, signature: &Signature, verdict: Verdict) -> Option<usize> {
        self.findings
            .iter()
            .position(|entry| entry.verdict == verdict && entry.signature == *signature)
    }

    fn recount(&mut self) {
        let mut tally = self.dropped;
        for entry in self.findings.iter().filter(|entry| entry.concerns_target) {
            tally.add(entry.verdict, entry.count);
        }
        self.tally = tally;
    }
}

/// What makes the place of a finding, as a number: independent of where the module was loaded.
fn place_of(finding: &Finding, modules: &Modules) -> u64 {
    let mut hash = Fnv::default();
    let (module, offset) = modules.key(finding.call.context.return_address);
    for word in [
        finding.rule.number().into(),
        finding.verdict as u64,
        finding.cause.family().number().into(),
        finding.call.routine as u64,
        module,
        offset,
    ] {
        hash.word(word);
    }
    hash.0
}

fn signature(call: &Finding, told: &CallerAttributed, modules: &Modules) -> Signature {
    let site = if told.caller == 0 {
        call.call.context.return_address
    } else {
        told.caller
    };
    let mut frames: [Place; FRAMES] = Default::default();
    for (place, address) in frames.iter_mut().zip(told.frames) {
        *place = modules.place(address);
    }
    Signature {
        site: modules.place(site),
        frames,
        ..call.signature.clone()
    }
}
