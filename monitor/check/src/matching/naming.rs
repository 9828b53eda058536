//! What a wrong release most likely is: released twice, another lock, the routine of another kind of lock, or simply not
//! acquired.
//!
//! Comes after the verdict and never changes it: a name may rest on hints, such as what is left in a lock handle, and on
//! how deep in the stack a call was made. Where the evidence allows two readings the plainer name is taken, and what
//! speaks for the other is put beside it.

use super::record::{Record, SMALLEST_INTERRUPT, STACK, fits};
use super::state::{Bound, LockState, may_be_thread};
use crate::checker::Checker;
use crate::contract::{Role, RoutineSet, contract};
use crate::event::{Context, DISPATCH_LEVEL, LockCall, LockOperand};
use crate::finding::{Cause, Evidence, HandleBefore, HandleNow, HistoryEntry, PriorCall, Step};
use crate::identity::{HandleKey, INTERRUPT_LOCK, LockIdentity, is_dpc_lock};
use crate::rules::Draft;

impl Checker {
    /// Names the cause of a wrong release of `lock` and adds what the name rests on. `record`: the acquire that the
    /// release was matched with.
    pub(crate) fn name(&self, violation: &mut Draft, lock: &LockState, record: Option<&Record>) {
        let call = violation.call;
        let before = self.handle_before(&call);
        // The handle does not look like that of the acquire by which its lock is known: it is not about that lock.
        let unlike = before.filter(|before| matches!(before.now, HandleNow::Empty | HandleNow::Other));
        if let (Some(_), Some(handle)) = (unlike, HandleKey::of(&call.operand)) {
            violation.cause = Cause::ReleaseWithoutAcquire;
            violation.lock = LockIdentity::Handle(handle.address());
            violation.acquire = None;
            violation.holder = None;
        }
        violation.evidence.extend(before.map(Evidence::Handle));
        if violation.cause != Cause::ReleaseWithoutAcquire {
            return;
        }
        let by_handle = HandleKey::of(&call.operand).is_some();
        let own = own_release(lock, &call.context).filter(|_| !by_handle);
        let released = match (before, own) {
            (Some(before), _) => before.released,
            (None, own) => own.map(|(release, _)| release.sequence),
        };
        let own_only = self.core.modules.is_target(call.context.return_address);
        let other = self.other_lock(&call, released, own_only).filter(|_| record.is_none());
        if let Some(other) = &other {
            let (lock, acquire) = (other.lock, other.acquire);
            violation.evidence.push(Evidence::AlsoAcquired { lock, acquire });
        }
        let own = own.filter(|(_, meant)| *meant).map(|(release, _)| release);
        let twice = match (before, own) {
            (Some(before), _) => before.released.is_some() && before.now == HandleNow::Same && !before.frame_left,
            (None, own) => own.is_some_and(|release| {
                let floor = release.context.stack_pointer;
                self.core.recent.none_since(release.sequence, &call.context, floor)
            }),
        };
        if let Some(acquire) = self.other_kind(&call).filter(|_| record.is_none()) {
            violation.cause = Cause::WrongRoutine;
            violation.acquire = Some(acquire);
        } else if let Some(other) = other {
            // An attempt of code that was interrupted looks the same: then it is no more than a remark.
            if other.sure && same_kind(&call.operand, &other.lock) {
                violation.cause = Cause::OtherHandle;
                violation.evidence.push(Evidence::AcquiredHandle(other.handle));
            } else if other.sure {
                violation.cause = Cause::OtherLock;
            }
        } else if twice {
            violation.cause = Cause::ReleasedTwice;
        }
        if let Some(release) = own {
            let certain = violation.cause == Cause::ReleasedTwice;
            violation.evidence.push(Evidence::ReleasedBefore { release, certain });
        }
    }

    /// What the handle of a release was used for before.
    fn handle_before(&self, call: &LockCall) -> Option<HandleBefore> {
        let key = HandleKey::of(&call.operand)?;
        let binding = self.handles.get(&key)?;
        // An address above the stack pointer, and not far from it, is a frame of the caller's.
        let on_stack = key.address().wrapping_sub(call.context.stack_pointer) < STACK;
        if matches!(binding.state, Bound::Refused | Bound::Nothing) {
            return None;
        }
        let since = binding.released.unwrap_or(binding.acquire.sequence);
        Some(HandleBefore {
            lock: binding.lock,
            acquire: binding.acquire.sequence,
            released: binding.released,
            now: now(&call.operand, &binding.lock),
            frame_left: on_stack && !self.core.recent.none_since(since, &call.context, key.address()),
        })
    }

    /// Another lock that the caller has acquired by a routine that this release belongs to, and not released; younger
    /// than `after`. `own_only`: of what the driver under test has acquired itself.
    fn other_lock(&self, call: &LockCall, after: Option<u64>, own_only: bool) -> Option<Other> {
        let same = LockIdentity::of(&call.operand);
        let young = self.core.recent.newest_first();
        young
            .take_while(|acquire| after.is_none_or(|after| acquire.sequence > after))
            .filter(|acquire| Some(acquire.lock) != same)
            .find_map(|acquire| {
                let records = &self.locks.get(&acquire.lock)?.records;
                let open = records.iter().find(|record| record.call.sequence == acquire.sequence)?;
                let own = open.same_agent(&call.context) && fits(RoutineSet::of(&[call.routine]), open);
                (own && (open.target || !own_only)).then(|| Other {
                    lock: acquire.lock,
                    acquire: acquire.sequence,
                    handle: open.handle,
                    sure: self.surely_acquired(open, &call.context),
                })
            })
    }

