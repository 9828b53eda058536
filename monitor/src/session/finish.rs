//! The end of a run: a last look at the stopped machine, and the report.
//!
//! Asks every part of the session for its share of the report. It must not change the state of any part.

use std::time::Instant;

use storlock_check::checker::{Checker, OpenAcquire, OpenQuestion};
use storlock_check::contract::{Routine, contract};
use storlock_check::event::{Context, InCallback};
use storlock_check::rules::Verdict;

use super::KERNEL_MODE;
use super::config::{End, EndKind};
use super::decode;
use super::entries::export_name;
use super::guest::{Guest, Names};
use super::guest_check::{Seen, machine_rows};
use super::hang;
use super::held::OpenAtEnd;
use super::log::Log;
use super::state::State;
use crate::outcome::{self, Condition};
use crate::report::{
    BugCheck, ConditionNote, Cost, Coverage, Doubt, EndOfRun, FaultInfo, GuestCheck, HeldLock, InFlight, Places,
    PriorCall, ProcessorState, Reason, Report, Rule, SCHEMA,
};
use crate::vmi::recorder::Recorder;
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::unwind::Frame;

/// What a last look at the stopped machine gave.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// By number.
    processors: Vec<ProcessorState>,
    /// What they ran, for the checker.
    contexts: Vec<Context>,
    /// The callbacks in which some of them wait for locks.
    in_callbacks: Vec<InCallback>,
    /// Acquires that have come back and are open.
    held: Vec<OpenAtEnd>,
    bug_check: Option<BugCheck>,
    /// When the first processor was looked at.
    looked_at: Option<Instant>,
}

impl Ending {
    /// When the machine stood still for good and was looked at.
    pub(crate) fn looked_at(&self) -> Option<Instant> {
        self.looked_at
    }

    /// No processor has been looked at yet.
    pub(crate) fn is_first_look(&self) -> bool {
        self.processors.is_empty()
    }

    /// What the processors ran, by number, if nobody has asked before.
    pub(crate) fn take_contexts(&mut self) -> Vec<Context> {
        let mut contexts = std::mem::take(&mut self.contexts);
        contexts.sort_by_key(|context| context.processor);
        contexts
    }

    /// Where a processor stands that was looked at.
    pub(crate) fn processor(&self, vcpu: u32) -> Option<&ProcessorState> {
        self.processors.iter().find(|processor| processor.vcpu == vcpu)
    }

    /// A processor that was looked at waits for a lock in a callback.
    pub(crate) fn waits_in_callback(&mut self, told: InCallback) {
        self.in_callbacks.push(told);
    }

    /// The callback in which a processor waits for a lock.
    pub(crate) fn in_callback(&self, processor: u32) -> Option<InCallback> {
        let mut told = self.in_callbacks.iter();
        told.find(|told| told.context.processor == processor).copied()
    }

    /// Notes acquires that have come back, and are open on the stack of a processor that was looked at.
    pub(crate) fn still_held(&mut self, held: Vec<OpenAtEnd>) {
        self.held.extend(held);
    }

    /// Acquires that have come back and are open, if nobody has asked before.
    pub(crate) fn take_held(&mut self) -> Vec<OpenAtEnd> {
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|open| open.acquire);
        held
    }

    /// Those that nobody has taken, by event.
    pub(crate) fn open_acquires(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().map(|open| open.acquire)
    }

    /// Takes it from the guest's memory.
    pub(crate) fn read_bug_check(&mut self, guest: &Guest, memory: &impl GuestMemory) {
        self.bug_check = guest.bug_check(memory);
    }

    /// Notes where a processor stands. Gives the frames of its stack, if that can be followed to its end.
    pub(crate) fn look(&mut self, names: &mut Names, checker: &Checker, cpu: &Recorder<'_>) -> Vec<Frame> {
        self.looked_at.get_or_insert_with(Instant::now);
        let frames = names.frames(cpu);
        let (stack, stack_end) = match &frames {
            Some(frames) => names.named(cpu, frames),
            None => names.stack(cpu),
        };
        let frames = frames.filter(|_| stack_end.is_none());
        let location = names.locate(cpu, cpu.registers().rip, true);
        let mut context = decode::context_after(cpu);
        let waits_for = hang::waits_for(checker, cpu, &context, |address| names.locate(cpu, address, false));
        self.processors.push(ProcessorState {
            vcpu: cpu.index(),
            location,
            irql: cpu.special().irql(),
            activity: None,
            stack,
            stack_end,
            waits_for,
        });
        if cpu.special().cpl != KERNEL_MODE {
            // GS is the program's.
            context.thread = 0;
        }
        self.contexts.push(context);
        self.processors.sort_by_key(|processor| processor.vcpu);
        frames.map_or_else(Vec::new, |stack| stack.frames)
    }

    /// Whether the processor still runs the kernel that was watched.
    pub(crate) fn look_for_another_kernel(guest: &Guest, log: &mut Log, cpu: &Recorder<'_>) {
        let special = cpu.special();
        let Some(kernel) = guest.kernel() else { return };
        if kernel.is_left_by(cpu, special.idt_base, special.idt_limit) {
            log.doubt(Doubt::OtherKernel {
                vcpu: cpu.index(),
                watched: kernel.image.base,
            });
        }
    }
}

