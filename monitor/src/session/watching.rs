//! The breakpoints in force, the returns that are caught, and the hits that are counted but not judged.
//!
//! Talks to the watch plan and to the stopped processor. It must not know whether a call is legal.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use storlock_check::contract::{Contract, Routine, RoutineSet};
use storlock_check::event::{Context, DISPATCH_LEVEL, LockCall, LockOperand, WatchSet};

use super::KERNEL_MODE;
use super::config::Config;
use super::turns::{Rotation, Turns};
use crate::report::{
    Choice, IgnoredHits, NotArmed, Purpose, Share, StepOver, WatchGap, WatchInfo, WatchedRoutine, WhyWatched,
};
use crate::vmi::recorder::{Hidden, Recorder};
use crate::vmi::{Action, ArmError, Breakpoint, Interception, StoppedCpu};
use crate::watch::WatchPlan;
use crate::windows::debug_print::Printer;

/// The most returns that are awaited at the same time; the oldest is forgotten. A vCPU has few debug registers for them.
const OPEN_RETURNS: usize = 256;
/// The highest IRQL: a bug check runs at it.
const HIGH_LEVEL: u8 = 15;
/// Bytes that a CALL pushes: RSP after the return is this much higher than at the entry.
const RETURN_ADDRESS_BYTES: u64 = 8;
/// Bytes of what a hook leaves on the stack, twice.
const QUADWORD: u64 = 8;

/// A watched export.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) breakpoint: Breakpoint,
    /// `module!export`: the planned one, then those that share the address.
    pub(crate) names: Vec<String>,
    /// The routines behind the address, by whatever exported name.
    pub(crate) rows: Vec<&'static Contract>,
    /// Why it was chosen: once for each planned export.
    pub(crate) why: Vec<Purpose>,
    pub(crate) hits: AtomicU64,
    /// The driver's import leads to a stub; there is no breakpoint on the routine.
    pub(crate) hooked: bool,
}

impl Clone for Watch {
    /// With the hits so far.
    fn clone(&self) -> Self {
        Self {
            breakpoint: self.breakpoint,
            names: self.names.clone(),
            rows: self.rows.clone(),
            why: self.why.clone(),
            hits: AtomicU64::new(self.hits()),
            hooked: self.hooked,
        }
    }
}

impl Watch {
    /// Whether an entry may be that of more than one routine. (An argument distinguishes the routines of a multiplexed export.)
    pub(crate) fn shares_code(&self) -> bool {
        self.rows.len() > 1 && self.rows.iter().any(|row| row.selector.is_none())
    }

    /// How often it was hit.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

/// The breakpoints in force. Read at every hit, without a lock; replaced at each arming, before the first of the new
/// breakpoints can be hit.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    watches: ArcSwap<Vec<Watch>>,
    /// On the routines that print.
    printers: ArcSwap<Vec<(Breakpoint, Printer)>>,
    /// Of hooks.
    exit: ArcSwap<HookExit>,
    /// Their entries, and the routines in whose place these are.
    hidden: ArcSwap<Vec<(u64, u64)>>,
}

/// Where hooks leave the guest.
#[derive(Debug, Default)]
pub(crate) struct HookExit {
    /// On the instruction by which they do.
    pub(crate) breakpoint: Breakpoint,
    /// Waits for the driver to be loaded again.
    pub(crate) witness: Breakpoint,
    /// By the number of the stub: the routine, and the number of the breakpoint that it would have.
    pub(crate) targets: Vec<(u64, u32)>,
}

impl HookExit {
    /// The breakpoints that hooks need.
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> {
        let both = [self.breakpoint, self.witness];
        both.into_iter().filter(|_| !self.targets.is_empty())
    }
}

impl InForce {
    /// On lock routines.
    pub(crate) fn watches(&self) -> Guard<Arc<Vec<Watch>>> {
        self.watches.load()
    }

    /// The pointers to hooks, and what they were.
    pub(crate) fn hidden(&self) -> Hidden {
        self.hidden.load_full()
    }

