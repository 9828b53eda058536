//! A watched guest up to its start: the machine with the handler of its hits, the debugger, the dump.
//!
//! Talks to the virtual machine monitor and hands its stops to the session. It must not know how a violation is found, nor
//! read Windows structures.

use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use storlock_vmm::debug::BREAKPOINT_LIMIT;
use storlock_vmm::run::{MachineConfig, MachineHandle};
use storlock_vmm::sandbox::JoinHandle;
use tokio::sync::mpsc::UnboundedReceiver;

use super::dumps::CutOffSeen;
use super::machine::{BuiltMachine, GuestOptions, Start};
use super::report_directory::Outputs;
use super::running::RunningGuest;
use crate::backend::kvm::debuggee::{self, DebuggerCommand, DebuggerLink, KvmDebuggee};
use crate::backend::kvm::{Handler, MSR_LSTAR, StopHandler};
use crate::dump::Plan;
use crate::notices::Notices;
use crate::output::Progress;
use crate::report::{DumpReason, StepOver};
use crate::session::Session;
use crate::threads;
use crate::timing::Histogram;
use crate::vmi::debuggee::DebuggeeStop;
use crate::vmi::{Action, CpuStop, RunControl, StoppedCpu};

/// A machine that is ready to start.
pub(super) struct Guest {
    built: BuiltMachine,
    stops: Arc<HitHandler>,
    cpus: u32,
    shutdown_grace: Option<Duration>,
    debugger: Option<(DebuggerLink, mpsc::Sender<DebuggerCommand>)>,
    dump: Option<Plan>,
    dump_on: Vec<DumpReason>,
    notices: Arc<dyn Notices>,
}

/// Hands stops to the session, which is made after the machine because it is told what the machine can do.
#[derive(Default)]
pub(super) struct HitHandler {
    session: OnceLock<Arc<Session>>,
    /// How long the session takes for a hit.
    pub(super) times: Histogram,
}

impl StopHandler for HitHandler {
    fn handle(&self, cpu: &mut dyn StoppedCpu, reason: CpuStop) -> Action {
        let Some(session) = self.session.get() else {
            return Action::Resume;
        };
        let began = Instant::now();
        let action = session.handle(cpu, reason);
        if matches!(reason, CpuStop::Breakpoint(_)) {
            self.times.add(began.elapsed());
        }
        action
    }
}

impl Guest {
    /// Builds the machine and puts in what it starts with.
    ///
    /// # Errors
    /// If KVM cannot be used, there is no memory, a disk cannot be opened, or the guest cannot be loaded.
    pub(super) fn prepare(options: &GuestOptions, start: Start, outputs: &Outputs) -> anyhow::Result<Self> {
        let stops = Arc::new(HitHandler::default());
        let watched = MachineConfig {
            handler: Some(Arc::new(Handler(Arc::clone(&stops) as Arc<dyn StopHandler>))),
            msr_exits: vec![MSR_LSTAR],
            software_breakpoints: options.debugger,
            ..MachineConfig::default()
        };
        let built = BuiltMachine::new(options, watched, start, outputs)?;
        if let Some(injector) = built.served.injector() {
            let stops = Arc::clone(&stops);
            injector.observe(move |index| {
                if let Some(session) = stops.session.get() {
                    session.fault_injected(index as u64);
                }
            });
        }
        Ok(Self {
            built,
            stops,
            cpus: options.cpus,
            shutdown_grace: options.shutdown_grace,
            debugger: None,
            dump: None,
            dump_on: Vec::new(),
            notices: Arc::clone(&options.notices),
        })
    }

    /// Has the machine dumped at the first of these; at a violation when the session stops it for that. The place must still be
    /// writable after the start.
    pub(super) fn dump_to(&mut self, plan: Plan, on: Vec<DumpReason>) {
        (self.dump, self.dump_on) = (Some(plan), on);
    }

