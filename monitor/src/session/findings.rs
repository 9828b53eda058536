//! Violations with what is known about where they came from, in the form of the report.

use std::collections::HashMap;

use storlock_check::event::{LockCall, LockOperand};
use storlock_check::finding::{Evidence, Finding, HandleBefore, HandleNow, PriorCall, Shortfall, Step};
use storlock_check::identity::stor_spinlock_name;
use storlock_check::{finding, identity};

use super::attribution::Attribution;
use super::calls::routine_name;
use crate::report::{HistoryEntry, Location, Verdict, Violation};

/// Attributions by the violation's place in the checker's list, which is bounded.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    attributions: HashMap<usize, Attribution>,
}

impl Findings {
    pub(crate) fn insert(&mut self, index: usize, attribution: Attribution) {
        self.attributions.entry(index).or_insert(attribution);
    }

    /// Who called, as far as it is known.
    pub(crate) fn caller(&self, index: usize) -> Location {
        let attribution = self.attributions.get(&index);
        attribution.map(|found| found.caller.clone()).unwrap_or_default()
    }

    /// One violation, by its place in the checker's list.
    pub(crate) fn one(&self, violations: &[Finding], index: usize) -> Option<Violation> {
        let unknown = Attribution::default();
        let attribution = self.attributions.get(&index).unwrap_or(&unknown);
        violations.get(index).map(|violation| describe(violation, attribution))
    }

    /// The violations for the report: semantic ones first, each kind in the order of discovery.
    pub(crate) fn list(&self, violations: &[Finding]) -> Vec<Violation> {
        let unknown = Attribution::default();
        let numbered = violations.iter().enumerate();
        let mut list: Vec<Violation> = numbered
            .map(|(index, violation)| describe(violation, self.attributions.get(&index).unwrap_or(&unknown)))
            .collect();
        list.sort_by_key(|violation| (violation.verdict, violation.event));
        list
    }
}

fn describe(v: &Finding, attribution: &Attribution) -> Violation {
    let rule = v.rule.meta();
    let place = |address: u64| {
        attribution
            .places
            .get(&address)
            .cloned()
            .unwrap_or_else(|| Location::unknown(address))
    };
    let history = v.history.iter().rev();
    let context = &v.call.context;
    Violation {
        rule: rule.name.to_owned(),
        rule_text: rule.text.to_owned(),
        rule_source: rule.source.to_owned(),
        verdict: match v.verdict {
            finding::Verdict::Semantic => Verdict::Semantic,
            finding::Verdict::Literal => Verdict::Literal,
            finding::Verdict::Suspect => Verdict::Suspect,
        },
        concerns_target: v.concerns_target,
        cause: v.cause.name().to_owned(),
        message: v.cause.text().to_owned(),
        evidence: evidence(v, &place),
        routine: routine_name(v.call.routine),
        operands: operands(&v.call),
        lock: v.lock.to_string(),
        caller: if attribution.caller.address == 0 {
            Location::unknown(context.return_address)
        } else {
            attribution.caller.clone()
        },
        caller_note: attribution.caller_note.clone(),
        stack: attribution.stack.clone(),
        stack_note: attribution.stack_note.clone(),
        vcpu: context.processor,
        thread: context.thread,
        irql: context.irql,
        event: v.sequence,
        history: history.map(|entry| past(&entry.call, entry.step, &place)).collect(),
        history_evicted: v.history_evicted,
        count: v.count,
    }
}

pub(crate) fn past(call: &PriorCall, step: Step, place: &impl Fn(u64) -> Location) -> HistoryEntry {
    let made = match step {
        Step::Attempt => "entered",
        Step::Acquired => "acquired by",
        Step::Failed => "not acquired by",
        Step::Released => "released by",
        Step::Nested => "nested call of",
        Step::Unknown => "released in unknown state by",
        Step::Violation => "contract broken by",
    };
    HistoryEntry {
        event: call.sequence,
        what: format!("{made} {}", routine_name(call.routine)),
        caller: place(call.context.return_address),
        vcpu: call.context.processor,
        thread: call.context.thread,
        irql: call.context.irql,
    }
}

/// The sentences that say what the verdict rests on.
fn evidence(v: &Finding, place: &impl Fn(u64) -> Location) -> Vec<String> {
    let mut sentences: Vec<String> = v.evidence.iter().map(|evidence| sentence(v, evidence, place)).collect();
    for (flag, text) in SHORTFALLS {
        if v.shortfall.contains(*flag) {
            sentences.push((*text).to_owned());
        }
    }
    sentences
}

