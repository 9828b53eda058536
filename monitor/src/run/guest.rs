//! Builds the machine of a watched guest, with the guest's files, disks and serial log, up to its start.
//!
//! Talks to the virtual machine monitor and hands its stops to the session. It must not know locks, nor read Windows
//! structures.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use storlock_vmm::boot::{BootRequest, FirmwareRequest, LinuxRequest};
use storlock_vmm::debug::BREAKPOINT_LIMIT;
use storlock_vmm::devices::power::PowerManagement;
use storlock_vmm::devices::ramfb::RamFb;
use storlock_vmm::run::{AddressWidth, AtReset, Machine, MachineConfig, MachineHandle};
use storlock_vmm::sandbox::Sandbox;
use storlock_vmm::storage::{FaultInjector, InterruptKind};
use tokio::sync::mpsc::UnboundedReceiver;

use super::disks::{self, AttachedDisks};
use super::report_directory::Outputs;
use super::running::RunningGuest;
use super::serial::{SerialLog, SerialWriter};
use super::spec::{CountFrom, Disk, PlannedFault};
use crate::backend::kvm::debuggee::{self, DebuggerCommand, DebuggerLink, KvmDebuggee};
use crate::backend::kvm::{Handler, MSR_LSTAR, StopHandler};
use crate::dump::Plan;
use crate::notices::Notices;
use crate::output::Progress;
use crate::report::{FaultInfo, StepOver};
use crate::session::Session;
use crate::threads;
use crate::timing::Histogram;
use crate::vmi::debuggee::DebuggeeStop;
use crate::vmi::{Action, CpuStop, RunControl, StoppedCpu};

/// What a guest is made of.
#[derive(Debug, Clone)]
pub(super) struct GuestOptions {
    /// The device node of KVM.
    pub(super) kvm: PathBuf,
    /// Number of virtual processors, 1 to 64.
    pub(super) cpus: u32,
    /// Guest memory in bytes.
    pub(super) memory: u64,
    /// The disks, each with a controller of its own.
    pub(super) disks: Vec<Disk>,
    /// The best way to interrupt that the controllers offer.
    pub(super) interrupts: InterruptKind,
    /// The faults that the target's controller is to inject.
    pub(super) faults: Vec<PlannedFault>,
    /// From when on faults without `from=` are counted.
    pub(super) faults_from: CountFrom,
    /// File for everything that the guest writes to its serial port.
    pub(super) serial_log: PathBuf,
    /// A second place for it; `-`: [`Notices::serial`].
    pub(super) serial_copy: Option<PathBuf>,
    /// How long the reader of an output that is a named pipe is waited for.
    pub(super) reader_patience: Duration,
    /// Whether the guest sees Hyper-V's interface.
    pub(super) hyperv: bool,
    /// Bits of a guest-physical address.
    pub(super) address_width: AddressWidth,
    /// Whether MSRs that nobody knows read as 0.
    pub(super) ignore_msrs: bool,
    /// How long the guest may take to shut down after the power button was pressed, at the time limit or when the user
    /// interrupts the run; `None`: the button is not pressed.
    pub(super) shutdown_grace: Option<Duration>,
    /// What a reset does to a guest that boots by firmware.
    pub(super) at_reset: AtReset,
    /// Whether a debugger is served, so that it has to be known which breakpoints work.
    pub(super) debugger: bool,
    /// Takes lines for the user while the guest runs.
    pub(super) notices: Arc<dyn Notices>,
    /// Limits of the machine's threads, and of the one that starts it.
    pub(super) sandbox: Sandbox,
}

/// What a machine starts with.
#[derive(Debug)]
pub(super) enum Start {
    /// A PE kernel, entered directly.
    Kernel(BootRequest),
    /// A Linux kernel, entered directly.
    Linux(LinuxRequest),
    /// Firmware.
    Firmware(FirmwareRequest),
}

impl Start {
    /// Puts it into the machine, which may have a display then.
    pub(super) fn put_into(self, machine: &mut Machine) -> anyhow::Result<Option<Arc<RamFb>>> {
        match self {
            Self::Kernel(request) => machine.boot(&request).map(|_| None),
            Self::Linux(request) => machine.boot_linux(&request).map(|_| None),
            Self::Firmware(request) => machine.boot_firmware(request),
        }
        .map_err(anyhow::Error::from)
    }
}

/// A machine that is ready to start.
pub(super) struct Guest {
    machine: Machine,
    stops: Arc<HitHandler>,
    cpus: u32,
    serial: Arc<SerialLog>,
    disks: AttachedDisks,
    faults: Option<FaultPlan>,
    display: Option<Arc<RamFb>>,
    power: Arc<PowerManagement>,
    shutdown_grace: Option<Duration>,
    debugger: Option<(DebuggerLink, mpsc::Sender<DebuggerCommand>)>,
    dump: Option<Plan>,
    notices: Arc<dyn Notices>,
}

/// The fault plan of a run and what has become of it.
pub(super) struct FaultPlan {
    texts: Vec<String>,
    injector: Arc<FaultInjector>,
}

