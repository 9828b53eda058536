//! The end of a run: a last look at the stopped machine, and the report.
//!
//! Asks every part of the session for its share of the report. It must not change what a part knows.

use storlock_check::checker::Statistics;
use storlock_check::rules::Verdict;

use super::config::{End, EndKind};
use super::doubts::Doubt;
use super::guest::{Guest, Names};
use super::guest_check::Seen;
use super::log::Log;
use super::state::State;
use crate::outcome::{self, Condition};
use crate::report::{
    BugCheck, ConditionNote, Cost, EndOfRun, FaultInfo, GuestCheck, ProcessorState, Report, Rule, SCHEMA,
};
use crate::vmi::recorder::Recorder;
use crate::vmi::{CpuState, GuestMemory};

/// What a last look at the stopped machine gave.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// By number.
    processors: Vec<ProcessorState>,
    bug_check: Option<BugCheck>,
}

impl Ending {
    /// No processor has been looked at yet.
    pub(crate) fn is_first_look(&self) -> bool {
        self.processors.is_empty()
    }

    /// The bug check that the guest has recorded.
    pub(crate) fn bug_check(&self) -> Option<BugCheck> {
        self.bug_check
    }

    /// Takes it from the guest's memory.
    pub(crate) fn read_bug_check(&mut self, guest: &Guest, memory: &impl GuestMemory) {
        self.bug_check = guest.bug_check(memory);
    }

    /// Notes where a processor stands.
    pub(crate) fn look(&mut self, names: &mut Names, cpu: &Recorder<'_>) {
        let (stack, stack_note) = names.stack(cpu);
        let location = names.locate(cpu, cpu.registers().rip, true);
        self.processors.push(ProcessorState {
            vcpu: cpu.index(),
            location,
            irql: cpu.special().irql(),
            activity: None,
            stack,
            stack_note,
        });
        self.processors.sort_by_key(|processor| processor.vcpu);
    }

    /// Whether the processor still runs the kernel that was watched.
    pub(crate) fn look_for_another_kernel(guest: &Guest, log: &mut Log, cpu: &Recorder<'_>) {
        let special = cpu.special();
        let Some(kernel) = guest.kernel() else { return };
        if kernel.is_left_by(cpu, special.idt_base, special.idt_limit) {
            let reason = format!(
                "at the end the page fault handler of vCPU {} was not in the kernel at {:#x}, which was watched: another \
                 kernel may have run",
                cpu.index(),
                kernel.image.base
            );
            log.doubt(Doubt::Kernel, reason);
        }
    }
}

/// Whether the guest came to its end: what is still held then is held for ever.
pub(super) fn ended_by_itself(state: &State, end: &End) -> bool {
    matches!(end.kind, EndKind::PowerOff | EndKind::NotRecorded) && bug_check(state, end).is_none()
}

/// The report of the run that ended with `end`.
pub(super) fn report(state: &State, end: &End) -> Report {
    let (config, guest) = (&state.config, &state.guest);
    let conditions = conditions(state, end);
    let held: Vec<Condition> = conditions.iter().map(|note| note.condition).collect();
    let mut run = config.run.clone();
    run.duration_ms = end.duration_ms;
    let not_armed = state.discovery.not_armed(guest, &config.target);
    Report {
        schema: SCHEMA.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        outcome: outcome::outcome(&held),
        exit_code: outcome::exit_code(&held),
        conditions,
        run,
        end: end_of_run(state, end),
        target: state.target.module().cloned(),
        modules: guest.module_list(),
        watch: state.watching.info(&config.step_over, not_armed),
        rules: Rule::all(),
        violations: state.ledger.violations(),
        calls: state.ledger.calls(guest.modules()),
        locks: state.ledger.lock_summary(),
        cost: cost(state, end),
        trace: end.trace.clone(),
        dump: end.dump.clone(),
        faults: end.faults.clone(),
        exports: state.exports.list(),
        guest_checks: guest_checks(state, end),
        debug_print: state.debug_log.list(),
        notes: state.log.notes().iter().chain(&end.notes).cloned().collect(),
    }
}

