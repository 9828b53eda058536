//! A session under a debugger: when a violation stops the machine (for a dump, too), and what is shown of the session
//! then.
//!
//! Looking changes nothing that a later event depends on, and nothing that is read here is recorded: a replay, where
//! nobody looks, comes to the same report.

use std::collections::HashMap;
use std::fmt::Write as _;

use storlock_check::rules::{RuleId, Verdict};

use super::Session;
use super::attribution::{locate, walk};
use super::config::{End, EndKind};
use super::findings::past;
use super::state::{Stage, State};
use crate::dump::Subject;
use crate::report::render::words;
use crate::report::{Location, LockRoutine, text};
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::{Modules, Processor};

/// Open acquires that are listed.
const LISTED: usize = 64;
/// What stands for all verdicts that are suspicions, where a rule is named.
pub const SUSPECTS: &str = "suspects";

/// Which violations stop the machine.
#[derive(Debug, Default)]
pub(crate) struct StopPolicy {
    enabled: bool,
    suspects: bool,
    ignored: Vec<RuleId>,
    /// The violation last found on each processor, by its place in the checker's list.
    last: HashMap<u32, usize>,
    /// The first Defect is to be dumped, and has not been found yet.
    dump: bool,
    /// For whom each processor has been stopped, until somebody asks.
    stopped: HashMap<u32, StoppedFor>,
}

/// For whom the session stopped a processor at a violation.
#[derive(Debug, Clone, Default)]
pub struct StoppedFor {
    /// A debugger is to be told.
    pub debugger: bool,
    /// A dump is to be made of this.
    pub dump: Option<Subject>,
}

impl State {
    /// Notes a violation of a processor; says whether the machine is to stop for it.
    pub(crate) fn stops_at(&mut self, processor: u32, index: usize) -> bool {
        let Some(violation) = self.checker.violations().get(index) else {
            return false;
        };
        let wanted = match violation.verdict {
            Verdict::Semantic => true,
            Verdict::Suspect => self.stops.suspects,
            Verdict::Literal => false,
        };
        let debugger = self.stops.enabled && wanted && !self.stops.ignored.contains(&violation.rule);
        if debugger {
            self.stops.last.insert(processor, index);
        }
        let defect = violation.verdict == Verdict::Semantic && violation.concerns_target;
        let dump = match &self.kernel {
            Some(kernel) if defect && self.stops.dump => {
                self.stops.dump = false;
                let caller = self.findings.caller(index);
                Some(Subject::new(violation, &caller, kernel))
            }
            _ => None,
        };
        let stops = debugger || dump.is_some();
        if stops {
            self.stops.stopped.insert(processor, StoppedFor { debugger, dump });
        }
        stops
    }
}

/// A module of the guest, as a debugger wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModule {
    /// File name.
    pub name: String,
    /// Address of its image.
    pub base: u64,
    /// Bytes that it takes.
    pub size: u32,
    /// Address of its first section.
    pub first_section: u64,
}

impl Session {
    /// Has new violations stop the machine, or not.
    pub fn stop_on_violations(&self, stop: bool) {
        self.lock().stops.enabled = stop;
    }

    /// Has the first Defect stop the machine for a dump, whatever a debugger wants.
    pub fn dump_first_violation(&self) {
        self.lock().stops.dump = true;
    }

    /// For whom a processor was stopped at a violation; asked once a stop.
    #[must_use]
    pub fn stopped_for(&self, processor: u32) -> StoppedFor {
        self.lock().stops.stopped.remove(&processor).unwrap_or_default()
    }

    /// Has the violations of a rule (or [`SUSPECTS`]) stop the machine, or not.
    ///
    /// # Errors
    /// If there is no such rule; the text names those that there are.
    pub fn arm_rule(&self, name: &str, armed: bool) -> Result<(), String> {
        let mut state = self.lock();
        if name.eq_ignore_ascii_case(SUSPECTS) {
            state.stops.suspects = armed;
            return Ok(());
        }
        let Some(rule) = RuleId::ALL
            .iter()
            .copied()
            .find(|rule| rule.meta().name.eq_ignore_ascii_case(name))
        else {
            let names: Vec<&str> = RuleId::ALL.iter().map(|rule| rule.meta().name).collect();
            return Err(format!(
                "there is no rule `{name}`: the rules are {}; and `{SUSPECTS}` for what has too little evidence",
                names.join(", ")
            ));
        };
        state.stops.ignored.retain(|ignored| *ignored != rule);
        if !armed {
            state.stops.ignored.push(rule);
        }
        Ok(())
    }

    /// The rules and which of them stop the machine.
    #[must_use]
    pub fn rules_text(&self) -> String {
        let state = self.lock();
        let mut text = String::new();
        let word = |stops: bool| if stops { "stops the machine" } else { "is only reported" };
        for rule in RuleId::ALL {
            let stops = state.stops.enabled && !state.stops.ignored.contains(rule);
            let _ = writeln!(text, "{:<24} {}", rule.meta().name, word(stops));
        }
        let _ = writeln!(
            text,
            "{SUSPECTS:<24} {}",
            word(state.stops.enabled && state.stops.suspects)
        );
        text
    }

    /// The violation that a processor was stopped at last.
    #[must_use]
    pub fn violation_text(&self, processor: u32) -> Option<String> {
        let state = self.lock();
        let index = *state.stops.last.get(&processor)?;
        let found = state.findings.one(state.checker.violations(), index)?;
        Some(text::violation(&found))
    }

