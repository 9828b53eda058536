//! Numbers the events of a run, gives them to the checker, and keeps and counts what the report will tell.
//!
//! Talks to the checker and to the trace. It must not read the guest: it is told who called, and from where.

use std::sync::Arc;
use std::time::Instant;

use storlock_check::checker::{Checker, Limits, OpenQuestion, Response, Statistics};
use storlock_check::contract::Routine;
use storlock_check::event::{Event, EventKind, LockCall, Order};
use storlock_check::finding;
use storlock_check::rules::RuleSettings;

use super::calls::Calls;
use super::findings::{Attribution, Findings};
use super::guest::{ModuleId, ModuleMap};
use super::timeline::TimelineBuilder;
use super::trace::Trace;
use super::unknown::{UnknownCaller, Unknowns};
use crate::report::timeline::Timeline;
use crate::report::{CallCount, Finding, Location, LockSummary, Reason};

/// Everything that was seen of locks.
#[derive(Debug)]
pub(crate) struct Ledger {
    checker: Checker,
    /// Number of the last event.
    sequence: u64,
    trace: Option<Arc<Trace>>,
    hits: u64,
    target_hits: u64,
    calls: Calls,
    findings: Findings,
    /// Findings that were new, whether the checker kept them or not.
    new_findings: u64,
    unknowns: Unknowns,
    /// Only in replays: a run makes it of its trace when it is over.
    timeline: Option<Box<TimelineBuilder>>,
    /// What is open at the end has been counted.
    ended: bool,
    ages: Ages,
}

/// When the youngest acquires of the driver under test were made: event and time.
#[derive(Debug, Default)]
struct Ages {
    entries: Vec<(u64, Instant)>,
    next: usize,
}

impl Ages {
    const SIZE: usize = 64;

    fn add(&mut self, event: u64) {
        let entry = (event, Instant::now());
        if self.entries.len() < Self::SIZE {
            self.entries.push(entry);
        } else {
            self.entries[self.next] = entry;
            self.next = (self.next + 1) % Self::SIZE;
        }
    }

    /// How long before `until` an acquire was at least, in milliseconds.
    fn of(&self, event: u64, until: Instant) -> u64 {
        let known = self.entries.iter().find(|(of, _)| *of == event);
        let oldest = || {
            self.entries
                .iter()
                .min_by_key(|(of, _)| *of)
                .filter(|(of, _)| *of > event)
        };
        known
            .or_else(oldest)
            .map_or(0, |(_, at)| until.saturating_duration_since(*at).as_millis() as u64)
    }
}

impl Ledger {
    /// An empty account; events go to `trace`, too.
    pub(crate) fn new(seed: u64, rules: &RuleSettings, trace: Option<Arc<Trace>>) -> Self {
        let mut checker = Checker::new(Limits::default(), seed);
        checker.set_rules(rules.clone());
        Self {
            checker,
            sequence: 0,
            trace,
            hits: 0,
            target_hits: 0,
            calls: Calls::default(),
            findings: Findings::default(),
            new_findings: 0,
            unknowns: Unknowns::default(),
            timeline: None,
            ended: false,
            ages: Ages::default(),
        }
    }

    /// Appends an event: hands it to the checker and to the trace.
    pub(crate) fn append(&mut self, kind: EventKind) -> Response {
        self.sequence += 1;
        let event = Event {
            sequence: self.sequence,
            order: Order::Total,
            kind,
        };
        let response = self.checker.apply(&event);
        self.draw(&event, None, &response);
        if let Some(trace) = &self.trace {
            trace.push(event);
        }
        response
    }

    /// Appends a call; says whether it is a release that cannot be judged.
    pub(crate) fn append_call(&mut self, call: LockCall) -> (Response, bool) {
        let unknown = self.checker.statistics().unknown_releases;
        let response = self.append(EventKind::LockCall(call));
        (response, self.checker.statistics().unknown_releases > unknown)
    }

    /// The last event was an acquire of the driver under test.
    pub(crate) fn acquired_now(&mut self) {
        self.ages.add(self.sequence);
    }

    /// How long before `until` such an acquire was at least, in milliseconds; 0 if it is not known.
    pub(crate) fn age(&self, acquire: u64, until: Instant) -> u64 {
        self.ages.of(acquire, until)
    }

    /// The machine stands still for a while, in which no lock is held for any longer than it is.
    pub(crate) fn forget_ages(&mut self) {
        self.ages = Ages::default();
    }

    /// Has the events from here on make a timeline.
    pub(crate) fn begin_timeline(&mut self) {
        self.timeline = Some(Box::default());
    }