/// Whether the guest came to its end: what is still held then is held for ever.
pub(super) fn ended_by_itself(state: &State, end: &End) -> bool {
    matches!(end.kind, EndKind::PowerOff | EndKind::NotRecorded) && !has_crashed(state, end)
}

/// Whether the guest came to a bug check.
pub(super) fn has_crashed(state: &State, end: &End) -> bool {
    bug_check(state, end).is_some()
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
        watch: state.watching.info(config.step_over, not_armed),
        rules: Rule::all(&config.rules),
        findings: state.ledger.all_reported(),
        calls: state.ledger.calls(guest.modules()),
        coverage: coverage(state),
        locks: state.ledger.lock_summary(),
        cost: cost(state, end),
        trace: end.trace.clone(),
        dump: end.dump.clone(),
        faults: end.faults.clone(),
        in_flight: in_flight(state, end),
        exports: state.exports.list(),
        machine: end.machine.clone(),
        guest_checks: guest_checks(state, end),
        debug_print: state.debug_log.list(),
        notes: state.log.notes().iter().chain(&end.notes).cloned().collect(),
        timeline: None,
    }
}

/// What storage controllers owed the guest, if anything, and the locks that the driver under test held then.
fn in_flight(state: &State, end: &End) -> Option<InFlight> {
    if end.in_flight.is_empty() {
        return None;
    }
    let driver = state.target.module();
    let modules = state.guest.modules();
    let place = |address: u64| modules.locate(address, 1);
    let own = |open: &OpenAcquire| {
        open.held && driver.is_some_and(|driver| driver.contains(open.call.context.return_address))
    };
    let held = state.ledger.checker().open_acquires().into_iter().filter(own);
    let held = held.map(|open| HeldLock {
        lock: open.lock,
        acquire: PriorCall::new(&open.call, &place),
    });
    Some(InFlight {
        controllers: end.in_flight.clone(),
        held: held.collect(),
    })
}

/// The lock call sites of the driver under test, if it was ever watched. After a reset nothing is, until it is loaded again.
fn coverage(state: &State) -> Option<Coverage> {
    let armed = state.discovery.is_armed();
    let always = |routine: &&Routine| {
        let row = contract(**routine);
        armed && state.watching.always_watches(&export_name(row.module, row.export))
    };
    let watched = Routine::ALL.iter().filter(always).copied().collect();
    state.coverage.told(state.guest.names(), watched)
}

/// The rows of `--check-guest`; none if it was not asked for.
fn guest_checks(state: &State, end: &End) -> Vec<GuestCheck> {
    let Some(checks) = &state.guest_checks else {
        return Vec::new();
    };
    let bug_checked = bug_check(state, end).is_some();
    let ended_by_itself = end.kind == EndKind::PowerOff && !bug_checked;
    let machine = end.machine.iter();
    let machine = machine.flat_map(|machine| machine_rows(machine, ended_by_itself));
    if !state.discovery.is_armed() {
        return checks.rows_of_waiting().into_iter().chain(machine).collect();
    }
    let rows = checks.rows(&Seen {
        step_over: state.config.step_over,
        processors: state.config.processors,
        hits: state.ledger.hits().0,
        watched: state.watching.hits(),
        bug_checked,
        debugged: state.stops.was_debugged(),
        end,
    });
    rows.into_iter().chain(machine).collect()
}

