//! Turns the checker's findings into those of the report, with what is known of their callers.

use std::collections::HashMap;

use storlock_check::finding;

use super::guest::Names;
use crate::report::{Called, Evidence, Finding, HistoryEntry, Location, LockRoutine, ModuleInfo, PriorCall, StackEnd};

/// Where a finding came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attribution {
    pub(crate) caller: Location,
    pub(crate) called: Called,
    pub(crate) stack: Vec<Location>,
    pub(crate) stack_end: Option<StackEnd>,
    /// The callback that was running.
    pub(crate) callback: Option<&'static str>,
    /// Where the lock's earlier calls came from, by return address.
    pub(crate) places: HashMap<u64, Location>,
}

impl Attribution {
    /// Adds names and lines, as far as the files that the run was started with have them.
    pub(crate) fn name_places(&mut self, names: &Names, modules: &[ModuleInfo]) {
        let stack = self.stack.iter_mut();
        let all = stack.chain(self.places.values_mut()).chain([&mut self.caller]);
        for place in all.filter(|place| place.symbol.is_none()) {
            names.name_place(place, modules);
        }
    }
}

/// Attributions by the finding's place in the checker's list, which is bounded.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    attributions: HashMap<usize, Attribution>,
}

impl Findings {
    /// Notes where a finding that is new comes from.
    pub(crate) fn insert(&mut self, index: usize, attribution: Attribution) {
        self.attributions.insert(index, attribution);
    }

    /// Who called, as far as it is known.
    pub(crate) fn caller(&self, index: usize) -> Location {
        let attribution = self.attributions.get(&index);
        attribution.map(|found| found.caller.clone()).unwrap_or_default()
    }

    /// One finding, by its place in the checker's list.
    pub(crate) fn one(&self, findings: &[finding::Finding], index: usize) -> Option<Finding> {
        let unknown = Attribution::default();
        let attribution = self.attributions.get(&index).unwrap_or(&unknown);
        findings.get(index).map(|finding| describe(finding, attribution))
    }

    /// The findings for the report: semantic ones first, each kind in the order of discovery.
    pub(crate) fn list(&self, findings: &[finding::Finding]) -> Vec<Finding> {
        let mut list: Vec<Finding> = (0..findings.len())
            .filter_map(|index| self.one(findings, index))
            .collect();
        list.sort_by_key(|finding| (finding.verdict, finding.event));
        list
    }
}

fn describe(found: &finding::Finding, attribution: &Attribution) -> Finding {
    let place = |address: u64| {
        let known = attribution.places.get(&address).cloned();
        known.unwrap_or_else(|| Location::unknown(address))
    };
    let (call, context) = (&found.call, &found.call.context);
    Finding {
        signature: (&found.signature).into(),
        rule: found.rule,
        verdict: found.verdict,
        cause: found.cause,
        shortfall: found.shortfall,
        concerns_target: found.concerns_target,
        routine: LockRoutine(call.routine),
        operand: call.operand,
        new_irql: call.old_irql,
        lock: found.lock,
        caller: if attribution.caller.address == 0 {
            Location::unknown(context.return_address)
        } else {
            attribution.caller.clone()
        },
        called: attribution.called.clone(),
        stack: attribution.stack.clone(),
        stack_end: attribution.stack_end.clone(),
        callback: attribution.callback.map(str::to_owned),
        vcpu: context.processor,
        thread: context.thread,
        irql: context.irql,
        event: found.sequence,
        call_event: found.call_sequence,
        evidence: found.evidence.iter().map(|told| Evidence::new(told, &place)).collect(),
        history: found.history.iter().rev().map(|entry| past(entry, &place)).collect(),
        history_evicted: found.history_evicted,
        count: found.count,
    }
}

/// One event of a lock's past; `place` names a code address.
pub(crate) fn past(entry: &finding::HistoryEntry, place: &impl Fn(u64) -> Location) -> HistoryEntry {
    HistoryEntry {
        step: entry.step,
        call: PriorCall::new(&entry.call, place),
    }
}
