//! The machine of a run: a PC with the guest's files, its disks and its serial log, from the command line's
//! options to the end of the guest.
//!
//! Talks to the virtual machine monitor and hands its stops to the session. It must not know locks or Windows.

mod disks;
mod dumps;
mod faults;
pub mod other;
mod serial;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use storlock_vmm::boot::{BootRequest, FirmwareRequest, LinuxRequest};
use storlock_vmm::debug::BREAKPOINT_LIMIT;
use storlock_vmm::devices::power::PowerManagement;
use storlock_vmm::devices::ramfb::{Picture, RamFb};
use storlock_vmm::run::{AtReset, InternalError, Machine, MachineConfig, MachineHandle, MachineStop, RunningMachine};
use storlock_vmm::sandbox::Sandbox;
use storlock_vmm::storage::backend::HostFailures;
use storlock_vmm::storage::{FaultInjector, InterruptKind};
use tokio::sync::mpsc::UnboundedReceiver;

use self::disks::AttachedDisks;
use self::serial::{SerialLog, SerialWriter};
use crate::backend::kvm::debuggee::{self, KvmDebuggee, Order, Stops as DebuggerStops};
use crate::backend::kvm::{Handler, KvmCpu, MSR_LSTAR, StopHandler};
use crate::dump::Plan;
use crate::output::Progress;
use crate::report::{BugCheck, FaultInfo};
use crate::session::{End, EndKind, Session};
use crate::threads;
use crate::timing::Histogram;
use crate::vmi::debuggee::DebuggeeStop;
use crate::vmi::{Action, CpuStop, RunControl, StoppedCpu};

pub use self::disks::{Disk, DiskPlace, check_disks};
pub use self::faults::{PlannedFault, check_faults};
pub(crate) use self::faults::{is_of_commands, number};

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// The device node of KVM.
    pub kvm: PathBuf,
    /// Number of virtual processors, 1 to 64.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The disks, each with a controller of its own.
    pub disks: Vec<Disk>,
    /// The best way to interrupt that the controllers offer.
    pub interrupts: InterruptKind,
    /// The faults that the target's controller is to inject.
    pub faults: Vec<PlannedFault>,
    /// File for everything that the guest writes to its serial port.
    pub serial_log: PathBuf,
    /// A second place for it; `-` is standard error.
    pub serial_copy: Option<PathBuf>,
    /// How long the reader of an output that is a named pipe is waited for.
    pub reader_patience: Duration,
    /// Whether the guest sees Hyper-V's interface.
    pub hyperv: bool,
    /// How long the guest may take to shut down after the power button was pressed, at the time limit or when the user
    /// interrupts the run; `None`: the button is not pressed.
    pub shutdown_grace: Option<Duration>,
    /// What a reset does to a guest that boots by firmware.
    pub at_reset: AtReset,
    /// Whether a debugger is served, so that it has to be known which breakpoints work.
    pub debugger: bool,
    /// Limits of the machine's threads, and of the one that starts it.
    pub sandbox: Sandbox,
}

/// What a machine starts with.
#[derive(Debug)]
pub enum Start {
    /// A PE kernel, entered directly.
    Kernel(BootRequest),
    /// A Linux kernel, entered directly.
    Linux(LinuxRequest),
    /// Firmware.
    Firmware(FirmwareRequest),
}

impl Start {
    /// Puts it into the machine, which may have a display then.
    fn put_into(self, machine: &mut Machine) -> anyhow::Result<Option<Arc<RamFb>>> {
        match self {
            Self::Kernel(request) => machine.boot(&request).map(|_| None),
            Self::Linux(request) => machine.boot_linux(&request).map(|_| None),
            Self::Firmware(request) => machine.boot_firmware(request),
        }
        .map_err(anyhow::Error::from)
    }
}

