//! The lock part of Static Driver Verifier's rule HwStorPortProhibitedDDIs: routines of the kernel that a physical miniport
//! must not call, since the port driver has its own.
//!
//! Pure. It must not know whether a driver is a physical miniport.

use storlock_check::contract::SystemModule;

use super::{KERNEL_NAMES, name_of};
use crate::windows::{ImportName, Imports};

/// By name (`devtest/storport-hwstorportprohibitedddis`). KeAcquireSpinLock is KeAcquireSpinLockRaiseToDpc on x64.
const PROHIBITED: &[&str] = &[
    "IoAcquireCancelSpinLock",
    "IoReleaseCancelSpinLock",
    "KeAcquireInStackQueuedSpinLock",
    "KeAcquireInStackQueuedSpinLockAtDpcLevel",
    "KeAcquireInStackQueuedSpinLockForDpc",
    "KeAcquireInterruptSpinLock",
    "KeAcquireSpinLockAtDpcLevel",
    "KeAcquireSpinLockForDpc",
    "KeAcquireSpinLockRaiseToDpc",
    "KeInitializeSpinLock",
    "KeReleaseInStackQueuedSpinLock",
    "KeReleaseInStackQueuedSpinLockForDpc",
    "KeReleaseInStackQueuedSpinLockFromDpcLevel",
    "KeReleaseInterruptSpinLock",
    "KeReleaseSpinLock",
    "KeReleaseSpinLockForDpc",
    "KeReleaseSpinLockFromDpcLevel",
    "KeTestSpinLock",
    "KeTryToAcquireSpinLockAtDpcLevel",
];

/// Those of them that a driver imports, by name.
#[must_use]
pub(crate) fn prohibited_imports(imports: &Imports) -> Vec<String> {
    let of_kernel = |module: &str| {
        let kernel = SystemModule::Ntoskrnl.file_name();
        module.eq_ignore_ascii_case(kernel) || KERNEL_NAMES.iter().any(|name| module.eq_ignore_ascii_case(name))
    };
    let known = imports.entries().iter().filter_map(|import| match &import.name {
        ImportName::Name(name) if of_kernel(&import.module) => PROHIBITED.iter().find(|one| **one == name.as_str()),
        _ => None,
    });
    let mut names: Vec<String> = known.map(|name| name_of(SystemModule::Ntoskrnl, name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}