    /// A processor has stopped at the breakpoint with this number: if a hook has left the guest there, has it stand at the
    /// first instruction of the routine, as a breakpoint on that would have stopped it, and gives the number that this would
    /// have. Else the same number.
    pub(crate) fn routine_behind(&self, cpu: &mut dyn StoppedCpu, id: u32) -> u32 {
        let exit = self.exit.load();
        if exit.targets.is_empty() || exit.breakpoint.id != id || cpu.special().cpl != KERNEL_MODE {
            return id;
        }
        let mut registers = cpu.registers();
        let stub = cpu.read_u64(registers.rsp().wrapping_add(QUADWORD));
        let target = stub.ok().and_then(|stub| exit.targets.get(usize::try_from(stub).ok()?));
        let Some(&(target, watch)) = target else {
            // Other code has jumped there: it goes where its stack says.
            return id;
        };
        registers.rip = target;
        registers.gpr[4] = registers.rsp().wrapping_add(2 * QUADWORD);
        cpu.set_registers(&registers).map_or(id, |()| watch)
    }

    /// The printing routine whose breakpoint has this number.
    pub(crate) fn printer(&self, id: u32) -> Option<Printer> {
        let printers = self.printers.load();
        let found = printers.iter().find(|(breakpoint, _)| breakpoint.id == id);
        found.map(|(_, printer)| *printer)
    }
}

/// A call whose return is to be caught.
#[derive(Debug)]
pub(crate) struct OpenReturn {
    cookie: u64,
    /// Return address and stack pointer of the call.
    frame: (u64, u64),
    pub(crate) routine: Routine,
    pub(crate) operand: LockOperand,
}

/// What is watched.
#[derive(Debug)]
pub(crate) struct Watching {
    in_force: Arc<InForce>,
    /// How many breakpoints can be set at once.
    capacity: usize,
    processors: u32,
    next_breakpoint: u32,
    /// Number of the event, and the time, at which the breakpoints were in force.
    armed: Option<(u64, Instant)>,
    gaps: Vec<WatchGap>,
    choice: Choice,
    turns: Turns,
    /// A breakpoint on something else than a lock routine or a printer.
    extra: Option<Breakpoint>,
    returns: VecDeque<OpenReturn>,
    ignored: IgnoredHits,
    /// The guest has recorded a bug check: what runs since takes its locks by force.
    bug_checked: bool,
    /// Processors that were seen below DISPATCH_LEVEL since arming.
    seen_low: BTreeSet<u32>,
}

impl Watching {
    /// Nothing is watched yet. `in_force` is shared with who looks hits up.
    pub(crate) fn new(config: &Config, in_force: Arc<InForce>) -> Self {
        Self {
            in_force,
            capacity: config.breakpoints,
            processors: config.processors,
            next_breakpoint: 1,
            armed: None,
            gaps: Vec::new(),
            choice: Choice::None,
            turns: Turns::default(),
            extra: None,
            returns: VecDeque::new(),
            ignored: IgnoredHits::default(),
            bug_checked: false,
            seen_low: BTreeSet::new(),
        }
    }

    /// How many breakpoints can be set at once.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// A number for a breakpoint that no other breakpoint of this session had.
    pub(crate) fn new_breakpoint(&mut self, address: u64) -> Breakpoint {
        let id = self.next_breakpoint;
        self.next_breakpoint += 1;
        Breakpoint { id, address }
    }

    /// Takes the plan's explanations and gaps. `rotations`: the sets that may take turns with this one.
    pub(crate) fn take_plan(&mut self, plan: &WatchPlan, watches: &[Watch], rotations: Vec<Rotation>) {
        self.choice = Choice::Made(Box::new(plan.choice()));
        self.turns = Turns::new(plan, watches, rotations);
        // A routine that shares its address with a watched one is seen; so is one that another set watches, in its turn.
        let seen = |export: &str| {
            let mut watches = watches.iter();
            watches.any(|watch| watch.names.iter().any(|name| name == export)) || self.turns.watch(export)
        };
        let gaps = plan.gaps.iter().filter(|gap| !gap.export().is_some_and(seen));
        self.gaps = gaps.cloned().collect();
    }