    /// Ties the machine to a debugger, which is to be served elsewhere. With `hold_start` the guest's first instruction
    /// waits for it. To be called before [`Guest::control`].
    pub(super) fn debug(&mut self, hold_start: bool) -> (KvmDebuggee, UnboundedReceiver<DebuggeeStop>) {
        let connection = debuggee::connect(self.built.machine.handle(), self.cpus, hold_start);
        self.debugger = Some((connection.link, connection.commands));
        (connection.debuggee, connection.stops)
    }

    /// How many breakpoints a session can set.
    #[must_use]
    pub(super) fn breakpoints() -> usize {
        BREAKPOINT_LIMIT
    }

    /// How a breakpoint is stepped over.
    #[must_use]
    pub(super) fn step_over(&self) -> StepOver {
        match self.built.machine.step_over() {
            storlock_vmm::run::StepOver::ResumeFlag => StepOver::ResumeFlag,
            storlock_vmm::run::StepOver::EmulateFirst => StepOver::EmulateFirst,
            storlock_vmm::run::StepOver::SingleStep => StepOver::SingleStep,
        }
    }

    /// A handle by which another thread can stop the guest, also before it is started.
    #[must_use]
    pub(super) fn control(&self) -> Arc<dyn RunControl> {
        Arc::new(Control {
            handle: self.built.machine.handle(),
            debugger: self.debugger.as_ref().map(|(_, commands)| commands.clone()),
            dump: self.dump.as_ref().map(|plan| plan.file.progress()),
        })
    }

    /// Starts the threads of the guest, whose stops go to `session`; [`RunningGuest::wait`] lets it run. From here on the
    /// calling thread only waits for the guest and reports: its limits are those of [`threads::MAIN`](crate::threads::MAIN).
    ///
    /// # Errors
    /// If its threads cannot be started, or any thread not limited.
    pub(super) fn start(self, session: &Arc<Session>) -> anyhow::Result<RunningGuest> {
        let _ = self.stops.session.set(Arc::clone(session));
        if let Some(injector) = self.built.served.injector() {
            session.at_arming(move || injector.begin());
        }
        let handle = self.built.machine.handle();
        let hooks = session
            .config()
            .import_hooks
            .then(|| self.read_hooks(session))
            .transpose()?;
        let still = handle.clone();
        session.ask_for_wanted_still(move || still.is_wanted_still());
        let (running, served) = self.built.start()?;
        Ok(RunningGuest {
            running,
            served,
            session: Arc::clone(session),
            cpus: self.cpus,
            stops: self.stops,
            shutdown_grace: self.shutdown_grace,
            debugger: self.debugger.map(|(link, _)| link),
            dump: self.dump,
            cut_off: CutOffSeen::of(&self.dump_on, &handle),
            dump_on: self.dump_on,
            notices: self.notices,
            started: Instant::now(),
            hooks,
        })
    }

    /// Starts the thread that reads what hooks in the driver's imports write.
    fn read_hooks(&self, session: &Arc<Session>) -> anyhow::Result<JoinHandle<()>> {
        let machine = &self.built.machine;
        let handle = machine.handle();
        session.share_memory(Arc::new(machine.ram().clone()), move |cpu| handle.stop_at(cpu));
        let session = Arc::clone(session);
        let reading = machine
            .sandbox()
            .spawn(&threads::HOOKS, "hooks", move || session.serve_hooks());
        Ok(reading?)
    }
}

/// Stops the machine from another thread.
pub(super) struct Control {
    pub(super) handle: MachineHandle,
    /// The thread that waits for a debugger's command does not hear the machine.
    pub(super) debugger: Option<mpsc::Sender<DebuggerCommand>>,
    /// Nor does one that waits for the reader of a dump.
    pub(super) dump: Option<Progress>,
}

impl Control {
    fn give_up_dump(&self) {
        if let Some(dump) = &self.dump {
            dump.give_up();
        }
    }
}

impl RunControl for Control {
    fn request_stop(&self) {
        self.give_up_dump();
        self.handle.stop();
        if let Some(debugger) = &self.debugger {
            // Nobody waits if the run is over.
            let _ = debugger.send(DebuggerCommand::EndRun);
        }
    }

    fn request_shutdown(&self) {
        self.give_up_dump();
        // The thread that waits for the machine presses the button then.
        self.handle.interrupt();
    }
}
