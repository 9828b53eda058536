//! Who may stop whom: the state that the vCPU threads, the coordinator thread and the owner of a machine share.
//!
//! A vCPU thread never waits for another to *park*: two doing so would deadlock. It notes what it wants and parks; the
//! coordinator thread then collects the other vCPUs and the device workers. There is one thing that a vCPU thread may
//! wait for: that no other vCPU executes guest code under an old set of breakpoints. The waiting vCPU is itself outside
//! the guest, so two can wait at once without a deadlock.
//!
//! Talks to the vCPU threads by `attention` flags and a signal that interrupts KVM_RUN, and to [`DeviceWorker`]s. It
//! must not know registers of the guest, nor what KVM's exits mean.
#![forbid(unsafe_code)]

mod in_force;
mod restart;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;

use crate::bus::Bus;
use crate::debug::{Breakpoint, ResumeAction, StopPoint};
use crate::devices::{DeviceWorker, GuestClock};
use crate::kvm::clock::KernelClock;
use crate::memory::GuestRam;
use crate::msr::UnknownMsrs;
use crate::run::Error;
use crate::run::stop::{CpuStatistics, MachineStop};
use crate::run::vcpu::{self, DebugHandler, StoppedCpu};
use crate::storage::{InFlight, Refusals};
pub(crate) use restart::Restart;

/// Something to do on a parked vCPU's thread.
pub(crate) type Job = Box<dyn FnOnce(&mut StoppedCpu<'_>) + Send>;

/// Where the machine is, or is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// vCPUs execute, workers work.
    Running,
    /// On the way between the others. Nobody wants to be here; only the coordinator thread sets it, so
    /// that no vCPU slips out again while the others are being collected.
    Stopping,
    /// All vCPUs are parked, all workers quiescent.
    Paused,
    /// All threads have been told to end.
    Ended,
}

/// What the mutex protects.
pub(crate) struct Control {
    /// Where the machine is to go; written by anyone.
    pub(crate) wanted: Phase,
    /// Where it is; written by the coordinator thread only.
    pub(crate) actual: Phase,
    /// Why it stopped, in order; several vCPUs may have a reason at once.
    pub(crate) events: VecDeque<MachineStop>,
    /// The guest has come to its end: it must not be resumed.
    pub(crate) finished: bool,
    /// The guest asked for a reset that has not been carried out: no vCPU executes until then.
    reset: bool,
    /// The set in force.
    pub(crate) breakpoints: Vec<Breakpoint>,
    /// The stop points in force beside it.
    pub(crate) stop_points: Vec<StopPoint>,
    /// Where in guest-physical memory the addresses of stop points by INT3 lie.
    places: HashMap<u64, u64>,
    /// Where INT3 is written at the moment.
    written: Vec<u64>,
    /// Since when the machine is wanted to stand still.
    stopping_since: Option<Instant>,
    /// Counts the changes of either.
    pub(crate) epoch: u64,
    /// One for each vCPU.
    pub(crate) cpus: Vec<CpuControl>,
}

/// The locked part of one vCPU's state.
#[derive(Default)]
pub(crate) struct CpuControl {
    /// The thread, as long as it lives.
    pub(crate) thread: Option<libc::pthread_t>,
    /// It waits for the machine to run again.
    pub(crate) parked: bool,
    /// Which set of breakpoints it has in force.
    pub(crate) epoch: u64,
    /// To be done while parked.
    pub(crate) jobs: VecDeque<Job>,
    /// What it does when the machine goes on.
    pub(crate) action: ResumeAction,
    /// How long after the last wish to stop it parked; `None` if it was parked then.
    pub(crate) ran_on: Option<Duration>,
}

/// The part of one vCPU's state that the hit path touches: never locked.
pub(crate) struct CpuShared {
    /// Something in [`Control`] concerns this vCPU: look before entering the guest.
    pub(crate) attention: AtomicBool,
    /// The thread is in KVM_RUN, or about to enter it.
    pub(crate) in_guest: AtomicBool,
    pub(crate) counters: Counters,
}