    /// The caller's open acquire of the same lock by a routine of another kind: the interrupt lock of an adapter takes
    /// the lock of each of its messages.
    fn other_kind(&self, call: &LockCall) -> Option<PriorCall> {
        let same = |lock: &LockIdentity| match (call.operand, *lock) {
            (LockOperand::Msi { adapter, .. }, LockIdentity::StorPort { adapter: of, kind, .. }) => {
                adapter == of && kind == INTERRUPT_LOCK
            }
            (LockOperand::StorPortHandle { adapter, kind, .. }, LockIdentity::Msi { adapter: of, .. }) => {
                adapter == of && kind == Some(INTERRUPT_LOCK)
            }
            _ => false,
        };
        let mut young = self.core.recent.newest_first().filter(|acquire| same(&acquire.lock));
        young.find_map(|acquire| {
            let records = &self.locks.get(&acquire.lock)?.records;
            let open = records.iter().find(|record| record.call.sequence == acquire.sequence)?;
            let own = open.same_agent(&call.context) && self.surely_acquired(open, &call.context);
            own.then_some(open.call)
        })
    }

    /// Whether an open acquire of the caller has surely come back with the lock.
    fn surely_acquired(&self, record: &Record, context: &Context) -> bool {
        let entered = &record.call.context;
        // The acquire's own caller runs on, or one of its callers: an interrupt would have come in deeper.
        let floor = entered.stack_pointer.wrapping_sub(SMALLEST_INTERRUPT);
        let runs_on = entered.thread == context.thread
            && entered.thread != 0
            && context.stack_pointer.wrapping_sub(floor) < STACK
            && !contract(record.call.routine).result.may_fail();
        runs_on || self.certainly_held(record, context)
    }
}

/// A lock that a caller has acquired and not released.
struct Other {
    lock: LockIdentity,
    acquire: u64,
    handle: u64,
    /// That acquire has surely come back with the lock.
    sure: bool,
}

/// Whether a handle is of a lock of this kind, by what is in it.
fn same_kind(operand: &LockOperand, lock: &LockIdentity) -> bool {
    match (operand, lock) {
        (
            LockOperand::StorPortHandle {
                adapter: by,
                kind: Some(now),
                lock: None,
                ..
            },
            LockIdentity::StorPort { adapter, kind, .. },
        ) => by == adapter && (now == kind || (is_dpc_lock(*now) && is_dpc_lock(*kind))),
        _ => false,
    }
}

/// How a handle looks beside the lock whose handle it was.
fn now(operand: &LockOperand, lock: &LockIdentity) -> HandleNow {
    match (operand, lock) {
        (LockOperand::StorPortHandle { kind: Some(0), .. } | LockOperand::QueuedHandle { lock: Some(0), .. }, _) => {
            HandleNow::Empty
        }
        (LockOperand::StorPortHandle { kind: Some(now), .. }, LockIdentity::StorPort { kind, .. }) if now == kind => {
            HandleNow::Same
        }
        (LockOperand::QueuedHandle { lock: Some(now), .. }, LockIdentity::Address(lock)) if now == lock => {
            HandleNow::Same
        }
        (LockOperand::StorPortHandle { kind: None, .. } | LockOperand::QueuedHandle { lock: None, .. }, _) => {
            HandleNow::Unread
        }
        _ => HandleNow::Other,
    }
}

/// The last that happened to a lock, if that was a release by the caller of which nothing could be said: of the cancel
/// spin lock, by a cancel routine.
pub(crate) fn own_unknown_release(lock: &LockState, context: &Context) -> Option<PriorCall> {
    let last = lock.history.newest_first().next()?;
    let own = may_be_thread(last.call.context.thread, context.thread);
    (last.step == Step::Unknown && own).then_some(last.call)
}

/// The caller's release of a lock, if that is the last that it did to the lock apart from mistakes; and whether that
/// release may be meant by a second one: nobody else has touched the lock since, and it was no interrupt's.
pub(crate) fn own_release(lock: &LockState, context: &Context) -> Option<(PriorCall, bool)> {
    let mistake = |entry: &HistoryEntry| {
        let release = contract(entry.call.routine).role == Role::Release;
        (release && matches!(entry.step, Step::Unknown | Step::Finding)) || entry.step == Step::Nested
    };
    let own = |by: &Context| {
        let raised = by.irql >= DISPATCH_LEVEL && context.irql >= DISPATCH_LEVEL;
        (by.thread == context.thread && by.thread != 0) || (raised && by.processor == context.processor)
    };
    let mut steps = lock.history.newest_first().filter(|entry| !mistake(entry)).enumerate();
    let (since, last) = steps.find(|(_, entry)| own(&entry.call.context))?;
    // Whoever made both the acquire and the release far deeper in the stack may have been an interrupt of the caller.
    let floor = context.stack_pointer.wrapping_sub(SMALLEST_INTERRUPT);
    let level = |entry: &HistoryEntry| entry.call.context.stack_pointer.wrapping_sub(floor) < STACK;
    let acquire = steps
        .map(|(_, entry)| entry)
        .find(|entry| entry.step == Step::Attempt && own(&entry.call.context));
    let same_code = level(&last) || acquire.is_some_and(|acquire| level(&acquire));
    (last.step == Step::Released).then_some((last.call, since == 0 && same_code))
}
