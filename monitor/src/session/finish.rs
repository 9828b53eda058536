//! The end of a run: a last look at the stopped machine, and the report.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use storlock_check::event::Context;
use storlock_check::rules::Verdict;
use storlock_check::trace::EndMark;

use super::Session;
use super::config::{End, EndKind};
use super::discovery::module_list;
use super::doubts::Doubt;
use super::state::{Stage, State};
use crate::outcome::{self, Condition};
use crate::report::{
    BugCheck, ConditionNote, Cost, EndOfRun, FaultInfo, LockSummary, ProcessorState, Report, Rule, SCHEMA, WatchInfo,
    WatchedRoutine,
};
use crate::vmi::recorder::Recorder;
use crate::vmi::recording::Frame;
use crate::vmi::{CpuState, GuestMemory};

/// The exported record of a bug check: code and four parameters.
const BUG_CHECK_DATA: &str = "KiBugCheckData";
/// The highest IRQL: a bug check runs at it.
const HIGH_LEVEL: u8 = 15;

impl Session {
    /// A processor of the stopped machine.
    pub(crate) fn last_look(&self, state: &mut State, cpu: &Recorder<'_>) {
        if state.last_look.processors.is_empty() {
            state.bug_check = state.read_bug_check(cpu);
            state.dump_exports(cpu, &self.config.exports, |export, bytes| export.at_end = Some(bytes));
            state.check_at_end(cpu);
            if matches!(state.stage, Stage::Armed) {
                state.target_at_end(cpu);
            }
        }
        state.kernel_at_end(cpu);
        let (stack, stack_note) = state.stack(cpu);
        let location = state.locate(cpu, cpu.registers().rip, true);
        state.last_look.processors.push(ProcessorState {
            vcpu: cpu.index(),
            location,
            irql: cpu.special().irql(),
            activity: None,
            stack,
            stack_note,
        });
        state.last_look.processors.sort_by_key(|processor| processor.vcpu);
    }

    /// Ends a live run: completes `end` with what only the session knows, and closes trace and recording.
    pub fn close(&self, end: &mut End) {
        let ended_by_itself = {
            let state = self.lock();
            end.armed_ms = state.armed.map_or(0, |armed| armed.elapsed().as_millis() as u64);
            end.kind == EndKind::PowerOff && state.bug_check.is_none()
        };
        if let Some(trace) = &self.trace {
            end.queue_waits += trace.waits();
            let (info, cut) = trace.finish(if ended_by_itself {
                EndMark::Complete
            } else {
                EndMark::CutOff
            });
            end.note(cut);
            end.trace = Some(info);
        }
        if let Some(recording) = &self.recording {
            end.queue_waits += recording.waits();
            if let Ok(json) = serde_json::to_vec(end) {
                recording.push(Frame::End(json));
            }
            end.note(recording.finish());
        }
    }

    /// The report of the run that ended with `end`.
    #[must_use]
    pub fn report(&self, end: &End) -> Report {
        let state = self.lock();
        let conditions = self.conditions(&state, end);
        let held: Vec<Condition> = conditions.iter().map(|note| note.condition).collect();
        let mut run = self.config.run.clone();
        run.duration_ms = end.duration_ms;
        Report {
            schema: SCHEMA.to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            outcome: outcome::outcome(&held),
            exit_code: outcome::exit_code(&held),
            conditions,
            run,
            end: end_of_run(&state, end),
            target: state.target.as_ref().map(|(module, _)| module.clone()),
            modules: module_list(&state.modules),
            watch: self.watch_info(&state),
            rules: Rule::all(),
            violations: state.findings.list(state.checker.violations()),
            calls: state.calls.list(|id| state.modules.name(id)),
            locks: lock_summary(&state),
            cost: cost(&state, end),
            trace: end.trace.clone(),
            dump: end.dump.clone(),
            faults: end.faults.clone(),
            exports: state.exports.clone(),
            guest_checks: self.guest_checks(&state, end),
            debug_print: self.debug_log(&state),
            notes: state.notes.iter().chain(&end.notes).cloned().collect(),
        }
    }

