//! The sentences about a finding, for every renderer whose output people read.

use storlock_check::identity::stor_spinlock_name;

use crate::report::{
    Callback, Called, Cause, Evidence, Finding, HandleBefore, HandleNow, HistoryEntry, LockIdentity, LockOperand,
    Overlap, PriorCall, Proof, Shortfall, Signature, Step, Verdict,
};

/// The level of a finding.
pub(crate) fn severity(v: &Finding) -> &'static str {
    match v.verdict {
        Verdict::Semantic if v.concerns_target => "error",
        Verdict::Suspect if v.concerns_target => "warning",
        _ => "note",
    }
}

/// What the verdict means.
pub(crate) fn verdict(verdict: Verdict, concerns_target: bool) -> &'static str {
    match verdict {
        Verdict::Semantic if !concerns_target => {
            "semantic: the documented contract is broken, but not by the driver under test; never a Defect"
        }
        Verdict::Semantic => "semantic: the documented contract is broken; this makes the outcome Defect",
        Verdict::Literal => {
            "literal: the rule's own words are broken, but the call is documented as legal; a note only"
        }
        Verdict::Suspect => "suspect: the evidence is not enough for a verdict; never counted as a defect",
    }
}

/// What there is to know about the caller; nothing for an ordinary call.
pub(crate) fn called(called: &Called) -> Option<String> {
    match called {
        Called::Call | Called::NotSeen => None,
        Called::TailCall { returns_to } => Some(format!("by a tail call; it returns to {returns_to}")),
        Called::Unknown { reason } => Some(format!(
            "this is where the call returns to; the caller is unknown: {reason}"
        )),
    }
}

/// The place of a signature: the call and its callers.
pub(crate) fn signature(signature: &Signature) -> String {
    let frames = signature.frames.iter().map(|frame| format!(", called from {frame}"));
    let callers = frames.collect::<Vec<_>>().concat();
    format!("{} for {}{callers}", signature.id, signature.site)
}

/// The sentences that say what a verdict rests on, in the order of the report.
pub(crate) fn evidence(v: &Finding) -> Vec<String> {
    let holder = v.evidence.iter().find_map(|evidence| match evidence {
        Evidence::Holder(call) => Some(call),
        _ => None,
    });
    // The acquire of somebody else's handle is the holder's: told once.
    let again = |evidence: &&Evidence| matches!(evidence, Evidence::Acquire(call) if Some(call) == holder);
    let facts = v.evidence.iter().filter(|evidence| !again(evidence));
    let facts = facts.map(|evidence| sentence(v, evidence));
    let missing = SHORTFALLS.iter().filter(|(flag, _)| v.shortfall.contains(*flag));
    let missing = missing.map(|(flag, text)| match v.cause {
        Cause::LockCleared if *flag == Shortfall::CONTRADICTED => "who cleared it was not seen",
        _ => text,
    });
    facts.chain(missing.map(str::to_owned)).collect()
}

/// What happened to a lock, with the routine.
pub(crate) fn step(entry: &HistoryEntry) -> String {
    let made = match entry.step {
        Step::Attempt => "entered",
        Step::Acquired => "acquired by",
        Step::Failed => "not acquired by",
        Step::Released => "released by",
        Step::Nested => "nested call of",
        Step::Unknown => "released in unknown state by",
        Step::Finding => "contract broken by",
    };
    format!("{made} {}", entry.call.routine)
}

fn kind_name(kind: u32) -> &'static str {
    stor_spinlock_name(kind).unwrap_or("no known kind")
}

fn told(call: &PriorCall) -> String {
    format!(
        "at event {} by {} from {}, on vCPU {}, IRQL {}, thread {:#x}",
        call.event, call.routine, call.caller, call.vcpu, call.irql, call.thread
    )
}

