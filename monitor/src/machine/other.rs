//! The machine of a guest that is not watched: Linux, or what firmware boots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storlock_vmm::devices::ramfb::{Picture, RamFb};
use storlock_vmm::run::{Machine, MachineConfig, MachineStop};

use super::disks::{self, AttachedDisks};
use super::serial::{SerialLog, SerialWriter};
use super::{Control, FaultPlan, GuestOptions, Start, describe_variables};
use crate::output::Cut;
use crate::report::FaultInfo;
use crate::threads;
use crate::vmi::RunControl;

/// A machine that is ready to start.
pub struct OtherGuest {
    machine: Machine,
    serial: Arc<SerialLog>,
    disks: AttachedDisks,
    display: Option<Arc<RamFb>>,
    faults: Option<FaultPlan>,
}

/// How it ended.
pub struct OtherEnd {
    /// Why.
    pub reason: MachineStop,
    /// After which time.
    pub duration: Duration,
    /// How often it was reset and started again.
    pub restarts: u64,
    /// What the display showed.
    pub picture: Option<Picture>,
    /// What the host has failed to do.
    pub failures: Vec<String>,
    /// What else there is to say of outputs.
    pub notes: Vec<String>,
    /// What has become of the fault plan.
    pub faults: Vec<FaultInfo>,
}

impl OtherGuest {
    /// Builds the machine and puts in what it starts with.
    ///
    /// # Errors
    /// If KVM cannot be used, memory or disk cannot be had, or the guest cannot be loaded.
    pub fn prepare(options: &GuestOptions, start: Start) -> anyhow::Result<Self> {
        let serial = SerialLog::create(options)?;
        let kvm = storlock_vmm::kvm::open(&options.kvm)?;
        let config = MachineConfig {
            cpus: options.cpus,
            memory: options.memory,
            serial: Some(Box::new(SerialWriter(Arc::clone(&serial)))),
            hyperv: options.hyperv,
            at_reset: options.at_reset,
            sandbox: options.sandbox,
            ..MachineConfig::default()
        };
        let mut machine = Machine::new(&kvm, config)?;
        let disks = disks::attach(&mut machine, options)?;
        let display = start.put_into(&mut machine)?;
        Ok(Self {
            machine,
            serial,
            faults: FaultPlan::of(&disks, options),
            disks,
            display,
        })
    }

    /// A handle by which another thread can stop the guest.
    #[must_use]
    pub fn control(&self) -> Arc<dyn RunControl> {
        Arc::new(Control {
            handle: self.machine.handle(),
            debugger: None,
            dump: None,
        })
    }

    /// Runs the guest to its end, at most `limit`. The calling thread is limited from here on.
    ///
    /// # Errors
    /// If its threads cannot be started, or not be limited.
    pub fn run(self, limit: Duration) -> anyhow::Result<OtherEnd> {
        let sandbox = self.machine.sandbox();
        let variable_failures = self.machine.variable_failures();
        let running = self.machine.start_paused()?;
        sandbox.enter(&threads::MAIN)?;
        let began = Instant::now();
        running.begin();
        let reason = running.wait(Some(limit));
        let duration = began.elapsed();
        let mut failures: Vec<String> = self.disks.failures().collect();
        failures.extend(describe_variables(&variable_failures));
        let mut notes = Vec::new();
        for cut in self.serial.finish() {
            match cut {
                Cut::Failure(text) => failures.push(text),
                Cut::Note(text) => notes.push(text),
            }
        }
        Ok(OtherEnd {
            reason,
            duration,
            restarts: running.restarts(),
            picture: self.display.and_then(|display| display.picture()),
            failures,
            notes,
            faults: self.faults.as_ref().map(FaultPlan::report).unwrap_or_default(),
        })
    }
}
