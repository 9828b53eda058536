//! One monitored run: from the first sight of the kernel to the report.
//!
//! Talks to the machine by the traits of [`crate::vmi`], to the readers of Windows structures, to the checker and to
//! the report. It must not know where stops come from: a live guest and a recording call the same [`Session::handle`].
//! The hit path: decode (a fixed number of guest reads), then under one lock count, check and queue the event. The lock
//! is held for about a microsecond; a thread that finds it taken spins before it sleeps, so that the hit path normally
//! makes no system call. Only a violation costs more: its stack is unwound under the lock.

mod arm;
mod callbacks;
mod calls;
pub mod config;
mod coverage;
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
mod guest;
mod guest_check;
mod hang;
mod held;
mod hooked;
mod ledger;
mod log;
mod pages;
mod queue;
pub mod recording;
pub mod replay;
mod returns;
mod standstill;
mod state;
mod stops;
mod target;
#[cfg(test)]
mod tests;
mod timeline;
pub mod trace;
pub(crate) mod trace_reader;
mod turns;
mod unknown;
mod watching;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use storlock_check::trace::EndMark;

pub use self::config::{Config, DriverFile, End, EndKind, ExportRequest};
use self::hooked::Until;
use self::recording::Recording;
use self::state::State;
pub use self::stops::StoppedFor;
use self::trace::Trace;
use self::watching::InForce;
use crate::report::Report;
use crate::vmi::recorder::Recorder;
use crate::vmi::recording::Frame;
use crate::vmi::{Action, CpuState, CpuStop, SharedMemory, StoppedCpu};
use crate::windows::Processor;

/// How often a processor looks at a taken lock before it sleeps, and the longest pause between two looks, in pause
/// instructions: together about a millisecond. That outlasts a holder that its host took off the processor for a
/// moment, so that the hit path makes no system call even then.
const LOOKS: u32 = 500;
const LONGEST_PAUSE: u32 = 64;

/// Privilege level of the kernel. Code of any other may jump to a kernel address, too: the breakpoint comes before the page
/// fault (Intel SDM volume 3, 6.9), but nothing is called.
const KERNEL_MODE: u8 = 0;

/// A monitored run.
pub struct Session {
    config: Arc<Config>,
    in_force: Arc<InForce>,
    state: Mutex<State>,
    recording: Option<Recording>,
    trace: Option<Arc<Trace>>,
    /// Injected faults that wait to become events, and whether there are any.
    faults: Mutex<Vec<u64>>,
    faults_wait: AtomicBool,
    /// Stops the machine for what a processor has done.
    stop_at: OnceLock<StopAt>,
    /// Nobody reads the ring of the hooks any more.
    hooks_over: AtomicBool,
}

