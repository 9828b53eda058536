//! Which lock each processor of a hung guest waits for, who took it last, and whether processors wait for each other.
//!
//! Asks the checker for acquires that have not come back, and the stopped processor whether it is still inside one of
//! them. It must not know why the guest was stopped.

use storlock_check::checker::{Checker, OpenAcquire};
use storlock_check::event::{Context, DISPATCH_LEVEL};
use storlock_check::finding::{Cause, Finding, HistoryEntry, Step, Verdict};

use super::returns;
use crate::report::{Location, LockHolder, PriorCall, ProcessorState, WaitsFor};
use crate::vmi::GuestMemory;

/// The deepest that a lock routine's own frames reach, in bytes.
const ROUTINE: u64 = 0x1000;

/// The acquire in which a processor stands: the youngest of its own that has not come back, whose return address is still
/// where its caller put it, above the stack pointer.
fn acquire_under_way(checker: &Checker, memory: &impl GuestMemory, now: &Context) -> Option<OpenAcquire> {
    let own = |open: &OpenAcquire| {
        let entered = &open.call.context;
        let same = if entered.irql < DISPATCH_LEVEL {
            entered.thread == now.thread && entered.thread != 0
        } else {
            entered.processor == now.processor
        };
        same && !open.held && entered.stack_pointer.wrapping_sub(now.stack_pointer) < ROUTINE
    };
    let stands = |open: &OpenAcquire| returns::is_inside(memory, &open.call.context) == Some(true);
    let all = checker.open_acquires();
    all.into_iter().rev().find(|open| own(open) && stands(open))
}

/// Whether a stopped processor stands in an acquire.
pub(crate) fn is_in_acquire(checker: &Checker, memory: &impl GuestMemory, now: &Context) -> bool {
    acquire_under_way(checker, memory, now).is_some()
}

/// What a stopped processor waits for; `place` names code addresses.
pub(crate) fn waits_for(
    checker: &Checker,
    memory: &impl GuestMemory,
    now: &Context,
    mut place: impl FnMut(u64) -> Location,
) -> Option<WaitsFor> {
    let waiting = acquire_under_way(checker, memory, now)?;
    let mut others: Vec<OpenAcquire> = checker.open_acquires();
    others.retain(|open| open.lock == waiting.lock && open.call.sequence != waiting.call.sequence);
    let open = others.iter().rfind(|open| open.held).or(others.last());
    let mut told = |call: &storlock_check::finding::PriorCall| {
        let at = place(call.context.return_address);
        PriorCall::new(call, &|_| at.clone())
    };
    let found = |cause: Cause| {
        let mut findings = checker.findings().iter();
        let own = |found: &Finding| found.call_sequence == waiting.call.sequence && found.cause == cause;
        findings.any(|found| own(found) && found.is_deadlock() && found.verdict == Verdict::Semantic)
    };
    let holder = if found(Cause::HeldByPortDriver) {
        None
    } else if let Some(open) = open {
        Some(LockHolder {
            vcpu: open.processor,
            certain: open.held,
            released: None,
            acquire: told(&open.call),
        })
    } else {
        let taken = last_taken(&checker.history_of(&waiting.lock), waiting.call.sequence);
        // A processor that was found to take its own lock again holds it.
        let certain = found(Cause::DoubleAcquire);
        taken.map(|(acquire, released)| LockHolder {
            vcpu: acquire.call.context.processor,
            certain,
            released: released.map(|release| told(&release.call)),
            acquire: told(&acquire.call),
        })
    };
    Some(WaitsFor {
        lock: waiting.lock,
        acquire: told(&waiting.call),
        holder,
    })
}

/// The last acquire of a lock before the one with this number, and the release after it, if that was seen. `history`: latest
/// first.
fn last_taken(history: &[HistoryEntry], waiting: u64) -> Option<(HistoryEntry, Option<HistoryEntry>)> {
    let mut released = None;
    for entry in history.iter().filter(|entry| entry.call.sequence != waiting) {
        match entry.step {
            Step::Released | Step::Unknown => released = released.or(Some(*entry)),
            Step::Attempt | Step::Acquired => return Some((*entry, released)),
            Step::Failed | Step::Nested | Step::Finding => {}
        }
    }
    None
}

/// Processors that wait for each other, each for the one after it and the last for the first; none if there is no such
/// circle. Only holders count that certainly hold.
pub(crate) fn circle(processors: &[ProcessorState]) -> Vec<u32> {
    let next = |vcpu: u32| {
        let own = processors.iter().find(|processor| processor.vcpu == vcpu)?;
        let holder = own.waits_for.as_ref()?.holder.as_ref()?;
        (holder.certain || holder.vcpu == vcpu).then_some(holder.vcpu)
    };
    for start in processors.iter().map(|processor| processor.vcpu) {
        let mut way = vec![start];
        while let Some(vcpu) = way.last().and_then(|&vcpu| next(vcpu)) {
            if vcpu == start {
                return way;
            }
            if way.contains(&vcpu) {
                break; // A circle that this one only leads into.
            }
            way.push(vcpu);
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(vcpu: u32, holder: Option<(u32, bool)>) -> ProcessorState {
        let acquire = |vcpu| PriorCall {
            event: 1,
            routine: crate::report::LockRoutine(crate::report::Routine::KeAcquireSpinLockRaiseToDpc),
            caller: Location::unknown(1),
            vcpu,
            thread: 1,
            irql: 2,
        };
        ProcessorState {
            vcpu,
            location: Location::unknown(2),
            irql: 2,
            activity: None,
            stack: Vec::new(),
            stack_end: None,
            waits_for: Some(WaitsFor {
                lock: crate::report::LockIdentity::Address(7),
                acquire: acquire(vcpu),
                holder: holder.map(|(vcpu, certain)| LockHolder {
                    vcpu,
                    certain,
                    released: None,
                    acquire: acquire(vcpu),
                }),
            }),
        }
    }

    #[test]
    fn processors_that_wait_for_each_other_are_a_circle_and_those_that_wait_for_them_are_not() {
        let all = [
            processor(0, Some((1, true))),
            processor(1, Some((2, true))),
            processor(2, Some((1, true))),
            processor(3, None),
        ];
        assert_eq!(circle(&all), [1, 2]);
        assert_eq!(circle(&all[..2]), [] as [u32; 0]);
        assert_eq!(circle(&[processor(4, Some((4, false)))]), [4], "it waits for itself");
        let guess = [processor(1, Some((2, false))), processor(2, Some((1, true)))];
        assert_eq!(circle(&guess), [] as [u32; 0], "who holds it is a guess");
    }
}