    /// The timeline, if one was begun.
    pub(crate) fn take_timeline(&mut self) -> Option<Timeline> {
        self.timeline.take().map(|timeline| timeline.finish())
    }

    fn draw(&mut self, event: &Event, time: Option<u64>, response: &Response) {
        if let Some(timeline) = &mut self.timeline {
            timeline.observe(event, time, response.findings().any(|found| found.first));
        }
    }

    /// Takes an event of a trace, which was at `time`; says whether it is a release that cannot be judged.
    pub(crate) fn replay(&mut self, event: &Event, time: Option<u64>) -> (Response, bool) {
        self.sequence = event.sequence;
        let unknown = self.checker.statistics().unknown_releases;
        let response = self.checker.apply(event);
        self.draw(event, time, &response);
        (response, self.checker.statistics().unknown_releases > unknown)
    }

    /// The run is over: counts what the driver under test has acquired, and of which nobody knows what has become; once.
    pub(crate) fn run_ended(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.checker.run_ended();
        }
    }

    /// Number of the last event.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Counts a hit of a watched routine by code of that module; `routine`: what was called, unless it is no lock call.
    pub(crate) fn count_hit(&mut self, module: ModuleId, by_target: bool, routine: Option<Routine>) {
        self.hits += 1;
        self.target_hits += u64::from(by_target);
        if let Some(routine) = routine {
            self.calls.count(routine, module);
        }
    }

    /// Hits so far, and those by the driver under test.
    pub(crate) fn hits(&self) -> (u64, u64) {
        (self.hits, self.target_hits)
    }

    /// How many calls of a module took or tried to take a lock.
    pub(crate) fn acquires(&self, module: ModuleId) -> u64 {
        self.calls.acquires(module)
    }

    /// The calls by routine and module.
    pub(crate) fn calls(&self, modules: &ModuleMap) -> Vec<CallCount> {
        self.calls.list(|id| modules.name(id))
    }

    /// What the checker knows.
    pub(crate) fn checker(&self) -> &Checker {
        &self.checker
    }

    /// What the checker has counted.
    pub(crate) fn statistics(&self) -> &Statistics {
        self.checker.statistics()
    }

    /// A finding, by its place in the checker's list.
    pub(crate) fn finding(&self, index: usize) -> Option<&finding::Finding> {
        self.checker.findings().get(index)
    }

    /// Notes where a new finding comes from.
    pub(crate) fn attribute(&mut self, index: usize, attribution: Attribution) {
        self.findings.insert(index, attribution);
        self.new_findings += 1;
    }

    /// New findings so far.
    pub(crate) fn new_findings(&self) -> u64 {
        self.new_findings
    }

    /// Where the call of a finding was made, as far as it is known.
    pub(crate) fn caller(&self, index: usize) -> Location {
        self.findings.caller(index)
    }

    /// A finding in the form of the report.
    pub(crate) fn reported(&self, index: usize) -> Option<Finding> {
        self.findings.one(self.checker.findings(), index)
    }

    /// All findings in the form of the report.
    pub(crate) fn all_reported(&self) -> Vec<Finding> {
        self.findings.list(self.checker.findings())
    }

    /// Notes a release that cannot be judged: the last event. `caller` tells who made it; it is asked for once a place.
    /// Returns the function of the driver under test that has made it by a jump.
    pub(crate) fn not_judged(&mut self, call: &LockCall, caller: impl FnOnce() -> UnknownCaller) -> Option<u64> {
        self.unknowns.add(call, self.sequence, caller)
    }

    /// The driver under test has made the release with this number, which cannot be judged, by a jump from that place.
    pub(crate) fn not_judged_of_target(&mut self, call: u64, caller: Location) {
        self.unknowns.claim(call, caller);
    }

    /// Why so many releases that concern the driver under test and could not be judged keep the run from being Completed.
    pub(crate) fn unknown_releases(&self, releases: u64, target: &str) -> Reason {
        let (places, more) = self.unknowns.first_of_target();
        Reason::UnknownReleases {
            releases,
            driver: target.to_owned(),
            places,
            more,
        }
    }

    /// The locks of the run, in numbers.
    pub(crate) fn lock_summary(&self) -> LockSummary {
        let statistics = self.checker.statistics();
        LockSummary {
            unknown_releases: statistics.unknown_releases,
            target_unknown_releases: statistics.open(OpenQuestion::UnknownReleases),
            unknown: self.unknowns.list(),
            remembered: self.checker.remembered().0 as u64,
            matched: statistics.matched,
            nested: statistics.nested,
            evictions: statistics.idle_locks_evicted
                + statistics.acquired_locks_evicted
                + statistics.handles_evicted
                + statistics.records_evicted,
        }
    }
}
