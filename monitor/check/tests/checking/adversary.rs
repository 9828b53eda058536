//! Sequences on which the checker of commit cfa1d5a was wrong. Each assertion states that WRONG verdict; the comment above it says
//! what happens in the guest. Turn each round to the right verdict; where two are possible the milder one that still tells the user.
//! `good` and `good2` were right and have to stay so.

use storlock_check::checker::{Checker, Found, Limits, Outcome};
use storlock_check::contract::{Routine as R, RoutineSet};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, LockReturn, Module, Order, WatchSet};
use storlock_check::rules::{Cause, Verdict};

pub struct S {
    pub c: Checker,
    pub seq: u64,
}
/// cpu, irql, thread, return address, stack pointer
pub type W = (u32, u8, u64, u64, u64);
const T: u64 = 0xf000; // target module
const X: u64 = 0x5_0000; // another module

pub fn sp(thread: u64) -> u64 {
    0x10_0000 * (thread + 1) + 0x9000
}

impl S {
    pub fn new(watched: &[R], imported: &[R], before: bool) -> Self {
        let mut s = S { c: Checker::new(Limits::default(), 1), seq: 0 };
        s.ev(EventKind::ModuleLoad(Module { base: T, size: 0x1000, target: true, name: "target.sys".into() }));
        s.ev(EventKind::WatchSetChanged(WatchSet {
            watched: RoutineSet::of(watched),
            imported: RoutineSet::of(imported),
            processors: 2,
            before_target: before,
            ..WatchSet::default()
        }));
        s
    }
    pub fn ev(&mut self, kind: EventKind) -> Option<Found> {
        self.seq += 1;
        self.c.apply(&Event { sequence: self.seq, order: Order::Total, kind }).found
    }
    pub fn low(&mut self, cpu: u32) {
        self.ev(EventKind::IrqlSeen { processor: cpu, irql: 0 });
    }
    pub fn call(&mut self, w: W, routine: R, operand: LockOperand, word: Option<u64>) -> Option<Found> {
        let f = self.ev(EventKind::LockCall(LockCall {
            routine,
            context: ctx(w),
            operand,
            old_irql: Some(0),
            word,
        }));
        self.say(routine, w, f)
    }
    fn say(&self, routine: R, w: W, f: Option<Found>) -> Option<Found> {
        if let Some(f) = f {
            let v = f.index.map(|i| &self.c.violations()[i]);
            eprintln!("   #{} {routine} cpu{} irql{} t{} -> {:?} {:?} {:?} target={} first={}", self.seq, w.0, w.1, w.2, f.verdict,
                v.map(|v| v.cause), v.map(|v| v.shortfall), f.concerns_target, f.first);
        } else {
            eprintln!("   #{} {routine} cpu{} irql{} t{} -> none", self.seq, w.0, w.1, w.2);
        }
        f
    }
    pub fn ret(&mut self, call: u64, w: W, routine: R, operand: LockOperand, value: u32) {
        self.ev(EventKind::LockReturn(LockReturn { call, routine, operand, value, context: ctx(w) }));
    }
    pub fn cause(&self, f: Option<Found>) -> (Verdict, Cause, bool) {
        let f = f.expect("found");
        (f.verdict, self.c.violations()[f.index.unwrap()].cause, f.concerns_target)
    }
    fn end(&self, name: &str) -> Outcome {
        let o = self.c.outcome(true);
        eprintln!("   {name}: outcome {o:?}, unknown={} words_contradicted={} holds_lost={}", self.c.statistics().unknown_releases,
            self.c.statistics().words_contradicted, self.c.statistics().holds_lost);
        o
    }
}
pub fn ctx((processor, irql, thread, return_address, stack_pointer): W) -> Context {
    Context { processor, irql, interrupts: true, thread, stack_pointer, return_address }
}
const L: LockOperand = LockOperand::Address(0xffff_c000_0000_1000);
const fn stor(adapter: u64, kind: u32, context: u64, handle: u64) -> LockOperand {
    LockOperand::StorPort { adapter, kind, context, handle }
}
const fn storh(adapter: u64, handle: u64, kind: u32) -> LockOperand {
    LockOperand::StorPortHandle { adapter, handle, kind: Some(kind), lock: None }
}
fn w(cpu: u32, irql: u8, thread: u64) -> W {
    (cpu, irql, thread, T + 0x100 + 16 * thread, sp(thread))
}
const STORSET: [R; 5] = [R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock, R::StorPortAcquireMSISpinLock,
    R::StorPortReleaseMSISpinLock, R::StorPortAcquireSpinLockEx];
