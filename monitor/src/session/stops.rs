//! Decides which violations stop the machine, and for whom: a debugger, or a crash dump.
//!
//! Talks to the checker's findings. It must not know how a machine is stopped, nor what is shown of it then.

use std::collections::HashMap;

use storlock_check::finding::Finding;
use storlock_check::rules::{RuleId, Verdict};

use crate::dump::Subject;

/// For whom the session stopped a processor at a violation.
#[derive(Debug, Clone, Default)]
pub struct StoppedFor {
    /// For a debugger.
    pub debugger: bool,
    /// For a dump with this bug check.
    pub dump: Option<Subject>,
    /// The processor would wait for itself for ever: the run is over.
    pub deadlock: bool,
}

/// Whether violations stop the machine for a debugger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Debugger {
    /// They never have.
    #[default]
    Never,
    /// They do.
    Attached,
    /// They have, and do not any more.
    Gone,
}

/// Which violations stop the machine.
#[derive(Debug, Default)]
pub(crate) struct StopPolicy {
    debugger: Debugger,
    suspects: bool,
    ignored: Vec<RuleId>,
    /// The violation last found on each processor, by its place in the checker's list.
    last: HashMap<u32, usize>,
    /// The first Defect is to be dumped, and has not been found yet.
    dump: bool,
    /// A processor that would wait for itself for ever does not end the run.
    go_on: bool,
    /// For whom each processor has been stopped, until somebody asks.
    stopped: HashMap<u32, StoppedFor>,
}

impl StopPolicy {
    /// Nothing stops the machine yet but, unless it is to go on, a processor that would wait for itself for ever.
    pub(crate) fn new(go_on: bool) -> Self {
        Self {
            go_on,
            ..Self::default()
        }
    }

    /// Has violations stop the machine for a debugger, or not.
    pub(crate) fn enable(&mut self, stop: bool) {
        self.debugger = match (stop, self.debugger) {
            (true, _) => Debugger::Attached,
            (false, Debugger::Never) => Debugger::Never,
            (false, _) => Debugger::Gone,
        };
    }

    /// Whether a debugger was there, which may have held the machine for any time.
    pub(crate) fn was_debugged(&self) -> bool {
        self.debugger != Debugger::Never
    }

    /// Has the first Defect stop the machine for a dump, whatever a debugger wants.
    pub(crate) fn dump_first(&mut self) {
        self.dump = true;
    }

    /// Has suspect findings stop the machine, too, or not.
    pub(crate) fn arm_suspects(&mut self, armed: bool) {
        self.suspects = armed;
    }

    /// Has the violations of a rule stop the machine, or not.
    pub(crate) fn arm_rule(&mut self, rule: RuleId, armed: bool) {
        self.ignored.retain(|ignored| *ignored != rule);
        if !armed {
            self.ignored.push(rule);
        }
    }

    /// Whether violations of a rule stop the machine for a debugger.
    pub(crate) fn is_armed(&self, rule: RuleId) -> bool {
        self.debugger == Debugger::Attached && !self.ignored.contains(&rule)
    }

    /// Whether suspicions do.
    pub(crate) fn are_suspects_armed(&self) -> bool {
        self.debugger == Debugger::Attached && self.suspects
    }

    /// Notes a new violation of a processor, which has this place in the checker's list; says whether the machine is to stop
    /// for it. `subject` is what a dump is made of, `None` if none can be.
    pub(crate) fn stops_at(
        &mut self,
        processor: u32,
        index: usize,
        violation: &Finding,
        subject: impl FnOnce() -> Option<Subject>,
    ) -> bool {
        let wanted = match violation.verdict {
            Verdict::Semantic => true,
            Verdict::Suspect => self.suspects,
            Verdict::Literal => false,
        };
        let debugger = wanted && self.is_armed(violation.rule);
        if debugger {
            self.last.insert(processor, index);
        }
        let defect = violation.verdict == Verdict::Semantic && violation.concerns_target;
        let dump = if defect && self.dump { subject() } else { None };
        self.dump &= dump.is_none();
        // Whoever debugs it decides what becomes of it.
        let deadlock = defect && violation.is_deadlock() && !self.go_on && self.debugger != Debugger::Attached;
        let stops = debugger || dump.is_some() || deadlock;
        if stops {
            let stopped = self.stopped.entry(processor).or_default();
            stopped.debugger |= debugger;
            stopped.dump = dump.or(stopped.dump.take());
            stopped.deadlock |= deadlock;
        }
        stops
    }

    /// The violation that a processor was stopped at last, by its place in the checker's list.
    pub(crate) fn last(&self, processor: u32) -> Option<usize> {
        self.last.get(&processor).copied()
    }

    /// For whom a processor was stopped at a violation; told once a stop.
    pub(crate) fn take_stopped(&mut self, processor: u32) -> StoppedFor {
        self.stopped.remove(&processor).unwrap_or_default()
    }
}