/// A machine that is ready to start.
pub struct Guest {
    machine: Machine,
    stops: Arc<HitHandler>,
    cpus: u32,
    serial: Arc<SerialLog>,
    disks: AttachedDisks,
    faults: Option<FaultPlan>,
    display: Option<Arc<RamFb>>,
    power: Arc<PowerManagement>,
    shutdown_grace: Option<Duration>,
    debugger: Option<(DebuggerStops, mpsc::Sender<Order>)>,
    dump: Option<Plan>,
}

/// The fault plan of a run and what has become of it.
struct FaultPlan {
    texts: Vec<String>,
    injector: Arc<FaultInjector>,
}

impl FaultPlan {
    /// The plan that a machine's disk was given; `None` if there was none.
    fn of(disks: &AttachedDisks, options: &GuestOptions) -> Option<Self> {
        let texts = options.faults.iter().map(|fault| fault.text.clone());
        disks.injector.clone().map(|injector| Self {
            texts: texts.collect(),
            injector,
        })
    }

    fn report(&self) -> Vec<FaultInfo> {
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
struct HitHandler {
    session: OnceLock<Arc<Session>>,
    /// How long the session takes for a hit.
    times: Histogram,
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
    /// If KVM cannot be used, memory or disk cannot be had, or the guest cannot be loaded.
    pub fn prepare(options: &GuestOptions, start: Start) -> anyhow::Result<Self> {
        let serial = SerialLog::create(options)?;
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
        })
    }

    /// Has the machine dumped where the session stops it for that. The place is to be writable yet when it has started.
    pub fn dump_to(&mut self, plan: Plan) {
        self.dump = Some(plan);
    }

    /// Ties the machine to a debugger, which is to be served elsewhere. With `hold_start` the guest's first instruction
    /// waits for it. To be called before [`Guest::control`].
    pub fn debug(&mut self, hold_start: bool) -> (KvmDebuggee, UnboundedReceiver<DebuggeeStop>) {
        let (debuggee, told, stops, orders) = debuggee::connect(self.machine.handle(), self.cpus, hold_start);
        self.debugger = Some((stops, orders));
        (debuggee, told)
    }

    /// How many breakpoints a session can set.
    #[must_use]
    pub fn breakpoints(&self) -> usize {
        BREAKPOINT_LIMIT
    }

    /// How a breakpoint is stepped over, in words.
    #[must_use]
    pub fn step_over(&self) -> String {
        self.machine.step_over().to_string()
    }

    /// A handle by which another thread can stop the guest, also before it is started.
    #[must_use]
    pub fn control(&self) -> Arc<dyn RunControl> {
        Arc::new(Control {
            handle: self.machine.handle(),
            debugger: self.debugger.as_ref().map(|(_, orders)| orders.clone()),
            dump: self.dump.as_ref().map(|plan| plan.file.progress()),
        })
    }

    /// Starts the guest; its stops go to `session`. From here on the calling thread only waits for the guest and reports:
    /// its limits are those of [`threads::MAIN`].
    ///
    /// # Errors
    /// If its threads cannot be started, or any thread not limited.
    pub fn start(self, session: &Arc<Session>) -> anyhow::Result<RunningGuest> {
        let _ = self.stops.session.set(Arc::clone(session));
        let handle = self.machine.handle();
        session.ask_for_wanted_still(move || handle.is_wanted_still());
        let sandbox = self.machine.sandbox();
        let variable_failures = self.machine.variable_failures();
        let running = self.machine.start_paused()?;
        sandbox.enter(&threads::MAIN)?;
        let debugger = self.debugger.map(|(stops, _)| stops);
        if debugger.is_none() {
            running.begin();
        }
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
            debugger,
            dump: self.dump,
            dump_was_late: Cell::new(false),
            started: Instant::now(),
        })
    }
}

/// A guest that runs.
pub struct RunningGuest {
    running: RunningMachine,
    session: Arc<Session>,
    stops: Arc<HitHandler>,
    cpus: u32,
    started: Instant,
    serial: Arc<SerialLog>,
    variable_failures: HostFailures,
    disks: AttachedDisks,
    faults: Option<FaultPlan>,
    display: Option<Arc<RamFb>>,
    power: Arc<PowerManagement>,
    shutdown_grace: Option<Duration>,
    debugger: Option<DebuggerStops>,
    dump: Option<Plan>,
    /// The reader of the dump has taken nothing until the time limit.
    dump_was_late: Cell<bool>,
}