const PAIR: [R; 2] = [R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock];

// ---------------------------------------------------------------- FALSE ALARMS

/// FA1 a: release by a routine the driver does not import (export driver / MmGetSystemRoutineAddress / inlined).
#[test]
fn fa1_double_acquire_after_unseen_release() {
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    // DPC on CPU0: acquire; a helper driver's code releases it with KeReleaseSpinLockFromDpcLevel (not watched).
    s.call(w(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, L, Some(0));
    // DPC on CPU1 takes it now (unseen route too), and CPU0's next DPC waits for it.
    let f = s.call(w(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, L, Some(1));
    assert_eq!(s.cause(f), (Verdict::Semantic, Cause::DoubleAcquire, true));
    assert_eq!(s.end("FA1a"), Outcome::Defect);
}

/// FA1 b: the same gives WrongOwner against an innocent thread.
#[test]
fn fa1_wrong_owner_after_unseen_release() {
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, L, Some(0));
    // any other watched call on CPU0 at DISPATCH proves the hold
    s.call(w(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, LockOperand::Address(0x2000), Some(0));
    // CPU1: entered while CPU0 still holds (word 1); CPU0 then releases L unseen, CPU1 gets it.
    s.call(w(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, L, Some(1));
    let f = s.call(w(1, 2, 2), R::KeReleaseSpinLock, L, Some(1));
    assert_eq!(s.cause(f), (Verdict::Semantic, Cause::WrongOwner, true));
    assert_eq!(s.end("FA1b"), Outcome::Defect);
}

/// FA1 c: a DPC whose acquire is by an unseen route interrupts a thread between entry and raise: WrongRoutine.
#[test]
fn fa1_wrong_routine_after_unseen_acquire() {
    let set = [R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    // interrupt before the raise: DPC (interrupted thread 1) acquired L through a helper driver, releases itself
    let f = s.call((0, 2, 1, T + 0x300, sp(9)), R::KeReleaseSpinLockFromDpcLevel, L, Some(1));
    assert_eq!(s.cause(f), (Verdict::Semantic, Cause::WrongRoutine, true));
    assert_eq!(s.end("FA1c"), Outcome::Defect);
}

/// FA1 d: unseen release of a lock by somebody else (helper/inlined) while held is blamed on the innocent holder.
#[test]
fn fa1_innocent_holder_blamed_when_culprit_unseen() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1)); // words proven
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    // another driver clears the word by inlined code or an unwatched routine; then the holder's own, right release:
    let f = s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(0));
    assert_eq!(s.cause(f).0, Verdict::Semantic);
    eprintln!("   {:?}", s.cause(f));
    assert_eq!(s.end("FA1d"), Outcome::Defect);
}

/// FA2: one contradicted word switches words off for the run, and then a hand-over / unseen acquire becomes semantic.
#[test]
fn fa2_one_contradicted_word_turns_suspect_into_semantic() {
    let mut out = Vec::new();
    for poison in [false, true] {
        let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel, R::KeReleaseSpinLock, R::KeAcquireSpinLockRaiseToDpc];
        let mut s = S::new(&set, &set, true);
        s.low(0); s.low(1);
        if poison {
            // Some other driver (return address X) zeroes its own lock while holding it, or its lock is cleared by inlined code.
            let other = LockOperand::Address(0x7777_0000);
            s.call((0, 2, 5, X, sp(5)), R::KeAcquireSpinLockAtDpcLevel, other, Some(0));
            s.call((0, 2, 5, X, sp(5)), R::KeAcquireSpinLockAtDpcLevel, LockOperand::Address(0x7778_0000), Some(0));
            s.call((0, 2, 5, X, sp(5)), R::KeReleaseSpinLockFromDpcLevel, other, Some(0));
        }
        // A lock that a library driver acquired for the target by a route that is not seen.
        let f = s.call(w(1, 2, 2), R::KeReleaseSpinLock, L, Some(1));
        out.push(f.map(|f| f.verdict));
        s.end("FA2");
    }
    assert_eq!(out, [Some(Verdict::Suspect), Some(Verdict::Semantic)]);
}

