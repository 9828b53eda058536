//! One monitored run: from the first sight of the kernel to the report.
//!
//! Talks to the target by its traits, to the readers of Windows structures, to the checker and to the report. It must
//! not know where stops come from: a live guest and a recording call the same [`Session::handle`]. The way of a hit:
//! decode (a fixed number of guest reads), then under one lock: count, check, queue the event. The lock is held for
//! about a microsecond; a processor that finds it taken spins before it sleeps, so that the way of a hit normally
//! makes no system call. Only a violation costs more: its stack is unwound under the lock.

mod arm;
mod attribution;
mod calls;
pub mod config;
mod debug_print;
pub mod debugger;
mod decode;
mod discovery;
mod doubts;
mod entries;
mod exports;
mod findings;
mod finish;
mod follow;
mod guest_check;
mod hits;
mod imports;
mod modules;
mod presence;
mod queue;
pub mod recording;
pub mod replay;
mod restart;
mod state;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod trace_reader;
mod unknown;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use storlock_check::contract::Contract;
use storlock_check::event::EventKind;

pub use self::config::{Config, DriverFile, End, EndKind, ExportRequest};
pub use self::debugger::StoppedFor;
use self::recording::Recording;
use self::state::{Stage, State};
use self::trace::Trace;
use crate::vmi::recorder::Recorder;
use crate::vmi::recording::Frame;
use crate::vmi::{Action, Breakpoint, CpuState, CpuStop, StoppedCpu};
use crate::windows::debug_print::Printer;

/// How often a processor looks at a taken lock before it sleeps, and the longest pause between two looks, in pause
/// instructions: together about a millisecond. That outlasts a holder that its host took off the processor for a
/// moment, so that the way of a hit makes no system call even then.
const LOOKS: u32 = 500;
const LONGEST_PAUSE: u32 = 64;

/// Privilege level of the kernel. Code of any other may jump to a kernel address, too: the breakpoint comes before the page
/// fault (Intel SDM volume 3, 6.9), but nothing is called.
const KERNEL_MODE: u8 = 0;

/// A watched export.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) breakpoint: Breakpoint,
    /// `module!export`: the planned one, then those that share the address.
    pub(crate) names: Vec<String>,
    /// The routines behind the address, by whatever exported name.
    pub(crate) rows: Vec<&'static Contract>,
    /// Why it was chosen.
    pub(crate) reason: String,
    pub(crate) hits: AtomicU64,
}

/// A monitored run.
pub struct Session {
    config: Config,
    /// Replaced at each arming, before the first of these breakpoints can be hit.
    watches: ArcSwap<Vec<Watch>>,
    /// As `watches`, for the routines that print.
    printers: ArcSwap<Vec<(Breakpoint, Printer)>>,
    state: Mutex<State>,
    recording: Option<Recording>,
    trace: Option<Trace>,
    /// Distinct violations so far, for who watches the run.
    violations: AtomicU64,
    /// Injected faults that wait to become events, and whether there are any.
    faults: Mutex<Vec<u64>>,
    faults_wait: AtomicBool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session that waits for the guest's kernel. Events go to `trace`, stops to `recording`, if given.
    #[must_use]
    pub fn new(config: Config, trace: Option<Trace>, recording: Option<Recording>) -> Self {
        let state = Mutex::new(State::new(&config));
        Self {
            config,
            watches: ArcSwap::default(),
            printers: ArcSwap::default(),
            state,
            recording,
            trace,
            violations: AtomicU64::new(0),
            faults: Mutex::default(),
            faults_wait: AtomicBool::new(false),
        }
    }

    /// Has who waits for a writer of trace or recording ask whether the machine is to stand still: a reader that does not
    /// read is not waited for then.
    pub fn ask_for_wanted_still(&self, asked: impl Fn() -> bool + Clone + Send + Sync + 'static) {
        if let Some(trace) = &self.trace {
            trace.ask(Box::new(asked.clone()));
        }
        if let Some(recording) = &self.recording {
            recording.ask(Box::new(asked));
        }
    }

    /// What the session was told at its start.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A processor has stopped: takes what there is to learn and says how it goes on. Called on the processor's own
    /// thread; several may be in here at once.
    pub fn handle(&self, cpu: &mut dyn StoppedCpu, reason: CpuStop) -> Action {
        let mut cpu = Recorder::new(cpu, Some(reason), self.recording.is_some());
        match reason {
            CpuStop::LstarWrite(value) => {
                let mut state = self.lock();
                state.kernel_appeared(&mut cpu, value);
                self.record(cpu, state);
                Action::Resume
            }
            CpuStop::Breakpoint(id) => self.breakpoint(cpu, id),
            CpuStop::Reset => {
                let mut state = self.lock();
                self.restart(&mut state);
                self.record(cpu, state);
                Action::Resume
            }
            CpuStop::CaughtReturn(cookie) => {
                let context = decode::context_after(&cpu);
                let value = cpu.registers().rax() as u32;
                let mut state = self.lock();
                let action = if state.concerns_nobody(&cpu, &context) {
                    Action::Resume
                } else {
                    self.returned(&mut state, &cpu, context, value, cookie)
                };
                self.record(cpu, state);
                action
            }
        }
    }