impl CpuShared {
    /// A vCPU whose thread asks for orders before it does anything.
    fn new() -> Self {
        Self {
            attention: AtomicBool::new(true),
            in_guest: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }
}

macro_rules! counters {
    ($($name:ident)*) => {
        /// Written by the vCPU's own thread only, read by anyone.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64),*
        }
        impl Counters {
            pub(crate) fn read(&self) -> CpuStatistics {
                CpuStatistics { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}
counters!(runs debug_exits hits returns passes pio_exits mmio_exits msr_exits other_exits hit_requests emulated steps);

/// Counts one up; cheaper than an atomic addition because only one thread writes.
pub(crate) fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// What all threads of a machine share.
pub(crate) struct Shared {
    pub(crate) ram: GuestRam,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) pio: Arc<Bus>,
    pub(crate) mmio: Arc<Bus>,
    pub(crate) unknown_msrs: UnknownMsrs,
    /// Of each storage controller.
    pub(crate) refusals: Mutex<Vec<Arc<Refusals>>>,
    /// What its storage controllers owe their host.
    pub(crate) in_flight: Mutex<Vec<Arc<InFlight>>>,
    pub(crate) handler: Option<Arc<dyn DebugHandler>>,
    /// Stop points by INT3 work here.
    pub(crate) has_software_breakpoints: AtomicBool,
    pub(crate) cpus: Vec<CpuShared>,
    pub(crate) workers: Mutex<Vec<Arc<dyn DeviceWorker>>>,
    pub(crate) clock: Arc<GuestClock>,
    kernel_clock: KernelClock,
    /// Set where a reset goes on with the run.
    pub(crate) restart: OnceLock<Restart>,
    control: Mutex<Control>,
    changed: Condvar,
}

/// What a vCPU thread is to do before it enters the guest again.
pub(crate) enum VcpuOrder {
    /// Go on.
    Go {
        /// Breakpoints and stop points to be put in force before.
        set: Option<(Vec<Breakpoint>, Vec<StopPoint>)>,
        /// How, if the vCPU was parked; else as before.
        action: Option<ResumeAction>,
    },
    /// Do this, then ask again.
    Job(Job),
    /// End the thread.
    End,
}

impl Shared {
    pub(crate) fn new(
        ram: GuestRam,
        vm: Arc<VmFd>,
        (pio, mmio): (Arc<Bus>, Arc<Bus>),
        unknown_msrs: UnknownMsrs,
        handler: Option<Arc<dyn DebugHandler>>,
        clock: Arc<GuestClock>,
        cpus: u32,
    ) -> Self {
        let cpus = cpus as usize;
        Self {
            ram,
            vm,
            pio,
            mmio,
            unknown_msrs,
            refusals: Mutex::default(),
            in_flight: Mutex::default(),
            handler,
            has_software_breakpoints: AtomicBool::new(false),
            cpus: std::iter::repeat_with(CpuShared::new).take(cpus).collect(),
            workers: Mutex::default(),
            clock,
            kernel_clock: KernelClock::default(),
            restart: OnceLock::new(),
            control: Mutex::new(Control {
                wanted: Phase::Paused,
                actual: Phase::Paused,
                events: VecDeque::new(),
                finished: false,
                reset: false,
                breakpoints: Vec::new(),
                stop_points: Vec::new(),
                places: HashMap::new(),
                written: Vec::new(),
                stopping_since: None,
                epoch: 0,
                cpus: std::iter::repeat_with(CpuControl::default).take(cpus).collect(),
            }),
            changed: Condvar::new(),
        }
    }

    /// A panic on another thread must not hide its cause behind a second one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, guard: MutexGuard<'a, Control>) -> MutexGuard<'a, Control> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` or until `deadline`; says which.
    pub(crate) fn wait_until<'a>(
        &self,
        mut guard: MutexGuard<'a, Control>,
        deadline: Option<Instant>,
        mut done: impl FnMut(&mut Control) -> bool,
    ) -> (MutexGuard<'a, Control>, bool) {
        loop {
            if done(&mut guard) {
                return (guard, true);
            }
            guard = match deadline {
                None => self.wait(guard),
                Some(deadline) => {
                    let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                        return (guard, false);
                    };
                    self.changed
                        .wait_timeout(guard, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Notes where the machine is to go and why. Does not wait; works on any thread.
    pub(crate) fn request(&self, phase: Phase, event: Option<MachineStop>) {
        self.request_of(self.lock(), phase, event);
    }

    /// Pauses a machine that runs and has nothing to tell: [`MachineStop::Interrupted`]. Does not wait; works on any thread.
    pub(crate) fn interrupt(&self) {
        let control = self.lock();
        // Under one lock: whoever is told of another stop is not told of this one later.
        if control.wanted == Phase::Running && control.events.is_empty() {
            self.request_of(control, Phase::Paused, Some(MachineStop::Interrupted));
        }
    }

    fn request_of(&self, mut control: MutexGuard<'_, Control>, phase: Phase, event: Option<MachineStop>) {
        if let Some(event) = event {
            control.finished |= !event.can_go_on();
            control.events.push_back(event);
        }
        // A stop that nobody was told yet, or the end of the guest, is not to be overrun by a resume.
        let stays = phase == Phase::Running && (control.finished || !control.events.is_empty());
        if control.wanted != Phase::Ended && !stays {
            control.wanted = phase;
            if phase == Phase::Running {
                control.stopping_since = None;
            }
        }
        if phase != Phase::Running {
            if control.stopping_since.is_none() {
                control.stopping_since = Some(Instant::now());
                control.cpus.iter_mut().for_each(|cpu| cpu.ran_on = None);
            }
            // Nobody is to start another instruction, whatever the coordinator is busy with.
            self.call_attention(&control, None);
        }
        drop(control);
        self.notify();
    }

    /// Ends the run because something of this program has failed. Does not wait; works on any thread.
    pub(crate) fn fail(&self, what: String) {
        let failure = MachineStop::Failed(Arc::new(Error::ThreadFailed { what }));
        self.request(Phase::Paused, Some(failure));
    }

    /// The guest has come to a point at which it cannot go on by itself: has it reset if that is what it wants and may,
    /// else pauses the machine for `reason`. Does not wait; works on any thread.
    pub(crate) fn stop_for(&self, reason: MachineStop) {
        let restarts = self.restart.get().is_some_and(|restart| match reason {
            MachineStop::Reset => true,
            MachineStop::TripleFault { .. } => restart.at_triple_fault,
            _ => false,
        });
        if !restarts {
            return self.request(Phase::Paused, Some(reason));
        }
        tracing::info!("{reason}: the machine starts again");
        let mut control = self.lock();
        control.reset = true;
        self.call_attention(&control, None);
        drop(control);
        self.notify();
    }

    /// Has `job` done on the thread of vCPU `index` between two guest instructions; `false` if the thread is gone.
    pub(crate) fn enqueue(&self, index: u32, job: Job) -> bool {
        let mut control = self.lock();
        let Some(cpu) = control.cpus.get_mut(index as usize).filter(|cpu| cpu.thread.is_some()) else {
            return false;
        };
        cpu.jobs.push_back(job);
        self.call_attention(&control, None);
        drop(control);
        self.notify();
        true
    }

    /// Makes every vCPU (but `except`) look at [`Control`] before it executes another guest instruction.
    fn call_attention(&self, control: &Control, except: Option<u32>) {
        for (index, (cpu, locked)) in (0u32..).zip(self.cpus.iter().zip(&control.cpus)) {
            if except == Some(index) {
                continue;
            }
            // Order matters: the vCPU sets `in_guest` and then reads `attention`, so one of the two sees the other.
            cpu.attention.store(true, Ordering::SeqCst);
            if cpu.in_guest.load(Ordering::SeqCst) {
                if let Some(thread) = locked.thread {
                    vcpu::interrupt(thread);
                }
            }
        }
    }

    /// Says what each vCPU does when the machine goes on, and lets it.
    pub(crate) fn resume(&self, actions: &[ResumeAction]) {
        let mut control = self.lock();
        for (index, cpu) in control.cpus.iter_mut().enumerate() {
            cpu.action = actions.get(index).copied().unwrap_or_default();
        }
        drop(control);
        self.request(Phase::Running, None);
    }

    /// Lets the guest write every MSR without an exit.
    pub(crate) fn drop_msr_filter(&self) -> Result<(), Error> {
        Ok(crate::msr::drop_filter(&self.vm)?)
    }

    /// What vCPU `index` is to do; parks its thread as long as the machine is to stand still. `epoch` is the set of
    /// breakpoints it has in force.
    pub(crate) fn next_order(&self, index: u32) -> VcpuOrder {
        let cpu = index as usize;
        let mut control = self.lock();
        loop {
            if let Some(job) = control.cpus[cpu].jobs.pop_front() {
                return VcpuOrder::Job(job);
            }
            if control.wanted == Phase::Ended {
                control.cpus[cpu].thread = None;
                drop(control);
                self.notify();
                return VcpuOrder::End;
            }
            let held = control.cpus[cpu].action == ResumeAction::Hold;
            if control.wanted == Phase::Running && control.actual == Phase::Running && !held && !control.reset {
                break;
            }
            if !control.cpus[cpu].parked {
                control.cpus[cpu].parked = true;
                control.cpus[cpu].ran_on = control.stopping_since.map(|since| since.elapsed());
                self.notify();
            }
            control = self.wait(control);
        }
        let was_parked = std::mem::replace(&mut control.cpus[cpu].parked, false);
        let action = was_parked.then_some(control.cpus[cpu].action);
        self.cpus[cpu].attention.store(false, Ordering::SeqCst);
        let fresh = control.cpus[cpu].epoch != control.epoch;
        control.cpus[cpu].epoch = control.epoch;
        let set = fresh.then(|| (control.breakpoints.clone(), control.stop_points.clone()));
        drop(control);
        self.notify();
        VcpuOrder::Go { set, action }
    }

    /// Body of the coordinator thread. Without it nobody could be collected any more: should it panic, the machine is over.
    pub(crate) fn run_coordinator(self: &Arc<Self>) {
        if catch_unwind(AssertUnwindSafe(|| self.coordinate())).is_ok() {
            return;
        }
        let what = "the coordinator of the machine's threads panicked; this is a defect of the program";
        let failure = MachineStop::Failed(Arc::new(Error::ThreadFailed { what: what.into() }));
        let mut control = self.lock();
        control.events.push_front(failure);
        control.finished = true;
        control.wanted = Phase::Ended;
        control.actual = Phase::Ended;
        self.call_attention(&control, None);
        drop(control);
        self.notify();
    }

    /// Brings the machine from where it is to where it is wanted.
    fn coordinate(self: &Arc<Self>) {
        let mut control = self.lock();
        loop {
            match (control.actual, control.wanted) {
                (Phase::Ended, _) => return,
                (_, wanted) if control.reset && !control.finished && wanted != Phase::Ended => {
                    control.actual = Phase::Stopping;
                    control = self.collect(control);
                    if control.wanted != Phase::Ended {
                        drop(control);
                        self.restart();
                        control = self.lock();
                    }
                    control.reset = false;
                    // All stand still; who waits for that is told, and if nobody does the machine goes on.
                    control.actual = Phase::Paused;
                    self.notify();
                }
                (actual, wanted) if actual == wanted => control = self.wait(control),
                (_, Phase::Running) => {
                    // Neither paused any more nor running yet: whoever asks for a pause now has to wait for it.
                    control.actual = Phase::Stopping;
                    drop(control);
                    self.clock.resume();
                    self.kernel_clock.resume(&self.vm);
                    for worker in self.workers() {
                        worker.resume();
                    }
                    control = self.lock();
                    control.actual = Phase::Running;
                    self.notify();
                }
                (_, wanted) => {
                    control.actual = Phase::Stopping;
                    control = self.collect(control);
                    control.actual = wanted;
                    self.notify();
                }
            }
        }
    }

    /// Waits until every vCPU is parked (or gone) and every worker quiescent.
    fn collect<'a>(&'a self, mut control: MutexGuard<'a, Control>) -> MutexGuard<'a, Control> {
        self.call_attention(&control, None);
        loop {
            let running = control.cpus.iter().any(|cpu| cpu.thread.is_some() && !cpu.parked);
            if !running {
                break;
            }
            control = self.wait(control);
        }
        let ending = control.wanted == Phase::Ended;
        drop(control);
        // A vCPU may have rung a doorbell until just now, so the workers come second.
        let workers = self.workers();
        for worker in &workers {
            worker.request_pause();
        }
        for worker in &workers {
            worker.wait_paused();
        }
        self.clock.pause();
        self.kernel_clock.pause(&self.vm);
        if ending {
            for worker in &workers {
                worker.stop();
            }
        }
        self.lock()
    }

    fn workers(&self) -> Vec<Arc<dyn DeviceWorker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