/// FA3: pool address once a lock of the target, now another driver's: that driver's bug is the target's Defect.
#[test]
fn fa3_sticky_target_flag_after_pool_reuse() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1));
    // target frees the pool block; another driver X gets it for its own lock and has a bug of its own
    let f = s.call((1, 2, 7, X, sp(7)), R::KeReleaseSpinLock, L, Some(0));
    assert_eq!(s.cause(f).2, true);
    assert_eq!(s.end("FA3"), Outcome::Defect);
}


/// FA4: after a guest reset the old range of the target stays "the target".
#[test]
fn fa4_stale_target_range_after_reset() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.ev(EventKind::Restored);
    // next boot: KASLR puts another driver where the target was, the target elsewhere
    s.ev(EventKind::ModuleLoad(Module { base: T, size: 0x1000, target: false, name: "other.sys".into() }));
    s.ev(EventKind::ModuleLoad(Module { base: 0x9_0000, size: 0x1000, target: true, name: "target.sys".into() }));
    s.ev(EventKind::WatchSetChanged(WatchSet { watched: RoutineSet::of(&PAIR), imported: RoutineSet::of(&PAIR), processors: 2, before_target: true, ..WatchSet::default() }));
    let f = s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(0));
    assert_eq!(s.cause(f).2, true);
    assert_eq!(s.end("FA4"), Outcome::Defect);
}

/// FA5: InterruptLock is a no-op in storport while no interrupt is connected (virtual adapter, before connect, polled).
#[test]
fn fa5_interrupt_lock_that_storport_does_not_take() {
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x700), None);
    s.call((0, 2, 1, T + 0x200, sp(1) + 0x40), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x780), None); // proves it
    s.call(w(1, 0, 2), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x900), None);
    let f = s.call(w(1, 0, 2), R::StorPortReleaseSpinLock, storh(0xad, 0x900, 3), None);
    assert_eq!(s.cause(f), (Verdict::Semantic, Cause::WrongOwner, true));
    s.end("FA5");
}

/// FA6: two imports resolved to one address (identical code folded): a right call is decoded as the other routine.
#[test]
fn fa7_try_that_failed_in_a_dpc_takes_the_threads_release() {
    let set = [R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock, R::KeTryToAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(1));
    // DPC before the raise; try fails (another CPU holds); four registers used: its return is not caught
    s.call((0, 2, 1, T + 0x300, sp(9)), R::KeTryToAcquireSpinLockAtDpcLevel, L, Some(1));
    // the thread's right release
    let f = s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1));
    assert_eq!(s.cause(f), (Verdict::Literal, Cause::UnnamedRoutine, true));
    eprintln!("   open left: {:?}", s.c.open_acquires().len());
}

// ---------------------------------------------------------------- MISSES

/// M1: Unknown releases of the target do not make a run Inconclusive.
#[test]
fn m1_unknown_release_completes() {
    let mut s = S::new(&STORSET, &STORSET, false);
    s.low(0); // CPU1 never calls a watched routine below DISPATCH
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x700), None);
    s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 1), None);
    for _ in 0..3 {
        assert_eq!(s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 1), None), None);
        s.seq += 0;
    }
    assert_eq!(s.end("M1"), Outcome::Completed);
}

/// M2: after a guest reset the same watch set is re-armed before DriverEntry, and `late` stays.
#[test]
fn m2_reset_disables_wordless_verdicts() {
    for reset in [false, true] {
        let mut s = S::new(&STORSET, &STORSET, true);
        if reset {
            s.ev(EventKind::Restored);
            s.ev(EventKind::ModuleLoad(Module { base: T, size: 0x1000, target: true, name: "target.sys".into() }));
            s.ev(EventKind::WatchSetChanged(WatchSet { watched: RoutineSet::of(&STORSET), imported: RoutineSet::of(&STORSET), processors: 2, before_target: true, ..WatchSet::default() }));
        }
        s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x700), None);
        s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 1), None);
        let f = s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 1), None);
        assert_eq!(f.map(|f| f.verdict), if reset { None } else { Some(Verdict::Semantic) });
        assert_eq!(s.end("M2"), if reset { Outcome::Completed } else { Outcome::Defect });
    }
}

