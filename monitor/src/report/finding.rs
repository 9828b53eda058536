//! A finding in a report: typed, with the numbers of the events that it rests on. The renderers make the words.

use serde::{Deserialize, Serialize};
pub use storlock_check::contract::{Callback, Routine};
pub use storlock_check::event::LockOperand;
use storlock_check::finding;
pub use storlock_check::finding::{Cause, HandleBefore, HandleNow, Overlap, Place, Proof, Shortfall, Step, Verdict};
pub use storlock_check::identity::LockIdentity;
pub use storlock_check::rules::{RuleId, RuleSetting, RuleSettings};

use super::Location;
use super::reason::StackEnd;
use crate::windows::UnknownReason;

/// A broken contract: one entry a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What makes it the same in every run.
    pub signature: Signature,
    /// The rule.
    #[serde(with = "named")]
    pub rule: RuleId,
    /// How much it weighs.
    pub verdict: Verdict,
    /// What happened.
    #[serde(with = "named")]
    pub cause: Cause,
    /// Why it is no more than a suspicion, if it is.
    #[serde(with = "flags")]
    pub(crate) shortfall: Shortfall,
    /// Whether the call or the lock is the target's; only then can it be a Defect.
    pub(crate) concerns_target: bool,
    /// The routine of the offending call.
    pub routine: LockRoutine,
    /// What it was given.
    pub operand: LockOperand,
    /// Its old-IRQL argument, where it has one.
    pub(crate) new_irql: Option<u8>,
    /// Which lock.
    pub lock: LockIdentity,
    /// Who called.
    pub caller: Location,
    /// How the caller is known.
    pub called: Called,
    /// Call stack, innermost first.
    pub stack: Vec<Location>,
    /// Why the stack ends where it does, if not at its outermost frame.
    #[serde(flatten, with = "super::render::told::stack_end")]
    pub stack_end: Option<StackEnd>,
    /// The callback of the driver under test that was running, by the WDK's name, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// Virtual processor.
    pub vcpu: u32,
    /// Address of the running thread's KTHREAD.
    pub thread: u64,
    /// IRQL at the call.
    pub irql: u8,
    /// Number of the event at which it was found.
    pub event: u64,
    /// Number of the event of the call: an earlier one than `event` where something did not happen that had to.
    pub(crate) call_event: u64,
    /// What the verdict rests on.
    pub(crate) evidence: Vec<Evidence>,
    /// The lock's last events, latest first.
    pub history: Vec<HistoryEntry>,
    /// Older events of the lock that were not kept.
    pub(crate) history_evicted: u64,
    /// How often it was seen. All but the first are counted only.
    pub count: u64,
}

/// Rule, cause, routine and place of a broken contract: equal in every run, wherever the modules were loaded. The rule
/// and the routine are those of the violation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    /// All of it as 16 hexadecimal digits.
    pub id: String,
    /// The cause without its finer distinctions, which depend on what was done to the lock before.
    #[serde(with = "named")]
    pub cause: Cause,
    /// The call.
    pub(crate) site: Place,
    /// The callers of that, innermost first, as far as they are known.
    pub frames: Vec<Place>,
}

impl From<&finding::Signature> for Signature {
    fn from(signature: &finding::Signature) -> Self {
        let known = signature.frames.iter().take_while(|place| !place.is_none());
        Self {
            id: signature.to_string(),
            cause: signature.cause,
            site: signature.site.clone(),
            frames: known.cloned().collect(),
        }
    }
}

/// How the caller of a routine is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Called {
    /// The instruction before the return address calls the routine.
    Call,
    /// The caller ended in a jump to the routine.
    TailCall {
        /// Where the call returns to: the caller's caller.
        returns_to: Location,
    },
    /// It is not known: what is given as the caller is where the call returns to.
    Unknown {
        /// Why not.
        reason: UnknownReason,
    },
    /// The code was not looked at: what is given as the caller is where the call returns to.
    #[default]
    NotSeen,
}

/// An earlier call that is referred to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorCall {
    /// Number of its event.
    pub event: u64,
    /// The routine.
    pub routine: LockRoutine,
    /// Where it returned to.
    pub caller: Location,
    /// Virtual processor.
    pub vcpu: u32,
    /// Address of the thread.
    pub thread: u64,
    /// IRQL at the call.
    pub irql: u8,
}

/// Something that happened to a lock before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// What was made of the call.
    pub step: Step,
    /// The call.
    #[serde(flatten)]
    pub call: PriorCall,
}

/// One thing that a verdict rests on. See [`finding::Evidence`] for what each means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented where the checker makes them")]
pub(crate) enum Evidence {
    Word {
        value: u64,
    },
    Acquire(PriorCall),
    NoAcquire,
    Holder(PriorCall),
    AlsoAcquired {
        lock: LockIdentity,
        event: u64,
    },
    ReleasedBefore {
        certain: bool,
        release: PriorCall,
    },
    Handle(HandleBefore),
    Refused(PriorCall),
    Irql {
        at: u8,
        min: u8,
        max: u8,
    },
    NewIrql {
        given: u8,
        before: u8,
    },
    Adapter {
        acquired: u64,
        released: u64,
    },
    Kind {
        acquired: u32,
        now: u32,
    },
    AcquiredHandle {
        handle: u64,
    },
    SeenLow {
        event: u64,
        vcpu: u32,
        irql: u8,
    },
    Moved {
        event: u64,
        vcpu: u32,
    },
    DriverLeft {
        event: u64,
        vcpu: u32,
    },
    ThreadLeft {
        event: u64,
    },
    StillHeld {
        event: u64,
        vcpu: u32,
        irql: u8,
        milliseconds: u64,
    },
    Operand {
        spin_lock: u32,
        context: u64,
    },
    Order {
        held: LockIdentity,
        held_by: PriorCall,
        taken: LockIdentity,
        taken_by: PriorCall,
    },
    NotPerMessage,
    Overlap {
        held: LockIdentity,
        overlap: Overlap,
    },
    StackPointer {
        value: u64,
    },
    Callback {
        callback: Callback,
    },
    CameBack {
        event: u64,
        proof: Proof,
    },
}

