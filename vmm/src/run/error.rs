//! What can go wrong while a machine is built or run.
#![forbid(unsafe_code)]

use thiserror::Error;

use crate::boot::BootError;
use crate::bus::BusError;
use crate::debug::BreakpointError;
use crate::devices::board::BoardError;
use crate::devices::fw_cfg::FileNameError;
use crate::irq::IrqError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::pci::PciError;
use crate::sandbox::SandboxError;

/// Failure of the host side, or a request that makes no sense. What the *guest* does wrong is never an `Error` but a
/// [`MachineStop`](super::MachineStop).
#[derive(Debug, Error)]
pub enum Error {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory could not be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A thread could not be started or limited.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The kernel image or a file could not be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device range collides.
    #[error("cannot connect a device: {0}")]
    Bus(#[from] BusError),
    /// The board's devices collide, which is an error of this program.
    #[error("cannot build the board: {0}")]
    Board(#[from] BoardError),
    /// Two items for firmware have the same name, which is an error of this program.
    #[error("cannot tell the firmware: {0}")]
    FirmwareConfig(#[from] FileNameError),
    /// PCI functions collide or do not fit.
    #[error("cannot connect a PCI device: {0}")]
    Pci(#[from] PciError),
    /// Interrupts cannot be delivered.
    #[error(transparent)]
    Irq(#[from] IrqError),
    /// The configuration asks for something that does not exist.
    #[error("{what}")]
    Configuration {
        /// Whole sentence.
        what: String,
    },
    /// A set of breakpoints was refused.
    #[error(transparent)]
    Breakpoints(#[from] BreakpointError),
    /// No method of stepping over a breakpoint works on this KVM.
    #[error("no way to step over a breakpoint works here: {reason}")]
    StepOver {
        /// What was tried and what came out.
        reason: String,
    },
    /// The signal that takes a vCPU out of the guest cannot be handled.
    #[error("cannot handle the signal that interrupts a processor: {0}")]
    Signal(std::io::Error),
    /// [`MachineHandle::resume`](super::MachineHandle::resume) after the guest's end.
    #[error("the guest has come to its end, it cannot go on")]
    Ended,
    /// A debugger wanted paging with five levels.
    #[error("the guest's processors have no 5-level paging: CR4.LA57 (bit 12) has to be 0")]
    FiveLevelPaging,
    /// KVM_RUN ended in a way that it must not.
    #[error("processor {cpu}: KVM answered with {what}")]
    UnexpectedExit {
        /// Number of the vCPU.
        cpu: u32,
        /// How.
        what: String,
    },
    /// A thread of the machine or of a device came to an end that nobody asked for: it panicked, which is a defect of this
    /// program, or the host failed.
    #[error("{what}")]
    ThreadFailed {
        /// Whole sentence.
        what: String,
    },
}

impl Error {
    /// Whether it is what was asked for that cannot be, and not the host that fails.
    #[must_use]
    pub fn is_of_configuration(&self) -> bool {
        match self {
            Self::Configuration { .. } | Self::Memory(MemoryError::Size(_)) => true,
            Self::Boot(error) => matches!(
                error,
                BootError::CommandLine | BootError::Name { .. } | BootError::Space { .. }
            ),
            _ => false,
        }
    }

    /// For `map_err` on a `kvm-ioctls` call.
    pub(crate) fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm(KvmError::refused(action)(error))
    }
}