/// M3: release with another adapter's extension.
#[test]
fn m3_release_by_the_wrong_adapter() {
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 3, 0, 0x700), None);
    let f = s.call(w(0, 5, 1), R::StorPortReleaseSpinLock, storh(0xbd, 0x700, 3), None);
    assert_eq!(f, None);
    assert_eq!(s.end("M3"), Outcome::Completed);
}

/// M4: an interrupt routine releases the lock of the code that it interrupted; the victim is blamed.
#[test]
fn m4_isr_releases_the_interrupted_threads_lock() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    // device interrupt at DIRQL 8 on this CPU; KeReleaseSpinLock is legal at IRQL 2 only
    let isr = s.call((0, 8, 1, T + 0x400, sp(9)), R::KeReleaseSpinLock, L, Some(1));
    assert_eq!(isr, None);
    let victim = s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(0));
    assert_eq!(s.cause(victim).0, Verdict::Semantic);
    eprintln!("   victim: {:?}", s.cause(victim));
}


/// M5: Ex refused (STOR_STATUS_INVALID_IRQL), its return not caught: the release is Fine.
#[test]
fn m5_release_after_a_refused_ex() {
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    s.call(w(0, 5, 1), R::StorPortAcquireSpinLockEx, stor(0xad, 1, 0x500, 0x700), None); // DIRQL: refused for certain
    let f = s.call(w(0, 5, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 1), None);
    assert_eq!(f, None);
    assert_eq!(s.end("M5"), Outcome::Completed);
}

/// M6: kinds that StorPortAcquireSpinLock does not take (4, 5), and DpcLock without a DPC: storport acquires nothing.
#[test]
fn m6_acquire_that_acquires_nothing() {
    for (kind, context) in [(4, 0x500), (5, 0x500), (1, 0), (0, 0)] {
        let mut s = S::new(&STORSET, &STORSET, true);
        s.low(0); s.low(1);
        s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, kind, context, 0x700), None);
        assert_eq!(s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, kind), None), None);
        assert_eq!(s.end("M6"), Outcome::Completed);
    }
}


/// M8: handle rewritten while held: storport releases what the handle says now.
#[test]
fn m8_handle_names_another_lock_at_release() {
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x700), None);
    assert_eq!(s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 3), None), None);
    assert_eq!(s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 3), None).map(|f| f.verdict), Some(Verdict::Semantic));
}

/// M9: a driver whose releases go through one wrapper: the second bug is the first one's count.
#[test]
fn m9_second_bug_through_one_wrapper() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    let unlock = T + 0x40; // return address inside Unlock()
    let a = s.call((0, 2, 1, unlock, sp(1)), R::KeReleaseSpinLock, LockOperand::Address(0x1000), Some(0));
    let b = s.call((1, 2, 2, unlock, sp(2)), R::KeReleaseSpinLock, LockOperand::Address(0x9000), Some(0));
    assert!(a.unwrap().first && !b.unwrap().first);
    assert_eq!(s.c.violations().len(), 1);
}

/// M10: the target's violation by a tail call has the fingerprint of another driver's: it is never attributed.
#[test]
fn m10_tail_call_merged_with_another_drivers() {
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    let r = 0x8_8888; // in storport: where every callback returns to
    s.call(w(0, 0, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x700), None);
    s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x700, 1), None);
    let other = s.call((0, 2, 1, r, sp(3)), R::StorPortReleaseSpinLock, storh(0xee, 0x1700, 0), None);
    let target = s.call((0, 2, 1, r, sp(4)), R::StorPortReleaseSpinLock, storh(0xad, 0x2700, 0), None);
    assert!(other.unwrap().first && !target.unwrap().first && !target.unwrap().concerns_target);
    assert_eq!(s.end("M10"), Outcome::Completed);
}