fn sentence(v: &Finding, evidence: &Evidence) -> String {
    match evidence {
        Evidence::Word { value: 0 } => "the lock word was 0 at the call: nobody held the lock".to_owned(),
        Evidence::Word { value } => format!("the lock word was {value:#x} at the call: somebody held the lock"),
        Evidence::Acquire(call) => format!("the lock was acquired {}", told(call)),
        Evidence::NoAcquire => "no acquire of this lock by this thread or processor is still to be released".to_owned(),
        Evidence::Holder(call) => format!("somebody else holds the lock, acquired {}", told(call)),
        Evidence::AlsoAcquired { lock, event } => {
            format!("the caller has acquired another lock at event {event} and not released it: {lock}")
        }
        Evidence::ReleasedBefore { release, certain } => released_before(release, *certain),
        Evidence::Handle(before) => handle_before(v, before),
        Evidence::Refused(call) => format!(
            "the acquire that the handle was given to cannot have taken the lock: it was made {}",
            told(call)
        ),
        &Evidence::Irql { at, min, max } => irql(at, min, max),
        Evidence::NewIrql { given, before } => {
            format!("NewIrql is {given}; the IRQL before the acquire was {before}")
        }
        Evidence::Adapter { acquired, released } => {
            format!("it was acquired with HwDeviceExtension {acquired:#x} and is released with {released:#x}")
        }
        &Evidence::Kind { acquired, now } => changed_kind(v, acquired, now),
        Evidence::AcquiredHandle { handle } => format!("the acquire filled in the handle at {handle:#x}; {}", copy(v)),
        Evidence::SeenLow { event, vcpu, irql } => seen_low(*event, *vcpu, *irql),
        Evidence::Moved { event, vcpu } => moved(*event, *vcpu),
        Evidence::DriverLeft { event, vcpu } => driver_left(*event, *vcpu),
        Evidence::ThreadLeft { event } => thread_left(*event),
        Evidence::StillHeld {
            event,
            vcpu,
            irql,
            milliseconds,
        } => still_held(*event, *vcpu, *irql, *milliseconds),
        Evidence::Operand { spin_lock, context } => format!(
            "kind {spin_lock} ({}) with LockContext {context:#x} takes no lock",
            kind_name(*spin_lock)
        ),
        Evidence::Order {
            held,
            held_by,
            taken,
            taken_by,
        } => format!(
            "{taken} was acquired while {held} was held: {held} {}; then {taken} {}",
            told(held_by),
            told(taken_by)
        ),
        Evidence::NotPerMessage => {
            "InterruptSynchronizationMode of the adapter is not InterruptSynchronizePerMessage".to_owned()
        }
        &Evidence::Overlap { held, overlap } => other_name(&held, overlap),
        Evidence::StackPointer { value } => {
            format!("the lock lies on the stack of its caller, whose pointer is {value:#x}")
        }
        Evidence::Callback { callback } => in_callback(v, *callback),
        Evidence::CameBack { event, proof } => came_back(*event, *proof),
    }
}

fn seen_low(event: u64, vcpu: u32, irql: u8) -> String {
    format!(
        "at event {event} vCPU {vcpu} had gone on at IRQL {irql}, at which nobody may hold a spin lock, and no release was seen"
    )
}

fn other_name(held: &LockIdentity, overlap: Overlap) -> String {
    let why = match overlap {
        Overlap::HalfDuplex => "in the half duplex model StartIoLock is the InterruptLock",
        Overlap::PerMessage => "in per-message mode InterruptLock takes the lock of every message",
    };
    format!("what the caller holds is the {held}: {why}")
}

fn moved(event: u64, vcpu: u32) -> String {
    format!(
        "at event {event} the thread ran on vCPU {vcpu}, and had the lock on another one: a thread moves only below \
         DISPATCH_LEVEL, so it has gone there with the lock"
    )
}

fn driver_left(event: u64, vcpu: u32) -> String {
    format!(
        "at event {event} the callback that had acquired it was not on the stack of vCPU {vcpu} any more: the driver had \
         returned to its caller with the lock, and no release was seen"
    )
}

fn thread_left(event: u64) -> String {
    format!(
        "another acquire has found the lock taken, which only this one can have; at event {event}, when the machine stood \
         still, no vCPU ran its thread at DISPATCH_LEVEL or above, so it has gone on without a release"
    )
}

fn still_held(event: u64, vcpu: u32, irql: u8, milliseconds: u64) -> String {
    let after = match milliseconds {
        0 => String::new(),
        _ => format!(", {} s after the acquire", milliseconds / 1000),
    };
    format!("at event {event}{after} vCPU {vcpu} stood at IRQL {irql} for good, and no release was seen")
}

fn in_callback(v: &Finding, callback: Callback) -> String {
    let usually = if v.shortfall.contains(Shortfall::PORT_MODEL) {
        "usually "
    } else {
        ""
    };
    let callback = callback.name();
    format!("it was called in {callback}, around which the port driver {usually}holds this lock")
}

fn released_before(release: &PriorCall, certain: bool) -> String {
    let but = if certain {
        ""
    } else {
        "; it has taken other locks since, so whether it means that acquire is not known"
    };
    format!(
        "the caller's last call on this lock was its release {}{but}",
        told(release)
    )
}

/// The IRQL of a call, beside those that are allowed.
fn irql(at: u8, min: u8, max: u8) -> String {
    let most = if min == max {
        " only".to_owned()
    } else {
        format!(" to {max}")
    };
    format!("it was called at IRQL {at}; it may be called at IRQL {min}{most}")
}