/// How a run has ended.
pub struct Ended {
    /// What the session is told.
    pub end: End,
    /// What the display showed.
    pub picture: Option<Picture>,
}

/// Stops the machine from another thread.
struct Control {
    handle: MachineHandle,
    /// Who waits for a debugger's word does not hear the machine.
    debugger: Option<mpsc::Sender<Order>>,
    /// Nor does who waits for the reader of a dump.
    dump: Option<Progress>,
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
            let _ = debugger.send(Order::End);
        }
    }

    fn request_shutdown(&self) {
        self.give_up_dump();
        // Who waits for the machine presses the button then.
        self.handle.interrupt();
    }
}

impl RunningGuest {
    /// Waits for the guest's end, at most `limit` and the time for its shutdown; has the session look at every processor;
    /// ends the machine. A stop counts as an interruption if `interrupted` says so then.
    #[must_use]
    pub fn wait(mut self, limit: Duration, interrupted: impl Fn() -> bool) -> Ended {
        let mut dump = None;
        if let (Some(plan), Some(deadline)) = (&self.dump, self.started.checked_add(limit)) {
            plan.file.progress().give_up_at(deadline);
        }
        let debugger = self.debugger.take();
        let has_client = debugger.is_some();
        let mut at_violation = |cpu| {
            let stopped_for = self.session.stopped_for(cpu);
            if let Some(subject) = stopped_for.dump {
                dump = self.dump(cpu, &subject, &interrupted);
                if self.dump_was_late.get() && has_client {
                    self.running.stop();
                }
            }
            stopped_for.debugger
        };
        let (reason, shutdown) = match debugger {
            Some(stops) => (stops.run(&self.running, limit, at_violation), None),
            None => self.run_and_shut_down(limit, &interrupted, |cpu| {
                at_violation(cpu);
            }),
        };
        let duration_ms = self.started.elapsed().as_millis() as u64;
        let (mut kind, mut detail) = describe(&reason);
        if matches!(kind, EndKind::Stopped | EndKind::PowerOff | EndKind::TimeLimit) && interrupted() {
            kind = EndKind::Interrupted;
        }
        if let Some(shutdown) = shutdown {
            detail = Some(detail.map_or(shutdown.clone(), |detail| format!("{detail}; {shutdown}")));
        }
        let mut end = End {
            kind,
            detail,
            duration_ms,
            handler_ns: self.stops.times.spread(),
            ..End::default()
        };
        if let Some(dump) = dump {
            end.dump = Some(dump.info);
            end.note(dump.cut);
        }
        if let MachineStop::Crash { parameters, .. } = reason {
            let [code, parameters @ ..] = parameters;
            end.bug_check = Some(BugCheck { code, parameters });
        }
        self.count_exits(&mut end);
        for cpu in order_of_last_looks(&reason, self.cpus) {
            let session = Arc::clone(&self.session);
            end.activities.extend(activity(&reason, cpu).map(|text| (cpu, text)));
            self.running
                .inspect(cpu, move |stopped| session.look(&mut KvmCpu::new(stopped)));
        }
        let picture = self.display.as_ref().and_then(|display| display.picture());
        // The images are closed with the machine, which may fail, too.
        drop(self.running);
        end.notes.extend(self.disks.notes.iter().cloned());
        end.failures.extend(self.disks.failures());
        end.failures.extend(describe_variables(&self.variable_failures));
        for cut in self.serial.finish() {
            end.note(Some(cut));
        }
        end.faults = self.faults.as_ref().map(FaultPlan::report).unwrap_or_default();
        self.session.close(&mut end);
        Ended { end, picture }
    }