/// M11: half-seen locks of the kernel (KeAcquireSpinLockRaiseToDpc + internal KxReleaseSpinLock), 129 threads.
#[test]
fn m11_half_seen_kernel_locks_make_the_past_unknown() {
    let mut out = Vec::new();
    for threads in [0_u64, 129] {
        let mut s = S::new(&PAIR, &PAIR, true);
        s.low(0); s.low(1);
        s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
        s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1));
        for t in 0..threads {
            s.ev(EventKind::LockCall(LockCall { routine: R::KeAcquireSpinLockRaiseToDpc,
                context: ctx(((t % 2) as u32, 0, 100 + t, X, sp(100 + t))), operand: LockOperand::Address(0xffff_f800_0000_0000), old_irql: None, word: Some(0) }));
        }
        // seen below DISPATCH only on CPU0 since; the target releases a lock that somebody else holds
        s.ev(EventKind::LockCall(LockCall { routine: R::KeAcquireSpinLockRaiseToDpc,
            context: ctx((0, 0, 999, X, sp(999))), operand: LockOperand::Address(0xffff_f800_0000_0000), old_irql: None, word: Some(0) }));
        let f = s.call(w(1, 2, 2), R::KeReleaseSpinLock, L, Some(1));
        out.push((f.map(|f| f.verdict), s.end("M11")));
        eprintln!("   records_evicted {}", s.c.statistics().records_evicted);
    }
    assert_eq!(out, [(Some(Verdict::Suspect), Outcome::Inconclusive), (None, Outcome::Completed)]);
}

/// M12: cancel spin lock released twice.
#[test]
fn m12_cancel_lock_released_twice() {
    let set = [R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::IoAcquireCancelSpinLock, LockOperand::Cancel, None);
    s.call(w(0, 2, 1), R::IoReleaseCancelSpinLock, LockOperand::Cancel, None);
    assert_eq!(s.call(w(0, 0, 1), R::IoReleaseCancelSpinLock, LockOperand::Cancel, None), None);
    assert_eq!(s.end("M12"), Outcome::Completed);
}


/// M14: a lock cleared while certainly held (re-initialised, zeroed, released by inlined code): nothing is said.
#[test]
fn m14_lock_cleared_while_held() {
    let set = [R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, L, Some(0));
    s.call(w(0, 2, 1), R::KeReleaseSpinLockFromDpcLevel, L, Some(1));
    s.call(w(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, L, Some(0));
    // driver: RtlZeroMemory(extension) under the lock; another CPU enters meanwhile and sees 0
    s.call(w(1, 2, 2), R::KeAcquireSpinLockAtDpcLevel, L, Some(0));
    assert_eq!(s.call(w(0, 2, 1), R::KeReleaseSpinLockFromDpcLevel, L, Some(1)), None);
    assert_eq!(s.call(w(1, 2, 2), R::KeReleaseSpinLockFromDpcLevel, L, Some(0)), None);
    assert_eq!(s.end("M14"), Outcome::Completed);
}

/// M15: wrong IRQL everywhere: acquire at DIRQL, release below DISPATCH, NewIrql other than the old one.
#[test]
fn m15_irql_contract_is_not_held_against_calls() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(0, 9, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    let c = LockCall { routine: R::KeReleaseSpinLock, context: ctx(w(0, 2, 1)), operand: L, old_irql: Some(1), word: Some(1) };
    assert_eq!(s.ev(EventKind::LockCall(c)), None);
    assert_eq!(s.end("M15"), Outcome::Completed);
}


/// M17: a stray release by a DPC over a thread that is pending on the lock, while another CPU holds it.
#[test]
fn m17_stray_release_matched_with_the_interrupted_threads_attempt() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)); // CPU1 holds
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(1)); // CPU0 entered, not raised
    let f = s.call((0, 2, 1, T + 0x500, sp(9)), R::KeReleaseSpinLock, L, Some(1)); // DPC on CPU0: stray release
    assert_eq!(f, None);
}

/// M18: target violation after 4096 places by other drivers.
#[test]
fn m18_table_of_violations_filled_by_other_drivers() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    for n in 0..4096_u64 {
        let c = LockCall { routine: R::KeReleaseSpinLock, context: ctx((0, 2, 3, X + n, sp(3))), operand: L, old_irql: None, word: Some(0) };
        s.ev(EventKind::LockCall(c));
    }
    let f = s.call(w(0, 2, 1), R::KeReleaseSpinLock, LockOperand::Address(0x1000), Some(0)).unwrap();
    assert!(f.index.is_none() && !f.first);
    eprintln!("   {f:?} {:?}", s.end("M18"));
}

