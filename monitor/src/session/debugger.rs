//! What a debugger is shown of a session while the machine stands still, as text.
//!
//! Talks to the parts of the session and to the text report. It must not change anything that a later event depends on.
//! Nothing that is read here is recorded, so a replay gives the same report as a run at which a debugger looked.

use std::fmt::Write as _;

use storlock_check::rules::RuleId;

use super::Session;
use super::config::{End, EndKind};
use super::findings::past;
use super::stops::StoppedFor;
use crate::dump::Subject;
use crate::report::render::words;
use crate::report::{DumpReason, LockRoutine, text};
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::Processor;

/// Open acquires that are listed.
const LISTED: usize = 64;
/// The name that means all suspect findings, in the place of a rule's name.
pub(crate) const SUSPECTS: &str = "suspects";

/// A module of the guest, as a debugger wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadedModule {
    /// File name.
    pub name: String,
    /// Address of its image.
    pub base: u64,
    /// Bytes that it takes.
    pub size: u32,
    /// Address of its first section.
    pub(crate) first_section: u64,
}

impl Session {
    /// Has new violations stop the machine, or not.
    pub(crate) fn stop_on_violations(&self, stop: bool) {
        self.lock().stops.enable(stop);
    }

    /// Has the first Defect stop the machine for a dump, whatever a debugger wants.
    pub(crate) fn dump_first_violation(&self) {
        self.lock().stops.dump_first();
    }

    /// What a dump for another reason than a violation is about; `None` while the guest's kernel is not known.
    #[must_use]
    pub(crate) fn dump_subject(&self, reason: DumpReason) -> Option<Subject> {
        let mut state = self.lock();
        if reason == DumpReason::Reset {
            state.ledger.forget_ages();
        }
        Some(Subject::other(reason, state.ledger.sequence(), state.guest.kernel()?))
    }

    /// A processor that waits for a lock, as far as the last looks at them have shown.
    #[must_use]
    pub(crate) fn waiting_processor(&self) -> Option<u32> {
        super::finish::waiting(&self.lock()).first().copied()
    }

    /// For whom a processor was stopped at a violation; asked once a stop.
    #[must_use]
    pub(crate) fn stopped_for(&self, processor: u32) -> StoppedFor {
        self.lock().stops.take_stopped(processor)
    }

    /// Has the violations of a rule (or [`SUSPECTS`]) stop the machine, or not.
    ///
    /// # Errors
    /// If there is no such rule; the text names those that there are.
    pub(crate) fn arm_rule(&self, name: &str, armed: bool) -> Result<(), String> {
        let mut state = self.lock();
        if name.eq_ignore_ascii_case(SUSPECTS) {
            state.stops.arm_suspects(armed);
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
        state.stops.arm_rule(rule, armed);
        Ok(())
    }

    /// The rules and which of them stop the machine.
    #[must_use]
    pub(crate) fn rules_text(&self) -> String {
        let state = self.lock();
        let mut text = String::new();
        let word = |stops: bool| if stops { "stops the machine" } else { "is only reported" };
        for rule in RuleId::ALL {
            let _ = writeln!(text, "{:<24} {}", rule.meta().name, word(state.stops.is_armed(*rule)));
        }
        let _ = writeln!(text, "{SUSPECTS:<24} {}", word(state.stops.are_suspects_armed()));
        text
    }

    /// The violation that a processor was stopped at last.
    #[must_use]
    pub(crate) fn finding_text(&self, processor: u32) -> Option<String> {
        let state = self.lock();
        let found = state.ledger.reported(state.stops.last(processor)?)?;
        Some(text::finding(&found))
    }

    /// Every violation so far, one line each.
    #[must_use]
    pub(crate) fn violations_text(&self) -> String {
        let state = self.lock();
        let list = state.ledger.all_reported();
        if list.is_empty() {
            return if state.discovery.is_armed() {
                "none so far\n".to_owned()
            } else {
                format!("none so far: {} has not been loaded\n", self.config.target)
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
    pub(crate) fn locks_text(&self, memory: &(impl GuestMemory + ?Sized), address: Option<u64>) -> String {
        let state = self.lock();
        let mut names = state.guest.names().clone();
        let mut text = String::new();
        if let Some(address) = address {
            let locks = state.ledger.checker().history_at(address);
            if locks.is_empty() {
                let _ = writeln!(text, "no lock call has named {address:#x}");
            }
            for (lock, history) in locks {
                let _ = writeln!(text, "{lock}");
                let mut entries = Vec::new();
                for entry in &history {
                    let caller = names.locate(memory, entry.call.context.return_address, false);
                    entries.push(past(entry, &|_| caller.clone()));
                }
                text.push_str(&text::history(&entries));
            }
            return text;
        }
        let open = state.ledger.checker().open_acquires();
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
                names.locate(memory, context.return_address, false),
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
    pub(crate) fn stack_text(&self, cpu: &dyn CpuState) -> String {
        let state = self.lock();
        let mut names = state.guest.names().clone();
        let (frames, end) = names.stack(cpu);
        text::stack(&frames, end.as_ref())
    }

    /// Where a processor is, its IRQL and its thread, in one line.
    #[must_use]
    pub(crate) fn processor_text(&self, cpu: &dyn CpuState) -> String {
        let state = self.lock();
        let mut names = state.guest.names().clone();
        let special = cpu.special();
        let place = names.locate(cpu, cpu.registers().rip, true);
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
    pub(crate) fn loaded_modules(&self, memory: &(impl GuestMemory + ?Sized)) -> Vec<LoadedModule> {
        let mut names = self.lock().guest.names().clone();
        let modules = names.read_modules(memory).to_vec();
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
    pub(crate) fn report_so_far(&self) -> String {
        let end = End {
            kind: EndKind::Stopped,
            detail: Some("the run has not ended: a debugger asked for this report".to_owned()),
            ..End::default()
        };
        text::render(&self.report(&end))
    }
}
