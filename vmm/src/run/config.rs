//! A machine's configuration, and the check whether this KVM can make such a machine.
#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::Arc;

use super::vcpu::DebugHandler;
use crate::debug::StepOver;
use crate::kvm::{Capabilities, KvmError};
use crate::run::Error;
use crate::sandbox::Sandbox;

/// Most vCPUs of a machine.
pub const CPU_LIMIT: u32 = 64;

/// What becomes of a machine whose guest asks for a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtReset {
    /// The run ends: [`MachineStop::Reset`].
    End,
    /// Firmware starts again, with all vCPUs and devices in the state after power-on. RAM and what devices keep without
    /// power (flash, CMOS memory, disks) stay. A triple fault ends the run: [`MachineStop::TripleFault`].
    Restart,
    /// So does a triple fault.
    RestartAtTripleFault,
}

/// What a machine is made of.
pub struct MachineConfig {
    /// Number of vCPUs, 1 to [`CPU_LIMIT`].
    pub cpus: u32,
    /// RAM in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// Called on breakpoint hits and filtered MSR writes.
    pub handler: Option<Arc<dyn DebugHandler>>,
    /// MSRs whose writes the handler is told, such as 0xC0000082 (LSTAR); at most 16.
    pub msr_exits: Vec<u32>,
    /// How to step over breakpoints; `None`: find out what works here.
    pub step_over: Option<StepOver>,
    /// Whether stop points by INT3 are wanted, so that it has to be found out whether they work here.
    pub software_breakpoints: bool,
    /// Where the first serial port (COM1) writes to. Called on vCPU threads.
    pub serial: Option<Box<dyn Write + Send>>,
    /// Where the second serial port (COM2) writes to. Called on vCPU threads.
    pub serial2: Option<Box<dyn Write + Send>>,
    /// Where the debug console (port 402h) writes to. Called on vCPU threads.
    pub debug_console: Option<Box<dyn Write + Send>>,
    /// Whether the guest sees Hyper-V's interface instead of KVM's.
    pub hyperv: bool,
    /// What a reset does to a machine that boots by firmware; others end by it.
    pub at_reset: AtReset,
    /// Limits of the machine's threads and its devices' workers.
    pub sandbox: Sandbox,
}

impl Default for MachineConfig {
    /// One vCPU, 256 MiB, nothing attached.
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 256 << 20,
            handler: None,
            msr_exits: Vec::new(),
            step_over: None,
            software_breakpoints: false,
            serial: None,
            serial2: None,
            debug_console: None,
            hyperv: false,
            at_reset: AtReset::Restart,
            sandbox: Sandbox::none(),
        }
    }
}

/// Whether there can be such a machine here.
pub(super) fn check(config: &MachineConfig, capabilities: &Capabilities) -> Result<(), Error> {
    let most = CPU_LIMIT.min(capabilities.maximum_cpus);
    if !(1..=most).contains(&config.cpus) {
        return Err(Error::Configuration {
            what: format!("a machine has 1 to {most} processors here, not {}", config.cpus),
        });
    }
    let advice = "use a newer Linux kernel";
    let missing = |feature| Err(KvmError::Feature { feature, advice }.into());
    if !capabilities.irqchip {
        return missing("KVM_CAP_IRQCHIP");
    }
    if !capabilities.pit {
        return missing("KVM_CAP_PIT2");
    }
    if !config.msr_exits.is_empty() && !capabilities.msr_filter {
        return missing("KVM_CAP_X86_MSR_FILTER");
    }
    if config.msr_exits.len() > 16 {
        return Err(Error::Configuration {
            what: format!("at most 16 MSRs can be watched, not {}", config.msr_exits.len()),
        });
    }
    Ok(())
}