    /// Puts these breakpoints in force on all processors, in place of those that were.
    ///
    /// # Errors
    /// As [`Interception::set_breakpoints`].
    pub(crate) fn put_in_force(
        &self,
        cpu: &mut Recorder<'_>,
        watches: Vec<Watch>,
        printers: Vec<(Breakpoint, Printer)>,
    ) -> Result<(), ArmError> {
        let exit = self.in_force.exit.load();
        let breakpoints: Vec<Breakpoint> = on_routines(&watches)
            .chain(exit.breakpoints())
            .chain(printers.iter().map(|(breakpoint, _)| *breakpoint))
            .chain(self.extra)
            .collect();
        // Breakpoints from before a reset are no longer set, but the report counts all hits.
        for old in self.in_force.watches().iter() {
            if let Some(new) = watches.iter().find(|new| new.names == old.names) {
                new.hits.store(old.hits(), Ordering::Relaxed);
            }
        }
        self.in_force.printers.store(Arc::new(printers));
        self.in_force.watches.store(Arc::new(watches));
        cpu.set_breakpoints(&breakpoints)
    }

    /// Whether another set of breakpoints is to be put in force, after so many hits.
    pub(crate) fn turn_is_over(&self, hits: u64) -> bool {
        self.turns.is_over(&self.in_force.watches(), hits)
    }

    /// Puts the next set in force; gives what the checker has to know of it.
    ///
    /// # Errors
    /// As [`Interception::set_breakpoints`].
    pub(crate) fn next_turn(&mut self, cpu: &mut Recorder<'_>, hits: u64) -> Result<WatchSet, ArmError> {
        let in_force = self.in_force.watches();
        let (plan, watches) = self.turns.next(&in_force, hits);
        drop(in_force);
        self.put_in_force(cpu, watches, Vec::new())?;
        Ok(self.watch_set(&plan, false))
    }

    /// The lock exports that no turn so far has watched.
    pub(crate) fn not_yet_watched(&self) -> Vec<String> {
        self.turns.not_yet()
    }

    /// The lock exports that were watched in some turns only, and in how many of the hits.
    pub(crate) fn shares(&self) -> Vec<Share> {
        self.turns.shares()
    }

    /// The run is over, after so many hits.
    pub(crate) fn end_turn(&mut self, hits: u64) {
        self.turns.end(hits);
    }

    /// The breakpoints are in force since the event with this number.
    pub(crate) fn armed(&mut self, event: u64) {
        self.armed = Some((event, Instant::now()));
    }

    /// How long that has been, in milliseconds of the host's time.
    pub(crate) fn armed_for_ms(&self) -> u64 {
        self.armed.map_or(0, |(_, since)| since.elapsed().as_millis() as u64)
    }

    /// What the checker has to know of the breakpoints in force and of a driver for which this was planned.
    pub(crate) fn watch_set(&self, plan: &WatchPlan, before_target: bool) -> WatchSet {
        let watches = self.in_force.watches();
        let mut set = WatchSet {
            imported: plan.imported,
            processors: self.processors,
            before_target,
            closed: plan.closed,
            ..WatchSet::default()
        };
        for watch in watches.iter() {
            let routines: RoutineSet = watch.rows.iter().map(|row| row.routine).collect();
            set.watched = set.watched.union(routines);
            if watch.shares_code() {
                set.ambiguous = set.ambiguous.union(routines);
            }
        }
        set
    }

    /// Whether an export (`module!name`) is watched, or listed as not watched.
    pub(crate) fn knows(&self, routine: &str) -> bool {
        let watches = self.in_force.watches();
        let named = |watch: &Watch| watch.names.iter().any(|name| name == routine);
        watches.iter().any(named)
            || self.turns.watch(routine)
            || self.gaps.iter().any(|gap| gap.export() == Some(routine))
    }

    /// Whether an export is watched, and not only in some turns.
    pub(crate) fn always_watches(&self, routine: &str) -> bool {
        let watches = self.in_force.watches();
        let named = |watch: &Watch| watch.names.iter().any(|name| name == routine);
        watches.iter().any(named) && !self.turns.rests(routine)
    }

    /// Notes that an export is not watched.
    pub(crate) fn add_gap(&mut self, gap: WatchGap) {
        self.gaps.push(gap);
    }

    /// Whether a debug register is left.
    pub(crate) fn can_catch(&self) -> bool {
        !self.in_force.watches().is_empty() && self.has_room()
    }