/// Stops the machine for what the processor of that number has done, and does not wait.
type StopAt = Box<dyn Fn(u32) + Send + Sync>;

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
        let (config, in_force, trace) = (Arc::new(config), Arc::<InForce>::default(), trace.map(Arc::new));
        let state = State::new(Arc::clone(&config), Arc::clone(&in_force), trace.clone());
        Self {
            config,
            in_force,
            state: Mutex::new(state),
            recording,
            trace,
            faults: Mutex::default(),
            faults_wait: AtomicBool::new(false),
            stop_at: OnceLock::new(),
            hooks_over: AtomicBool::new(false),
        }
    }

    /// Has hooks in the driver's imports use this memory, if the session is to have any. `stop_at` stops the machine for
    /// what a processor has done; it may wait for nobody. The ring is to be read by [`Session::serve_hooks`] then.
    pub(crate) fn share_memory(&self, memory: Arc<dyn SharedMemory>, stop_at: impl Fn(u32) + Send + Sync + 'static) {
        // A session is of one machine.
        let _ = self.stop_at.set(Box::new(stop_at));
        self.lock().hooks.share(memory);
    }

    /// Has who waits for a writer of trace or recording ask whether the machine is to stand still: a reader that does not
    /// read is not waited for then.
    pub(crate) fn ask_for_wanted_still(&self, asked: impl Fn() -> bool + Clone + Send + Sync + 'static) {
        if let Some(trace) = &self.trace {
            trace.ask(Box::new(asked.clone()));
        }
        if let Some(recording) = &self.recording {
            recording.ask(Box::new(asked));
        }
    }

    /// Has `then` be called whenever the breakpoints for the driver under test have come into force. It may not wait for
    /// a processor, nor call the session.
    pub(crate) fn at_arming(&self, then: impl Fn() + Send + 'static) {
        self.lock().at_arming.set(then);
    }

    /// What the session was told at its start.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A processor has stopped: takes what there is to learn and says how it goes on. Called on the processor's own
    /// thread; several may be in here at once.
    pub fn handle(&self, cpu: &mut dyn StoppedCpu, reason: CpuStop) -> Action {
        let reason = match reason {
            CpuStop::Breakpoint(id) => CpuStop::Breakpoint(self.in_force.routine_behind(cpu, id)),
            other => other,
        };
        let cpu = Recorder::new(cpu, Some(reason), self.recording.is_some());
        let mut cpu = cpu.hiding(self.in_force.hidden());
        match reason {
            CpuStop::LstarWrite(value) => {
                let mut state = self.lock();
                state.lstar_written(&mut cpu, value);
                self.record(cpu, state);
                Action::Resume
            }
            CpuStop::Breakpoint(id) => self.breakpoint(cpu, id),
            CpuStop::Reset => {
                let mut state = self.lock();
                // Memory keeps what was in it.
                self.drain(&mut state, Until::Call);
                state.restart();
                self.record(cpu, state);
                Action::Resume
            }
            CpuStop::CaughtReturn(cookie) => {
                let context = decode::context_after(&cpu);
                let value = cpu.registers().rax() as u32;
                let mut state = self.lock();
                state.hooks.pause_for_return();
                self.drain(&mut state, Until::Call);
                let action = state.returned(&cpu, context, value, cookie);
                state.hooks.resume();
                self.record(cpu, state);
                action
            }
        }
    }

    fn breakpoint(&self, mut cpu: Recorder<'_>, id: u32) -> Action {
        if cpu.special().cpl != KERNEL_MODE {
            let mut state = self.lock();
            state.watching.ignore_user_mode();
            self.record(cpu, state);
            return Action::Resume;
        }
        let watches = self.in_force.watches();
        let Some(watch) = watches.iter().find(|watch| watch.breakpoint.id == id) else {
            let mut state = self.lock();
            self.drain(&mut state, Until::Call);
            if let Some(printer) = self.in_force.printer(id) {
                state.printed(&cpu, printer);
            } else if state.discovery.waits_at(id) {
                state.object_inserted(&mut cpu);
            } else if state.callbacks.waits_at(id) {
                callbacks::reached(&mut state, &mut cpu);
            } else if state.hooks.wait_at(id) {
                hooked::object_inserted(&mut state, &mut cpu);
            }
            self.record(cpu, state);
            return Action::Resume;
        };
        watch.hits.fetch_add(1, Ordering::Relaxed);
        let context = decode::context(&cpu);
        let call = decode::lock_call(&cpu, &watch.rows, context);
        let mut state = self.lock();
        if watch.hooked {
            // From here on no other processor has a call written, as none has one judged.
            state.hooks.pause();
            self.drain(&mut state, Until::Call);
        }
        let is_call = call.is_some();
        let action = state.entered(&cpu, watch, context, call);
        if watch.hooked {
            if is_call {
                let number = Processor::read(&cpu, cpu.special().gs_base, cpu.special().gs_base);
                let processor = (cpu.index(), number.ok().map(|processor| processor.number));
                state.hooks.looked_at(context.return_address, id, processor);
            }
            state.hooks.resume();
        }
        if action == Action::Resume {
            arm::take_turn(&mut state, &mut cpu);
        }
        self.record(cpu, state);
        action
    }

    /// The emulated hardware has had the fault with that number. Called on whatever thread it happened.
    ///
    /// Never waits for the session's lock: the caller may be a processor in the middle of an instruction, and the thread that
    /// holds the lock waits for that processor while it sets breakpoints. Then the next thread to take the lock makes the event.
    pub(crate) fn fault_injected(&self, fault: u64) {
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
        self.drain(state, Until::Call);
        state.fault_injected(fault);
        if let Some(recording) = &self.recording {
            recording.push(Frame::Fault(fault));
        }
    }

    /// A last look at a processor of the stopped machine, before [`Session::report`]. Called once a processor, on
    /// whatever thread may touch it.
    pub fn look(&self, cpu: &mut dyn StoppedCpu) {
        let cpu = Recorder::new(cpu, None, self.recording.is_some()).hiding(self.in_force.hidden());
        let mut state = self.lock();
        state.hooks.stands_at(cpu.index(), cpu.registers().rip);
        self.drain(&mut state, Until::Call);
        state.last_look(&cpu);
        self.record(cpu, state);
    }

    /// Ends a live run: completes `end` with what only the session knows, and closes trace and recording.
    pub fn close(&self, end: &mut End) {
        let ended_by_itself = {
            let mut state = self.lock();
            self.drain(&mut state, Until::End);
            self.hooks_over.store(true, Ordering::Release);
            end.notes.extend(state.hooks.note());
            end.armed_ms = state.watching.armed_for_ms();
            end.open_ms = standstill::ages(&state);
            standstill::tell(&mut state, end);
            finish::ended_by_itself(&state, end)
        };
        if let Some(trace) = &self.trace {
            end.queue_waits += trace.waits();
            let (info, cut) = trace.finish(if ended_by_itself {
                EndMark::Complete
            } else {
                EndMark::CutOff
            });
            end.note(cut);
            end.trace = Some(info);
        }
        if let Some(recording) = &self.recording {
            end.queue_waits += recording.waits();
            if let Ok(json) = serde_json::to_vec(end) {
                recording.push(Frame::End(json));
            }
            end.note(recording.finish());
        }
    }

    /// The report of the run that ended with `end`.
    #[must_use]
    pub fn report(&self, end: &End) -> Report {
        let mut state = self.lock();
        let hits = state.ledger.hits().0;
        state.watching.end_turn(hits);
        standstill::tell(&mut state, end);
        finish::report(&state, end)
    }

    /// Names the places of a report's timeline, as far as files say.
    pub(crate) fn name_places(&self, report: &mut Report) {
        let Some(timeline) = &mut report.timeline else { return };
        let state = self.lock();
        for place in &mut timeline.places {
            state.guest.names().name_place(place, &report.modules);
        }
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
        let (hits, _) = state.ledger.hits();
        let reached = state.discovery.progress(&state.guest, &self.config.target, hits);
        format!("{reached}, {} violations", state.ledger.new_findings())
    }

    /// What has been reached since the first `from` milestones. Never waits for the lock.
    #[must_use]
    pub(crate) fn milestones(&self, from: usize) -> Vec<String> {
        let state = self.state.try_lock();
        state.map_or_else(|_| Vec::new(), |state| state.log.milestones_from(from).to_vec())
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