/// The rows of `--check-guest`; none if it was not asked for.
fn guest_checks(state: &State, end: &End) -> Vec<GuestCheck> {
    let Some(checks) = &state.guest_checks else {
        return Vec::new();
    };
    if !state.discovery.is_armed() {
        return checks.rows_of_waiting();
    }
    checks.rows(&Seen {
        step_over: &state.config.step_over,
        processors: state.config.processors,
        hits: state.ledger.hits().0,
        watched: state.watching.hits(),
        bug_checked: bug_check(state, end).is_some(),
        debugged: state.stops.was_debugged(),
        end,
    })
}

fn conditions(state: &State, end: &End) -> Vec<ConditionNote> {
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
    let statistics = state.ledger.statistics();
    let target = &state.config.target;
    let places = |verdict| {
        let violations = state.ledger.checker().violations().iter();
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
    if let Some(reason) = state.ledger.unknown_reason(target) {
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
    for reason in left_open(statistics) {
        add(Condition::Inconclusive, reason);
    }
    for reason in state.log.reasons() {
        add(Condition::Inconclusive, reason.to_owned());
    }
    if end.kind == EndKind::Stopped {
        let reason = "the run was over before the guest ended by itself; this report covers what was seen until then";
        add(Condition::Inconclusive, reason.into());
    }
    for reason in end.faults.iter().filter_map(FaultInfo::never_injected) {
        add(Condition::Inconclusive, reason);
    }
    if let Some(reason) = state.discovery.not_armed(&state.guest, target) {
        add(Condition::Inconclusive, reason);
    } else if !defect && state.target.id().map_or(0, |id| state.ledger.acquires(id)) == 0 {
        let reason = format!("{target} never acquired a lock by a watched routine");
        add(Condition::NotApplicable, reason);
    }
    list
}

/// What the calls of the driver have left open.
fn left_open(statistics: &Statistics) -> Vec<String> {
    let told = [
        (
            statistics.target_holds_lost,
            "acquire",
            "over in a way that was not seen: it may have failed, or its release is missing",
        ),
        (
            statistics.target_words_contradicted,
            "hold",
            "released when the lock word said that nobody held the lock: somebody may have cleared it",
        ),
        (
            statistics.target_raises_undone,
            "release",
            "given a NewIrql that is not the one before the acquire, but may be the one before a raise of the driver's own",
        ),
    ];
    let told = told.into_iter().filter(|(times, ..)| *times > 0);
    told.map(|(times, what, how)| match times {
        1 => format!("1 {what} of the driver was {how}"),
        _ => format!("{times} {what}s of the driver were {how}"),
    })
    .collect()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
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
    let processors = state.ending.processors.iter();
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
    let told = end.bug_check.or(state.ending.bug_check)?;
    // What is above comes from whatever the guest had in the register or beside the variable.
    let code = u64::from(told.code as u32);
    Some(BugCheck { code, ..told })
}

fn end_of_run(state: &State, end: &End) -> EndOfRun {
    let by_itself = end.kind == EndKind::PowerOff && state.ending.bug_check.is_none();
    let mut processors = if by_itself {
        Vec::new()
    } else {
        state.ending.processors.clone()
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

fn cost(state: &State, end: &End) -> Cost {
    let (hits, target_hits) = state.ledger.hits();
    Cost {
        hits,
        target_hits,
        hits_per_second: hits.saturating_mul(1000).checked_div(end.armed_ms).unwrap_or(0),
        kvm_runs: end.kvm_runs,
        debug_exits: end.debug_exits,
        other_exits: end.other_exits,
        queue_waits: end.queue_waits,
        hit_requests: end.hit_requests,
        handler_ns: end.handler_ns,
    }
}