fn sentence(v: &Finding, evidence: &Evidence, place: &impl Fn(u64) -> Location) -> String {
    let told = |what: &str, call: &PriorCall| {
        format!(
            "{what} event {}, {} from {} on vCPU {}, thread {:#x}",
            call.sequence,
            routine_name(call.routine),
            place(call.context.return_address),
            call.context.processor,
            call.context.thread
        )
    };
    let kind_name = |kind: u32| identity::stor_spinlock_name(kind).unwrap_or("no known kind");
    match evidence {
        Evidence::Word(0) => "the lock word was 0 at the call: nobody held the lock".to_owned(),
        Evidence::Word(word) => format!("the lock word was {word:#x} at the call: somebody held the lock"),
        Evidence::Acquire(call) => told("its acquire is", call),
        Evidence::NoAcquire => "no acquire of this lock by this thread or processor is open".to_owned(),
        Evidence::Holder(call) => told("the lock is held by", call),
        Evidence::AlsoAcquired { lock, .. } => {
            format!("the caller has acquired and not released another lock: {lock}")
        }
        Evidence::ReleasedBefore { release, certain } => {
            let what = "the last that this caller did to the lock was to release it:";
            let mut sentence = told(what, release);
            if !certain {
                sentence += "; it has taken other locks since, so whether it means that acquire is not known";
            }
            sentence
        }
        Evidence::Handle(before) => handle_before(v, before),
        Evidence::Refused(call) => told(
            "the acquire that the handle was given to cannot have taken the lock:",
            call,
        ),
        Evidence::Irql { at, min, max } if min == max => {
            format!("it was called at IRQL {at}; its page allows IRQL {min} only")
        }
        Evidence::Irql { at, min, max } => {
            format!("it was called at IRQL {at}; its page allows IRQL {min} to {max}")
        }
        Evidence::NewIrql { given, before } => {
            format!("NewIrql is {given}; the IRQL before the acquire was {before}")
        }
        Evidence::Adapter { acquired, released } => {
            format!("it was acquired with HwDeviceExtension {acquired:#x} and is released with {released:#x}")
        }
        Evidence::Kind { acquired, now } => format!(
            "the acquire asked for kind {acquired} ({}); the handle names kind {now} ({}) now",
            kind_name(*acquired),
            kind_name(*now)
        ),
        Evidence::AcquiredHandle(handle) => format!("the acquire filled in the handle at {handle:#x}"),
        Evidence::SeenLow { event, processor, irql } => format!(
            "vCPU {processor} was seen at IRQL {irql} at event {event}, outside of the scope of the acquire, and no release \
             was seen"
        ),
        Evidence::Operand { kind, context } => format!(
            "kind {kind} ({}) with LockContext {context:#x} takes no lock",
            kind_name(*kind)
        ),
        Evidence::Cleared { event } => {
            format!("at event {event} the lock word was 0 although the lock was held")
        }
    }
}

/// What the memory of the handle was used for before, and what speaks for and against its being the same handle still.
fn handle_before(v: &Finding, before: &HandleBefore) -> String {
    let HandleBefore { lock, acquire, .. } = before;
    let kind = match v.call.operand {
        LockOperand::StorPortHandle { kind: Some(kind), .. } => stor_spinlock_name(kind),
        _ => None,
    };
    let now = match (before.now, kind) {
        (HandleNow::Unread, _) => "what it names now could not be read".to_owned(),
        (HandleNow::Empty, _) => "it names no lock now".to_owned(),
        (HandleNow::Same, _) if before.frame_left => {
            "it still names that kind of lock, but its stack frame may have been left since: whether it is the same \
             handle is not known"
                .to_owned()
        }
        (HandleNow::Same, _) => "it has not changed since, as far as can be seen".to_owned(),
        (HandleNow::Other, Some(name)) => format!("it names a {name} now"),
        (HandleNow::Other, None) => "it names another lock now".to_owned(),
    };
    let used = match (before.now, before.frame_left) {
        (HandleNow::Same, false) => format!("the handle is that of {lock}"),
        _ => format!("the handle's memory held the handle of {lock} before"),
    };
    let released = match before.released {
        Some(event) => format!("released at event {event}"),
        None => "of which no release was seen".to_owned(),
    };
    format!("{used}, acquired at event {acquire} and {released}; {now}")
}

const SHORTFALLS: &[(Shortfall, &str)] = &[
    (
        Shortfall::UNWATCHED,
        "a routine that could have acquired or released the lock is not watched",
    ),
    (
        Shortfall::UNSEEN_HOLDER,
        "somebody holds the lock whose acquire was not seen",
    ),
    (Shortfall::UNRESOLVED, "whether the try got the lock was not seen"),
    (Shortfall::DISTURBED, "an earlier wrong release has upset the lock"),
    (
        Shortfall::UNORDERED,
        "the order of the events over all processors is not known",
    ),
    (
        Shortfall::CONTRADICTED,
        "the lock has contradicted what was recorded of it: it is touched in ways that are not seen",
    ),
    (
        Shortfall::LATE,
        "the watch began while the driver was running: the acquire may be older",
    ),
];

fn operands(call: &LockCall) -> Vec<String> {
    let mut list = match call.operand {
        LockOperand::Address(lock) => vec![format!("SpinLock = {lock:#x}")],
        LockOperand::Queued { lock, handle } => {
            vec![format!("SpinLock = {lock:#x}"), format!("LockHandle = {handle:#x}")]
        }
        LockOperand::QueuedHandle { handle, lock } => {
            let names = lock.map(|lock| format!(" (of lock {lock:#x})")).unwrap_or_default();
            vec![format!("LockHandle = {handle:#x}{names}")]
        }
        LockOperand::StorPort {
            adapter,
            kind,
            context,
            handle,
        } => vec![
            format!("HwDeviceExtension = {adapter:#x}"),
            format!("SpinLock = {kind}"),
            format!("LockContext = {context:#x}"),
            format!("LockHandle = {handle:#x}"),
        ],
        LockOperand::StorPortHandle {
            adapter, handle, kind, ..
        } => {
            let names = kind.map(|kind| format!(" (of lock kind {kind})")).unwrap_or_default();
            vec![
                format!("HwDeviceExtension = {adapter:#x}"),
                format!("LockHandle = {handle:#x}{names}"),
            ]
        }
        LockOperand::Msi { adapter, message } => {
            vec![
                format!("HwDeviceExtension = {adapter:#x}"),
                format!("MessageId = {message}"),
            ]
        }
        LockOperand::Interrupt(object) => vec![format!("Interrupt = {object:#x}")],
        LockOperand::Cancel => Vec::new(),
    };
    list.extend(call.old_irql.map(|irql| format!("NewIrql = {irql}")));
    list
}
