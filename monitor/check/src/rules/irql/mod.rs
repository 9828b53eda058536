//! Rules on the IRQL at which lock routines are called, and on the IRQL that they restore.

mod ke_release_spin_lock;
mod lock_routine;

pub(super) use ke_release_spin_lock::KeReleaseSpinLock;
pub(super) use lock_routine::LockRoutine;
