//! What can go wrong while a machine is built or run, in words that tell the user what to do.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use thiserror::Error;

use crate::boot::BootError;

/// Failure of the host side: KVM, memory, files. What the *guest* does wrong is never an `Error` but an
/// [`crate::run::MachineStop`].
#[derive(Debug, Error)]
pub enum Error {
    /// The device node is not there.
    #[error(
        "{path} does not exist: load the kernel module (`modprobe kvm_amd` or `kvm_intel`, virtualization has to be \
         enabled in the firmware), or use a machine that has KVM"
    )]
    KvmMissing {
        /// The node looked for.
        path: PathBuf,
    },
    /// The device node is there, but this user may not open it.
    #[error(
        "no permission to open {path}: join its group (usually `adduser $USER kvm`, then log in again) or run as root"
    )]
    KvmPermission {
        /// The node.
        path: PathBuf,
    },
    /// The device node cannot be opened for another reason, or is no KVM device.
    #[error(
        "cannot open {path}: {source}: is it the KVM device, and is virtualization not in use by another hypervisor?"
    )]
    KvmOpen {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel speaks another KVM API (`KVM_GET_API_VERSION`, always 12 since Linux 2.6.22).
    #[error("{path} speaks KVM API version {version}, 12 is needed: use a Linux kernel of 2.6.22 or newer")]
    KvmApiVersion {
        /// The node.
        path: PathBuf,
        /// Version reported.
        version: i32,
    },
    /// The kernel lacks a feature without which nothing works.
    #[error("this KVM lacks {feature}, which is needed: {advice}")]
    KvmFeature {
        /// Name of the capability as in the KVM documentation.
        feature: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// One KVM request failed.
    #[error("KVM refused to {action}: {source}")]
    Kvm {
        /// What was asked for, as a verb phrase.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The configuration asks for something that does not exist.
    #[error("{what}")]
    Configuration {
        /// Whole sentence.
        what: String,
    },
    /// Guest memory could not be set up.
    #[error("cannot provide {bytes} bytes of guest memory: {reason}")]
    Memory {
        /// Size asked for.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Name of the thread.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The limits of [`crate::sandbox`] cannot be had.
    #[error("cannot {action}: {reason}; --no-sandbox runs without it")]
    Sandbox {
        /// What was to be done, as a verb phrase.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// The kernel image or a file could not be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device range collides.
    #[error("cannot connect a device: {0}")]
    Bus(#[from] crate::bus::BusError),
    /// The board's devices collide, which is an error of this program.
    #[error("cannot build the board: {0}")]
    Board(#[from] crate::devices::board::BoardError),
    /// Two things that firmware is told have one name, which is an error of this program.
    #[error("cannot tell the firmware: {0}")]
    FirmwareConfig(#[from] crate::devices::fw_cfg::FileNameError),
    /// PCI functions collide or do not fit.
    #[error("cannot connect a PCI device: {0}")]
    Pci(#[from] crate::pci::PciError),
    /// Interrupts cannot be delivered.
    #[error(transparent)]
    Irq(#[from] crate::irq::IrqError),
    /// No method of stepping over a breakpoint works on this KVM.
    #[error("no way to step over a breakpoint works here: {reason}")]
    StepOver {
        /// What was tried and what came out.
        reason: String,
    },
}

impl Error {
    /// For `map_err` on a `kvm-ioctls` call.
    pub(crate) fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm {
            action,
            source: std::io::Error::from_raw_os_error(error.errno()),
        }
    }
}