    /// Every violation so far, one line each.
    #[must_use]
    pub fn violations_text(&self) -> String {
        let state = self.lock();
        let list = state.findings.list(state.checker.violations());
        if list.is_empty() {
            return match &state.stage {
                Stage::Armed => "none so far\n".to_owned(),
                _ => format!("none so far: {} has not been loaded\n", self.config.target),
            };
        }
        let mut text = String::new();
        for found in list {
            let _ = writeln!(
                text,
                "event {:>8}  vCPU {:<2} {}[{}] {}: {} ({} times)",
                found.event,
                found.vcpu,
                words::severity(&found),
                found.rule.meta().name,
                found.caller,
                found.cause.text(),
                found.count
            );
        }
        text
    }

    /// The acquires that are open, by processor; or, with an address, what happened to the locks there.
    #[must_use]
    pub fn locks_text(&self, memory: &(impl GuestMemory + ?Sized), address: Option<u64>) -> String {
        let state = self.lock();
        let mut look = Look::new(&state);
        let mut text = String::new();
        if let Some(address) = address {
            let locks = state.checker.history_at(address);
            if locks.is_empty() {
                let _ = writeln!(text, "no lock call has named {address:#x}");
            }
            for (lock, history) in locks {
                let _ = writeln!(text, "{lock}");
                let mut entries = Vec::new();
                for entry in &history {
                    let caller = look.locate(memory, entry.call.context.return_address, false);
                    entries.push(past(entry, &|_| caller.clone()));
                }
                text.push_str(&text::history(&entries));
            }
            return text;
        }
        let open = state.checker.open_acquires();
        if open.is_empty() {
            let _ = writeln!(text, "no acquire is open");
        }
        let more = open.len().saturating_sub(LISTED);
        for acquire in open.iter().take(LISTED) {
            let context = &acquire.call.context;
            let _ = writeln!(
                text,
                "vCPU {:<2} {:<9} {}, {} at event {} from {}, thread {:#x}",
                acquire.processor,
                if acquire.held { "holds" } else { "entered" },
                acquire.lock,
                LockRoutine(acquire.call.routine),
                acquire.call.sequence,
                look.locate(memory, context.return_address, false),
                context.thread
            );
        }
        if more > 0 {
            let _ = writeln!(text, "and {more} more");
        }
        text
    }

    /// The call stack of a processor.
    #[must_use]
    pub fn stack_text(&self, cpu: &dyn CpuState) -> String {
        let state = self.lock();
        let mut look = Look::new(&state);
        let (frames, note) = look.stack(cpu);
        text::stack(&frames, note.as_deref())
    }

    /// Where a processor is, its IRQL and its thread, in one line.
    #[must_use]
    pub fn processor_text(&self, cpu: &dyn CpuState) -> String {
        let state = self.lock();
        let mut look = Look::new(&state);
        let special = cpu.special();
        let place = look.locate(cpu, cpu.registers().rip, true);
        let thread = Processor::read(cpu, special.gs_base, special.gs_base).map_or_else(
            |_| "no thread known".to_owned(),
            |processor| format!("thread {:#x}", processor.thread),
        );
        format!(
            "vCPU {}, IRQL {}, {thread}, {place}",
            cpu.index(),
            text::irql_text(special.irql())
        )
    }

    /// The guest's modules at this moment, in load order; none before its kernel is known.
    #[must_use]
    pub fn loaded_modules(&self, memory: &(impl GuestMemory + ?Sized)) -> Vec<LoadedModule> {
        let Some(mut list) = self.lock().list.clone() else {
            return Vec::new();
        };
        // What can be read of a list that is being changed is worth showing.
        let _ = list.refresh(memory);
        let modules = list.known().to_vec();
        let shown = modules.into_iter().map(|module| {
            let image = module.image(memory).ok();
            let first = image.and_then(|image| image.sections.iter().map(|section| section.rva).min());
            LoadedModule {
                first_section: module.base.saturating_add(u64::from(first.unwrap_or(0x1000))),
                name: module.name,
                base: module.base,
                size: module.size,
            }
        });
        shown.collect()
    }

    /// The report as it would be if the run ended here.
    #[must_use]
    pub fn report_so_far(&self) -> String {
        let end = End {
            kind: EndKind::Stopped,
            detail: Some("the run has not ended: a debugger asked for this report".to_owned()),
            ..End::default()
        };
        text::render(&self.report(&end))
    }
}

/// Reads modules and symbols on copies of what the session knows.
struct Look {
    list: Option<Modules>,
    symbols: crate::windows::SymbolTable,
}

impl Look {
    fn new(state: &State) -> Self {
        Self {
            list: state.list.clone(),
            symbols: state.symbols.clone(),
        }
    }

    fn locate(&mut self, memory: &(impl GuestMemory + ?Sized), address: u64, exact: bool) -> Location {
        match &mut self.list {
            Some(list) => locate(&mut self.symbols, list, memory, address, exact),
            None => Location::unknown(address),
        }
    }

    fn stack(&mut self, cpu: &(impl CpuState + ?Sized)) -> (Vec<Location>, Option<String>) {
        walk(&mut self.symbols, self.list.as_mut(), cpu)
    }
}