    fn breakpoint(&self, mut cpu: Recorder<'_>, id: u32) -> Action {
        if cpu.special().cpl != KERNEL_MODE {
            let mut state = self.lock();
            state.ignored.user_mode += 1;
            self.record(cpu, state);
            return Action::Resume;
        }
        let watches = self.watches.load();
        let Some(watch) = watches.iter().find(|watch| watch.breakpoint.id == id) else {
            let mut state = self.lock();
            if self.printed(&mut state, &cpu, id) {
                self.record(cpu, state);
                return Action::Resume;
            }
            if matches!(&state.stage, Stage::Waiting(waiting) if waiting.breakpoint.id == id) {
                if let Some(checks) = &mut state.guest_checks {
                    checks.objects += 1;
                }
                self.driver_object_inserted(&mut state, &mut cpu);
            }
            self.record(cpu, state);
            return Action::Resume;
        };
        watch.hits.fetch_add(1, Ordering::Relaxed);
        let context = decode::context(&cpu);
        let call = decode::lock_call(&cpu, &watch.rows, context);
        let mut state = self.lock();
        state.check_at_hit(&cpu);
        let action = if state.concerns_nobody(&cpu, &context) {
            state.ignored.after_bug_check += 1;
            Action::Resume
        } else if let Some(decoded) = call {
            let (mut call, row) = if watch.shares_code() {
                state.called_routine(&cpu, &watch.rows, decoded)
            } else {
                decoded
            };
            call.word = decode::lock_word(&cpu, row, &call.operand);
            self.called(&mut state, &cpu, call, row)
        } else {
            self.other_hit(&mut state, &cpu, context)
        };
        self.record(cpu, state);
        action
    }

    /// The emulated hardware has had the fault with that number. Called on whatever thread it happened.
    ///
    /// Never waits for the session's lock: the caller may be a processor in the middle of an instruction, for which the
    /// one that holds the lock waits while it sets breakpoints. Then the event is made by the next to take the lock.
    pub fn fault_injected(&self, fault: u64) {
        if let Ok(mut state) = self.state.try_lock() {
            self.take_faults(&mut state);
            self.fault(&mut state, fault);
        } else {
            self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
            self.faults_wait.store(true, Ordering::Release);
        }
    }

    /// Makes events of the faults that found the lock taken.
    fn take_faults(&self, state: &mut State) {
        if !self.faults_wait.swap(false, Ordering::AcqRel) {
            return;
        }
        for fault in std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.fault(state, fault);
        }
    }

    fn fault(&self, state: &mut State, fault: u64) {
        self.check(state, EventKind::FaultInjected { fault });
        if let Some(recording) = &self.recording {
            recording.push(Frame::Fault(fault));
        }
    }

    /// A last look at a processor of the stopped machine, before [`Session::report`]. Called once a processor, on
    /// whatever thread may touch it.
    pub fn look(&self, cpu: &mut dyn StoppedCpu) {
        let cpu = Recorder::new(cpu, None, self.recording.is_some());
        let mut state = self.lock();
        self.last_look(&mut state, &cpu);
        self.record(cpu, state);
    }

    /// Hands a stop to the recording while `state` is still locked, so that stops are recorded in the order in which
    /// they were decided.
    fn record(&self, cpu: Recorder<'_>, state: MutexGuard<'_, State>) {
        if let (Some(recording), Some(stop)) = (&self.recording, cpu.finish()) {
            recording.push(Frame::Stop(Box::new(stop)));
        }
        drop(state);
    }

    /// One line on how far the run is, for who watches it.
    #[must_use]
    pub fn progress(&self) -> String {
        // Never waits for the lock: a processor might be waiting for the terminal then.
        let Ok(state) = self.state.try_lock() else {
            return "busy".to_owned();
        };
        let text = match &state.stage {
            Stage::Booting => "waiting for the kernel".to_owned(),
            Stage::Waiting(_) => format!(
                "waiting for {}, {} modules loaded",
                self.config.target,
                state.modules.all().count()
            ),
            Stage::Armed => format!("{} hits", state.hits),
            Stage::Failed(_) => "not watching".to_owned(),
        };
        format!("{text}, {} violations", self.violations.load(Ordering::Relaxed))
    }

    /// What has been reached since the first `from` milestones. Never waits for the lock.
    #[must_use]
    pub fn milestones(&self, from: usize) -> Vec<String> {
        let state = self.state.try_lock();
        state.map_or_else(
            |_| Vec::new(),
            |state| state.milestones.get(from..).map_or_else(Vec::new, <[String]>::to_vec),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock_state();
        self.take_faults(&mut state);
        state
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        let mut pause = 1;
        for _ in 0..LOOKS {
            if let Ok(guard) = self.state.try_lock() {
                return guard;
            }
            // Looking takes the lock's cache line from its holder: less often, the longer it lasts.
            (0..pause).for_each(|_| std::hint::spin_loop());
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        // A panic under the lock leaves counters and records of events: still true, if not complete.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