    fn conditions(&self, state: &State, end: &End) -> Vec<ConditionNote> {
        let mut list = Vec::new();
        let mut add = |condition, reason: String| list.push(ConditionNote { condition, reason });
        if end.kind == EndKind::Interrupted {
            add(
                Condition::Interrupted,
                "the run was interrupted; this report covers what was seen until then".into(),
            );
        }
        if let Some(reason) = host_failure(state, end) {
            add(Condition::Infrastructure, reason);
        }
        for failure in &end.failures {
            add(Condition::Infrastructure, failure.clone());
        }
        let statistics = state.checker.statistics();
        let places = |verdict| {
            let violations = state.checker.violations().iter();
            let places = violations.filter(|v| v.verdict == verdict && v.concerns_target).count();
            let kept = statistics.violations_not_kept == 0;
            format!(
                "{}{places} place{}",
                if kept { "" } else { "at least " },
                plural(places)
            )
        };
        let defect = statistics.target_violations > 0;
        if defect {
            let places = places(Verdict::Semantic);
            add(
                Condition::Defect,
                format!("contracts of lock routines were broken in {places}"),
            );
        }
        if let Some(reason) = guest_failure(state, end) {
            add(Condition::GuestFailed, reason);
        }
        if statistics.target_suspects > 0 {
            let places = places(Verdict::Suspect);
            add(
                Condition::Inconclusive,
                format!("what looks like broken contracts in {places} has too little evidence for a verdict"),
            );
        }
        if let Some(reason) = state.unknowns.reason(&self.config.target) {
            add(Condition::Inconclusive, reason);
        } else if statistics.target_unknown_releases > 0 {
            let times = statistics.target_unknown_releases;
            let reason = format!(
                "{times} release{} of the driver could not be judged: the lock may have been held before the watch began",
                plural(usize::try_from(times).unwrap_or(usize::MAX))
            );
            add(Condition::Inconclusive, reason);
        }
        if statistics.target_unreadable_handles > 0 {
            let times = statistics.target_unreadable_handles;
            let reason = format!(
                "the lock handle of {times} call{} of the driver could not be read: which calls belong together is a guess",
                plural(usize::try_from(times).unwrap_or(usize::MAX))
            );
            add(Condition::Inconclusive, reason);
        }
        for reason in state.doubts.reasons() {
            add(Condition::Inconclusive, reason.to_owned());
        }
        if end.kind == EndKind::Stopped {
            let reason =
                "the run was over before the guest ended by itself; this report covers what was seen until then";
            add(Condition::Inconclusive, reason.into());
        }
        for reason in end.faults.iter().filter_map(FaultInfo::never_injected) {
            add(Condition::Inconclusive, reason);
        }
        match &state.stage {
            Stage::Armed => {
                let acquires = state.target.as_ref().map_or(0, |(_, id)| state.calls.acquires(*id));
                if acquires == 0 && !defect {
                    let reason = format!("{} never acquired a lock by a watched routine", self.config.target);
                    add(Condition::NotApplicable, reason);
                }
            }
            _ => add(Condition::Inconclusive, not_armed(state, &self.config.target)),
        }
        list
    }

    fn watch_info(&self, state: &State) -> WatchInfo {
        let watches = self.watches.load();
        let routines = watches.iter().map(|watch| WatchedRoutine {
            routine: watch.names.first().cloned().unwrap_or_default(),
            same_address: watch.names.get(1..).unwrap_or_default().to_vec(),
            address: watch.breakpoint.address,
            reason: watch.reason.clone(),
            hits: watch.hits.load(Ordering::Relaxed),
        });
        WatchInfo {
            routines: routines.collect(),
            ignored: state.ignored,
            gaps: state.gaps.clone(),
            summary: state.plan_summary.clone(),
            step_over: self.config.step_over.clone(),
            catch_return: !watches.is_empty() && self.can_catch(),
            armed_at: state.armed_at,
            not_armed: (!matches!(state.stage, Stage::Armed)).then(|| not_armed(state, &self.config.target)),
        }
    }
}

impl State {
    /// Whether what a processor does is of no interest: it runs for a guest that has crashed, where whoever writes the dump
    /// takes locks without regard to their holders.
    ///
    /// A bug check raises the IRQL of its processor to `HIGH_LEVEL` and freezes the others, so that only a hit at that level,
    /// which is rare, costs a guest read.
    pub(crate) fn concerns_nobody(&mut self, memory: &impl GuestMemory, context: &Context) -> bool {
        if !self.bug_checked && context.irql == HIGH_LEVEL && matches!(self.stage, Stage::Armed) {
            self.bug_checked = self.bug_check_code(memory).is_some();
        }
        self.bug_checked
    }

    fn bug_check_code(&self, memory: &impl GuestMemory) -> Option<u64> {
        let address = self.kernel.as_ref()?.address_of(BUG_CHECK_DATA)?;
        memory.read_u64(address).ok().filter(|&code| code != 0)
    }

    /// Whether the processor still runs the kernel that was watched.
    fn kernel_at_end(&mut self, cpu: &Recorder<'_>) {
        let special = cpu.special();
        let Some(kernel) = self.kernel.as_ref().filter(|_| matches!(self.stage, Stage::Armed)) else {
            return;
        };
        if kernel.is_left_by(cpu, special.idt_base, special.idt_limit) {
            let reason = format!(
                "at the end the page fault handler of vCPU {} was not in the kernel at {:#x}, which was watched: another \
                 kernel may have run",
                cpu.index(),
                kernel.image.base
            );
            self.doubts.add(Doubt::Kernel, reason);
        }
    }