    fn count_exits(&self, end: &mut End) {
        for cpu in self.running.statistics() {
            end.kvm_runs += cpu.runs;
            end.debug_exits += cpu.debug_exits;
            end.other_exits += cpu.pio_exits + cpu.mmio_exits + cpu.msr_exits + cpu.other_exits;
            end.hit_requests += cpu.hit_requests;
            end.hits += cpu.hits;
        }
    }

    /// Runs the guest for at most `limit`; `at_violation` is called where the session has stopped it. If it has not ended
    /// by then, or the user interrupts the run, the power button is pressed and the guest has its grace to shut down; what
    /// came of that is told then.
    fn run_and_shut_down(
        &self,
        limit: Duration,
        interrupted: &dyn Fn() -> bool,
        mut at_violation: impl FnMut(u32),
    ) -> (MachineStop, Option<String>) {
        let reason = self.run(limit, interrupted, &mut at_violation);
        let why = match reason {
            MachineStop::TimeLimit => "at the time limit",
            MachineStop::Interrupted => "when the run was interrupted",
            _ => return (reason, None),
        };
        let Some(grace) = self.shutdown_grace else {
            return (reason, None);
        };
        crate::tell!(
            "power button pressed {why}: the guest has {} s to shut down",
            grace.as_secs()
        );
        // On a processor's thread, which is the kind of thread that may move interrupt lines.
        let power = Arc::clone(&self.power);
        self.running.inspect(0, move |_| power.press_power_button());
        if self.running.resume().is_err() {
            return (reason, None);
        }
        let reason = self.run(grace, interrupted, &mut at_violation);
        let outcome = match reason {
            MachineStop::PowerOff => "the guest shut down",
            MachineStop::TimeLimit => "the guest did not shut down in time",
            _ => "that ended otherwise",
        };
        (reason, Some(format!("the power button was pressed {why}: {outcome}")))
    }
}

/// What the host failed to do with the firmware's variables.
fn describe_variables(failures: &HostFailures) -> Option<String> {
    let (first, count) = failures.summary()?;
    Some(format!(
        "the firmware's variables could not be written to their file {count} times, first: {first}; what the guest stored \
         there is lost with this run"
    ))
}

fn describe(reason: &MachineStop) -> (EndKind, Option<String>) {
    let kind = match reason {
        MachineStop::PowerOff => return (EndKind::PowerOff, None),
        MachineStop::Reset => EndKind::Reset,
        MachineStop::TripleFault { .. } => EndKind::TripleFault,
        MachineStop::Crash { .. } => EndKind::Crash,
        MachineStop::TimeLimit => EndKind::TimeLimit,
        MachineStop::InternalError(_) => EndKind::InternalError,
        MachineStop::Breakpoint { .. }
        | MachineStop::StopPoint { .. }
        | MachineStop::Stepped { .. }
        | MachineStop::Interrupted
        | MachineStop::StopPointsLost { .. }
        | MachineStop::Stopped => EndKind::Stopped,
        MachineStop::Failed(_) => EndKind::Failed,
    };
    (kind, Some(reason.to_string()))
}

/// The processor after a triple fault comes last: KVM may have reset it, and the first one looked at is the one by whose
/// page tables guest memory is read.
fn order_of_last_looks(reason: &MachineStop, cpus: u32) -> impl Iterator<Item = u32> {
    let last = match reason {
        MachineStop::TripleFault { cpu } => Some(*cpu),
        _ => None,
    };
    (0..cpus).filter(move |&cpu| Some(cpu) != last).chain(last)
}

/// What the exit reason says about one processor.
fn activity(reason: &MachineStop, cpu: u32) -> Option<String> {
    match reason {
        MachineStop::InternalError(error) if error.cpu == cpu => Some(match error.instruction() {
            Some((text, _)) if error.suberror == InternalError::EMULATION => {
                format!("this KVM cannot execute `{text}`")
            }
            _ => error.to_string(),
        }),
        MachineStop::TripleFault { cpu: at } if *at == cpu => {
            Some("triple fault; KVM may have reset it, then its registers say nothing".to_owned())
        }
        _ => None,
    }
}