// ---------------------------------------------------------------- CONFIRMED GOOD
#[test]
fn good() {
    // out of order release of nested locks
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    let m = LockOperand::Address(0x2000);
    for _ in 0..3 {
        assert_eq!(s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
        assert_eq!(s.call(w(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, m, Some(0)), None);
        assert_eq!(s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1)), None);
        assert_eq!(s.call(w(0, 2, 1), R::KeReleaseSpinLock, m, Some(1)), None);
    }
    // APC between entry and raise takes and releases the lock
    assert_eq!(s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
    assert_eq!(s.call((0, 1, 1, T, sp(1) - 0x300), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
    assert_eq!(s.call((0, 2, 1, T, sp(1) - 0x300), R::KeReleaseSpinLock, L, Some(1)), None);
    assert_eq!(s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1)), None);
    // migration between entry and raise
    assert_eq!(s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
    assert_eq!(s.call(w(1, 2, 1), R::KeReleaseSpinLock, L, Some(1)), None);
    // lock on the stack, never released, its memory used as another thread's lock
    assert_eq!(s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
    assert_eq!(s.call(w(1, 0, 2), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
    assert_eq!(s.call(w(1, 2, 2), R::KeReleaseSpinLock, L, Some(1)), None);
    // raised by hand
    assert_eq!(s.call(w(0, 2, 1), R::KeAcquireSpinLockRaiseToDpc, m, Some(0)), None);
    assert_eq!(s.call(w(0, 2, 1), R::KeReleaseSpinLock, m, Some(1)), None);
    assert_eq!(s.c.violations().len(), 0);
    // two adapters, same kinds; MSI per message; DPC locks of different DPCs; handle reuse
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    for (cpu, adapter, h) in [(0, 0xad, 0x700), (1, 0xbd, 0x900)] {
        s.call(w(cpu, 2, 1 + u64::from(cpu)), R::StorPortAcquireSpinLock, stor(adapter, 1, 0x500, h), None);
        s.call(w(cpu, 2, 1 + u64::from(cpu)), R::StorPortAcquireSpinLock, stor(adapter, 1, 0x580, h + 0x40), None);
    }
    for (cpu, adapter, h) in [(0, 0xad, 0x700), (1, 0xbd, 0x900)] {
        for h in [h + 0x40, h] {
            assert_eq!(s.call(w(cpu, 2, 1 + u64::from(cpu)), R::StorPortReleaseSpinLock, storh(adapter, h, 1), None), None);
        }
    }
    for message in 0..3 {
        s.call(w(0, 2, 1), R::StorPortAcquireMSISpinLock, LockOperand::Msi { adapter: 0xad, message }, None);
        s.call(w(1, 2, 2), R::StorPortAcquireMSISpinLock, LockOperand::Msi { adapter: 0xad, message: message + 10 }, None);
    }
    for message in (0..3).rev() {
        assert_eq!(s.call(w(0, 5, 1), R::StorPortReleaseMSISpinLock, LockOperand::Msi { adapter: 0xad, message }, None), None);
        assert_eq!(s.call(w(1, 5, 2), R::StorPortReleaseMSISpinLock, LockOperand::Msi { adapter: 0xad, message: message + 10 }, None), None);
    }
    assert_eq!(s.c.violations().len(), 0);
    // handle moved by value: a violation, and the holder's record stays
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x700), None);
    let f = s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0xa00, 1), None);
    eprintln!("   handle copied: {:?}", s.cause(f));
    // shared holders and upgrade
    let set = [R::ExAcquireSpinLockShared, R::ExReleaseSpinLockShared, R::ExTryConvertSharedSpinLockExclusive, R::ExReleaseSpinLockExclusive];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::ExAcquireSpinLockShared, L, Some(0));
    s.call(w(1, 0, 2), R::ExAcquireSpinLockShared, L, Some(1));
    s.call(w(1, 2, 2), R::ExTryConvertSharedSpinLockExclusive, L, Some(2));
    let c = s.seq;
    s.ret(c, w(1, 2, 2), R::ExTryConvertSharedSpinLockExclusive, L, 0);
    assert_eq!(s.call(w(1, 2, 2), R::ExReleaseSpinLockShared, L, Some(2)), None);
    s.call(w(0, 2, 1), R::ExTryConvertSharedSpinLockExclusive, L, Some(1));
    let c = s.seq;
    s.ret(c, w(0, 2, 1), R::ExTryConvertSharedSpinLockExclusive, L, 1);
    assert_eq!(s.call(w(0, 2, 1), R::ExReleaseSpinLockExclusive, L, Some(1 << 31)), None);
    assert_eq!(s.c.violations().len(), 0);
    // two virtual addresses of one page
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    let f = s.call(w(0, 2, 1), R::KeReleaseSpinLock, m, Some(1));
    eprintln!("   two addresses of a page: {:?}", s.cause(f));
}