    fn read_bug_check(&self, memory: &impl GuestMemory) -> Option<BugCheck> {
        let address = self.kernel.as_ref()?.address_of(BUG_CHECK_DATA)?;
        let field = |index: u64| memory.read_u64(address.checked_add(index * 8)?).ok();
        let code = field(0).filter(|&code| code != 0)?;
        Some(BugCheck {
            code,
            parameters: [field(1)?, field(2)?, field(3)?, field(4)?],
        })
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn not_armed(state: &State, target: &str) -> String {
    match &state.stage {
        Stage::Booting => match &state.no_kernel {
            None => "the guest's kernel was not found: it never wrote LSTAR with an address of its code".to_owned(),
            Some(reason) => format!(
                "the guest's kernel was not found: only an NT-compatible kernel, which is a PE image, can be watched, and \
                 {reason}"
            ),
        },
        Stage::Waiting(_) => never_loaded(state, target),
        Stage::Failed(reason) => reason.clone(),
        Stage::Armed => String::new(),
    }
}

/// Also names what the user may have meant.
fn never_loaded(state: &State, target: &str) -> String {
    let stem = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let count = state.modules.all().count();
    let mut text = format!("the guest never loaded {target} ({count} other modules were seen)");
    if let Some(similar) = state.modules.all().find(|module| stem(&module.name) == stem(target)) {
        let _ = write!(text, "; it loaded {}: is that the driver under test?", similar.name);
    }
    text
}

fn host_failure(state: &State, end: &End) -> Option<String> {
    let detail = end.detail.clone().unwrap_or_default();
    match end.kind {
        EndKind::Failed => Some(format!("the host failed: {detail}")),
        EndKind::InternalError => Some(not_executable(state, end, &detail)),
        EndKind::Unknown => Some("the recording ends before the run did".to_owned()),
        _ => None,
    }
}

/// Where the instruction is that KVM gave up on, and what to do about it.
fn not_executable(state: &State, end: &End, detail: &str) -> String {
    let processors = state.last_look.processors.iter();
    let told = processors.filter_map(|processor| {
        let (_, activity) = end.activities.iter().find(|(vcpu, _)| *vcpu == processor.vcpu)?;
        Some(format!("{activity} at {}", processor.location))
    });
    let what = told.into_iter().next().unwrap_or_else(|| detail.to_owned());
    format!(
        "{what}: run it on a machine whose KVM has hardware virtualization (kvm_amd or kvm_intel), or in the project's lab \
         (scripts/lab/run)"
    )
}

fn guest_failure(state: &State, end: &End) -> Option<String> {
    match (end.kind, bug_check(state, end)) {
        (_, Some(bug_check)) => Some(format!("the guest crashed: bug check {:#x}", bug_check.code)),
        (EndKind::Reset, None) => Some("the guest reset the machine".to_owned()),
        (EndKind::Crash, None) => end.detail.clone(),
        (EndKind::TripleFault, None) => Some("the guest crashed: triple fault".to_owned()),
        (EndKind::TimeLimit, None) => Some(format!("the guest had not ended after {} s", end.duration_ms / 1000)),
        _ => None,
    }
}

/// As the guest told the hypervisor, or else as its kernel noted it.
fn bug_check(state: &State, end: &End) -> Option<BugCheck> {
    end.bug_check.or(state.bug_check)
}

fn end_of_run(state: &State, end: &End) -> EndOfRun {
    let by_itself = end.kind == EndKind::PowerOff && state.bug_check.is_none();
    let mut processors = if by_itself {
        Vec::new()
    } else {
        state.last_look.processors.clone()
    };
    for processor in &mut processors {
        let told = end.activities.iter().find(|(vcpu, _)| *vcpu == processor.vcpu);
        processor.activity = told.map(|(_, activity)| activity.clone());
    }
    EndOfRun {
        kind: end.kind,
        detail: end.detail.clone(),
        bug_check: bug_check(state, end),
        processors,
    }
}

fn lock_summary(state: &State) -> LockSummary {
    let statistics = state.checker.statistics();
    LockSummary {
        unknown_releases: statistics.unknown_releases,
        target_unknown_releases: statistics.target_unknown_releases,
        unknown: state.unknowns.list(),
        remembered: state.checker.remembered().0 as u64,
        matched: statistics.matched,
        nested: statistics.nested,
        evictions: statistics.idle_locks_evicted
            + statistics.acquired_locks_evicted
            + statistics.handles_evicted
            + statistics.records_evicted,
    }
}

fn cost(state: &State, end: &End) -> Cost {
    Cost {
        hits: state.hits,
        target_hits: state.target_hits,
        hits_per_second: state.hits.saturating_mul(1000).checked_div(end.armed_ms).unwrap_or(0),
        kvm_runs: end.kvm_runs,
        debug_exits: end.debug_exits,
        other_exits: end.other_exits,
        queue_waits: end.queue_waits,
        hit_requests: end.hit_requests,
        handler_ns: end.handler_ns,
    }
}