fn conditions(state: &State, end: &End) -> Vec<ConditionNote> {
    let mut list = Vec::new();
    let mut add = |condition, reason| list.push(ConditionNote { condition, reason });
    if end.kind == EndKind::Interrupted {
        add(Condition::Interrupted, Reason::Interrupted { was_over: false });
    }
    for reason in host_failures(state, end) {
        add(Condition::Infrastructure, reason);
    }
    let statistics = state.ledger.statistics();
    let target = &state.config.target;
    let places = |verdict| {
        let findings = state.ledger.checker().findings().iter();
        let places = findings.filter(|v| v.verdict == verdict && v.concerns_target).count();
        Places {
            places: places as u64,
            more: statistics.findings_not_kept > 0,
        }
    };
    let defect = statistics.target_violations > 0;
    if defect {
        add(Condition::Defect, Reason::ContractsBroken(places(Verdict::Semantic)));
    }
    if let Some(reason) = guest_failure(state, end) {
        add(Condition::GuestFailed, reason);
    }
    for (question, times) in statistics.open_questions() {
        let suspects = || places(Verdict::Suspect);
        add(Condition::Inconclusive, left_open(state, (question, times), suspects));
    }
    for doubt in state.log.doubts() {
        add(Condition::Inconclusive, Reason::Missed(doubt.clone()));
    }
    let routines = state.watching.not_yet_watched();
    if !routines.is_empty() {
        add(Condition::Inconclusive, Reason::NotYetWatched { routines });
    }
    let shares = state.watching.shares();
    if !shares.is_empty() && !state.config.accept_turns {
        add(Condition::Inconclusive, Reason::WatchedInTurns { shares });
    }
    if end.kind == EndKind::Stopped {
        add(Condition::Inconclusive, Reason::Stopped);
    }
    for reason in end.faults.iter().filter_map(FaultInfo::never_injected) {
        add(Condition::Inconclusive, reason);
    }
    if let Some(not_armed) = state.discovery.not_armed(&state.guest, target) {
        add(Condition::Inconclusive, Reason::NeverArmed { not_armed });
    } else if !defect && state.target.id().map_or(0, |id| state.ledger.acquires(id)) == 0 {
        let driver = target.clone();
        add(Condition::NotApplicable, Reason::NeverAcquired { driver });
    }
    list
}

/// What the checker does not know of the driver, and how often.
fn left_open(state: &State, (question, times): (OpenQuestion, u64), suspects: impl Fn() -> Places) -> Reason {
    match question {
        OpenQuestion::SuspectCalls => Reason::SuspectCalls(suspects()),
        OpenQuestion::UnknownReleases => state.ledger.unknown_releases(times, &state.config.target),
        OpenQuestion::UnknownConversions => Reason::UnknownConversions { conversions: times },
        OpenQuestion::UnreadableHandles => Reason::UnreadableHandles { calls: times },
        OpenQuestion::IgnoredCalls => Reason::CallsIgnored { calls: times },
        OpenQuestion::LostHolds => Reason::HoldsLost { acquires: times },
        OpenQuestion::ContradictedWords => Reason::WordsContradicted { holds: times },
        OpenQuestion::UndoneRaises => Reason::RaisesUndone { releases: times },
    }
}

fn host_failures(state: &State, end: &End) -> Vec<Reason> {
    let detail = end.detail.clone().unwrap_or_default();
    let of_machine = match end.kind {
        EndKind::Failed => Some(Reason::HostFailed { error: detail }),
        EndKind::InternalError => Some(not_executable(state, end, detail)),
        EndKind::Unknown => Some(Reason::RecordingEnds),
        _ => None,
    };
    let others = end.failures.iter().cloned().map(|error| Reason::Failure { error });
    of_machine.into_iter().chain(others).collect()
}

/// The instruction that KVM gave up on, and where it is.
fn not_executable(state: &State, end: &End, detail: String) -> Reason {
    let mut processors = state.ending.processors.iter();
    let told = processors.find_map(|processor| {
        let (_, activity) = end.activities.iter().find(|(vcpu, _)| *vcpu == processor.vcpu)?;
        Some((activity.clone(), Some(processor.location.clone())))
    });
    let (what, at) = told.unwrap_or((detail, None));
    Reason::NotExecutable { what, at }
}

fn guest_failure(state: &State, end: &End) -> Option<Reason> {
    if let Some(bug_check) = bug_check(state, end) {
        return Some(Reason::BugCheck { code: bug_check.code });
    }
    match end.kind {
        EndKind::Reset => Some(Reason::Reset),
        EndKind::Crash => end.detail.clone().map(|detail| Reason::Crash { detail }),
        EndKind::Deadlock => end.deadlocked.map(|vcpu| Reason::Deadlock { vcpu }),
        EndKind::TripleFault => Some(Reason::TripleFault),
        EndKind::TimeLimit => Some(Reason::TimeLimit {
            seconds: end.duration_ms / 1000,
            waiting: waiting(state),
            circle: hang::circle(&state.ending.processors),
        }),
        _ => None,
    }
}

/// The processors that wait for locks.
pub(super) fn waiting(state: &State) -> Vec<u32> {
    let processors = state.ending.processors.iter();
    let waiting = processors.filter(|processor| processor.waits_for.is_some());
    waiting.map(|processor| processor.vcpu).collect()
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
        deadlock: hang::circle(&processors),
        processors,
    }
}

fn cost(state: &State, end: &End) -> Cost {
    let (hits, target_hits) = state.ledger.hits();
    let ran_ms = end.armed_ms.saturating_sub(end.dump_ms);
    Cost {
        hits,
        target_hits,
        hits_per_second: hits.saturating_mul(1000).checked_div(ran_ms).unwrap_or(0),
        kvm_runs: end.kvm_runs,
        debug_exits: end.debug_exits,
        other_exits: end.other_exits,
        queue_waits: end.queue_waits,
        hit_requests: end.hit_requests,
        handler_ns: end.handler_ns,
    }
}