/// FA3 c: Windows 10: KxReleaseSpinLock is KeReleaseSpinLockFromDpcLevel (one address). nt pairs it with
/// KeAcquireSpinLockRaiseToDpc and lowers the IRQL by CR8. On memory that once held a lock of the target: Defect.
#[test]
fn fa3c_kernel_pair_is_wrong_routine() {
    let set = [R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock, R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    for once_targets in [false, true] {
        let mut s = S::new(&set, &set, true);
        s.low(0); s.low(1);
        if once_targets {
            s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
            s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1));
        }
        s.call((0, 0, 5, X, sp(5)), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
        let f = s.call((0, 2, 5, X + 0x10, sp(5)), R::KeReleaseSpinLockFromDpcLevel, L, Some(1));
        let want = if once_targets { Verdict::Semantic } else { Verdict::Suspect };
        assert_eq!(s.cause(f), (want, Cause::WrongRoutine, once_targets));
        assert_eq!(s.end("FA3c"), if once_targets { Outcome::Defect } else { Outcome::NotApplicable });
    }
}

/// M19: nt acquires with a handle on this stack and releases by an internal routine: the handle stays bound and open.
/// The target then releases a handle at the same place that it never filled in.
#[test]
fn m19_stale_open_handle_of_a_half_seen_pair() {
    let set = [R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    let h = sp(1) - 0x80;
    s.call((0, 0, 1, X, sp(1) - 0x200), R::KeAcquireInStackQueuedSpinLock, LockOperand::Queued { lock: 0xffff_f800_0000_1000, handle: h }, Some(0));
    s.low(0); // KxReleaseQueuedSpinLock, not seen; thread 1 runs on at PASSIVE
    let f = s.call((0, 2, 1, T + 0x20, sp(1) - 0x100), R::KeReleaseInStackQueuedSpinLock, LockOperand::QueuedHandle { handle: h, lock: Some(0) }, None);
    assert_eq!(f, None);
    s.end("M19");
}


/// M21: pending attempts of many threads, one lock; a reset of the past by other drivers' locks and how it comes back.
#[test]
fn m21_past_unknown_by_an_unrelated_module_unload() {
    let mut s = S::new(&STORSET, &STORSET, true);
    s.low(0); s.low(1);
    // another miniport's InterruptLock is open when its module... its extension range is freed / its image unloaded
    s.call((0, 2, 5, X, sp(5)), R::StorPortAcquireSpinLock, stor(X + 0x800, 1, 0x500, 0x700), None);
    s.ev(EventKind::ModuleUnload { base: X, size: 0x1000 });
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x900), None);
    s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x900, 1), None);
    let f = s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x900, 1), None);
    assert_eq!(f, None);
    assert_eq!(s.end("M21"), Outcome::Completed);
    // even when every processor has been seen low again, for ever suspect (LATE): the DPC's thread never took a lock from below DISPATCH
    s.low(0); s.low(1);
    s.call(w(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0x500, 0x900), None);
    s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x900, 1), None);
    let f = s.call(w(0, 2, 1), R::StorPortReleaseSpinLock, storh(0xad, 0x900, 1), None);
    assert_eq!(f.map(|f| f.verdict), Some(Verdict::Suspect));
}

/// FA8: KeAcquireSpinLockAtDpcLevel (== KxAcquireSpinLock) called by ExInterlocked* at PASSIVE with interrupts off.
#[test]
fn fa8_kx_at_passive_with_interrupts_off() {
    let set = [R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock, R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1));
    for _ in 0..3 {
        assert_eq!(s.call((0, 0, 1, X, sp(1) - 0x40), R::KeAcquireSpinLockAtDpcLevel, L, Some(0)), None);
        assert_eq!(s.call((0, 0, 1, X, sp(1) - 0x40), R::KeReleaseSpinLockFromDpcLevel, L, Some(1)), None);
        assert_eq!(s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0)), None);
        assert_eq!(s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1)), None);
    }
}