impl Evidence {
    /// As the checker has it; `place` names a code address.
    pub(crate) fn new(evidence: &finding::Evidence, place: &impl Fn(u64) -> Location) -> Self {
        use finding::Evidence as E;
        let call = |call: &finding::PriorCall| PriorCall::new(call, place);
        match evidence {
            E::Word(value) => Self::Word { value: *value },
            E::Acquire(acquire) => Self::Acquire(call(acquire)),
            E::NoAcquire => Self::NoAcquire,
            E::Holder(holder) => Self::Holder(call(holder)),
            E::AlsoAcquired { lock, acquire } => Self::AlsoAcquired {
                lock: *lock,
                event: *acquire,
            },
            E::ReleasedBefore { release, certain } => Self::ReleasedBefore {
                certain: *certain,
                release: call(release),
            },
            E::Handle(before) => Self::Handle(*before),
            E::Refused(acquire) => Self::Refused(call(acquire)),
            &E::Irql { at, min, max } => Self::Irql { at, min, max },
            &E::NewIrql { given, before } => Self::NewIrql { given, before },
            &E::Adapter { acquired, released } => Self::Adapter { acquired, released },
            &E::Kind { acquired, now } => Self::Kind { acquired, now },
            E::AcquiredHandle(handle) => Self::AcquiredHandle { handle: *handle },
            &E::SeenLow { event, processor, irql } => Self::SeenLow {
                event,
                vcpu: processor,
                irql,
            },
            &E::Moved { event, processor } => Self::Moved { event, vcpu: processor },
            &E::DriverLeft { event, processor } => Self::DriverLeft { event, vcpu: processor },
            &E::ThreadLeft { event } => Self::ThreadLeft { event },
            &E::StillHeld {
                event,
                processor,
                irql,
                milliseconds,
            } => Self::StillHeld {
                event,
                vcpu: processor,
                irql,
                milliseconds,
            },
            &E::Operand { kind, context } => Self::Operand {
                spin_lock: kind,
                context,
            },
            E::Order(step) => Self::Order {
                held: step.held,
                held_by: PriorCall::new(&step.held_by, place),
                taken: step.taken,
                taken_by: PriorCall::new(&step.taken_by, place),
            },
            E::NotPerMessage => Self::NotPerMessage,
            &E::Overlap { held, overlap } => Self::Overlap { held, overlap },
            E::StackPointer(value) => Self::StackPointer { value: *value },
            &E::Callback(callback) => Self::Callback { callback },
            E::CameBack { event, proof } => Self::CameBack {
                event: *event,
                proof: *proof,
            },
        }
    }
}

impl PriorCall {
    /// As the checker has it; `place` names a code address.
    pub(crate) fn new(call: &finding::PriorCall, place: &impl Fn(u64) -> Location) -> Self {
        Self {
            event: call.sequence,
            routine: LockRoutine(call.routine),
            caller: place(call.context.return_address),
            vcpu: call.context.processor,
            thread: call.context.thread,
            irql: call.context.irql,
        }
    }
}

/// A lock routine; written with its module: `nt!KeReleaseSpinLock`, for StorPort locks with the notification or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockRoutine(pub Routine);

impl std::fmt::Display for LockRoutine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use storlock_check::contract::{SystemModule, contract};
        let module = match contract(self.0).module {
            SystemModule::Ntoskrnl => "nt",
            SystemModule::Storport => "storport",
        };
        write!(f, "{module}!{}", self.0)
    }
}

impl Serialize for LockRoutine {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LockRoutine {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let all = Routine::ALL.iter().map(|routine| Self(*routine));
        named::only(all, |routine| routine.to_string() == text, &text)
    }
}

/// Types that have one word for programs, which is not their name in this code.
mod named {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Cause, RuleId};

    pub(super) trait Named: Copy + 'static {
        fn all() -> &'static [Self];
        fn word(self) -> &'static str;
    }

    impl Named for RuleId {
        fn all() -> &'static [Self] {
            Self::ALL
        }

        fn word(self) -> &'static str {
            self.meta().name
        }
    }

    impl Named for Cause {
        fn all() -> &'static [Self] {
            Self::ALL
        }

        fn word(self) -> &'static str {
            self.name()
        }
    }

    pub(super) fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.word())
    }

    pub(super) fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let word = String::deserialize(deserializer)?;
        only(T::all().iter().copied(), |value| value.word() == word, &word)
    }

    /// The one of `all` that is meant.
    pub(super) fn only<T, E: Error>(
        mut all: impl Iterator<Item = T>,
        meant: impl Fn(&T) -> bool,
        word: &str,
    ) -> Result<T, E> {
        all.find(meant).ok_or_else(|| E::custom(format!("unknown: {word}")))
    }
}

/// A [`Shortfall`] as a list of words.
mod flags {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Shortfall;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: Serializer>(value: &Shortfall, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value.iter_names().map(|(name, _)| name.to_lowercase()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Shortfall, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let flags = words
            .iter()
            .filter_map(|word| Shortfall::from_name(&word.to_uppercase()));
        Ok(flags.fold(Shortfall::empty(), |all, flag| all | flag))
    }
}