/// What the handle of a release names, which is not what the acquire was asked for.
fn changed_kind(v: &Finding, acquired: u32, now: u32) -> String {
    if matches!(v.operand, LockOperand::QueuedHandle { .. }) {
        return "the handle does not name the lock any more".to_owned();
    }
    format!(
        "the acquire asked for kind {acquired} ({}); the handle names kind {now} ({}) now",
        kind_name(acquired),
        kind_name(now)
    )
}

/// How an acquire is known to have come back with the lock.
fn came_back(event: u64, proof: Proof) -> String {
    match proof {
        Proof::Return => format!("that acquire has come back with the lock: it had returned by event {event}"),
        Proof::SameLevel => format!(
            "that acquire has come back with the lock: at event {event} other code ran on its processor at the same IRQL, \
             which it cannot while an acquire waits there"
        ),
        Proof::Frame => format!(
            "that acquire has come back with the lock: at event {event} its caller had gone on, in the frame of that call \
             or in an outer one"
        ),
    }
}

/// What the handle of a release is that is not the acquire's.
fn copy(v: &Finding) -> String {
    let (LockOperand::QueuedHandle { handle, lock } | LockOperand::StorPortHandle { handle, lock, .. }) = v.operand
    else {
        return "the release is by another".to_owned();
    };
    let what = match lock {
        Some(lock) if lock != 0 => "a copy of it",
        _ => "another one of the same kind, such as a copy",
    };
    format!(
        "the release is given the handle at {handle:#x}, {what}: only the acquire's own is in the queue of the lock"
    )
}

/// What the memory of the handle was used for before, and what speaks for and against its being the same handle still.
fn handle_before(v: &Finding, before: &HandleBefore) -> String {
    let HandleBefore { lock, acquire, .. } = before;
    let kind = match v.operand {
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
        None => "not released since, as far as was seen".to_owned(),
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
    (
        Shortfall::DISTURBED,
        "an earlier wrong release of this lock has left open who holds it",
    ),
    (
        Shortfall::UNORDERED,
        "the order of the events over all processors is not known",
    ),
    (
        Shortfall::CONTRADICTED,
        "the lock word has contradicted what was recorded of the lock: something takes or releases it that is not seen",
    ),
    (
        Shortfall::NOT_TOGETHER,
        "the contradicting orders were not seen at the same time: something else may keep them apart",
    ),
    (
        Shortfall::MAYBE_SHARED,
        "a lock on a stack does protect something if its function waits for all who take it; whether it does was not seen",
    ),
    (
        Shortfall::PORT_MODEL,
        "whether it held the lock this time was not seen: a driver may ask for several concurrent channels, and may jump to \
         its own callback",
    ),
    (
        Shortfall::GOES_ON,
        "whether the lock was really taken, or would have been released later, was not seen",
    ),
    (
        Shortfall::MAYBE_NONE,
        "whether there is a lock was not seen: in the half duplex model StartIoLock is the InterruptLock, which the port driver \
         takes only if there is an interrupt",
    ),
    (
        Shortfall::UNPROVED_WORD,
        "no lock word of this guest was seen to be set yet, so whether they tell who holds a lock is not known",
    ),
    (
        Shortfall::LATE,
        "the watch began while the driver was running: the acquire may be older",
    ),
];

/// The arguments of the call, by their names in the documentation.
pub(crate) fn operands(v: &Finding) -> Vec<String> {
    let mut list = match v.operand {
        LockOperand::Address(lock) => vec![format!("SpinLock = {lock:#x}")],
        LockOperand::Queued { lock, handle } => {
            vec![format!("SpinLock = {lock:#x}"), format!("LockHandle = {handle:#x}")]
        }
        LockOperand::QueuedHandle { handle, lock } => {
            let names = match lock {
                None => String::new(),
                Some(0) => " (names no lock)".to_owned(),
                Some(lock) => format!(" (names lock {lock:#x})"),
            };
            vec![format!("LockHandle = {handle:#x}{names}")]
        }
        LockOperand::StorPort {
            adapter,
            kind,
            context,
            handle,
        } => vec![
            format!("HwDeviceExtension = {adapter:#x}"),
            format!("SpinLock = {kind} ({})", kind_name(kind)),
            format!("LockContext = {context:#x}"),
            format!("LockHandle = {handle:#x}"),
        ],
        LockOperand::StorPortHandle {
            adapter, handle, kind, ..
        } => {
            let names = match kind {
                None => String::new(),
                Some(0) => " (names no lock)".to_owned(),
                Some(kind) => format!(" (names kind {kind}, {})", kind_name(kind)),
            };
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
    list.extend(v.new_irql.map(|irql| format!("NewIrql = {irql}")));
    list
}