/// How often do RIGHT programs raise a semantic alarm if some routine is called by a route that the driver does not import?
#[test]
fn quantify_unseen_routes() {
    use crate::kernel::{Config, Kernel};
    use crate::program::Random;
    use std::collections::BTreeMap;
    let mut by: BTreeMap<String, (u64, u64, BTreeMap<String, u64>)> = BTreeMap::new();
    for seed in 0..40_000_u64 {
        let mut random = Random(seed ^ 0x5eed);
        let processors = 2 + random.below(3);
        let hidden: Vec<R> = (0..1 + random.below(2)).map(|_| R::ALL[random.below(26)]).collect();
        let mut watched = RoutineSet::ALL;
        for h in &hidden { watched = watched.difference(RoutineSet::of(&[*h])); }
        let returns = random.pick(&[0, 100]);
        let run = Kernel::run(Config { processors, threads: processors + 2, events: 150, returns, nested: false, dpc_stack: true, bug: None, watched, unwatched_calls: 0 }, seed);
        for honest in [true, false] {
            let mut c = Checker::new(Limits::default(), 7);
            let mut hit = BTreeMap::new();
            for event in &run.events {
                let mut event = event.clone();
                if let (EventKind::WatchSetChanged(w), false) = (&mut event.kind, honest) { w.imported = w.watched; }
                if let Some(f) = c.apply(&event).found {
                    if f.verdict == Verdict::Semantic { *hit.entry(format!("{:?}", c.violations()[f.index.unwrap()].cause)).or_insert(0) += 1; }
                }
            }
            let e = by.entry(format!("hidden routine in import table={honest} returns={returns}")).or_default();
            e.0 += 1; e.1 += u64::from(!hit.is_empty());
            for (k, v) in hit { *e.2.entry(k).or_insert(0) += v; }
        }
    }
    for (k, (n, bad, causes)) in &by { eprintln!("   {k}: {bad} of {n} right runs with a semantic alarm ({:.1} %) {causes:?}", 100.0 * *bad as f64 / *n as f64); }
}

/// FA9: KeAcquireInterruptSpinLock does its work by KxAcquireSpinLock, which on Windows 10 IS KeAcquireSpinLockAtDpcLevel.
/// Its contract row has no may_call: the inner hit counts as the proof that the outer acquire has come back.
#[test]
fn fa9_inner_hit_taken_for_the_return() {
    let set = [R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock, R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel];
    let mut s = S::new(&set, &set, true);
    s.low(0); s.low(1);
    let i = LockOperand::Interrupt(0xffff_9000_0000_3000);
    let actual = LockOperand::Address(0xffff_9000_0000_3040);
    // CPU0: from a DPC; inside, at DIRQL 5, the alias hit
    s.call(w(0, 2, 1), R::KeAcquireInterruptSpinLock, i, None);
    s.call((0, 5, 1, X, sp(1) - 0x30), R::KeAcquireSpinLockAtDpcLevel, actual, Some(0));
    // CPU1: already at DIRQL 5 (holds another interrupt's lock); inside the routine it spins
    s.call(w(1, 5, 2), R::KeAcquireInterruptSpinLock, i, None);
    s.call((1, 5, 2, X, sp(2) - 0x30), R::KeAcquireSpinLockAtDpcLevel, actual, Some(1));
    // CPU0 releases what it holds
    let f = s.call(w(0, 5, 1), R::KeReleaseInterruptSpinLock, i, None);
    assert_eq!(s.cause(f), (Verdict::Semantic, Cause::WrongOwner, true));
    assert_eq!(s.end("FA9"), Outcome::Defect);
}

/// FA10: a lock that is handed over between DPCs of one processor group... and a legal release after the record table
/// of the lock was filled by half-seen pairs: StorPort has no half-seen pairs, so only Ke locks: suspect at most.
#[test]
fn good2_record_table_overflow_is_no_semantic_alarm() {
    let mut s = S::new(&PAIR, &PAIR, true);
    s.low(0); s.low(1);
    s.call(w(0, 0, 1), R::KeAcquireSpinLockRaiseToDpc, L, Some(0));
    for t in 0..200_u64 {
        s.ev(EventKind::LockCall(LockCall { routine: R::KeAcquireSpinLockRaiseToDpc, context: ctx((1, 0, 100 + t, T, sp(100 + t))), operand: L, old_irql: None, word: Some(1) }));
    }
    let f = s.call(w(0, 2, 1), R::KeReleaseSpinLock, L, Some(1));
    eprintln!("   {f:?} unknown {}", s.c.statistics().unknown_releases);
    assert!(f.is_none());
}
