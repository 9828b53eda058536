//! A machine's configuration, and the check whether this KVM can make such a machine.
#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::Arc;

use super::vcpu::DebugHandler;
use crate::debug::StepOver;
use crate::kvm::{Capabilities, KvmError};
use crate::memory::{GuestRam, MemoryError};
use crate::run::Error;
use crate::sandbox::Sandbox;

/// Most vCPUs of a machine.
pub const CPU_LIMIT: u32 = 64;

/// How many bits a guest-physical address has, as CPUID says it: where firmware puts 64-bit base address registers follows
/// from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressWidth {
    /// As many as the host can map for a guest.
    Host,
    /// What guests are known to do with: 40 on processors by AMD, 39 on others; more where RAM needs it, fewer where the
    /// host has fewer. Some guests do not boot with 46 and more.
    Usual,
    /// So many, [`AddressWidth::LEAST`] to [`AddressWidth::MOST`].
    Bits(u32),
}

impl AddressWidth {
    /// Fewest bits of a processor with 64-bit mode.
    pub const LEAST: u32 = 36;
    /// Most bits (Intel SDM volume 3, 4.1.4).
    pub const MOST: u32 = 52;

    /// Whether a machine with so many bytes of memory can have this width, on a host that has as many bits as it takes.
    ///
    /// # Errors
    /// [`Error::Configuration`] if not.
    pub fn check(self, memory: u64) -> Result<(), Error> {
        match self {
            Self::Bits(bits) => Self::Bits(bits).bits(bits, bits, GuestRam::end_of(memory)).map(drop),
            Self::Host | Self::Usual => Ok(()),
        }
    }

    /// The bits on a host that has `host` and whose processors usually have `usual`, for RAM that ends at `ram_end`.
    pub(super) fn bits(self, host: u32, usual: u32, ram_end: u64) -> Result<u32, Error> {
        let wanted = match self {
            Self::Host => host,
            // The upper eighth is for base address registers.
            Self::Usual => (usual..host)
                .find(|bits| ram_end <= (1 << bits) / 8 * 7)
                .unwrap_or(host)
                .min(host),
            Self::Bits(bits) => bits,
        };
        let what = if !(Self::LEAST..=Self::MOST).contains(&wanted) {
            format!(
                "guest-physical addresses have {} to {} bits, not {wanted}",
                Self::LEAST,
                Self::MOST
            )
        } else if wanted > host {
            format!("guest-physical addresses have at most {host} bits on this host, not {wanted}")
        } else if ram_end > 1 << wanted {
            format!(
                "RAM ends at {ram_end:#x}, which guest-physical addresses of {wanted} bits do not reach: take more bits or \
                 less memory"
            )
        } else {
            return Ok(wanted);
        };
        Err(Error::Configuration { what })
    }
}

/// What a machine does when its guest asks for a reset.
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
    /// MSRs whose writes are reported to the handler, such as 0xC0000082 (LSTAR); at most 16.
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
    /// Bits of a guest-physical address.
    pub address_width: AddressWidth,
    /// Whether MSRs that nobody knows read as 0 and take any value, instead of #GP.
    pub ignore_unknown_msrs: bool,
    /// What a reset does to a machine that boots by firmware; others end by it.
    pub at_reset: AtReset,
    /// Limits of the machine's threads and its devices' workers.
    pub sandbox: Sandbox,
}

impl MachineConfig {
    /// Whether a machine can have so many bytes of memory.
    ///
    /// # Errors
    /// [`MemoryError::Size`] if not.
    pub fn check_memory(bytes: u64) -> Result<(), MemoryError> {
        GuestRam::check_size(bytes)
    }
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
            address_width: AddressWidth::Host,
            ignore_unknown_msrs: false,
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

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_usual_width_grows_with_ram_and_ends_with_the_host() {
        let bits = |host, usual, ram_end| AddressWidth::Usual.bits(host, usual, ram_end).unwrap();
        assert_eq!(bits(48, 39, 4 * GIB), 39);
        assert_eq!(bits(48, 40, 4 * GIB), 40);
        assert_eq!(bits(48, 39, 448 * GIB), 39);
        assert_eq!(bits(48, 39, 449 * GIB), 40);
        assert_eq!(bits(36, 39, 4 * GIB), 36);
        assert_eq!(bits(39, 39, 500 * GIB), 39);
    }

    #[test]
    fn a_width_that_cannot_be_is_refused_with_the_reason() {
        let refused = |width: AddressWidth, ram_end| width.bits(46, 39, ram_end).unwrap_err().to_string();
        assert!(refused(AddressWidth::Bits(35), GIB).contains("36 to 52 bits, not 35"));
        assert!(refused(AddressWidth::Bits(47), GIB).contains("at most 46 bits"));
        assert!(refused(AddressWidth::Bits(36), 65 * GIB).contains("take more bits"));
        assert_eq!(AddressWidth::Bits(36).bits(46, 39, 64 * GIB).unwrap(), 36);
        for (width, memory, possible) in [
            (AddressWidth::Bits(36), 63 * GIB, true),
            (AddressWidth::Bits(36), 64 * GIB, false),
            (AddressWidth::Bits(52), 1024 * GIB, true),
            (AddressWidth::Bits(53), GIB, false),
            (AddressWidth::Usual, 1024 * GIB, true),
            (AddressWidth::Host, 1024 * GIB, true),
        ] {
            assert_eq!(width.check(memory).is_ok(), possible, "{width:?} {memory:#x}");
        }
    }
}