    /// Whether another breakpoint can be set.
    pub(crate) fn has_room(&self) -> bool {
        self.taken() + usize::from(self.extra.is_some()) < self.capacity
    }

    /// Whether a register can be kept for long for something else than calls of lock routines and their returns.
    pub(crate) fn can_spare(&self) -> bool {
        let watches = self.in_force.watches();
        let taken = self.taken();
        let mut rows = watches.iter().flat_map(|watch| &watch.rows);
        let for_returns = usize::from(rows.any(|row| row.result.may_fail()));
        taken + for_returns < self.capacity
    }

    /// Registers in use for routines and printers, and for hooks.
    fn taken(&self) -> usize {
        let (watches, exit) = (self.in_force.watches(), self.in_force.exit.load());
        on_routines(&watches).count() + exit.breakpoints().count() + self.in_force.printers.load().len()
    }

    /// Registers that these routines leave, and hooks.
    pub(crate) fn free_beside(&self, watches: &[Watch]) -> usize {
        let taken = on_routines(watches).count() + self.in_force.exit.load().breakpoints().count();
        self.capacity.saturating_sub(taken)
    }

    /// Has pointers to hooks read as pointers to the routines.
    pub(crate) fn hide(&self, entries: Vec<(u64, u64)>) {
        self.in_force.hidden.store(Arc::new(entries));
    }

    /// Has hooks leave the guest there, from the next set of breakpoints on.
    pub(crate) fn leave_at(&self, exit: HookExit) {
        self.in_force.exit.store(Arc::new(exit));
    }

    /// The watched exports.
    pub(crate) fn in_force(&self) -> Guard<Arc<Vec<Watch>>> {
        self.in_force.watches()
    }

    /// Sets one more breakpoint beside those in force, or takes it away.
    ///
    /// # Errors
    /// As [`Interception::set_breakpoints`].
    pub(crate) fn set_extra(&mut self, cpu: &mut Recorder<'_>, extra: Option<Breakpoint>) -> Result<(), ArmError> {
        self.extra = extra;
        let watches = self.in_force.watches();
        let exit = self.in_force.exit.load();
        let printers = self.in_force.printers.load();
        let printers = printers.iter().map(|(breakpoint, _)| *breakpoint);
        let all = on_routines(&watches)
            .chain(exit.breakpoints())
            .chain(printers)
            .chain(extra);
        cpu.set_breakpoints(&all.collect::<Vec<_>>())
    }

    /// Has the return of a call caught, which is the event `cookie`.
    pub(crate) fn catch_return(&mut self, call: &LockCall, cookie: u64) -> Action {
        let frame = (call.context.return_address, call.context.stack_pointer);
        // A frame that calls again has returned from its earlier call, perhaps on another processor than the one that
        // waits for the return. That wait will never end, and its cookie must not be taken for this call's.
        self.returns.retain(|older| older.frame != frame);
        if self.returns.len() >= OPEN_RETURNS {
            self.returns.pop_front();
        }
        self.returns.push_back(OpenReturn {
            cookie,
            frame,
            routine: call.routine,
            operand: call.operand,
        });
        Action::CatchReturn {
            return_address: call.context.return_address,
            stack_pointer: call.context.stack_pointer.wrapping_add(RETURN_ADDRESS_BYTES),
            cookie,
        }
    }

    /// The call whose return was caught; `None` if it is not waited for any more.
    pub(crate) fn caught(&mut self, cookie: u64) -> Option<OpenReturn> {
        let place = self.returns.iter().rposition(|open| open.cookie == cookie)?;
        self.returns.remove(place)
    }

    /// Whether what a processor does is of no interest: it runs for a guest that has crashed, where whoever writes the dump
    /// takes locks without regard to their holders.
    ///
    /// A bug check raises the IRQL of its processor to `HIGH_LEVEL` and freezes the others, so that only a hit at that level,
    /// which is rare, costs a guest read.
    pub(crate) fn is_after_bug_check(&mut self, context: &Context, has_bug_checked: impl FnOnce() -> bool) -> bool {
        if !self.bug_checked && context.irql == HIGH_LEVEL {
            self.bug_checked = has_bug_checked();
        }
        self.bug_checked
    }