impl FaultPlan {
    /// The plan that a machine's disk was given; `None` if there was none.
    pub(super) fn of(disks: &AttachedDisks, options: &GuestOptions) -> Option<Self> {
        let texts = options.faults.iter().map(|fault| fault.text.clone());
        disks.injector.clone().map(|injector| Self {
            texts: texts.collect(),
            injector,
        })
    }

    pub(super) fn report(&self) -> Vec<FaultInfo> {
        let texts = self.texts.iter().cloned();
        let faults = texts.zip(self.injector.counts()).map(|(spec, count)| FaultInfo {
            spec,
            matched: count.matched,
            injected: count.injected,
        });
        faults.collect()
    }
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
        let serial = SerialLog::create(options, outputs)?;
        let kvm = storlock_vmm::kvm::open(&options.kvm)?;
        let stops = Arc::new(HitHandler::default());
        let config = MachineConfig {
            cpus: options.cpus,
            memory: options.memory,
            handler: Some(Arc::new(Handler(Arc::clone(&stops) as Arc<dyn StopHandler>))),
            msr_exits: vec![MSR_LSTAR],
            step_over: None,
            serial: Some(Box::new(SerialWriter(Arc::clone(&serial)))),
            hyperv: options.hyperv,
            address_width: options.address_width,
            ignore_unknown_msrs: options.ignore_msrs,
            at_reset: options.at_reset,
            software_breakpoints: options.debugger,
            sandbox: options.sandbox,
            ..MachineConfig::default()
        };
        let mut machine = Machine::new(&kvm, config)?;
        let disks = disks::attach(&mut machine, options)?;
        let faults = FaultPlan::of(&disks, options);
        if let Some(plan) = &faults {
            let stops = Arc::clone(&stops);
            plan.injector.observe(move |index| {
                if let Some(session) = stops.session.get() {
                    session.fault_injected(index as u64);
                }
            });
        }
        let display = start.put_into(&mut machine)?;
        Ok(Self {
            power: Arc::clone(machine.power()),
            machine,
            stops,
            cpus: options.cpus,
            serial,
            disks,
            faults,
            display,
            shutdown_grace: options.shutdown_grace,
            debugger: None,
            dump: None,
            notices: Arc::clone(&options.notices),
        })
    }

    /// Has the machine dumped when the session stops it for that. The place must still be writable after the start.
    pub(super) fn dump_to(&mut self, plan: Plan) {
        self.dump = Some(plan);
    }

    /// Ties the machine to a debugger, which is to be served elsewhere. With `hold_start` the guest's first instruction
    /// waits for it. To be called before [`Guest::control`].
    pub(super) fn debug(&mut self, hold_start: bool) -> (KvmDebuggee, UnboundedReceiver<DebuggeeStop>) {
        let connection = debuggee::connect(self.machine.handle(), self.cpus, hold_start);
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
        match self.machine.step_over() {
            storlock_vmm::run::StepOver::ResumeFlag => StepOver::ResumeFlag,
            storlock_vmm::run::StepOver::EmulateFirst => StepOver::EmulateFirst,
            storlock_vmm::run::StepOver::SingleStep => StepOver::SingleStep,
        }
    }

    /// A handle by which another thread can stop the guest, also before it is started.
    #[must_use]
    pub(super) fn control(&self) -> Arc<dyn RunControl> {
        Arc::new(Control {
            handle: self.machine.handle(),
            debugger: self.debugger.as_ref().map(|(_, commands)| commands.clone()),
            dump: self.dump.as_ref().map(|plan| plan.file.progress()),
        })
    }

    /// Starts the threads of the guest, whose stops go to `session`; [`RunningGuest::wait`] lets it run. From here on the calling thread only waits for the guest and reports:
    /// its limits are those of [`threads::MAIN`].
    ///
    /// # Errors
    /// If its threads cannot be started, or any thread not limited.
    pub(super) fn start(self, session: &Arc<Session>) -> anyhow::Result<RunningGuest> {
        let _ = self.stops.session.set(Arc::clone(session));
        if let Some(plan) = &self.faults {
            let injector = Arc::clone(&plan.injector);
            session.at_arming(move || injector.begin());
        }
        let handle = self.machine.handle();
        session.ask_for_wanted_still(move || handle.is_wanted_still());
        let sandbox = self.machine.sandbox();
        let variable_failures = self.machine.variable_failures();
        let running = self.machine.start_paused()?;
        sandbox.enter(&threads::MAIN)?;
        Ok(RunningGuest {
            running,
            session: Arc::clone(session),
            cpus: self.cpus,
            stops: self.stops,
            serial: self.serial,
            variable_failures,
            disks: self.disks,
            faults: self.faults,
            display: self.display,
            power: self.power,
            shutdown_grace: self.shutdown_grace,
            debugger: self.debugger.map(|(link, _)| link),
            dump: self.dump,
            notices: self.notices,
            started: Instant::now(),
        })
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
