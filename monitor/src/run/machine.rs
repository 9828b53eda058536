//! The machine of a run with what serves it: disks, serial log, fault plan, display. The same for a watched guest and for
//! one that is not.
//!
//! Talks to the virtual machine monitor. It must not know whether the guest is watched, nor what it does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use storlock_vmm::boot::{BootRequest, FirmwareRequest, LinuxRequest};
use storlock_vmm::devices::power::PowerManagement;
use storlock_vmm::devices::ramfb::{Picture, RamFb};
use storlock_vmm::run::{AddressWidth, AtReset, Machine, MachineConfig, RunningMachine};
use storlock_vmm::sandbox::Sandbox;
use storlock_vmm::storage::backend::HostFailures;
use storlock_vmm::storage::{FaultInjector, InterruptKind};

use super::conformance;
use super::disks::{self, AttachedDisks};
use super::report_directory::Outputs;
use super::serial::{SerialLog, SerialWriter};
use super::spec::{CountFrom, Disk, PlannedFault};
use crate::notices::Notices;
use crate::output::Cut;
use crate::report::conformance::Conformance;
use crate::report::{FaultInfo, Note};
use crate::threads;

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
    fn put_into(self, machine: &mut Machine) -> anyhow::Result<Option<Arc<RamFb>>> {
        match self {
            Self::Kernel(request) => machine.boot(&request).map(|_| None),
            Self::Linux(request) => machine.boot_linux(&request).map(|_| None),
            Self::Firmware(request) => machine.boot_firmware(request),
        }
        .map_err(anyhow::Error::from)
    }
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

/// A machine that is ready to start.
pub(super) struct BuiltMachine {
    pub(super) machine: Machine,
    pub(super) served: Served,
}

/// What serves a machine, before its start and until its end.
pub(super) struct Served {
    serial: Arc<SerialLog>,
    disks: AttachedDisks,
    faults: Option<FaultPlan>,
    display: Option<Arc<RamFb>>,
    variable_failures: HostFailures,
    pub(super) power: Arc<PowerManagement>,
}

/// What is known of a machine only when it has ended.
pub(crate) struct Closed {
    /// What the machine did not do for the guest.
    pub(crate) conformance: Conformance,
    /// What the display showed.
    pub(crate) picture: Option<Picture>,
    /// What was done to images before their use.
    pub(crate) notes: Vec<Note>,
    /// What the host has failed to do.
    pub(crate) failures: Vec<String>,
    /// What is missing of outputs.
    pub(crate) cuts: Vec<Cut>,
    /// What has become of the fault plan.
    pub(crate) faults: Vec<FaultInfo>,
}

impl BuiltMachine {
    /// Builds the machine and puts in what it starts with. `config` is for what the run needs beyond its `options`.
    ///
    /// # Errors
    /// If KVM cannot be used, there is no memory, a disk cannot be opened, or the guest cannot be loaded.
    pub(super) fn new(
        options: &GuestOptions,
        config: MachineConfig,
        start: Start,
        outputs: &Outputs,
    ) -> anyhow::Result<Self> {
        let serial = SerialLog::create(options, outputs)?;
        let kvm = storlock_vmm::kvm::open(&options.kvm)?;
        let config = MachineConfig {
            cpus: options.cpus,
            memory: options.memory,
            serial: Some(Box::new(SerialWriter(Arc::clone(&serial)))),
            hyperv: options.hyperv,
            address_width: options.address_width,
            ignore_unknown_msrs: options.ignore_msrs,
            at_reset: options.at_reset,
            sandbox: options.sandbox,
            ..config
        };
        let mut machine = Machine::new(&kvm, config)?;
        let disks = disks::attach(&mut machine, options)?;
        let display = start.put_into(&mut machine)?;
        let served = Served {
            serial,
            faults: FaultPlan::of(&disks, options),
            disks,
            display,
            variable_failures: machine.variable_failures(),
            power: Arc::clone(machine.power()),
        };
        Ok(Self { machine, served })
    }

    /// Starts the machine's threads; it stands still before its first instruction. The calling thread has the limits of
    /// [`threads::MAIN`] from here on.
    ///
    /// # Errors
    /// If its threads cannot be started, or not be limited.
    pub(super) fn start(self) -> anyhow::Result<(RunningMachine, Served)> {
        let sandbox = self.machine.sandbox();
        let running = self.machine.start_paused()?;
        sandbox.enter(&threads::MAIN)?;
        Ok((running, self.served))
    }
}

impl Served {
    /// What injects the fault plan, if there is one.
    pub(super) fn injector(&self) -> Option<Arc<FaultInjector>> {
        self.faults.as_ref().map(|plan| Arc::clone(&plan.injector))
    }

    /// Ends the machine, and says what is known only then.
    pub(super) fn close(self, running: RunningMachine) -> Closed {
        let (conformance, picture) = conformance::look(&running, &self.serial, self.display.as_deref());
        // The images are closed with the machine, which may fail, too.
        drop(running);
        let mut failures: Vec<String> = self.disks.failures().collect();
        failures.extend(describe_variables(&self.variable_failures));
        Closed {
            conformance,
            picture,
            failures,
            cuts: self.serial.finish().into_iter().collect(),
            faults: self.faults.as_ref().map(FaultPlan::report).unwrap_or_default(),
            notes: self.disks.notes,
        }
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