    /// Counts a hit by code in user mode, which is no call.
    pub(crate) fn ignore_user_mode(&mut self) {
        self.ignored.user_mode += 1;
    }

    /// Counts a hit after a bug check.
    pub(crate) fn ignore_after_bug_check(&mut self) {
        self.ignored.after_bug_check += 1;
    }

    /// Notes the IRQL of a processor; says whether it is the first time since arming that the processor is below
    /// `DISPATCH_LEVEL`.
    pub(crate) fn sees_low(&mut self, context: &Context) -> bool {
        context.irql < DISPATCH_LEVEL && self.seen_low.insert(context.processor)
    }

    /// The machine starts again. What was said of the watched routines stays in the report.
    pub(crate) fn restart(&mut self) {
        self.returns.clear();
        self.extra = None;
        self.seen_low.clear();
        self.bug_checked = false;
        self.leave_at(HookExit::default());
        self.hide(Vec::new());
    }

    /// What the report says of it; `not_armed`: why nothing is watched.
    pub(crate) fn info(&self, step_over: StepOver, not_armed: Option<NotArmed>) -> WatchInfo {
        let watches = self.in_force.watches();
        let why = |watch: &Watch| {
            let purposes = watch.why.iter().cloned().map(Box::new);
            purposes.map(WhyWatched::LockExport).collect()
        };
        let told = |watch: &Watch| WatchedRoutine {
            routine: watch.names.first().cloned().unwrap_or_default(),
            same_address: watch.names.get(1..).unwrap_or_default().to_vec(),
            address: watch.breakpoint.address,
            why: why(watch),
            hits: watch.hits(),
        };
        let mut routines: Vec<WatchedRoutine> = watches.iter().map(told).collect();
        let here: Vec<String> = routines.iter().map(|watched| watched.routine.clone()).collect();
        let resting = self
            .turns
            .resting()
            .filter(|watch| watch.names.first().is_some_and(|name| !here.contains(name)));
        routines.extend(resting.map(told));
        WatchInfo {
            routines,
            choice: self.choice.clone(),
            sets: self.turns.list(&watches),
            ignored: self.ignored,
            gaps: self.gaps.clone(),
            step_over,
            catch_return: self.can_catch(),
            armed_at: self.armed.map(|(event, _)| event),
            not_armed,
        }
    }

    /// For each watched routine, by all its names, how often it was hit.
    pub(crate) fn hits(&self) -> Vec<(Vec<String>, u64)> {
        let watches = self.in_force.watches();
        watches
            .iter()
            .map(|watch| (watch.names.clone(), watch.hits()))
            .collect()
    }
}

/// The breakpoints on routines that are not hooked.
fn on_routines(watches: &[Watch]) -> impl Iterator<Item = Breakpoint> {
    let own = watches.iter().filter(|watch| !watch.hooked);
    own.map(|watch| watch.breakpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_from_the_same_frame_ends_the_wait_for_the_first() {
        let mut watching = Watching::new(&Config::default(), Arc::default());
        for (cookie, return_address, stack_pointer) in [(1, 10, 100), (2, 10, 200), (3, 10, 100)] {
            let call = LockCall {
                routine: Routine::StorPortAcquireSpinLockEx,
                context: Context {
                    return_address,
                    stack_pointer,
                    ..Context::default()
                },
                operand: LockOperand::Address(1),
                old_irql: None,
                word: None,
            };
            watching.catch_return(&call, cookie);
        }
        assert!(watching.caught(1).is_none(), "its call has come back elsewhere");
        assert!(watching.caught(2).is_some() && watching.caught(3).is_some());
    }

    #[test]
    fn each_processor_is_seen_below_dispatch_level_once_for_the_first_time() {
        let mut watching = Watching::new(&Config::default(), Arc::default());
        for processor in [0, 63, 64, 255] {
            let at = |irql| Context {
                processor,
                irql,
                ..Context::default()
            };
            let seen = [DISPATCH_LEVEL, 0, 0].map(|irql| watching.sees_low(&at(irql)));
            assert_eq!(seen, [false, true, false], "{processor}");
        }
    }
}
